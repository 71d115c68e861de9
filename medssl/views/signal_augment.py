"""Augmentation of signals on the device: parameters are drawn apart from being applied, all rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.views.rows import chosen, on_rows, seeded_noise, seeds, uniform

__all__ = [
    "STYLE",
    "UNCHANGED",
    "SignalAugmentation",
    "apply_intensity",
    "apply_parameters",
    "apply_times",
    "draw_parameters",
    "of_two",
]

Parameters = dict[str, Tensor]
OFF = 2.0  # a frequency above Nyquist
STYLE = ("factor", "wander", "wander_cycles", "jitter_sd", "band")
"""Parameters of ``draw_parameters`` that amplifier and electrodes change too."""


@dataclass(frozen=True)
class SignalAugmentation:
    """What is done to a window, and how strongly. A plain name is the probability; strengths follow it.

    Standard deviations are shares of each channel's own, so that they fit mV, µV and standardised signals.

    Attributes:
        shift: probability of a shift in time; the edge is repeated.
        shift_share: largest shift, as a share of the window.
        permute: probability of cutting the window into segments that change places, alike in all channels.
        segments: largest number of segments, from 2.
        band_stop: probability that a band of frequencies is removed.
        band_width: largest width, as a share of the Nyquist frequency.
        scale: probability of one factor for all channels.
        scale_sd: its standard deviation about 1.
        gain: probability of a factor for each channel.
        gain_sd: its standard deviation about 1.
        polarity: probability of a change of sign of all channels.
        wander: probability of a slow wave added to each channel.
        wander_sd: its largest amplitude.
        wander_cycles: fewest and most cycles in the window.
        jitter: probability of noise.
        jitter_sd: its largest standard deviation.
        jitter_least: its smallest.
        mask: probability that spans of time are set to the mean, in all channels.
        mask_share: longest span, as a share of the window.
        mask_spans: number of spans.
        drop_channel: probability, for each channel, of being set to zero; one always stays.
    """

    shift: float = 0.5
    shift_share: float = 0.1
    permute: float = 0.2
    segments: int = 5
    band_stop: float = 0.2
    band_width: float = 0.1
    scale: float = 0.5
    scale_sd: float = 0.1
    gain: float = 0.5
    gain_sd: float = 0.1
    polarity: float = 0.0
    wander: float = 0.3
    wander_sd: float = 0.3
    wander_cycles: tuple[float, float] = (0.3, 3.0)
    jitter: float = 0.5
    jitter_sd: float = 0.1
    jitter_least: float = 0.0
    mask: float = 0.5
    mask_share: float = 0.15
    mask_spans: int = 2
    drop_channel: float = 0.1


UNCHANGED = SignalAugmentation(
    shift=0, permute=0, band_stop=0, scale=0, gain=0, polarity=0, wander=0, jitter=0, mask=0, drop_channel=0
)
"""Windows as they are."""


def draw_parameters(shape: tuple[int, ...], settings: SignalAugmentation, generator: torch.Generator) -> Parameters:
    """Random parameters for every row; a neutral value where a transform is not applied.

    Args:
        shape: of the batch, (N, C, T).
        settings: probabilities and strengths.
        generator: on the device of the batch.

    Returns:
        Tensors with leading N, and the scalar ``noise_seed``. They are all that is needed to replay the views.
    """
    (n, c, length), g = shape, generator
    drawn = {**_draw_order(n, length, settings, g), **_draw_values(n, c, settings, g)}
    low, width = uniform(n, 0.01, 1, g), uniform(n, 0, settings.band_width, g)
    stopped = chosen(n, settings.band_stop, g)
    drawn["band"] = torch.where(stopped, torch.stack([low, low + width]), OFF).T
    spans = (n, settings.mask_spans)
    extent = (uniform(spans, 0, settings.mask_share, g) * length).long()
    first = (uniform(spans, 0, 1, g) * (length - extent + 1)).long()
    drawn["mask_first"] = first
    drawn["mask_length"] = torch.where(chosen(n, settings.mask, g)[:, None], extent, 0)
    return drawn


def of_two(first: Parameters, second: Parameters, rows: Tensor, length: int) -> Parameters:
    """Parameters of which some rows are those of a second draw, with other settings but of the same shape.

    Args:
        first, second: of ``draw_parameters``.
        rows: (N,) booleans: those that are of the second.
        length: T of the windows.
    """
    # further segments and spans that have no length
    filling = {"cut": length, "mask_first": 0, "mask_length": 0}
    joined = {"noise_seed": first["noise_seed"]}
    for name in first.keys() - joined.keys():
        one, other = first[name], second[name]
        if one.ndim > 1 and one.shape[1] != other.shape[1]:
            width = max(one.shape[1], other.shape[1])
            one, other = (_widened(x, width, filling.get(name)) for x in (one, other))
        joined[name] = torch.where(rows.view(-1, *(1,) * (one.ndim - 1)), other, one)
    return joined


def apply_parameters(x: Tensor, parameters: Parameters) -> Tensor:
    """Transform windows as the parameters say: first times, then values.

    Args:
        x: (N, C, T), float.
        parameters: of ``draw_parameters``.
    """
    return apply_intensity(apply_times(x, parameters), parameters)


def apply_times(x: Tensor, parameters: Parameters) -> Tensor:
    """Shift and permutation of segments: which sample stands when; arguments as in ``apply_parameters``."""
    return x.gather(-1, _source(parameters, x.shape[-1]).unsqueeze(1).expand_as(x))


def apply_intensity(x: Tensor, parameters: Parameters) -> Tensor:
    """All that changes values but no times; arguments as in ``apply_parameters``."""
    p, dtype = parameters, x.dtype
    x = x.float()
    sd, mean = x.std(-1, keepdim=True, correction=0), x.mean(-1, keepdim=True)
    x = on_rows(x, p["band"][:, 0] < OFF, lambda r, i: _band_stop(r, p["band"][i]))
    x = x * p["factor"].unsqueeze(-1)
    x = on_rows(x, (p["wander"] != 0).any(-1), lambda r, i: r + _wander(r, i, p) * sd[i])
    x = on_rows(x, p["jitter_sd"] > 0, lambda r, i: _jitter(r, i, p) * sd[i] + r)
    time = torch.arange(x.shape[-1], device=x.device)
    first = p["mask_first"].unsqueeze(-1)
    masked = ((time >= first) & (time < first + p["mask_length"].unsqueeze(-1))).any(1)
    x = torch.where(masked.unsqueeze(1), mean, x)
    return (x * p["kept"].unsqueeze(-1)).to(dtype)


def _draw_order(n: int, length: int, settings: SignalAugmentation, g: torch.Generator) -> Parameters:
    """``shift`` (N,) samples; ``cut`` (N, S - 1) ends of segments and ``order`` (N, S) in which they stand."""
    most = max(2, settings.segments)
    largest = settings.shift_share * length
    shift = torch.where(chosen(n, settings.shift, g), uniform(n, -largest, largest, g), 0.0).round().long()
    count = torch.randint(2, most + 1, (n,), generator=g, device=g.device)
    count = torch.where(chosen(n, settings.permute, g), count, 1)
    cut = (uniform((n, most - 1), 0, 1, g) * (length - 1)).long() + 1
    unused = torch.arange(most - 1, device=g.device) >= count.unsqueeze(1) - 1
    order = uniform((n, most), 0, 1, g).argsort(-1)
    return {"shift": shift, "cut": cut.masked_fill(unused, length).sort(-1).values, "order": order}


def _draw_values(n: int, c: int, settings: SignalAugmentation, g: torch.Generator) -> Parameters:
    """``factor``, ``wander``, ``kept`` (N, C); all else (N,), but the scalar ``noise_seed``."""

    def normal(shape: tuple[int, ...], sd: float) -> Tensor:
        return 1 + sd * torch.randn(shape, generator=g, device=g.device)

    scale = torch.where(chosen(n, settings.scale, g), normal((n,), settings.scale_sd), 1.0)
    sign = torch.where(chosen(n, settings.polarity, g), -1.0, 1.0)
    gain = torch.where(chosen(n, settings.gain, g)[:, None], normal((n, c), settings.gain_sd), 1.0)
    wander = uniform((n, c), -settings.wander_sd, settings.wander_sd, g)
    kept = uniform((n, c), 0, 1, g) >= settings.drop_channel
    spared = torch.randint(c, (n, 1), generator=g, device=g.device)
    return {
        "factor": gain * (scale * sign)[:, None],
        "wander": torch.where(chosen(n, settings.wander, g)[:, None], wander, 0.0),
        "wander_cycles": uniform(n, *settings.wander_cycles, g),
        "wander_phase": uniform(n, 0, 2 * math.pi, g),
        "jitter_sd": torch.where(
            chosen(n, settings.jitter, g), uniform(n, settings.jitter_least, settings.jitter_sd, g), 0.0
        ),
        "kept": kept.scatter(1, spared, True),
        "noise_seed": seeds(g),
    }


def _widened(x: Tensor, width: int, filling: int | None) -> Tensor:
    """(N, K) with further columns of a value, or (None) of their own numbers."""
    further = torch.arange(x.shape[1], width, device=x.device).expand(len(x), -1)
    return torch.cat([x, further if filling is None else torch.full_like(further, filling)], dim=1)


def _source(p: Parameters, length: int) -> Tensor:
    """(N, T): the sample that stands at each time after shift and permutation."""
    n = len(p["shift"])
    place = torch.arange(length, device=p["shift"].device).expand(n, -1).contiguous()
    first = torch.nn.functional.pad(p["cut"], (1, 0))
    extent = torch.nn.functional.pad(p["cut"], (0, 1), value=length) - first
    first, extent = first.gather(1, p["order"]), extent.gather(1, p["order"])
    stop = extent.cumsum(1)
    segment = torch.searchsorted(stop, place, right=True)
    moved = first.gather(1, segment) + place - (stop - extent).gather(1, segment)
    return (moved - p["shift"].unsqueeze(1)).clamp(0, length - 1)


def _band_stop(x: Tensor, band: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x)
    frequency = torch.linspace(0, 1, spectrum.shape[-1], device=x.device)
    kept = (frequency < band[:, :1]) | (frequency > band[:, 1:])
    filtered: Tensor = torch.fft.irfft(spectrum * kept.unsqueeze(1), n=x.shape[-1])
    return filtered


def _wander(x: Tensor, rows: Tensor, p: Parameters) -> Tensor:
    time = torch.linspace(0, 2 * math.pi, x.shape[-1], device=x.device)
    wave = torch.sin(p["wander_cycles"][rows, None] * time + p["wander_phase"][rows, None])
    return p["wander"][rows].unsqueeze(-1) * wave.unsqueeze(1)


def _jitter(x: Tensor, rows: Tensor, p: Parameters) -> Tensor:
    return seeded_noise(x, p["noise_seed"]) * p["jitter_sd"][rows].view(-1, 1, 1)
