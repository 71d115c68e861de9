"""Methods that see what a view family cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl.errors import ConfigError
from medssl.methods.base import Method, Readable
from medssl.views.base import Sample, Views

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import CohortInfo, Reader

__all__ = ["OfViews", "refuse_other_views"]


class OfViews(Method):
    """Input sizes, kinds of cohorts, order and reading are those of ``views``, which subclasses set."""

    views: Views

    @property
    def input_size(self) -> tuple[int, ...]:
        """Size of the views."""
        return self.views.size

    @property
    def mixes(self) -> bool:
        """See ``Method.mixes``: where the views do."""
        return self.views.mixes

    def size_for(self, kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See ``Method.size_for``: that of the family of such recordings."""
        return self.views.family_for(kind, shape).size

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: the cohort must be of a kind that the views read, in sizes that the encoder takes."""
        self.views.check(info)
        super().check(info)
        for size in self.views.sizes[1:]:
            self.encoder.check_input(len(info.channels), size)

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``: the views' plan."""
        self.views.plan(source, batch)

    def order(self, manifest: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """See ``Method.order``: the views' own."""
        return self.views.order(len(manifest), rng)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the views read."""
        return self.views.draw(reader, rng)


def refuse_other_views(views: Views, kind: str, *, method: str, learns_from: str, choose: str) -> None:
    """Refuse views that cut another kind of recording than a method learns from.

    Args:
        views: as given.
        kind: of recording.
        method, learns_from, choose: for the message: the method, what it learns from, the views that cut it.

    Raises:
        ConfigError: they do.
    """
    if views.kind != kind:
        raise ConfigError(
            f"{method} learns from {learns_from}, but {type(views).__name__} cuts {views.kind}s; choose {choose}"
        )
