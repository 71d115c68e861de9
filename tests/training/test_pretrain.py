"""Pre-training: what a run leaves behind, what it refuses, and that it can be continued to the last bit."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from toy_cohorts import ToyEncoder, make_cohort, toy_method

from medssl.encoders.base import load_encoder
from medssl.errors import CheckpointError, TrainingError
from medssl.training import pretrain as module
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import pretrain, resume
from medssl.training.settings import TrainSettings

QUICK = TrainSettings(
    max_steps=6, batch_size=4, workers=0, log_every=2, checkpoint_every=2, monitor_every=3, progress=False,
    accelerator="cpu",
)  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def losses(run: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run) if "loss" in row]


@pytest.mark.parametrize("kind", ["volume", "signal"])
def test_a_run_leaves_everything_needed_to_repeat_and_use_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cohort = request.getfixturevalue(f"{kind}s")
    summary = pretrain(method=toy_method(kind), cohort=[cohort], out=tmp_path / "run", trainer=QUICK)
    run = tmp_path / "run"
    assert summary["status"] == "finished"
    assert summary["steps"] == 6
    assert json.loads((run / "summary.json").read_text())["steps"] == 6
    assert {f.name for f in run.iterdir() if not f.name.startswith(".")} == {
        "checkpoints", "config.yaml", "encoder", "environment.json", "metrics.csv", "summary.json"
    }  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["method"]["class_path"].endswith("ToyMethod")
    assert config["trainer"]["max_steps"] == 6
    encoder, inputs = load_encoder(run)
    assert isinstance(encoder, ToyEncoder)
    assert inputs.kind == kind
    assert inputs.preparation
    assert [step for step, _ in losses(run)] == [2, 4, 6]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["cohorts"][0]["fingerprint"]


def test_the_exported_encoder_is_the_trained_one(volumes: Path, tmp_path: Path) -> None:
    pretrain(method=toy_method("volume"), cohort=[volumes], out=tmp_path / "run", trainer=QUICK)
    encoder, _ = load_encoder(tmp_path / "run")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights(tmp_path / "run")[f"encoder.{name}"])


def test_the_same_seed_gives_the_same_run_and_another_seed_another(volumes: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        settings = TrainSettings(**{**QUICK.__dict__, "seed": seed})
        pretrain(method=toy_method("volume"), cohort=[volumes], out=tmp_path / name, trainer=settings)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_workers_change_nothing(volumes: Path, tmp_path: Path) -> None:
    for name, workers in (("none", 0), ("two", 2)):
        settings = TrainSettings(**{**QUICK.__dict__, "workers": workers})
        pretrain(method=toy_method("volume"), cohort=[volumes], out=tmp_path / name, trainer=settings)
    assert losses(tmp_path / "none") == losses(tmp_path / "two")


class _Signal(Callback):
    """Sends this process a signal during a step, as a cluster's scheduler would."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def with_signal(monkeypatch: pytest.MonkeyPatch, number: int, step: int) -> None:
    real = module.make_trainer

    def make(run: Path, callbacks: list[Callback], **options: object) -> object:
        return real(run, [*callbacks[:-1], _Signal(number, step), callbacks[-1]], **options)

    monkeypatch.setattr(module, "make_trainer", make)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_writes_a_checkpoint_and_the_run_continues_exactly(
    name: str, code: int, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threading.current_thread() is threading.main_thread()
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretrain(method=toy_method("volume"), cohort=[volumes], out=whole, trainer=QUICK)
    with monkeypatch.context() as patch:
        with_signal(patch, getattr(signal, name), 2)
        with pytest.raises(SystemExit) as left:
            pretrain(method=toy_method("volume"), cohort=[volumes], out=stopped, trainer=QUICK)
    assert left.value.code == code
    assert json.loads((stopped / "summary.json").read_text())["status"] == "stopped"
    assert torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)["medssl"]["step"] == 3
    resume(run=stopped)
    assert losses(stopped) == losses(whole)
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(stopped)[key]), key


def test_accumulation_resumes_exactly_too(signals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(**{**QUICK.__dict__, "accumulate": 3, "log_every": 1})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretrain(method=toy_method("signal"), cohort=[signals], out=whole, trainer=settings)
    with monkeypatch.context() as patch:
        with_signal(patch, signal.SIGTERM, 3)
        with pytest.raises(SystemExit):
            pretrain(method=toy_method("signal"), cohort=[signals], out=stopped, trainer=settings)
    resume(run=stopped)
    assert losses(stopped) == losses(whole)
    assert all(torch.equal(v, weights(stopped)[k]) for k, v in weights(whole).items())


def test_a_finished_run_can_be_extended_but_not_overwritten(volumes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(method=toy_method("volume"), cohort=[volumes], out=run, trainer=QUICK)
    with pytest.raises(TrainingError, match="medssl resume"):
        pretrain(method=toy_method("volume"), cohort=[volumes], out=run, trainer=QUICK)
    with pytest.raises(TrainingError, match="max-steps"):
        resume(run=run)
    summary = resume(run=run, max_steps=10)
    assert summary["steps"] == 10
    assert [step for step, _ in losses(run)] == [2, 4, 6, 8, 10]
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 10
    after = [row["lr"] for row in read_metrics(run) if "lr" in row]
    assert after[3] > 0  # the cosine spans the new total


def test_resume_refuses_what_is_no_run_or_another_cohort(volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        resume(run=tmp_path)
    run = tmp_path / "run"
    pretrain(method=toy_method("volume"), cohort=[volumes], out=run, trainer=QUICK)
    other = make_cohort(tmp_path, "volume", patients=4)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "cohort": [str(other)]}))
    with pytest.raises(CheckpointError, match="prepared anew"):
        resume(run=run, max_steps=8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_in_a_worker_names_the_recording(workers: int, volumes: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**{**QUICK.__dict__, "workers": workers})
    with pytest.raises(TrainingError, match=r"recording 'P3-3' could not be read: OSError: the disk is on fire$"):
        pretrain(method=toy_method("volume", broken="P3-3"), cohort=[volumes], out=tmp_path / "run", trainer=settings)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_init_from_takes_weights_only(volumes: Path, tmp_path: Path) -> None:
    pretrain(method=toy_method("volume"), cohort=[volumes], out=tmp_path / "first", trainer=QUICK)
    one = TrainSettings(**{**QUICK.__dict__, "max_steps": 1, "seed": 5})
    plain = pretrain(method=toy_method("volume"), cohort=[volumes], out=tmp_path / "plain", trainer=one)
    started = pretrain(
        method=toy_method("volume"),
        cohort=[volumes],
        out=tmp_path / "started",
        trainer=one,
        init_from=tmp_path / "first",
    )
    assert started["metrics"]["loss"] != plain["metrics"]["loss"]
    first, _ = load_encoder(tmp_path / "first")
    after, _ = load_encoder(tmp_path / "started")  # one step of warm-up has learning rate 0
    assert torch.equal(first.first.weight, after.first.weight)
