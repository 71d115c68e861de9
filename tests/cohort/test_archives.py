"""Cohorts written by every released format version stay readable, value for value."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from medssl.cohort import Cohort
from medssl.cohort.info import FORMAT_VERSION
from medssl.cohort.verify import cohort_verify

ARCHIVES = Path(__file__).parent / "archives"
VERSIONS = sorted(p.name for p in ARCHIVES.iterdir() if p.is_dir() and p.name.startswith("v"))


def values(stored: str, index: int) -> np.ndarray:
    specification = importlib.util.spec_from_file_location("medssl_archive_maker", ARCHIVES / "make.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made: np.ndarray = module.values(stored, index)
    return made


def test_the_present_version_has_an_archive() -> None:
    assert f"v{FORMAT_VERSION}" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stored", ["volume", "signal"])
def test_archive_reads_as_it_was_written(version: str, stored: str) -> None:
    cohort = Cohort(ARCHIVES / version / stored)
    cohort_verify(cohort.path)
    for row in range(len(cohort)):
        np.testing.assert_array_equal(cohort.reader(row).read_all(), values(stored, row))
    assert set(cohort.manifest["patient"]) == {"a", "b"}
    assert cohort.manifest["label_sex"].tolist()[0] == "f"
    reader = cohort.reader(1)
    if stored == "volume":
        assert (reader.shape, reader.spacing_mm, reader.masks) == ((12, 20, 16), (2.0, 1.0, 1.0), ("bright",))
        mask = values(stored, 1) > 500
        np.testing.assert_array_equal(reader.read_all("mask:bright"), mask)
        np.testing.assert_array_equal(reader.foreground("bright", 1), np.argwhere(mask[0])[:50])
    else:
        assert (reader.shape, reader.rate_hz, reader.channels) == ((500,), 100.0, ("c0", "c1"))
        assert reader.events("beat")["value"].tolist() == ["N", "V", "N", "V"]
