"""Does a cohort look like what an encoder was trained on? Of several cohorts, it must look like one."""

from __future__ import annotations

import pytest

from medssl.cohort import CohortInfo
from medssl.encoders.base import InputSpec
from medssl.errors import ConfigError
from medssl.training.contract import match_input

VIDEO = InputSpec("video", ("image",), (16, 64, 64))
BRAIN = InputSpec("volume", ("t1",), (16, 64, 64), spacing_mm=(2.0, 2.0, 2.0))
ABDOMEN = InputSpec("volume", ("ct",), (16, 64, 64), spacing_mm=(3.0, 1.5, 1.5))


def together(first: InputSpec, *others: InputSpec) -> InputSpec:
    from dataclasses import replace

    return replace(first, others=others)


def cohort(kind: str, channel: str, spacing: tuple[float, ...] | None = None) -> CohortInfo:
    return CohortInfo(kind=kind, modality="toy", recipe="toy", channels=(channel,), spacing_mm=spacing)  # type: ignore[arg-type]


def test_the_specification_of_the_cohorts_kind_is_the_one_that_counts() -> None:
    inputs = together(VIDEO, BRAIN)
    assert not match_input(inputs, cohort("volume", "t1", (2.0, 2.0, 2.0))).notes
    assert not match_input(inputs, cohort("video", "image")).notes
    with pytest.raises(ConfigError, match=r"trained at 2 × 2 × 2 mm but the cohort has 1 × 1 × 1 mm"):
        match_input(inputs, cohort("volume", "t1", (1.0, 1.0, 1.0)))


def test_a_kind_that_none_of_them_had_is_refused() -> None:
    with pytest.raises(ConfigError, match="trained on videos and volumes but the cohort holds signals"):
        match_input(together(VIDEO, BRAIN, ABDOMEN), cohort("signal", "ecg"))


def test_of_several_the_one_that_fits_is_taken() -> None:
    assert not match_input(together(BRAIN, ABDOMEN), cohort("volume", "ct", (3.0, 1.5, 1.5))).notes


def test_one_that_knows_several_voxel_sizes_takes_another_and_says_so() -> None:
    (note, _) = match_input(together(BRAIN, ABDOMEN), cohort("volume", "t2", (1.0, 1.0, 1.0))).notes
    assert note == "trained at 2 × 2 × 2 mm, used at 1 × 1 × 1 mm (allowed)"
