"""Segmentation by a prompt: of volumes, and in the annotated frames of video; as a study, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy_cohorts import make_cohort
from toy_encoders import Brightness
from toy_traced_recipe import HEIGHT, WIDTH, square, traced

from medssl.cohort import Cohort
from medssl.encoders.base import Encoder, InputSpec, save_encoder
from medssl.errors import ConfigError
from medssl.evaluation.frozen import Frozen
from medssl.evaluation.map_similarity import prompt_scores
from medssl.evaluation.prompt import TRIED, prompts_of, similarity_of
from medssl.evaluation.study import evaluate
from medssl.report import report
from medssl.splits import Split, split
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import resolve_target
from medssl.training.windows import Recordings


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients with one clip each, in which a square jumps; split."""
    cohort = make_cohort(tmp_path_factory.mktemp("traced"), "traced", patients=8)
    split(cohort, test=0.5, folds=0)
    return cohort


def seen_by(encoder: Encoder, size: tuple[int, ...]) -> Frozen:
    return Frozen(encoder, size, None, "cpu", FinetuneSettings())


@pytest.mark.parametrize(("size", "period"), [((6, HEIGHT, WIDTH), 1), ((5, HEIGHT, WIDTH), 3), ((1, 8, 8), 1)])
def test_the_cells_of_the_traced_moment_answer(clips: Path, size: tuple[int, int, int], period: int) -> None:
    """The square is elsewhere in every other frame, so cells of another moment would miss it."""
    target = resolve_target(Cohort(clips), "segmentation", "spot")
    recordings = Recordings(target.cohort, channels=None, rows=target.rows, masks=("spot",), cache_gb=1.0)
    for item in range(len(target)):
        number = int(target.cohort.reader(int(target.rows[item])).recording.split("-")[1])
        prompts = list(prompts_of(target, item, recordings, size, period))
        assert [k for k, _ in prompts] == [1, 1]
        found = similarity_of(seen_by(Brightness(), size), [p for _, p in prompts])
        for frame, (_, prompt), similarity in zip(sorted(traced(number)), prompts, found, strict=True):
            assert prompt.truth.sum() == square(number, frame).sum()
            assert similarity.shape == size[1:] and prompt.truth[prompt.place[1:]]
            scores = prompt_scores(similarity[prompt.inside][None], torch.from_numpy(prompt.truth)[None], (0.5,))
            assert float(scores.dice) == 1.0


def test_a_crop_beyond_the_image_counts_only_what_lies_in_it(clips: Path) -> None:
    target = resolve_target(Cohort(clips), "segmentation", "spot")
    recordings = Recordings(target.cohort, channels=None, rows=target.rows, masks=("spot",), cache_gb=1.0)
    _, prompt = next(iter(prompts_of(target, 0, recordings, (4, 40, 16))))
    assert prompt.x.shape == (1, 4, 40, 16) and prompt.truth.shape == (HEIGHT, 16)
    assert prompt.inside[0] == slice(10, 30)


def exported(folder: Path, encoder: Encoder, inputs: InputSpec) -> Path:
    save_encoder(encoder, folder / "encoder", inputs, {"cohorts": [], "patients": {}})
    return folder


@pytest.mark.parametrize("kind", ["traced", "volume"])
def test_a_study_needs_no_training_and_says_what_its_threshold_rests_on(tmp_path: Path, clips: Path, kind: str) -> None:
    cohort, name = clips, "spot"
    if kind == "volume":
        cohort, name = make_cohort(tmp_path, "volume", patients=8), "organs"
        split(cohort, test=0.5, folds=0)
    info = Cohort(cohort).info
    inputs = InputSpec(kind=info.kind, channels=info.channels, size=(4, 8, 8), spacing_mm=info.spacing_mm)
    run = exported(tmp_path / "run", Brightness(stride=2), inputs)
    out = tmp_path / "study"
    settings = FinetuneSettings(size=(4, 20, 24) if kind == "traced" else (8, 8, 8), progress=False, accelerator="cpu")
    summary = evaluate(
        cohort=cohort, task="segmentation", target=name, encoders={"bright": str(run)}, out=out, protocol="prompt",
        settings=settings,
    )  # fmt: skip
    assert not summary["failed"] and summary["budgets"][0]["n_patients"] == 0
    mean = {(r["encoder"], r["metric"], r["class"]): r["mean"] for r in summary["results"]}
    assert mean["bright", "dice", ""] <= mean["bright", "dice_oracle", ""]
    assert mean["bright", "jaccard", ""] <= mean["bright", "dice", ""]
    if kind == "traced":
        assert 0.6 < mean["bright", "dice", ""] <= mean["bright", "dice_best", ""] <= mean["bright", "dice_oracle", ""]
    cell = json.loads((out / "cells" / "bright" / "0" / "0" / "summary.json").read_text())
    assert cell["threshold"] in TRIED and cell["n_patients_tuned"] == 4
    cases = pd.read_parquet(out / "cells" / "bright" / "0" / "0" / "per_case.parquet")
    assert set(cases["patient"]) - {"*"} == set(Split.load(cohort, "default").test)
    page = report(out).read_text()
    assert "labels" in page and "Dice" in page


def test_prompts_are_for_segmentation(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="segments what is pointed at"):
        evaluate(
            cohort=clips, task="classification", target="spot", encoders={"scratch": "untrained"}, out=tmp_path / "s",
            protocol="prompt",
        )  # fmt: skip


def test_what_learns_from_labels_says_that_prompts_do_not(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use finetune or prompt for segmentation"):
        evaluate(
            cohort=clips, task="segmentation", target="spot", encoders={"scratch": "untrained"}, out=tmp_path / "s",
            protocol="knn",
        )  # fmt: skip
