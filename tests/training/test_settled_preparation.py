"""A model knows what ``intensity: auto`` came to, since a new file may not say whether it is CT."""

from __future__ import annotations

from pathlib import Path

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.synth.volumes import write_volumes
from medssl.training.contract import settled_preparation


def test_auto_is_replaced_by_what_it_came_to(tmp_path: Path) -> None:
    raw = write_volumes(tmp_path / "raw", patients=2, seed=0, shape=(8, 8, 8), modality="mr")
    prepare("folder", raw / "imagesTr", tmp_path / "cohort", options={"kind": "volume"}, workers=0, keep_ids=True)
    cohort = Cohort(tmp_path / "cohort")
    assert cohort.info.preparation["init_args"]["intensity"] == "auto"
    assert settled_preparation(cohort)["init_args"]["intensity"] == "mr"
    assert cohort.info.preparation["init_args"]["intensity"] == "auto"
