"""Held-out position accuracy: whose it is, what it is counted against, and what it refuses."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_cohorts import ToyEncoder, make_cohort, toy_method

from medssl import resources
from medssl.errors import CheckpointError, ConfigError, SplitError
from medssl.evaluation.positions import position_accuracy
from medssl.methods.position_contrast import PositionContrast, Positions
from medssl.methods.voco import VoCo
from medssl.splits import Split, split
from medssl.training.pretrain import pretrain
from medssl.training.settings import TrainSettings

ONE = TrainSettings(max_steps=1, batch_size=3, workers=0, progress=False, accelerator="cpu", monitor_every=0)


def voco(**options: object) -> VoCo:
    settings = {"crop": (8, 8, 8), "grid": (1, 2, 2), "crops": 3, "projector": (16, 8)} | options
    return VoCo(ToyEncoder(), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients of two recordings each, five of them held out."""
    made = make_cohort(tmp_path_factory.mktemp("positions"), "volume", patients=10, per_patient=2)
    split(made, test=5)
    return made


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "voco"
    pretrain(method=voco(variant="v1"), cohort=[cohort], out=folder, trainer=ONE)
    return folder


def test_every_held_out_patient_counts_once(run: Path, cohort: Path) -> None:
    found = position_accuracy(run, cohort, draws=2)
    assert set(found.per_patient) == set(Split.load(cohort, "default").test)
    assert found.interval.n == 5 and found.interval.method == "Student t"
    assert found.interval.mean == pytest.approx(np.mean(list(found.per_patient.values())))
    assert found.n_recordings == 10 and found.n_crops == 10 * 2 * 3 and found.chance == 0.25
    assert found == position_accuracy(run, cohort, draws=2), "the draws follow from the seed"
    assert found != position_accuracy(run, cohort, draws=2, seed=1)


@pytest.mark.parametrize(("what", "wanted"), [("truth", 1.0), ("constant", None)])
def test_what_is_counted(
    what: str, wanted: float | None, run: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PositionContrast.positions

    def answer(self: PositionContrast, batch: object) -> Positions:
        said = real(self, batch)  # type: ignore[arg-type]
        assert len(said.labels) == ONE.batch_size, "the heads centre over as many recordings as in training"
        same = torch.zeros_like(said.labels)
        same[..., 2] = 1
        return said._replace(similarity=said.labels if what == "truth" else same)

    monkeypatch.setattr(PositionContrast, "positions", answer)
    found = position_accuracy(run, cohort)
    assert found.interval.mean == wanted if wanted else found.interval.mean <= found.best_guess < 0.6


def test_the_network_is_that_of_the_checkpoint(run: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    real = PositionContrast.positions

    def compare(self: PositionContrast, batch: object) -> Positions:
        assert not self.training and all(torch.equal(v, state[k]) for k, v in self.state_dict().items())
        return real(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(PositionContrast, "positions", compare)
    position_accuracy(run, cohort, draws=1)


def test_answers_without_augmentation_and_leaves_the_teacher_alone() -> None:
    from toys import collate, volume

    of = voco(variant="v2", feature_dropout=0.5).eval()
    batch = collate([of.draw(volume(i), np.random.default_rng(i)) for i in range(2)], seed=0)  # type: ignore[arg-type]
    before = {k: v.clone() for k, v in of.state_dict().items()}
    first, again = of.positions(batch), of.positions(batch)
    assert torch.equal(first.similarity, again.similarity) and not first.similarity.requires_grad
    assert first.similarity.shape == first.labels.shape == (2, 3, 4) and first.counted.shape == (2, 3)
    assert all(torch.equal(v, before[k]) for k, v in of.state_dict().items())


def test_runs_that_cannot_be_asked_are_refused(run: Path, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="other"):
        position_accuracy(run, cohort, split="other")
    pretrain(method=voco(), cohort=[cohort], out=tmp_path / "leak", trainer=ONE, exclude_split="none")
    with pytest.raises(SplitError, match="pre-trained on 5 test patients"):
        position_accuracy(tmp_path / "leak", cohort)
    (tmp_path / "leak" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        position_accuracy(tmp_path / "leak", cohort)
    pretrain(method=toy_method("volume"), cohort=[cohort], out=tmp_path / "toy", trainer=ONE)
    with pytest.raises(ConfigError, match="ToyMethod, which tells no positions"):
        position_accuracy(tmp_path / "toy", cohort)
    with pytest.raises(CheckpointError, match="is no run"):
        position_accuracy(tmp_path / "nowhere", cohort)


def test_the_pipeline_prints_and_keeps_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, out = resources.find("pipelines", "voco_positions"), tmp_path / "positions.json"
    monkeypatch.setattr(sys, "argv", [str(script), str(run), str(out), "--draws", "1"])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert "position accuracy" in shown and "5 held-out patients" in shown and "chance 0.25" in shown
    kept = json.loads(out.read_text())
    assert kept["interval"]["n"] == 5 and kept["chance"] == 0.25 and len(kept["per_patient"]) == 5
