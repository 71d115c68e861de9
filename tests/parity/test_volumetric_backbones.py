"""Fine-tuning schedules against the learning rates of the official trainers: the pure functions, and what trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medssl.encoders.resnet1d import ResNet1d
from medssl.heads.schedules import poly, sawtooth, warmup_poly
from medssl.optim import Optim
from medssl.training.heads import make_head
from medssl.training.settings import FinetuneSettings

Golden = Callable[[str], Mapping[str, np.ndarray]]


def parts(name: str, epochs: int) -> tuple[str, str, int, float]:
    """Kind and network of a key, the length of a phase (50 of 1000 epochs, 15 of 150) and the peak learning rate."""
    kind, network, _ = name.split("_") if name.count("_") == 2 else (name.split("_")[0], "cnn", "")
    return kind, network, 50 if epochs == 1000 else 15, 1e-4 if network == "primus" else 1e-3


def schedule(name: str, epochs: int) -> Callable[[int], float]:
    """The schedule a key of the file stands for."""
    kind, network, phase, lr = parts(name, epochs)
    if kind == "poly":
        return lambda e: poly(e, epochs, lr=1e-2)
    if kind == "warmup":
        return lambda e: warmup_poly(e, epochs, lr=lr, warmup=phase)
    if network == "primus":
        factor = 0.01 if epochs == 1000 else 0.1
        return lambda e: sawtooth(e, epochs, lr=lr, decoder=phase, warmup=50, decoder_factor=factor)
    return lambda e: sawtooth(e, epochs, lr=lr, decoder=phase, warmup=phase)


def settings(name: str, epochs: int) -> FinetuneSettings:
    """The same as a user asks for it, an epoch being a step."""
    kind, network, phase, lr = parts(name, epochs)
    if kind == "poly":
        optim = Optim(lr=1e-2, weight_decay=3e-5, algorithm="sgd", schedule="poly", warmup=0)
        return FinetuneSettings(max_steps=epochs, optim=optim)
    if network == "primus":
        optim = Optim(lr=lr, weight_decay=0.05, betas=(0.9, 0.98), warmup=50)
    else:
        optim = Optim(lr=lr, weight_decay=3e-5, algorithm="sgd", warmup=phase)
    factor = 1.0 if network == "cnn" else (0.01 if epochs == 1000 else 0.1)
    share: Any = {"schedule": kind, "decoder_phase": phase / epochs, "decoder_factor": factor}
    return FinetuneSettings(max_steps=epochs, optim=optim, **share)


def test_every_schedule_equals_the_official_learning_rates(golden: Golden) -> None:
    cases = golden("volumetric_backbones")
    assert cases
    for name, expected in cases.items():
        law = schedule(name, len(expected))
        got = [law(epoch) for epoch in range(len(expected))]
        np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("pretrained", [True, False])
def test_every_optimiser_has_the_official_learning_rates(golden: Golden, pretrained: bool) -> None:
    """From the settings of ``finetune`` to the groups of the optimiser; all arms of a study have the same rates."""
    target: Any = SimpleNamespace(task="regression", y=np.arange(4.0))
    for name, expected in golden("volumetric_backbones").items():
        asked = FinetuneSettings(**{**settings(name, len(expected)).__dict__, "augment": False})
        encoder = ResNet1d(1, (4, 8), kernel=3, blocks=1)
        head = make_head(encoder, target, np.arange(4), size=(32,), settings=asked, pretrained=pretrained)
        made = head.configured(len(expected))
        optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        assert isinstance(optimizer, torch.optim.AdamW if "primus" in name else torch.optim.SGD)
        rates = []
        for _ in expected:
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        np.testing.assert_allclose(rates, np.tile(expected, (len(rates[0]), 1)).T, rtol=1e-12, err_msg=name)
        kind, _, phase, _ = parts(name, len(expected))
        assert head.frozen_steps == (phase if pretrained and kind == "sawtooth" else 0)
