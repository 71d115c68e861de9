"""Fine-tuning schedules on a toy: who learns when, the new optimiser, going on after an interruption, refusals."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from toy_heads import batch, changed, encoder, weights

from medssl.errors import ConfigError
from medssl.heads.base import Head
from medssl.heads.schedules import Schedule, poly, sawtooth, steps_of, valley, warmup_poly
from medssl.optim import Optim
from medssl.training.callbacks import Checkpoints
from medssl.training.fitting import make_trainer
from medssl.training.heads import make_head
from medssl.training.settings import FinetuneSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available.*"),
]
STEPS = 10
TARGET: Any = SimpleNamespace(
    task="classification", classes=("a", "b"), multilabel=False, source="label", y=np.array([0, 1])
)


def head(schedule: Any, *, pretrained: bool = True, algorithm: Any = "adamw", **options: Any) -> Head:
    settings = FinetuneSettings(
        max_steps=STEPS, schedule=schedule, decoder_phase=0.4, augment=False, dropout=0.0,
        optim=Optim(lr=0.01, warmup=0.2, algorithm=algorithm, momentum=0.9), **options,
    )  # fmt: skip
    torch.manual_seed(1)
    return make_head(encoder(), TARGET, np.arange(2), size=(32,), settings=settings, pretrained=pretrained)


class Watch(lightning.Callback):
    """Learning rates, weights and moments before every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.encoder: list[dict[str, Tensor]] = []
        self.output: list[dict[str, Tensor]] = []
        self.known: list[int] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[-1]["lr"])
        self.known.append(len(optimizer.state))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.encoder.append(weights(pl_module.encoder))
        self.output.append(weights(pl_module.output))


def trainer(folder: Path, *callbacks: lightning.Callback) -> lightning.Trainer:
    return make_trainer(folder, callbacks, max_steps=STEPS, precision="32-true", accelerator="cpu", devices=1)


def loader(first: int = 0) -> DataLoader[Any]:
    return DataLoader([batch(seed=s) for s in range(first, STEPS)], batch_size=None)  # type: ignore[arg-type]


@functools.cache
def watched(schedule: str, *, pretrained: bool = True, algorithm: str = "adamw") -> tuple[Head, Watch]:
    """A whole training; several tests look at the same one."""
    made, watch = head(schedule, pretrained=pretrained, algorithm=algorithm), Watch()
    trainer(Path(), watch).fit(made, loader())
    return made, watch


LAWS = {
    "warmup": lambda s: warmup_poly(s, STEPS, lr=0.01, warmup=2),
    "sawtooth": lambda s: sawtooth(s, STEPS, lr=0.01, decoder=4, warmup=2),
    "valley": lambda s: valley(s, STEPS, lr=0.01, decoder=4, warmup=2),
    "frozen": lambda s: poly(s, STEPS, lr=0.01),
}


@pytest.mark.parametrize(("name", "algorithm"), [*((name, "adamw") for name in sorted(LAWS)), ("sawtooth", "sgd")])
def test_rates_and_who_learns_when(name: str, algorithm: str) -> None:
    made, watch = watched(name, algorithm=algorithm)
    start = watch.encoder[0]
    assert watch.rates == pytest.approx([LAWS[name](s) for s in range(STEPS)])
    moved = [bool(changed(made.encoder, e)) for e in watch.encoder]
    alone = {"warmup": 0, "sawtooth": 4, "valley": 4, "frozen": STEPS}[name]
    for before in watch.encoder[: alone + 1]:
        assert all(torch.equal(before[k], start[k]) for k in start), "the encoder stands still, statistics too"
    assert (name == "frozen") == (not any(moved))
    assert all(not torch.equal(a["weight"], b["weight"]) for a, b in zip(watch.output, watch.output[1:], strict=False))
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    assert isinstance(made.trainer.optimizers[0], kinds[algorithm])


@pytest.mark.parametrize("name", ["sawtooth", "valley"])
def test_the_optimiser_starts_anew_when_everything_learns(name: str) -> None:
    known = watched(name)[1].known
    assert known[:5] == [0, 2, 2, 2, 0], "moments of the head's weight and bias alone, then none"
    assert known[5] > 2 and len(set(known[5:])) == 1
    assert watched("warmup")[1].known[1] == known[5]


@pytest.mark.parametrize("name", ["sawtooth", "frozen"])
def test_from_scratch_has_the_same_rates_and_learns_as_a_whole(name: str) -> None:
    _, watch = watched(name, pretrained=False)
    start = watch.encoder[0]
    assert watch.rates == pytest.approx([LAWS[name](s) for s in range(STEPS)])
    assert any(not torch.equal(watch.encoder[1][k], start[k]) for k in start)
    assert {scale for _, scale in head(name, pretrained=False, encoder_lr=0.1).groups()} == {1.0}


def test_layer_wise_rates_stay_within_a_schedule() -> None:
    made = head("sawtooth", encoder_lr=0.5, layer_decay=0.1).configured(STEPS)["optimizer"]
    rates = sorted({round(g["lr"] / (0.01 * LAWS["sawtooth"](0) / 0.01), 8) for g in made.param_groups})
    assert rates == pytest.approx([0.5e-3, 0.5e-2, 0.5e-1, 1.0])


@pytest.mark.parametrize("stop", [3, 4])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(stop: int, tmp_path: Path) -> None:
    """Before and at the switch to a new optimiser (the official trainer resumes in the wrong stage)."""
    (whole, _), first, second = watched("sawtooth"), head("sawtooth"), head("sawtooth")

    class Killed(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == stop:
                raise RuntimeError("killed")

    kept = Checkpoints(tmp_path, every=stop, export=lambda step: None)
    with pytest.raises(RuntimeError, match="killed"):
        trainer(tmp_path, kept, Killed()).fit(first, loader())
    again = trainer(tmp_path, Checkpoints(tmp_path / "again", every=STEPS, export=lambda step: None))
    again.fit(second, loader(stop), ckpt_path=kept.last, weights_only=True)
    assert again.global_step == STEPS
    for (name, wanted), found in zip(whole.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda m, n=name: f"{n}: {m}", rtol=0, atol=1e-7)


def test_lengths_are_shares_or_steps() -> None:
    assert steps_of(0.05, 1000) == steps_of(50, 1000) == 50
    assert head("sawtooth").schedule == Schedule("sawtooth", decoder=4, warmup=2)
    assert head("default").schedule is None


def test_schedules_are_written_into_a_model_and_read_again() -> None:
    from medssl.configurable import build, spec

    made = head("valley", decoder_factor=0.1)
    again = build(spec(made), Head)  # type: ignore[type-abstract]
    assert again.schedule == made.schedule and again.frozen_steps == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_phase": 0.9, "optim": Optim(warmup=0.2)}, "90 steps for the decoder and 20"),
        ({"frozen_steps": 5}, "leave frozen_steps out"),
        ({"decoder_phase": -1.0}, "must not be negative"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneSettings(max_steps=100, schedule="sawtooth", **options)


def test_sgd_has_nesterov_momentum_and_decays_weights_alone() -> None:
    made = head("warmup", algorithm="sgd").configured(STEPS)["optimizer"]
    assert isinstance(made, torch.optim.SGD)
    assert all(g["nesterov"] and g["momentum"] == 0.9 for g in made.param_groups)
    assert {g["weight_decay"] for g in made.param_groups} == {0.01, 0.0}
