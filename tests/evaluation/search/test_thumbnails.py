"""A recording as a small picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_searches import signals, volumes

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.evaluation.search.thumbnails import SIDE, thumbnail
from medssl.synth.echo_files import write_echonet


def test_a_volume_is_its_middle_slice_seen_from_the_feet(tmp_path: Path) -> None:
    cohort = Cohort(volumes(tmp_path, patients=1, shape=(10, 12, 14)))
    found = thumbnail(cohort, 0)
    reader = cohort.reader(0)
    middle = reader.read_all()[0, reader.shape[0] // 2, ::-1, ::-1].astype(float)
    assert found["values"].shape == middle.shape and found["values"].dtype == np.uint8
    order = np.argsort(middle, axis=None)
    assert (np.diff(found["values"].ravel()[order].astype(int)) >= 0).all()
    spacing = reader.spacing_mm
    assert spacing is not None
    assert found["aspect"] == pytest.approx(middle.shape[1] * spacing[2] / (middle.shape[0] * spacing[1]))
    assert found["what"] == "middle slice"


def test_a_large_slice_is_thinned(tmp_path: Path) -> None:
    found = thumbnail(Cohort(volumes(tmp_path, patients=1, shape=(8, 300, 200))), 0)
    assert max(found["values"].shape) <= SIDE


def test_a_clip_is_its_middle_frame(tmp_path: Path) -> None:
    write_echonet(tmp_path / "raw", patients=1, frames=40)
    prepare("echonet_dynamic", tmp_path / "raw", tmp_path / "clips", workers=0, keep_ids=True)
    found = thumbnail(Cohort(tmp_path / "clips"), 0)
    assert found["values"].ndim == 2 and found["values"].std() > 10 and found["what"] == "middle frame"


def test_a_signal_is_a_short_trace(tmp_path: Path) -> None:
    found = thumbnail(Cohort(signals(tmp_path, patients=1)), 0)
    assert found["aspect"] == 0 and found["what"] == "the 10 s in the middle"
    assert found["values"].shape[0] == 3 and 200 < found["values"].shape[1] <= 400
