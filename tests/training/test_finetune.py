"""Fine-tuning: every kind of target learns, the budget is kept, and nothing but the budget is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_cohorts import ToyEncoder, make_cohort, toy_method

from medssl.encoders.base import InputSpec, save_encoder
from medssl.encoders.resenc import ResEnc
from medssl.errors import ConfigError, SplitError, TrainingError
from medssl.optim import Optim
from medssl.splits import Split, split
from medssl.training import finetune as module
from medssl.training.finetune import finetune
from medssl.training.metrics_log import read_metrics
from medssl.training.models import load_model
from medssl.training.pretrain import pretrain
from medssl.training.settings import FinetuneSettings, TrainSettings

QUICK = FinetuneSettings(max_steps=4, batch_size=4, progress=False, accelerator="cpu", precision="32-true")


def settings(**changes: object) -> FinetuneSettings:
    return FinetuneSettings(**{**QUICK.__dict__, **changes})


@pytest.fixture(scope="module")
def split_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = make_cohort(tmp_path_factory.mktemp("volumes"), "volume", patients=14)
    split(cohort, test=4, stratify="group")
    return cohort


@pytest.fixture(scope="module")
def split_signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = make_cohort(tmp_path_factory.mktemp("signals"), "signal", patients=12)
    split(cohort, test=4, stratify="rhythm")
    return cohort


def test_segmentation_learns_shapes_and_leaves_a_complete_run(split_volumes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = finetune(
        cohort=split_volumes, task="segmentation", target="organs", out=run,
        architecture=ResEnc(features=(8, 16), blocks=(1, 1), strides=(1, 2)),
        settings=settings(max_steps=50, optim=Optim(lr=0.02), augment=False),
    )  # fmt: skip
    assert summary["metrics"]["dice"] > 0.6
    assert {"dice/1", "hd95_mm/2", "nsd"} <= set(summary["metrics"])
    assert summary["n_patients"] == 10
    assert summary["n_validation_patients"] == 2
    assert summary["split_hash"] == Split.load(split_volumes, "default").sha256
    cases = pd.read_parquet(run / "per_case.parquet")
    assert set(cases["patient"]) == set(Split.load(split_volumes, "default").test)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert any("validation" in row for row in read_metrics(run))
    with np.load(run / "examples.npz", allow_pickle=False) as examples:
        assert examples["image_0"].shape == examples["prediction_0"].shape == examples["reference_0"].shape


@pytest.mark.parametrize(
    ("kind", "task", "target", "headline"),
    [
        ("volumes", "classification", "group", "macro_f1"),
        ("volumes", "regression", "radius", "mae"),
        ("signals", "classification", "rhythm", "auroc"),
        ("signals", "classification", "findings", "macro_f1"),
        ("signals", "classification", "beat", "macro_f1"),
    ],
)
def test_every_kind_of_target_trains_and_is_tested_on_the_test_patients(
    kind: str, task: str, target: str, headline: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cohort = request.getfixturevalue(f"split_{kind}")
    network = ToyEncoder() if kind == "volumes" else ToyEncoder(in_channels=2, dims=1)
    summary = finetune(
        cohort=cohort, task=task, target=target, out=tmp_path / "run", architecture=network, settings=QUICK
    )
    assert np.isfinite(summary["metrics"][headline])
    predictions = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert set(predictions["patient"]) == set(Split.load(cohort, "default").test)
    shares = predictions.filter(like="p/")
    if task == "classification" and target != "findings":
        assert np.allclose(shares.sum(1), 1)
    assert (tmp_path / "run" / "model" / "model.json").is_file()


def test_beats_are_learnt_from_their_shape(split_signals: Path, tmp_path: Path) -> None:
    summary = finetune(
        cohort=split_signals, task="classification", target="beat", out=tmp_path / "run",
        architecture=ToyEncoder(in_channels=2, dims=1),
        settings=settings(max_steps=60, window_s=1.28, batch_size=16, optim=Optim(lr=0.02), augment=False),
    )  # fmt: skip
    assert summary["metrics"]["macro_f1"] > 0.9


def test_classes_can_be_restricted(split_signals: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no class Q; it has: N, V"):
        finetune(cohort=split_signals, task="classification", target="beat:N,Q", out=tmp_path / "run", settings=QUICK)


def test_the_same_seed_and_draw_give_the_same_model(split_signals: Path, tmp_path: Path) -> None:
    def run(name: str, **options: int) -> dict[str, float]:
        return finetune(
            cohort=split_signals, task="classification", target="rhythm", out=tmp_path / name,
            architecture=ToyEncoder(in_channels=2, dims=1), settings=QUICK, budget="4", **options,
        )["metrics"]  # fmt: skip

    assert run("a", seed=3) == run("b", seed=3)
    assert run("a2", seed=3) != run("c", seed=4)


def test_test_patients_are_opened_only_after_training(
    split_volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = set(Split.load(split_volumes, "default").test)
    read: set[str] = set()
    real = module.Recordings.read

    def spy(self: module.Recordings, row: int, *args: object) -> np.ndarray:
        read.add(self.cohort.manifest["patient"].iloc[row])
        return real(self, row, *args)

    monkeypatch.setattr(module.Recordings, "read", spy)
    monkeypatch.setattr(module._Job, "test", lambda self: (_ for _ in ()).throw(RuntimeError("before testing")))
    with pytest.raises(RuntimeError, match="before testing"):
        finetune(
            cohort=split_volumes, task="segmentation", target="organs", out=tmp_path / "run", architecture=ToyEncoder(),
            settings=QUICK,
        )  # fmt: skip
    assert read
    assert not read & held


def test_the_best_validation_step_is_what_is_kept(
    split_volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[torch.Tensor] = []
    scores = iter([0.2, 0.9, 0.1, 0.3])

    def score(head: torch.nn.Module, *rest: object) -> float:
        weights.append(head.encoder.first.weight.detach().clone())
        return next(scores)

    monkeypatch.setattr(module, "validation_score", score)
    summary = finetune(
        cohort=split_volumes, task="classification", target="group", out=tmp_path / "run", architecture=ToyEncoder(),
        settings=settings(validate_every=1),
    )  # fmt: skip
    assert summary["best_step"] == 2
    assert torch.equal(load_model(tmp_path / "run").head.encoder.first.weight, weights[1])
    assert not torch.equal(weights[1], weights[3])


def test_a_pretrained_encoder_is_used_and_may_stay_frozen(split_volumes: Path, tmp_path: Path) -> None:
    quick = TrainSettings(max_steps=3, batch_size=4, workers=0, progress=False, accelerator="cpu")
    pretrained = pretrain(method=toy_method("volume"), cohort=[split_volumes], out=tmp_path / "ssl", trainer=quick)
    assert pretrained["left_out"]["patients"] == 4
    assert pretrained["n_patients"] == 10
    finetune(
        cohort=split_volumes, task="classification", target="group", out=tmp_path / "run",
        encoder=str(tmp_path / "ssl"), settings=settings(freeze=True),
    )  # fmt: skip
    before = torch.load(tmp_path / "ssl" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    after = load_model(tmp_path / "run").head.state_dict()
    for name in ("encoder.first.weight", "encoder.second.weight"):
        assert torch.equal(before[name], after[name])


def test_an_encoder_that_saw_the_test_patients_is_refused(split_volumes: Path, tmp_path: Path) -> None:
    quick = TrainSettings(max_steps=1, batch_size=4, workers=0, progress=False, accelerator="cpu")
    pretrain(
        method=toy_method("volume"), cohort=[split_volumes], out=tmp_path / "ssl", trainer=quick, exclude_split="none"
    )
    with pytest.raises(SplitError, match="pre-trained on 4 test patients"):
        finetune(
            cohort=split_volumes, task="classification", target="group", out=tmp_path / "run",
            encoder=str(tmp_path / "ssl"), settings=QUICK,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "volume", "channels": ("image",)}, "trained on volumes but the cohort holds signals"),
        ({"channels": ("V1", "V2")}, "none of the encoder's channels"),
        ({"channels": ("I", "V2")}, "lacks V2"),
        ({"rate_hz": 500.0}, "rate_hz 500"),
    ],
)
def test_an_encoder_of_other_data_is_refused_with_the_way_out(
    change: dict[str, object], message: str, split_signals: Path, tmp_path: Path
) -> None:
    spec = InputSpec(**{"kind": "signal", "channels": ("I", "II"), "size": (64,), "rate_hz": 50.0, **change})
    save_encoder(ToyEncoder(in_channels=2, dims=1), tmp_path / "encoder", spec, {})
    with pytest.raises(ConfigError, match=message):
        finetune(
            cohort=split_signals, task="classification", target="rhythm", out=tmp_path / "run",
            encoder=str(tmp_path), settings=QUICK,
        )  # fmt: skip


def test_channels_are_taken_by_name(split_signals: Path, tmp_path: Path) -> None:
    spec = InputSpec(kind="signal", channels=("II",), size=(64,), rate_hz=50.0)
    save_encoder(ToyEncoder(in_channels=1, dims=1), tmp_path / "encoder", spec, {})
    summary = finetune(
        cohort=split_signals, task="classification", target="beat", out=tmp_path / "run", encoder=str(tmp_path),
        settings=settings(window_s=1.28),
    )  # fmt: skip
    assert any("II → II" in note for note in summary["notes"])
    assert load_model(tmp_path / "run").inputs.channels == ("II",)


def test_unknown_targets_splits_and_finished_runs_are_refused(split_volumes: Path, tmp_path: Path) -> None:
    def run(**changes: object) -> None:
        options = {"task": "segmentation", "target": "organs", "split": "default", **changes}
        finetune(cohort=split_volumes, out=tmp_path / "run", architecture=ToyEncoder(), settings=QUICK, **options)

    with pytest.raises(ConfigError, match="it has: organs"):
        run(target="liver")
    with pytest.raises(ConfigError, match="suits segmentation"):
        run(task="classification")
    with pytest.raises(SplitError, match="there: default"):
        run(split="other")
    with pytest.raises(SplitError, match="more than"):
        run(budget="99")
    run()
    with pytest.raises(TrainingError, match="finished run"):
        run()
