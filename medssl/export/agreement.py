"""How far an exported file agrees with torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.errors import MedSSLError

__all__ = ["Agreement", "Disagreement", "compare", "difference", "worst"]

Answer = Callable[[Tensor], Sequence[Tensor]]


class Disagreement(MedSSLError):  # noqa: N818 - a finding about the file, as Rejected is about a recording
    """An exported file that does not answer as torch does."""


@dataclass(frozen=True)
class Agreement:
    """Of one random input.

    Attributes:
        shape: of the input.
        max_abs: largest absolute difference of any output.
        max_rel: the largest, over outputs, of that difference over the output's largest absolute value.
    """

    shape: tuple[int, ...]
    max_abs: float
    max_rel: float


def difference(got: Tensor, want: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and that relative to the largest absolute value wanted; infinite where not finite.

    >>> difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
    (0.5, 0.125)
    >>> difference(torch.tensor([math.nan]), torch.tensor([1.0]))
    (inf, inf)
    """
    if not (got.isfinite().all() and want.isfinite().all()):
        return math.inf, math.inf
    largest = float((got.double() - want.double()).abs().max())
    return largest, largest / max(float(want.abs().max()), torch.finfo(torch.float32).tiny)


def compare(reference: Answer, loaded: Answer, inputs: Sequence[Tensor], *, tolerance: float) -> list[Agreement]:
    """Run both on every input.

    Args:
        reference: torch's own answer.
        loaded: that of the file.
        inputs: random inputs of different shapes.
        tolerance: largest relative difference that passes.

    Raises:
        Disagreement: another number, shape or type of outputs, or a larger difference.
    """
    found = []
    for x in inputs:
        want, got = reference(x), loaded(x)
        _same_form(got, want, x)
        pairs = [difference(g, w) for g, w in zip(got, want, strict=True)]
        found.append(Agreement(tuple(x.shape), max(p[0] for p in pairs), max(p[1] for p in pairs)))
        if not found[-1].max_rel <= tolerance:
            raise Disagreement(
                f"its answer differs from torch's by {found[-1].max_rel:.2g} of the largest value for an input of "
                f"{tuple(x.shape)}, where {tolerance:g} is allowed"
            )
    return found


def _same_form(got: Sequence[Tensor], want: Sequence[Tensor], x: Tensor) -> None:
    forms = [[(tuple(t.shape), str(t.dtype)) for t in side] for side in (got, want)]
    if forms[0] != forms[1]:
        raise Disagreement(f"for an input of {tuple(x.shape)} it gives outputs of {forms[0]}, and torch of {forms[1]}")


def worst(found: Sequence[Agreement]) -> tuple[float, float]:
    """Largest absolute and largest relative difference of all inputs."""
    return max(a.max_abs for a in found), max(a.max_rel for a in found)
