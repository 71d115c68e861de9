"""The contract of a view family: what is read on the worker, what is made of it on the device.

A view family draws *where to read* with a NumPy generator on the worker and *how to augment* with a torch generator
on the device, so any view can be replayed from (seed, position of the sample).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.configurable import Configurable
from medssl.errors import ConfigError
from medssl.views.batch_style import BatchStyle, alike

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort, CohortInfo, Reader

__all__ = ["Batch", "Drawable", "Sample", "Views", "to_input"]

Sample = dict[str, Any]
"""One worker-side draw: arrays and scalars by name. Stored-integer arrays come with ``input_scale``, ``input_offset``
(C,) and ``input_range`` (2,), see ``to_input``."""

Batch = Mapping[str, Any]
"""A collated list of samples: tensors with a leading B, plus ``seed`` (int) for the device-side generator."""


class Drawable(Protocol):
    """What a run draws from.

    Attributes:
        cohorts: one or several.
        places: (cohort, manifest row) of every recording.
        manifest: their manifest rows.
    """

    @property
    def cohorts(self) -> Sequence[Cohort]: ...
    @property
    def places(self) -> Sequence[tuple[int, int]]: ...
    @property
    def manifest(self) -> pd.DataFrame: ...


def to_input(stored: Tensor, batch: Batch) -> Tensor:
    """Stored integers to network input, on the device: ``clamp(stored * scale + offset, low, high)`` in float32.

    Args:
        stored: (B, V, C, *spatial) integers as read from the cohort.
        batch: holds ``input_scale`` (B, C), ``input_offset`` (B, C), ``input_range`` (B, 2).
    """
    tail = (1,) * (stored.ndim - 3)
    lead = (stored.shape[0], 1, -1, *tail)
    scale, offset = batch["input_scale"].float().view(lead), batch["input_offset"].float().view(lead)
    low, high = (batch["input_range"][:, i].float().view(-1, 1, 1, *tail) for i in (0, 1))
    return torch.clamp(torch.addcmul(offset, stored.float(), scale), low, high)


class Views(Configurable, ABC):
    """A view family: draws on the worker, augments on the device.

    Attributes:
        size: crop (z, y, x), window (samples,) or clip (frames, y, x) that the encoder sees.
        count: number of views V of a recording.
        kind: ``"volume"``, ``"signal"`` or ``"video"``: the kind of cohort it reads.
        batch_style: gives all recordings of a batch one style a view; None leaves each its own. A family that has one
            adds what ``BatchStyle.fields`` says to its samples.
        mixes: serves several kinds of cohorts together, a batch of one kind at a time.
    """

    size: tuple[int, ...]
    count: int
    kind: str
    batch_style: BatchStyle | None = None
    mixes: bool = False

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """All sizes that an encoder is shown; the first is ``size``."""
        return (self.size,)

    @property
    def families(self) -> tuple[Views, ...]:
        """Those it is made of, one a kind. Default: itself alone."""
        return (self,)

    def family_for(self, kind: str, shape: tuple[int, ...]) -> Views:
        """The family that cuts a recording. Default: this one.

        Args:
            kind: of its cohort.
            shape: of the recording, without channels.
        """
        return self

    def family_of(self, batch: Batch) -> Views:
        """The family that drew a batch. Default: this one."""
        return self

    def plan(self, source: Drawable, batch: int) -> None:
        """Learn what will be drawn from, and how many recordings all devices together take in a step."""

    def order(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of ``count`` recordings in the order of one epoch; all epochs are of one length. Default: random."""
        return rng.permutation(count)

    def check(self, info: CohortInfo) -> None:
        """Refuse a cohort of another kind.

        Raises:
            ConfigError: with what it holds.
        """
        if info.kind != self.kind:
            raise ConfigError(
                f"{type(self).__name__} cuts {self.kind}s, but this cohort holds {info.kind}s; choose the views for "
                "its kind"
            )

    @abstractmethod
    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Read what the views of one recording need. Returns ``x`` (V, C, *size) stored integers and input fields."""

    @abstractmethod
    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment network input independently for every row: (N, C, *size) → (N, C, *size)."""

    def augment_aligned(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment with and without changes of intensity.

        Args:
            x: (N, C, *size), float.
            generator: on the device of ``x``.

        Returns:
            Like ``x`` each: what ``augment`` makes of it, and the same with its spatial (or temporal) changes alone, so
            that both show the same thing in the same place.

        Raises:
            ConfigError: the family does not tell the two apart.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot show a view without its changes of intensity, which methods that compare "
            "views place by place need; choose VolumeViews, SignalViews or ClipViews"
        )

    def __call__(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Views of a batch: (V, B, C, *size), float32, augmented."""
        x = self._styled(to_input(batch["x"], batch), batch, generator)
        return self._by_view(self.augment(x.flatten(0, 1), generator), x)

    def crops(self, batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """Views of a batch by size: (V, B, C, *size) each. Targets come from the first. Default: all in one."""
        return [self(batch, generator)]

    def aligned(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Views of a batch as ``__call__`` gives them, and the same places without changes of intensity.

        Returns:
            (V, B, C, *size) each, float32.
        """
        x = to_input(batch["x"], batch)
        styled = self._styled(x, batch, generator)
        state = generator.get_state()
        augmented, clean = self.augment_aligned(styled.flatten(0, 1), generator)
        if styled is not x:  # a style is a change of intensity: the same places once more without it
            generator.set_state(state)
            _, clean = self.augment_aligned(x.flatten(0, 1), generator)
        return self._by_view(augmented, x), self._by_view(clean, x)

    def _styled(self, x: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """Network input (B, V, C, *size), in one style a view where that is asked for."""
        return x if self.batch_style is None else self.batch_style(x, batch, generator)

    def _jittered_alike(self, parameters: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Parameters of which those with a name are the same for all recordings of a view, where that is asked for."""
        if self.batch_style is None or not self.batch_style.same_jitter:
            return parameters
        return alike(parameters, names, self.count)

    @staticmethod
    def _by_view(rows: Tensor, x: Tensor) -> Tensor:
        """(B·V, ...) → (V, B, ...), B and V those of ``x``."""
        return rows.reshape(*x.shape[:2], *rows.shape[1:]).transpose(0, 1)
