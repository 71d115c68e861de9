"""The metadata: enough to use the file without medssl, and nothing about patients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from medssl.cohort.fmri import FmriPreparation
from medssl.configurable import spec
from medssl.encoders.resenc import ResEnc
from medssl.export.about import as_json, describe_export, preprocessing
from medssl.export.network import exportable
from medssl.export.source import open_run
from medssl.heads.segmentation import SegmentationHead


def describe(run: Path) -> dict[str, object]:
    source = open_run(run)
    found = exportable(source)
    return describe_export(source, found, found.layouts[0], "pt2")


def test_a_classifier_says_what_goes_in_and_what_its_classes_are(classifier_run: Path) -> None:
    about = describe(classifier_run)
    assert about["input"]["shape"] == [None, 2, None] and about["input"]["trained_size"] == [64]
    assert about["input"]["channels"] == ["c0", "c1"] and about["input"]["rate_hz"] == 100.0
    assert about["target"]["classes"] == ["a", "b"] and about["format_version"] == 1
    steps = " | ".join(about["preprocessing"]["steps"])
    assert "in mV" in steps and "from 0.5 Hz to 40 Hz" in steps and "resampled to 100 Hz" in steps and "median" in steps
    assert about["postprocessing"][0] == "mean logit of at most 3 windows a recording"
    assert "bf16-mixed" in about["postprocessing"][1]


def test_no_patient_and_no_path_goes_with_it(classifier_run: Path) -> None:
    text = as_json(describe(classifier_run))
    assert "Psecret" not in text and str(classifier_run.parent) not in text
    assert json.loads(text)["source"]["run"] == "run"


def test_a_segmenter_says_how_windows_are_joined_and_which_values_its_masks_have(
    model_run: Callable[..., Path],
) -> None:
    head = SegmentationHead(ResEnc(features=(4, 8), blocks=(1, 1), strides=(1, 2)), crop=(8, 8, 8), mirror=True)
    target = {"task": "segmentation", "name": "liver", "classes": ["background", "liver"], "values": [0, 6]}
    about = describe(model_run(head, 1, (8, 8, 8), target=target, testing={"overlap": 0.5, "precision": "32-true"}))
    assert "(HU − (-175)) / 425" in " ".join(about["preprocessing"]["steps"])
    assert "2 × 1 × 1 mm" in " ".join(about["preprocessing"]["steps"])
    assert about["target"]["values"] == [0, 6]
    assert [step.split()[0] for step in about["postprocessing"]] == ["probabilities", "windows", "the"]


def test_a_model_of_fmri_says_how_its_series_were_cleaned(classifier_run: Path) -> None:
    source = open_run(classifier_run)
    settings = spec(FmriPreparation(atlas="cc200", confounds="scrubbing", tr_s=2.5))
    inputs = dataclasses.replace(source.inputs, preparation=settings, rate_hz=0.4)
    steps = " | ".join(preprocessing(dataclasses.replace(source, inputs=inputs)))
    for words in ("atlas 'cc200'", "above 0.5 mm", "from 0.01 Hz to 0.1 Hz", "(scrubbing)", "2.5 s", "z-scores"):
        assert words in steps
