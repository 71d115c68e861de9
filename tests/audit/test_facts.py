"""Metadata as numbers: dates, categories, numbers in notes; and facts of raw files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.audit.facts import _notes, encode, manifest_facts
from medssl.audit.source_files import file_facts, files_by_checksum
from medssl.cohort import Cohort
from medssl.errors import ConfigError

PATIENTS = [f"p{i}" for i in range(24)]


def test_columns_become_numbers_and_those_that_say_nothing_go() -> None:
    frame = pd.DataFrame(
        {
            "size": [str(i) for i in range(24)],
            "probe": ["convex", "linear"] * 12,
            "date": ["2021-03-01", "2021-03-02 14:30"] * 12,
            "file": [f"clip{i}.mp4" for i in range(24)],
            "country": ["Iran"] * 24,
            "age": [np.nan, 50.0] * 12,
        }
    )
    facts = encode(frame, PATIENTS)
    assert facts.names == ("size", "probe", "date", "age")
    assert facts.categorical.tolist() == [False, True, False, False]
    assert facts.x[1, 2] - facts.x[0, 2] == pytest.approx(1 + 14.5 / 24)
    assert np.isnan(facts.x[0, 3]) and facts.x[1, 3] == 50
    assert facts.dropped == {"file": "24 different texts for 24 patients", "country": "the same everywhere"}


def test_numbers_in_notes_are_facts() -> None:
    found = _notes([["cut from 95.5 s to the first 60 s"], [], ["cut from 137 s to the first 60 s"]])
    kind = "note 'cut from # s to the first # s'"
    assert found[kind] == [1, 0, 1]
    assert found[f"{kind}, number 1"][0] == 95.5 and found[f"{kind}, number 1"][2] == 137


def test_labels_are_not_among_the_facts_of_a_manifest(clean: Path) -> None:
    names = list(manifest_facts(Cohort(clean)).columns)
    assert {"site", "scanner", "duration_s", "rate_hz", "channels", "recordings of the patient"} <= set(names)
    assert not [n for n in names if "sick" in n or "age" in n or "sha256" in n]


def test_facts_of_volumes(volumes: Path) -> None:
    frame = manifest_facts(Cohort(volumes))
    assert frame["shape z"].tolist() == [20] * 10
    assert frame["spacing_mm x"].tolist() == [1.0] * 10
    assert frame["recordings of the patient"].tolist().count(2) == 2


def test_raw_files_are_found_by_checksum(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.raw").write_bytes(b"scan")
    (tmp_path / "b.raw").write_bytes(b"other")
    wanted = hashlib.sha256(b"scan").hexdigest()
    assert files_by_checksum(tmp_path, [wanted, "", "none"]) == {wanted: tmp_path / "deep" / "a.raw"}
    with pytest.raises(ConfigError, match="is no folder"):
        files_by_checksum(tmp_path / "nowhere", [wanted])


def test_what_a_header_says_and_one_that_says_nothing(tmp_path: Path) -> None:
    import nibabel
    from PIL import Image

    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), dtype=np.int16), np.eye(4)), tmp_path / "b.nii.gz")
    (tmp_path / "c.mp4").write_bytes(b"no video")
    assert file_facts(tmp_path / "a.png").items() >= {"width": 7, "height": 5, "mode": "L", "extension": ".png"}.items()
    assert file_facts(tmp_path / "b.nii.gz").items() >= {"extension": ".nii.gz", "stored type": "int16"}.items()
    assert file_facts(tmp_path / "c.mp4") == {
        "bytes": 8, "extension": ".mp4", "first bytes": b"no v".hex(), "header": "unreadable",
    }  # fmt: skip
