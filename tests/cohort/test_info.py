"""``cohort.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medssl.cohort import CohortInfo
from medssl.errors import CohortError

INFO = CohortInfo(
    kind="volume",
    modality="mri",
    recipe="ixi",
    channels=("image",),
    spacing_mm=(2.0, 2.0, 2.0),
    masks={"tissue": {"1": "grey"}},
    n_recordings=3,
    fingerprint="ab",
)


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / "cohort.json").write_text(INFO.to_json())
    assert CohortInfo.read(tmp_path / "cohort.json") == INFO


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format_version": 99}, "update medssl"), (None, "damaged"), ("missing", "run `medssl prepare` first")],
)
def test_what_cannot_be_read(tmp_path: Path, change: object, said: str) -> None:
    file = tmp_path / "cohort.json"
    if isinstance(change, dict):
        file.write_text(json.dumps({**json.loads(INFO.to_json()), **change}))
    elif change is None:
        file.write_text("{")
    with pytest.raises(CohortError, match=said):
        CohortInfo.read(file)
