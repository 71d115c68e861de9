"""``cohort.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medssl.cohort import CohortInfo
from medssl.cohort.ceiling import Ceiling
from medssl.errors import CohortError, RecipeError

INFO = CohortInfo(
    kind="volume",
    modality="mri",
    recipe="ixi",
    channels=("image",),
    spacing_mm=(2.0, 2.0, 2.0),
    masks={"tissue": {"1": "grey"}},
    ceilings={"diagnosis": Ceiling(0.8, "a review")},
    n_recordings=3,
    fingerprint="ab",
)


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / "cohort.json").write_text(INFO.to_json())
    assert CohortInfo.read(tmp_path / "cohort.json") == INFO


def test_cohorts_of_earlier_versions_know_no_ceiling(tmp_path: Path) -> None:
    fields = json.loads(INFO.to_json())
    del fields["ceilings"]
    (tmp_path / "cohort.json").write_text(json.dumps(fields))
    assert CohortInfo.read(tmp_path / "cohort.json").ceilings == {}


@pytest.mark.parametrize(
    ("value", "source", "said"), [(80, "a", "0.8 for 80 %"), (0, "a", "no share"), (1, " ", "source")]
)
def test_a_ceiling_is_a_share_with_a_source(value: float, source: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Ceiling(value, source)


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
