"""Nearest neighbours on clips of video: classes and numbers, with a few clips of a video or with all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_cohorts import make_cohort
from toy_encoders import Brightness

from medssl.cohort import Cohort
from medssl.encoders.base import InputSpec, save_encoder
from medssl.errors import ConfigError
from medssl.evaluation.probes import features
from medssl.evaluation.study import evaluate
from medssl.splits import split
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import resolve_target
from medssl.training.windows import ClipRule


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen patients with one clip each, of which half have a bright column; split."""
    cohort = make_cohort(tmp_path_factory.mktemp("traced"), "traced", patients=16)
    split(cohort, test=0.5, folds=0, stratify="column")
    return cohort


@pytest.mark.parametrize("test_clips", ["spread", "all"])
@pytest.mark.parametrize(("task", "target"), [("classification", "column"), ("regression", "level")])
def test_neighbours_answer_for_clips_they_have_not_seen(
    clips: Path, tmp_path: Path, task: str, target: str, test_clips: str
) -> None:
    inputs = InputSpec(kind="video", channels=Cohort(clips).info.channels, size=(4, 20, 24))
    save_encoder(Brightness(), tmp_path / "run" / "encoder", inputs, {"cohorts": [], "patients": {}})
    settings = FinetuneSettings(
        size=(4, 20, 24), clip_period=2, test_clips=test_clips, progress=False, accelerator="cpu"
    )
    summary = evaluate(
        cohort=clips, task=task, target=target, encoders={"bright": str(tmp_path / "run")}, budgets=["all"], repeats=1,
        protocol="knn", out=tmp_path / "study", settings=settings,
    )  # fmt: skip
    assert not summary["failed"] and summary["cohort"]["kind"] == "video"
    assert ("all clips of a recording" in summary["aggregation"]) == (test_clips == "all")
    metric = "macro_f1" if task == "classification" else "mae"
    (found,) = [
        r["mean"]
        for r in summary["results"]
        if (r["encoder"], r["metric"], r["class"]) == ("bright", metric, "")
    ]  # fmt: skip
    assert found == 1.0 if task == "classification" else found < 6  # always the median: 15
    if task == "regression":
        explained = {r["encoder"]: r["mean"] for r in summary["results"] if r["metric"] == "r2"}
        assert explained["floor"] < 0.2 < explained["bright"], "R² is against the mean of the training patients"


def test_features_of_all_clips_are_the_mean_over_every_start(clips: Path) -> None:
    target = resolve_target(Cohort(clips), "regression", "level")
    encoder, size, item = Brightness(), (4, 20, 24), np.array([3])
    found = features(encoder, target, item, size=size, rule=ClipRule(period=3, every=True))
    video = target.cohort.reader(int(target.rows[3])).read_all()[0] / 255  # (T, Y, X)
    wanted = np.mean([[video[s : s + 10 : 3, :, -1].mean(), video[s : s + 10 : 3].mean()] for s in range(15)], axis=0)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4)


def test_clips_are_for_video(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, "volume", patients=4)
    split(cohort, test=0.5, folds=0)
    with pytest.raises(ConfigError, match="are for clips of video"):
        evaluate(
            cohort=cohort, task="segmentation", target="organs", encoders={"scratch": "none"}, out=tmp_path / "s",
            settings=FinetuneSettings(test_clips="all"),
        )  # fmt: skip
