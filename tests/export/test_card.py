"""The model card says what the run stored, says what it did not, and names nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from medssl.encoders.resnet1d import ResNet1d
from medssl.export import export
from medssl.export.card import MISSING
from medssl.heads.classification import ClassificationHead


def card_of(run: Path, out: Path) -> str:
    export(run, out / "m.pt2", dynamic="none")
    return (out / "MODEL_CARD.md").read_text()


def test_the_card_of_a_model_holds_data_method_results_and_versions(classifier_run: Path, tmp_path: Path) -> None:
    card = card_of(classifier_run, tmp_path / "out")
    assert "**Not a medical device, not for diagnosis.**" in card
    assert "- Labelled patients (budget): 8" in card and f"- Split hash: {'5' * 64}" in card
    assert "- Started from: random weights" in card and "- Step kept: 30" in card
    assert "| macro_f1 | 0.812 |" in card and "n/a/b" not in card  # counts are no results
    assert "One run has no interval" in card
    assert "- It has seen the labels of 8 patients." in card and "- No training item of class b in this budget." in card
    assert "- Code state: abc123+" in card and "torch 2.15.0" in card
    assert "Licence of the weights: _to be filled in" in card


def test_what_the_run_does_not_store_is_said_to_be_missing(classifier_run: Path, tmp_path: Path) -> None:
    for name in ("environment.json", "config.yaml"):
        (classifier_run / name).unlink()
    card = card_of(classifier_run, tmp_path / "out")
    for fact in ("Modality", "Recordings", "Sites, scanners, age, sex", "Trained with", "Code state", "Device"):
        assert f"- {fact}: {MISSING}" in card
    assert "## Configuration\n\nNot stored by this run." in card


def test_neither_patients_nor_paths_stand_in_it(classifier_run: Path, tmp_path: Path) -> None:
    card = card_of(classifier_run, tmp_path / "out")
    assert "Psecret" not in card and "ward7" not in card and "/home" not in card
    assert "cohort: cohort" in card


def test_an_encoder_has_no_results_of_its_own(encoder_run: Callable[..., Path], tmp_path: Path) -> None:
    run = encoder_run(ResNet1d(in_channels=2, widths=(4, 8)), 2, (64,), rankme=3.25, left_out={"patients": 2})
    card = card_of(run, tmp_path / "out")
    assert "- Pre-training method: Contrastive" in card and "- Objective: InfoNCE" in card
    assert "- Recordings: 9" in card and "- Patients: 4" in card
    assert "- Test patients left out of pre-training: 2" in card
    assert "RankMe of the last look: 3.25" in card and "mark7" not in card


def test_a_cell_of_a_study_brings_its_intervals(model_run: Callable[..., Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    row = {"encoder": "ours", "budget": "8", "metric": "macro_f1", "class": "", "n_patients": 9, "n_repeats": 3}
    summary = {
        "kind": "study",
        "results": [
            {**row, "mean": 0.7, "low": 0.61, "high": 0.78, "sd_repeats": 0.02},
            {**row, "budget": "all", "mean": 0.9, "low": 0.85, "high": 0.95, "sd_repeats": 0.02},
        ],
        "comparisons": [
            {"encoder": "ours", "budget": "8", "baseline": "scratch", "metric": "macro_f1", "difference": 0.1,
             "low": 0.02, "high": 0.2, "p_holm": 0.03}
        ],
        "caveats": ["class b occurs in 2 of the 9 test patients"], "verdict": "ours was better.",
        "cohort": {"modality": "ecg", "recipe": "mitbih", "n_recordings": 48, "n_patients": 47},
    }  # fmt: skip
    study.mkdir()
    (study / "summary.json").write_text(json.dumps(summary))
    cell = study / "cells" / "ours" / "8" / "0"
    run = model_run(ClassificationHead(ResNet1d(in_channels=2, widths=(4, 8)), ("a", "b")), 2, (64,), folder=cell)
    card = card_of(run, tmp_path / "out")
    assert "| macro_f1 | 0.700 | 0.61 to 0.78 | 0.020 | 9 |" in card and "0.85" not in card
    assert "Against scratch: 0.100 in macro_f1 (95 % interval 0.02 to 0.2; p = 0.03 after Holm)." in card
    assert card.startswith("# Model card: ResNet1d of run study/ours/8/0\n")
    assert "ours was better." in card and "- Modality: ecg" in card and "- Recordings: 48" in card
    assert "- Class b occurs in 2 of the 9 test patients." in card
