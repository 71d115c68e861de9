"""How differences are measured, and what does not pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.export.agreement import Disagreement, compare, worst

INPUTS = [torch.ones(1, 2), torch.ones(3, 2)]


def shifted(by: float) -> object:
    return lambda x: [x * 4, x + by]


def test_the_worst_input_and_the_worst_output_count() -> None:
    def further(x: Tensor) -> list[Tensor]:
        return [x * 4, x + 0.25 * (len(x) == 3)]

    found = compare(lambda x: [x * 4, x], further, INPUTS, tolerance=1.0)
    assert [a.shape for a in found] == [(1, 2), (3, 2)]
    assert [a.max_abs for a in found] == [0.0, 0.25]
    assert worst(found) == (0.25, 0.25)


def test_relative_is_to_the_largest_value_of_that_output() -> None:
    (found,) = compare(lambda x: [x * 100], lambda x: [x * 100 + 1], INPUTS[:1], tolerance=0.1)
    assert (found.max_abs, found.max_rel) == (1.0, pytest.approx(0.01))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1.1])
def test_a_value_that_is_not_finite_or_too_far_off_is_refused(wrong: float) -> None:
    with pytest.raises(Disagreement, match="differs from torch's"):
        compare(lambda x: [x], lambda x: [x * wrong], INPUTS, tolerance=0.01)


def test_torch_itself_must_be_finite() -> None:
    with pytest.raises(Disagreement):
        compare(lambda x: [x * math.nan], lambda x: [x * math.nan], INPUTS, tolerance=0.01)


@pytest.mark.parametrize("wrong", [lambda x: [x[:1, :1]], lambda x: [x.double()], lambda x: [x, x]])
def test_another_shape_type_or_number_of_outputs_is_refused(wrong: object) -> None:
    with pytest.raises(Disagreement, match="gives outputs of"):
        compare(lambda x: [x], wrong, INPUTS, tolerance=1.0)
