"""What every head promises: seeding, freezing, layer-wise rates, specification."""

from __future__ import annotations

import json
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader
from toy_heads import batch, changed, encoder, weights

from medssl.configurable import build, discover, spec
from medssl.errors import ConfigError
from medssl.heads.base import Head
from medssl.heads.classification import ClassificationHead
from medssl.heads.regression import RegressionHead
from medssl.optim import Optim


def fit(head: Head, steps: int) -> Head:
    """Train on the same batch for some steps on the CPU."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(head, DataLoader([batch(seed=s) for s in range(steps)], batch_size=None))
    return head


pytestmark = [
    # Lightning's advice about its own loaders; these tests feed it four ready batches
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]


def test_heads_are_found() -> None:
    assert set(discover("medssl.heads", Head)) == {
        "BagHead", "ClassificationHead", "RegressionHead", "SegmentationHead", "SequenceHead",
    }  # fmt: skip


def test_frozen_steps_leave_the_encoder_as_it_is_with_its_running_statistics() -> None:
    head = ClassificationHead(encoder(), frozen_steps=3, optim=Optim(lr=0.01, warmup=0))
    before, before_head = weights(head.encoder), weights(head.output)
    fit(head, 3)
    assert not changed(head.encoder, before)
    assert changed(head.output, before_head) == {"weight", "bias"}


def test_after_the_frozen_steps_everything_learns() -> None:
    head = ClassificationHead(encoder(), frozen_steps=2, optim=Optim(lr=0.01, warmup=0))
    before = weights(head.encoder)
    fit(head, 4)
    assert changed(head.encoder, before) == set(before)


def test_a_rate_of_zero_freezes_the_encoder_throughout() -> None:
    head = ClassificationHead(encoder(), encoder_lr=0.0, optim=Optim(lr=0.01, warmup=0))
    before = weights(head.encoder)
    fit(head, 2)
    assert not changed(head.encoder, before)
    assert not any(n.startswith("encoder.") for group, _ in head.groups() for n, _ in group)


def test_layer_decay_slows_the_layers_near_the_input() -> None:
    head = ClassificationHead(encoder(), encoder_lr=0.5, layer_decay=0.1)
    scales = [scale for _, scale in head.groups()]
    assert scales == pytest.approx([0.5e-3, 0.5e-2, 0.5e-1, 1.0])  # stem, two stages, head
    ids = [id(p) for group, _ in head.groups() for _, p in group]
    assert sorted(ids) == sorted(id(p) for p in head.parameters())


def test_a_step_is_decided_by_the_batch_s_seed_alone() -> None:
    head = ClassificationHead(encoder(), dropout=0.5)
    outcomes = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        head.log = head.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        outcomes.append((head.training_step(batch(), 0).item(), torch.rand(1).item()))
    assert outcomes[0][0] == outcomes[1][0]
    assert outcomes[0][1] != outcomes[1][1]  # and the global generator goes on as if nothing had happened


def test_a_written_specification_builds_the_same_head() -> None:
    head = ClassificationHead(
        encoder(), ("N", "V", "S"), class_weights=(1.0, 4.0, 2.0), centre=True, optim=Optim(lr=3e-4, schedule="poly")
    )
    again = build(json.loads(json.dumps(spec(head))), Head)  # type: ignore[type-abstract]
    assert isinstance(again, ClassificationHead)
    again.load_state_dict(head.state_dict())
    assert again.optim == head.optim and again.classes == head.classes
    assert torch.equal(again.weights, head.weights)
    x = torch.randn(2, 1, 32)
    assert torch.equal(again.eval()(x), head.eval()(x))


@pytest.mark.parametrize("arguments", [{"encoder_lr": -1.0}, {"layer_decay": 0.0}, {"frozen_steps": -1}])
def test_impossible_rates_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must"):
        RegressionHead(encoder(), **arguments)
