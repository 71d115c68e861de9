"""Batch Styles Standardization: every recording of a batch is given the style of one of them.

What scanner, site or amplifier leave in a recording is an easy cue for telling recordings apart. Where all recordings
of a view have one style, only their content tells them apart; where another view has another style, what is learnt
must not depend on it. No site labels are needed, but batches should hold recordings of several sites.

After Scalbert, Vakalopoulou and Couzinié-Devy (ICLR 2024, arXiv 2303.06088), extended to volumes and signals.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from medssl.errors import CohortError, ConfigError
from medssl.views.spectral_style import low_frequency_box, outside, radial_ratio, swap_amplitude, welch_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl.cohort import Reader

__all__ = ["BatchStyle", "SignalStyle", "VolumeStyle", "alike"]

Parameters = dict[str, Tensor]
CLIP = (0.001, 0.999)
"""Quantiles of a batch between which restyled volumes are kept."""

CLIP_VALUES = 2**18  # values from which the quantiles are taken


@dataclass(frozen=True)
class BatchStyle(metaclass=ABCMeta):  # with ABC as a base, a configuration would have to name the class of its fields
    """What ``VolumeStyle`` and ``SignalStyle`` share, which say what the attributes mean."""

    probability: float = 0.5
    mode: Literal["radial", "swap"] = "radial"
    share: tuple[float, float] = (0.02, 0.5)
    strength: float = 1.0
    same_jitter: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.strength <= 1):
            raise ConfigError(
                f"batch_style takes probability and strength from 0 to 1, not {self.probability} and {self.strength}"
            )
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            raise ConfigError(f"batch_style takes a share as two rising numbers from 0 to 1, not {self.share}")
        if self.mode not in ("radial", "swap"):
            raise ConfigError(f"batch_style knows the modes radial and swap, not '{self.mode}'")

    def __call__(self, x: Tensor, batch: Mapping[str, Any], generator: torch.Generator) -> Tensor:
        """Network input of a batch in one style a view.

        The reference is one of the batch. Where several processes train together, it and all random choices are those
        of the first process, so that embeddings which are compared across processes have one style. A single
        recording has nobody to take a style from and stays as it is.

        Args:
            x: (B, V, C, *size), float: V views of B recordings.
            batch: holds what ``fields`` gave, with a leading B.
            generator: on the device of ``x``.

        Returns:
            Like ``x``.
        """
        if len(x) < 2 and not _together():
            return x
        drawn = self.draw_parameters(len(x), x.shape[1], generator)
        return self.apply(x, {name: _of_first(value) for name, value in drawn.items()}, batch)

    def draw_parameters(self, recordings: int, views: int, generator: torch.Generator) -> Parameters:
        """What ``apply`` needs; keep it to replay the views.

        Returns:
            ``applied``, a scalar, 1 or 0; ``reference`` (V,), the recording whose style a view takes, another one for
            every view as far as there are enough; ``share`` (V,) of the spectrum that is swapped.
        """
        device = generator.device
        order = torch.randperm(recordings, generator=generator, device=device)
        low, high = self.share
        return {
            "applied": (torch.rand((), generator=generator, device=device) < self.probability).float(),
            "reference": order[torch.arange(views, device=device) % recordings],
            "share": low + (high - low) * torch.rand(views, generator=generator, device=device),
        }

    def apply(self, x: Tensor, parameters: Parameters, batch: Mapping[str, Any]) -> Tensor:
        """Restyle (B, V, C, *size) as the parameters say; the same parameters give the same result."""
        if not bool(parameters["applied"]):
            return x
        place, views = parameters["reference"], torch.arange(x.shape[1], device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            reference = _of_first(full[place, views])
            own = self._units(batch)
            other = [None] * len(views) if own is None else list(_of_first(own[place]))
            restyled = [
                self.restyle(full[:, v], reference[v], parameters["share"][v], own, other[v]) for v in range(len(views))
            ]
        return torch.stack(restyled, 1).to(x.dtype)

    @abstractmethod
    def fields(self, reader: Reader, extent: Sequence[int], size: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What a sample needs beside its values so that it can be restyled.

        Args:
            reader: of the recording.
            extent: what was read of it, one number an axis.
            size: to which that was resized.
        """

    @abstractmethod
    def restyle(
        self, x: Tensor, reference: Tensor, share: Tensor, units: Tensor | None, reference_units: Tensor | None
    ) -> Tensor:
        """One view of all recordings in the style of a reference.

        Args:
            x: (B, C, *size), at least float32.
            reference: (C, *size).
            share: of the spectrum that is swapped, a scalar.
            units: (B, axes) spacing of voxels, or (B, 1) sampling rate; None where it is not known.
            reference_units: the reference's.
        """

    @abstractmethod
    def _units(self, batch: Mapping[str, Any]) -> Tensor | None:
        """``units`` of a batch for ``restyle``."""


@dataclass(frozen=True)
class VolumeStyle(BatchStyle):
    """One style a view for all volumes of a batch.

    What is darkest in a crop (air, padding) stays as it is, and values stay within the batch's. Frequencies are in
    cycles per mm where the cohort knows its voxel size, so that thick slices are treated as what they are.

    Attributes:
        probability: that a batch is restyled.
        mode: ``radial`` scales amplitudes so that their average at every frequency is the reference's, which carries
            gain, sharpness and noise over but no anatomy; ``swap`` takes the reference's low-frequency amplitudes
            themselves, as published. Keep its share small for tasks about size or volume.
        share: of the spectrum that ``swap`` takes, smallest and largest.
        strength: 1 takes the reference's amplitudes, 0 keeps the own.
        same_jitter: random changes of intensity are the same for all recordings of a view, as published.
        keep_mean: leave the mean as it is; for CT, whose numbers mean something.
        band_per_mm: smallest and largest frequency that ``radial`` changes, in cycles per mm: below 0.05 lie gain and
            bias field, at the upper end sharpness and noise. None changes all.
    """

    keep_mean: bool = False
    band_per_mm: tuple[float, float] | None = None

    def fields(self, reader: Reader, extent: Sequence[int], size: Sequence[int]) -> dict[str, NDArray[Any]]:
        """See ``BatchStyle.fields``: ``spacing_mm`` (3,) of the voxels that the encoder sees."""
        spacing = reader.spacing_mm
        if spacing is None:
            if self.band_per_mm is not None:
                raise CohortError(f"recording {reader.recording} has no voxel size; leave band_per_mm out")
            spacing = (1.0,) * len(size)
        seen = [mm * e / s for mm, e, s in zip(spacing, extent, size, strict=True)]
        return {"spacing_mm": np.array(seen, np.float32)}

    def restyle(
        self, x: Tensor, reference: Tensor, share: Tensor, units: Tensor | None, reference_units: Tensor | None
    ) -> Tensor:
        """See ``BatchStyle.restyle``."""
        if self.mode == "swap":
            low = low_frequency_box(x.shape[2:], share, units)
            styled = swap_amplitude(x, reference, low, strength=self.strength, keep_mean=self.keep_mean)
        else:
            styled = radial_ratio(
                x, reference, spacing=units, reference_spacing=reference_units, band=self.band_per_mm,
                strength=self.strength, keep_mean=self.keep_mean,
            )  # fmt: skip
        low_value, high_value = _of_first(_range(x))
        background = x == x.amin(tuple(range(2, x.ndim)), keepdim=True)
        return torch.where(background, x, styled.clamp(low_value, high_value))

    def _units(self, batch: Mapping[str, Any]) -> Tensor | None:
        spacing: Tensor | None = batch.get("spacing_mm")
        return spacing


@dataclass(frozen=True)
class SignalStyle(BatchStyle):
    """One style a view for all signals of a batch.

    Padding at both ends stays as it is.

    Attributes:
        probability: that a batch is restyled.
        mode: ``radial`` scales amplitudes by the ratio of two smooth spectra; ``swap`` takes the reference's
            low-frequency amplitudes themselves, outside the content band.
        share: of the spectrum that ``swap`` takes, smallest and largest.
        strength: 1 takes the reference's amplitudes, 0 keeps the own.
        same_jitter: random changes of values are the same for all recordings of a view.
        content_hz: band that holds what the signal is recorded for; it keeps its shape. None for no such band.
        line_hz: mains frequencies, restyled (± 1 Hz) even inside that band.
        scale: each channel takes the reference's amplitude inside that band.
        segment_s: length of the pieces over which the smooth spectra are averaged.
    """

    content_hz: tuple[float, float] | None = (0.5, 40.0)
    line_hz: tuple[float, ...] = (50.0, 60.0)
    scale: bool = True
    segment_s: float = 4.0

    def fields(self, reader: Reader, extent: Sequence[int], size: Sequence[int]) -> dict[str, NDArray[Any]]:
        """See ``BatchStyle.fields``: ``rate_hz`` (1,)."""
        if reader.rate_hz is None:
            raise CohortError(
                f"recording {reader.recording} has no sampling rate, which batch_style needs; prepare the cohort with "
                "one rate_hz"
            )
        return {"rate_hz": np.array([reader.rate_hz], np.float32)}

    def restyle(
        self, x: Tensor, reference: Tensor, share: Tensor, units: Tensor | None, reference_units: Tensor | None
    ) -> Tensor:
        """See ``BatchStyle.restyle``."""
        if units is None or reference_units is None or bool((units != reference_units).any()):
            raise ConfigError("batch_style needs signals of one sampling rate; prepare the cohort with one rate_hz")
        rate = float(reference_units)
        if self.mode == "swap":
            hz = torch.arange(x.shape[-1] // 2 + 1, device=x.device) * (rate / x.shape[-1])
            low = low_frequency_box(x.shape[2:], share) & outside(hz, self.content_hz, self.line_hz)
            styled = swap_amplitude(x, reference, low, strength=self.strength)
        else:
            styled = welch_ratio(
                x, reference, rate_hz=rate, segment_s=self.segment_s, content_hz=self.content_hz, line_hz=self.line_hz,
                scale=self.scale, strength=self.strength,
            )  # fmt: skip
        return torch.where(_padding(x).unsqueeze(1), x, styled)

    def _units(self, batch: Mapping[str, Any]) -> Tensor | None:
        rate: Tensor | None = batch.get("rate_hz")
        return rate


def alike(parameters: Parameters, names: Iterable[str], views: int) -> Parameters:
    """Parameters of (B·V) rows, some of them the same for all recordings of a view (and in all processes).

    Args:
        parameters: name → tensor with leading B·V, recording-major.
        names: of those that are to be the same.
        views: V.
    """
    same = {}
    for name in names:
        rows = parameters[name]
        same[name] = _of_first(rows[:views])[torch.arange(len(rows), device=rows.device) % views]
    return {**parameters, **same}


def _range(x: Tensor) -> Tensor:
    """Lower and upper quantile of every channel over a batch (B, C, *size): (2, C, 1, …)."""
    values = x.transpose(0, 1).flatten(1)
    sample = values[:, :: -(-values.shape[1] // CLIP_VALUES)]
    limits = torch.quantile(sample, torch.tensor(CLIP, device=x.device, dtype=x.dtype), dim=1)
    return limits.view(2, -1, *(1,) * (x.ndim - 2))


def _padding(x: Tensor) -> Tensor:
    """(B, T): samples in a run at either end in which no channel of (B, C, T) changes."""
    still = (x[..., 1:] == x[..., :-1]).all(1).long()
    steps = [torch.cumprod(still, 1).sum(1), torch.cumprod(still.flip(1), 1).sum(1)]
    time = torch.arange(x.shape[-1], device=x.device)
    first, last = (s.unsqueeze(1) for s in steps)
    return ((time <= first) & (first > 0)) | ((time >= x.shape[-1] - 1 - last) & (last > 0))


def _of_first(value: Tensor) -> Tensor:
    """The first process' tensor, in all of them."""
    if not _together():
        return value
    shared = value.contiguous().clone()
    dist.broadcast(shared, 0)
    return shared


def _together() -> bool:
    """Whether several processes train in step.

    A look at the encoder, which one process alone may take, is taken without gradients and must not wait for others.
    """
    return torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
