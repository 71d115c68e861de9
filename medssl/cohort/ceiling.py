"""What honest studies of a dataset stay below, so that a result beyond it is not believed without an audit."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.errors import RecipeError

__all__ = ["Ceiling"]


@dataclass(frozen=True)
class Ceiling:
    """Accuracy of one label from which on a leak is likelier than a discovery.

    Attributes:
        value: accuracy or balanced accuracy as a share, above 0 and at most 1.
        source: where that is known from, as a clause that can stand in brackets.

    Raises:
        RecipeError: the value is no such share, or there is no source.

    >>> Ceiling(0.8, "published without leaks: 60 to 73 %").value
    0.8
    """

    value: float
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            raise RecipeError(f"a ceiling of {self.value} is no share of right answers; give 0.8 for 80 %")
        if not self.source.strip():
            raise RecipeError(f"a ceiling of {self.value} needs a source: where it is known from")
