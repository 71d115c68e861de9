"""Methods that see what a view family cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl.methods.base import Method
from medssl.views.base import Sample, Views

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["OfViews"]


class OfViews(Method):
    """Input size, kind of cohort and reading are those of ``views``, which subclasses set."""

    views: Views

    @property
    def input_size(self) -> tuple[int, ...]:
        """Size of the views."""
        return self.views.size

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: the cohort must be of the kind that the views read."""
        self.views.check(info)
        super().check(info)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the views read."""
        return self.views.draw(reader, rng)
