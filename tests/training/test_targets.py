"""What can be predicted is found by name, and what cannot is refused with what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medssl.cohort import Cohort
from medssl.errors import ConfigError
from medssl.training.targets import resolve_target


def test_masks_have_the_background_first(volumes: Path) -> None:
    target = resolve_target(Cohort(volumes), "segmentation", "organs")
    assert target.classes == ("background", "ball", "cube")
    assert target.values == (0, 1, 3)
    assert len(target) == 8


def test_labels_become_classes_or_numbers(volumes: Path, signals: Path) -> None:
    group = resolve_target(Cohort(volumes), "classification", "group")
    assert group.classes == ("large", "small")
    assert group.y.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    radius = resolve_target(Cohort(volumes), "regression", "radius")
    assert radius.y.tolist() == [3, 4, 3, 4, 3, 4, 3, 4]
    findings = resolve_target(Cohort(signals), "classification", "findings")
    assert findings.multilabel
    assert findings.y[:2].tolist() == [[1, 0], [1, 1]]


def test_a_number_can_be_taken_as_classes(volumes: Path) -> None:
    assert resolve_target(Cohort(volumes), "classification", "radius").classes == ("3", "4")


def test_events_are_items_with_a_time(signals: Path) -> None:
    cohort = Cohort(signals)
    target = resolve_target(cohort, "classification", "beat")
    assert target.classes == ("N", "V")
    assert target.onset_s is not None
    assert len(target) == len(cohort.events)
    assert target.patients[target.items_of(["P3"])].tolist() == ["P3"] * int((target.rows == 3).sum())


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("segmentation", "liver", "it has: organs"),
        ("regression", "group", "suits classification"),
        ("classification", "organs", "suits segmentation"),
        ("classification", "nothing", "it has: group, radius"),
        ("classification", "group:large", "two are needed"),
        ("classification", "group:large,huge", "no class huge; it has: large, small"),
    ],
)
def test_what_is_not_there_is_refused(task: str, name: str, message: str, volumes: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_target(Cohort(volumes), task, name)  # type: ignore[arg-type]


def test_items_of_nobody_are_none(volumes: Path) -> None:
    assert np.array_equal(resolve_target(Cohort(volumes), "segmentation", "organs").items_of([]), np.empty(0))
