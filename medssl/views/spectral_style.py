"""Giving recordings the style of another one, in the frequency domain: pure functions of tensors.

Style is what scanner, site or amplifier leave in the amplitudes of a spectrum; what is where stands in the phases,
which are never touched. Half spectra of real data are used throughout, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["low_frequency_box", "outside", "radial_ratio", "swap_amplitude", "welch_amplitude", "welch_ratio"]

GAIN = (0.2, 5.0)
"""Smallest and largest factor by which a frequency changes."""

SMOOTHING = 5
"""Neighbouring bins of a radial average that are averaged."""

LINE_HZ = 1.0
"""Half the width of the band about a mains frequency."""


def low_frequency_box(
    size: Sequence[int], share: Tensor | float, spacing: Tensor | None = None, *, half: bool = True
) -> Tensor:
    """Which frequencies of a spectrum are low: a box about zero that holds a share of the spectrum.

    Along an axis of n samples the box holds the frequencies with ``|k| ≤ ⌊side · n / 2⌋``. Without spacing all sides
    are ``share^(1/axes)``. With it, the box is a cube in physical frequency, ``side = min(1, 2 · cut-off · spacing)``,
    whose cut-off is the one for which the sides' product is the share: along a coarse axis it takes relatively more.

    Args:
        size: of the data, an axis each.
        share: from 0, nothing, to 1, everything; more than 0 always holds frequency 0.
        spacing: (N, axes), one row a recording; None takes samples as the unit.
        half: of the half spectrum that ``rfftn`` gives; if not, of what ``fftn`` gives.

    Returns:
        (N, *spectrum) booleans, N = 1 without spacing. Frequency 0 comes first, as FFTs give it.

    >>> low_frequency_box((8,), 0.5).tolist()
    [[True, True, True, False, False]]
    """
    axes = len(size)
    device = share.device if isinstance(share, Tensor) else (None if spacing is None else spacing.device)
    spacing = torch.ones(1, axes, device=device) if spacing is None else spacing
    share = torch.as_tensor(share, dtype=torch.float64, device=spacing.device)
    sides = (2 * _cut_off(share, spacing.double()).unsqueeze(1) * spacing).clamp_max(1.0)
    reach = (sides * torch.tensor(size, device=spacing.device) / 2 + 1e-9).floor()
    inside = torch.ones((1,) * (axes + 1), dtype=torch.bool, device=spacing.device)
    for axis, k in enumerate(_indices(size, spacing.device, half=half)):
        inside = inside & (k.abs() <= reach[:, axis].view(-1, *(1,) * axes))
    return inside & (share > 0)


def swap_amplitude(
    x: Tensor,
    reference: Tensor,
    low: Tensor,
    *,
    strength: float = 1.0,
    keep_mean: bool = False,
) -> Tensor:
    r"""Low-frequency amplitudes of a reference, own phases (Scalbert et al., ICLR 2024, arXiv 2303.06088).

    .. math:: A'_n = M ((1-λ) A_n + λ A_k) + (1-M) A_n, \quad x'_n = F^{-1}(A'_n e^{i P_n})

    Args:
        x: (N, C, *size), real.
        reference: (C, *size), recording k.
        low: M, (N or 1, *half spectrum), symmetric as ``low_frequency_box`` is.
        strength: λ; 0 changes nothing.
        keep_mean: leave the mean of every channel as it is.

    Returns:
        Like ``x``.
    """
    size, axes = x.shape[2:], tuple(range(2, x.ndim))
    spectrum = torch.fft.rfftn(x, dim=axes)
    amplitude = spectrum.abs()
    wanted = torch.fft.rfftn(reference, dim=tuple(a - 1 for a in axes)).abs()
    mixed = torch.lerp(amplitude, wanted.expand_as(amplitude), strength)
    phase = torch.where(amplitude > 0, spectrum / amplitude, 1.0)
    chosen = low.clone()
    if keep_mean:
        chosen.view(len(low), -1)[:, 0] = False
    changed: Tensor = torch.fft.irfftn(torch.where(chosen.unsqueeze(1), mixed * phase, spectrum), s=size, dim=axes)
    return changed


def radial_ratio(
    x: Tensor,
    reference: Tensor,
    *,
    spacing: Tensor | None = None,
    reference_spacing: Tensor | None = None,
    band: tuple[float, float] | None = None,
    strength: float = 1.0,
    keep_mean: bool = False,
) -> Tensor:
    r"""Amplitudes scaled so that their average at every distance from frequency 0 is that of a reference.

    .. math:: A'_n(f) = A_n(f) (1 - λ + λ R_k(|f|) / R_n(|f|))

    with R the mean amplitude at a distance, over 5 neighbouring bins; the ratio lies from 0.2 to 5. It carries gain,
    sharpness and the colour of noise over, and cannot carry anatomy, for it has no direction. Frequency 0 is a bin of
    its own. Frequencies that the reference does not hold stay as they are.

    Args:
        x: (N, C, *size), real.
        reference: (C, *size), recording k.
        spacing: (N, axes) of x; distances are then in cycles per its unit, else in cycles a sample.
        reference_spacing: (axes,) of the reference.
        band: smallest and largest distance that is changed.
        strength: λ; 0 changes nothing.
        keep_mean: leave the mean of every channel as it is.

    Returns:
        Like ``x``.
    """
    size, axes = x.shape[2:], tuple(range(2, x.ndim))
    spectrum = torch.fft.rfftn(x, dim=axes)
    wanted = torch.fft.rfftn(reference, dim=tuple(a - 1 for a in axes))
    own = _grid(size, spacing, x.device)
    other = _grid(size, None if reference_spacing is None else reference_spacing.unsqueeze(0), x.device)
    step = torch.cat([own.step, other.step]).max()
    places, places_other = own.bins(step), other.bins(step)
    count = int(torch.maximum(places.max(), places_other.max())) + 1
    mine = _radial_mean(spectrum.abs(), own, places, count)
    theirs = _radial_mean(wanted.abs().unsqueeze(0), other, places_other, count)
    gain = _bounded(theirs, mine)
    if keep_mean:
        gain[..., 0] = 1.0
    gain = torch.lerp(torch.ones_like(gain), gain, strength)
    spread = gain.gather(2, places.flatten(1).unsqueeze(1).expand(*gain.shape[:2], -1)).unflatten(2, places.shape[1:])
    if band is not None:
        inside = (own.radius >= band[0]) & (own.radius <= band[1])
        spread = torch.where(inside.unsqueeze(1), spread, 1.0)
    changed: Tensor = torch.fft.irfftn(spectrum * spread, s=size, dim=axes)
    return changed


def welch_amplitude(x: Tensor, length: int) -> Tensor:
    """Root of the power that segments of a signal have on average: Welch's method.

    Half-overlapping Hann windows, each less its mean.

    Args:
        x: (..., T).
        length: of a segment, at most T.

    Returns:
        (..., length // 2 + 1).
    """
    segments = x.unfold(-1, length, max(1, length // 2))
    window = torch.hann_window(length, dtype=x.dtype, device=x.device)
    spectra = torch.fft.rfft((segments - segments.mean(-1, keepdim=True)) * window)
    power: Tensor = spectra.abs().square().mean(-2)
    return power.sqrt()


def welch_ratio(
    x: Tensor,
    reference: Tensor,
    *,
    rate_hz: float,
    segment_s: float = 4.0,
    content_hz: tuple[float, float] | None = None,
    line_hz: Sequence[float] = (),
    scale: bool = True,
    strength: float = 1.0,
) -> Tensor:
    """Amplitudes scaled so that the smooth spectrum outside a signal's own band is that of a reference.

    The ratio of two Welch spectra, from 0.2 to 5, cannot carry the reference's rhythm over, as single amplitudes would.

    Args:
        x: (N, C, T), real.
        reference: (C, T), recording k.
        rate_hz: of all of them.
        segment_s: of Welch's method.
        content_hz: band that holds the content, in which only the scale is carried over; None for no such band.
        line_hz: mains frequencies, changed (± 1 Hz) although they lie in that band.
        scale: inside that band, take the reference's root mean square.
        strength: 0 changes nothing.

    Returns:
        Like ``x``.
    """
    samples = x.shape[-1]
    length = max(2, min(samples, round(segment_s * rate_hz)))
    mine, theirs = welch_amplitude(x, length), welch_amplitude(reference, length)
    hz = torch.arange(samples // 2 + 1, device=x.device) * (rate_hz / samples)
    place = (hz * (length / rate_hz)).clamp(max=mine.shape[-1] - 1)
    lower = place.floor().long().clamp(1, max(1, mine.shape[-1] - 2))  # each segment is without its mean
    share = (place - lower).clamp(0, 1).to(x.dtype)
    ratio = _bounded(theirs, mine)
    gain = torch.lerp(ratio[..., lower], ratio[..., (lower + 1).clamp_max(mine.shape[-1] - 1)], share)
    if content_hz is not None:
        coarse = torch.arange(mine.shape[-1], device=x.device) * (rate_hz / length)
        inside = ((coarse >= content_hz[0]) & (coarse <= content_hz[1])).to(x.dtype)
        level = [(a.square() * inside).sum(-1, keepdim=True).sqrt() for a in (theirs, mine)]
        level_gain = _bounded(*level) if scale else torch.ones_like(level[1])
        gain = torch.where(outside(hz, content_hz, line_hz), gain, level_gain)
    gain = torch.lerp(torch.ones_like(gain), gain, strength)
    changed: Tensor = torch.fft.irfft(torch.fft.rfft(x) * gain, n=samples)
    return changed


def _cut_off(share: Tensor, spacing: Tensor) -> Tensor:
    """(N,) frequency whose cube, cut at what the axes hold, is a share of their spectra.

    ``Π min(1, 2 f s) = share`` is solved for each number of axes that are full, coarse ones first; as every factor is
    at most each of its two forms, the largest solution is the right one.
    """
    coarse_first = spacing.sort(dim=1, descending=True).values
    axes = spacing.shape[1]
    found = [(share / (2 * coarse_first[:, full:]).prod(1)).clamp_min(0) ** (1 / (axes - full)) for full in range(axes)]
    return torch.stack(found).amax(0)


def _indices(size: Sequence[int], device: torch.device, *, half: bool) -> list[Tensor]:
    """Signed frequency index k of an FFT along every axis, each shaped to spread over (1, *spectrum)."""
    shaped = []
    for axis, n in enumerate(size):
        k = torch.arange(n, device=device)
        k = k[: n // 2 + 1] if half and axis == len(size) - 1 else torch.where(k < (n + 1) // 2, k, k - n)
        shaped.append(k.view(1, *(-1 if a == axis else 1 for a in range(len(size)))))
    return shaped


class _Grid(NamedTuple):
    """Frequencies of a half spectrum.

    Attributes:
        radius: (N, *half spectrum) distance from frequency 0.
        step: (N,) the finest step along any axis.
        copies: (last,) how often a frequency stands in the whole spectrum, by its index along the last axis.
    """

    radius: Tensor
    step: Tensor
    copies: Tensor

    def bins(self, step: Tensor) -> Tensor:
        """(N, *half spectrum) rounded distance; bin 0 holds frequency 0 alone."""
        return torch.where(self.radius > 0, (self.radius / step).round().long().clamp_min(1), 0)


def _grid(size: Sequence[int], spacing: Tensor | None, device: torch.device) -> _Grid:
    axes = len(size)
    spacing = torch.ones(1, axes, device=device) if spacing is None else spacing.float()
    extent = spacing * torch.tensor(size, device=device)
    squared = torch.zeros(len(spacing), *(1,) * axes, device=device)
    for axis, k in enumerate(_indices(size, device, half=True)):
        squared = squared + (k / extent[:, axis].view(-1, *(1,) * axes)) ** 2
    last = torch.arange(size[-1] // 2 + 1, device=device)
    single = (last == 0) | (2 * last == size[-1])
    return _Grid(squared.sqrt(), 1 / extent.amax(1), torch.where(single, 1.0, 2.0))


def _radial_mean(amplitude: Tensor, grid: _Grid, places: Tensor, count: int) -> Tensor:
    """Mean amplitude in bins of distance, smoothed but for bin 0; NaN where there is nothing to average.

    Args:
        amplitude: (N, C, *half spectrum).
        grid: of the amplitude.
        places: (N or 1, *half spectrum) bins.
        count: of bins.

    Returns:
        (N, C, count).
    """
    weight = grid.copies.to(amplitude.dtype).expand_as(places).flatten(1)
    flat = places.flatten(1)
    total = amplitude.new_zeros(*amplitude.shape[:2], count)
    index = flat.unsqueeze(1).expand(*amplitude.shape[:2], -1)
    total.scatter_add_(2, index, amplitude.flatten(2) * weight.unsqueeze(1))
    number = amplitude.new_zeros(len(flat), count).scatter_add_(1, flat, weight).unsqueeze(1)
    filled = number > 0
    mean = total / number.clamp_min(1)
    smooth = _moving_sum(mean[..., 1:]) / _moving_sum(filled[..., 1:].to(mean.dtype)).clamp_min(1)
    mean = torch.cat([mean[..., :1], smooth], -1)
    return torch.where(filled, mean, torch.nan)


def _moving_sum(x: Tensor) -> Tensor:
    """Sum of each entry and its neighbours along the last axis of (N, C, K)."""
    if x.shape[-1] == 0:
        return x
    return functional.avg_pool1d(x, SMOOTHING, stride=1, padding=SMOOTHING // 2) * SMOOTHING


def _bounded(wanted: Tensor, own: Tensor) -> Tensor:
    """``wanted / own`` from 0.2 to 5; 1 where either is unknown."""
    ratio = (wanted / own.clamp_min(torch.finfo(own.dtype).tiny)).clamp(*GAIN)
    return torch.where(wanted.isnan() | own.isnan(), 1.0, ratio)


def outside(hz: Tensor, content: tuple[float, float] | None, line: Sequence[float]) -> Tensor:
    """Frequencies outside the content band, or next to the mains; all of them where there is no such band."""
    if content is None:
        return torch.ones_like(hz, dtype=torch.bool)
    found = (hz < content[0]) | (hz > content[1])
    for mains in line:
        found = found | ((hz - mains).abs() <= LINE_HZ)
    return found
