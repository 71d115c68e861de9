"""Windows of signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medssl.errors import CohortError, ConfigError
from medssl.views.base import Sample, Views
from medssl.views.batch_style import SignalStyle
from medssl.views.placement import Start, read_crops, uniform_start
from medssl.views.signal_augment import (
    STYLE,
    SignalAugmentation,
    apply_intensity,
    apply_parameters,
    apply_times,
    draw_parameters,
    of_two,
)

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["SignalViews"]


class SignalViews(Views):
    """Windows of one recording, each augmented for itself.

    Args:
        size: window, one number of samples.
        count: windows of a recording.
        gap_s: how far, in seconds, the other windows may start from the first. 0 takes the same window, None any
            window of the recording. A recording shorter than the window is padded on both sides.
        augmentation: transforms and strengths.
        batch_style: give all signals of a batch the style of one of them, another one for every view.
    """

    kind = "signal"

    def __init__(
        self,
        size: tuple[int],
        *,
        count: int = 2,
        gap_s: float | None = 0.0,
        adjacent: bool = False,
        augmentation: SignalAugmentation | None = None,
        second: SignalAugmentation | None = None,
        batch_style: SignalStyle | None = None,
    ) -> None:
        if len(size) != 1 or size[0] < 1 or count < 1:
            raise ConfigError(f"SignalViews needs one positive size and a count of at least 1, not {size}, {count}")
        if gap_s is not None and gap_s < 0:
            raise ConfigError(f"SignalViews takes a gap_s of 0 or more seconds, or none, not {gap_s}")
        if adjacent and (gap_s != 0 or count < 2):
            raise ConfigError(
                f"SignalViews takes adjacent windows, at least two of them, or a gap_s, not adjacent with a gap_s of "
                f"{gap_s} and a count of {count}"
            )
        if second is not None and count < 2:
            raise ConfigError("SignalViews has a second augmentation but a count of 1; leave second out or raise count")
        self.size = (int(size[0]),)
        self.count = count
        self.gap_s, self.adjacent = gap_s, adjacent
        self.augmentation, self.second = augmentation or SignalAugmentation(), second
        self.batch_style = batch_style

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Windows of one recording: ``x`` (count, C, T) stored integers, ``starts`` (count, 1), and input fields."""
        starts = self._starts(reader, rng)
        style = {} if self.batch_style is None else self.batch_style.fields(reader, self.size, self.size)
        x = read_crops(reader, starts, self.size)
        return {**reader.input_fields(), **style, "x": x, "starts": np.stack(starts)}

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment every row for itself: (N, C, T) → (N, C, T), in the type of ``x``; row i is of view i % count."""
        return self.apply(x, self.draw_parameters(tuple(x.shape), generator))

    def augment_aligned(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See ``Views.augment_aligned``: shift and permutation of segments stay in both."""
        parameters = self.draw_parameters(tuple(x.shape), generator)
        moved = apply_times(x, parameters)
        return apply_intensity(moved, parameters), moved

    def draw_parameters(self, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """What ``apply`` needs for a batch of that shape; keep it to replay the views."""
        parameters = draw_parameters(shape, self.augmentation, generator)
        if self.second is not None:
            later = torch.arange(shape[0], device=generator.device) % self.count > 0
            parameters = of_two(parameters, draw_parameters(shape, self.second, generator), later, shape[-1])
        return self._jittered_alike(parameters, STYLE)

    def apply(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """Transform (N, C, T) as the parameters say; the same parameters give the same result."""
        return apply_parameters(x, parameters)

    def _starts(self, reader: Reader, rng: np.random.Generator) -> list[Start]:
        if self.adjacent:
            first = uniform_start(reader.shape, (self.count * self.size[0],), rng)
            return [first + place * self.size[0] for place in range(self.count)]
        first = uniform_start(reader.shape, self.size, rng)
        return [first, *(self._other(reader, first, rng) for _ in range(self.count - 1))]

    def _other(self, reader: Reader, first: Start, rng: np.random.Generator) -> Start:
        if self.gap_s is None:
            return uniform_start(reader.shape, self.size, rng)
        if reader.rate_hz is None:
            raise CohortError(f"recording {reader.recording} has no rate, so a gap in seconds means nothing")
        reach = round(self.gap_s * reader.rate_hz)
        spare = reader.shape[0] - self.size[0]
        if reach == 0 or spare <= 0:
            return first
        low, high = max(0, int(first[0]) - reach), min(spare, int(first[0]) + reach)
        return rng.integers(low, high + 1, 1)
