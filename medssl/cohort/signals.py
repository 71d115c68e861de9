"""Preparation of signals: channels, gaps, filters, rate, and a scale a channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.channels import channel_name, match_channels, volts_per
from medssl.adapters.recording import Event, Recording
from medssl.cohort.filters import band_pass, fill_gaps, notch
from medssl.cohort.intensity import lattice
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.resampling import rate_ratio, resample_signal
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["SignalPreparation"]

LARGEST_CODE = 32_000
RESOLUTION = {"nV": 1.0, "uV": 0.1, "mV": 0.001, "V": 1e-7}
INPUT_LIMIT = 20.0
FLAT_RUN = 8


class SignalPreparation(Preparation):
    """Signal → (C, T) int16 at one rate, with the channels wanted, in the order wanted.

    In this order: channels selected by name and brought to one unit, gaps filled, re-referenced, filtered (zero phase,
    at the native rate), resampled (polyphase), turned into integers. Events keep their times in seconds.

    Args:
        rate_hz: of the prepared signals; None keeps the recording's own.
        channels: names in the order wanted, matched by spelling and alias (``T3`` is ``T7``), never by position; None
            keeps all as they stand.
        missing: a wanted channel that is not there: ``"error"`` refuses the recording, ``"zero"`` stores zeros and
            notes it. A recording with none of the channels is refused either way.
        units: ``"uV"``, ``"mV"`` or ``"V"``; None keeps the recording's own.
        band_hz: (low, high) of the pass band, None for an open end; None for no filter.
        notch_hz: mains frequency to remove; None for none.
        reference: ``"average"`` or a channel's name; None keeps the recording's own.
        nan: samples that are NaN or infinite: ``"interpolate"`` linearly, ``"zero"``, or ``"reject"`` the recording.
        max_nan: largest share of such samples in a channel; above it the recording is refused.
        standardise: ``"recording"`` gives network input median 0 and robust standard deviation 1 in every channel of
            every recording (clamped to ±20); ``"none"`` gives physical units.
        min_s: shorter recordings are refused, with their length.
        max_s: longer recordings are treated by ``long``; None takes any length.
        long: ``"reject"`` or ``"cut"`` (to the first ``max_s`` seconds, with a note).
        resolution: step of the stored integers in ``units``; None is 1 uV for mV and 0.1 uV for uV. Samples that lie
            on an ADC's grid are stored on it when nothing moved them; a step is never coarser than that grid,
            unless the channel would not fit into 16 bits.
    """

    def __init__(
        self,
        *,
        rate_hz: float | None = None,
        channels: tuple[str, ...] | None = None,
        missing: Literal["error", "zero"] = "error",
        units: Literal["nV", "uV", "mV", "V"] | None = None,
        band_hz: tuple[float | None, float | None] | None = None,
        notch_hz: float | None = None,
        reference: str | None = None,
        nan: Literal["interpolate", "zero", "reject"] = "interpolate",
        max_nan: float = 0.2,
        standardise: Literal["recording", "none"] = "recording",
        min_s: float = 0.0,
        max_s: float | None = None,
        long: Literal["reject", "cut"] = "reject",
        resolution: float | None = None,
    ) -> None:
        self.rate_hz = rate_hz
        self.channels = tuple(channels) if channels is not None else None
        self.missing = missing
        self.units = units
        self.band_hz = tuple(band_hz) if band_hz is not None else (None, None)
        self.notch_hz = notch_hz
        self.reference = reference
        self.nan = nan
        self.max_nan = max_nan
        self.standardise = standardise
        self.min_s, self.max_s, self.long = min_s, max_s, long
        self.resolution = resolution
        self._check()

    def _check(self) -> None:
        choices = {
            "missing": (self.missing, ("error", "zero")),
            "nan": (self.nan, ("interpolate", "zero", "reject")),
            "standardise": (self.standardise, ("recording", "none")),
            "long": (self.long, ("reject", "cut")),
            "units": (self.units, (None, *RESOLUTION)),
        }
        for option, (value, allowed) in choices.items():
            if value not in allowed:
                raise ConfigError(f"{option} '{value}' is unknown; use one of {', '.join(map(str, allowed))}")
        if self.rate_hz is not None and not self.rate_hz > 0:
            raise ConfigError(f"rate_hz {self.rate_hz} is not above 0")
        low, high = self.band_hz
        if low is not None and high is not None and low >= high:
            raise ConfigError(f"band_hz ({low}, {high}) is empty; give (low, high) with low < high")

    def __call__(self, recording: Recording) -> Prepared:
        """Prepare one signal. See the class.

        Raises:
            UnreadableRecording: not a signal, no wanted channel, another kind of unit, too many gaps, flat, too short.
        """
        notes: list[str] = []
        data, names, units, quality = self._select(recording, notes)
        data = self._within_length(data, recording, notes)
        grids = [_grid(row) for row in data]
        data = self._filled(data, names, recording, notes, quality)
        quality.update(_saturation(data))
        filtered = self._filtered(self._referenced(data, names, recording), _rate(recording), notes)
        rate_hz = self.rate_hz or _rate(recording)
        ready = resample_signal(filtered, rate_ratio(_rate(recording), rate_hz))
        _note_flat(ready, names, recording, notes, quality)
        untouched = ready.shape == data.shape and np.array_equal(ready, np.asarray(data, dtype=np.float32))
        steps = [self._step(unit, grid, untouched) for unit, grid in zip(units, grids, strict=True)]
        stored, scale, offset = _quantise(ready, steps, grids if untouched else [None] * len(steps))
        input_scale, input_offset, input_range = self._network_input(ready, scale, offset)
        return Prepared(
            image=stored,
            scale=scale,
            offset=offset,
            input_scale=input_scale,
            input_offset=input_offset,
            input_range=input_range,
            fill=0,
            channels=names,
            units=units,
            rate_hz=rate_hz,
            events=_within(recording.events, ready.shape[1] / rate_hz, names, notes),
            notes=(*recording.notes, *notes),
            quality=quality,
        )

    def _select(
        self, recording: Recording, notes: list[str]
    ) -> tuple[NDArray[Any], tuple[str, ...], tuple[str, ...], dict[str, float]]:
        """Wanted channels in the wanted unit: (C, T) float, names, units, first quality numbers."""
        if recording.axes != "ct":
            raise UnreadableRecording(f"axes '{recording.axes}' are not those of a signal ('ct')", recording.source)
        if recording.data.size == 0:
            raise UnreadableRecording("no samples in it", recording.source)
        data = np.asarray(recording.data, dtype=np.result_type(recording.data.dtype, np.float32))
        names = recording.channels or tuple(f"channel_{i}" for i in range(len(data)))
        units = recording.units or ("",) * len(data)
        absent = 0
        if self.channels is not None:
            try:
                match = match_channels(names, self.channels, policy="strict" if self.missing == "error" else "pad")
            except ConfigError as error:
                raise UnreadableRecording(str(error), recording.source) from error
            if match.names != tuple(names):
                notes.append("channels: " + "; ".join(match.describe().splitlines()))
            data, names, absent = match.apply(data), match.names, len(match.missing)
            units = tuple(units[s] if s >= 0 else "" for s in match.source)
        data, units = self._converted(data, names, units, recording, notes)
        return data, names, units, {"missing_channels": float(absent)}

    def _converted(
        self,
        data: NDArray[Any],
        names: Sequence[str],
        units: tuple[str, ...],
        recording: Recording,
        notes: list[str],
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if self.units is None:
            return data, units
        factors = []
        for name, unit in zip(names, units, strict=True):
            volts = volts_per(unit)
            if volts is None and unit:
                raise UnreadableRecording(f"channel '{name}' is in '{unit}', not a voltage", recording.source)
            factors.append(1.0 if volts is None else volts / (volts_per(self.units) or 1.0))
        if any(not u and row.any() for u, row in zip(units, data, strict=True)):
            notes.append(f"the source states no unit; samples taken as {self.units}")
        if all(factor == 1.0 for factor in factors):
            return data, (self.units,) * len(names)
        return data * np.asarray(factors, dtype=data.dtype)[:, None], (self.units,) * len(names)

    def _within_length(self, data: NDArray[Any], recording: Recording, notes: list[str]) -> NDArray[Any]:
        rate = _rate(recording)
        length = data.shape[1] / rate
        if length < self.min_s or data.shape[1] < 2:
            raise UnreadableRecording(f"{length:g} s are too short (at least {self.min_s:g} s)", recording.source)
        if self.max_s is None or length <= self.max_s:
            return data
        if self.long == "reject":
            raise UnreadableRecording(f"{length:g} s are too long (at most {self.max_s:g} s)", recording.source)
        notes.append(f"cut from {length:g} s to the first {self.max_s:g} s")
        return data[:, : round(self.max_s * rate)]

    def _filled(
        self,
        data: NDArray[Any],
        names: Sequence[str],
        recording: Recording,
        notes: list[str],
        quality: dict[str, float],
    ) -> NDArray[Any]:
        bad = ~np.isfinite(data)
        quality["nan_fraction"] = float(bad.mean())
        if not bad.any():
            return data
        share = bad.mean(axis=1)
        worst = int(share.argmax())
        if self.nan == "reject" or share[worst] > self.max_nan:
            limit = 0.0 if self.nan == "reject" else self.max_nan
            raise UnreadableRecording(
                f"{share[worst]:.1%} of channel '{names[worst]}' is NaN (at most {limit:.0%})", recording.source
            )
        how = "interpolated" if self.nan == "interpolate" else "set to 0"
        where = ", ".join(name for name, part in zip(names, share, strict=True) if part)
        notes.append(f"{int(bad.sum())} NaN samples {how} in {where}")
        if self.nan == "zero":
            return np.where(bad, 0, data)
        return np.stack([fill_gaps(row) for row in data])

    def _referenced(self, data: NDArray[Any], names: Sequence[str], recording: Recording) -> NDArray[Any]:
        if self.reference is None:
            return data
        if self.reference == "average":
            return np.asarray(data - data.mean(axis=0, keepdims=True))
        rows = [i for i, name in enumerate(names) if channel_name(name) == channel_name(self.reference)]
        if not rows:
            raise UnreadableRecording(
                f"reference channel '{self.reference}' is not among {', '.join(names)}", recording.source
            )
        return np.asarray(data - data[rows[0]])

    def _filtered(self, data: NDArray[Any], rate: float, notes: list[str]) -> NDArray[Any]:
        low, high = self.band_hz
        if high is not None and high >= rate / 2:
            notes.append(f"no low-pass at {high:g} Hz: the recording's {rate:g} Hz end below it")
            high = None
        if low is not None or high is not None:
            data = band_pass(data, rate, low, high)
        if self.notch_hz is None:
            return data
        if self.notch_hz >= rate / 2:
            notes.append(f"no notch at {self.notch_hz:g} Hz: the recording's {rate:g} Hz end below it")
            return data
        return notch(data, rate, self.notch_hz)

    def _step(self, unit: str, grid: tuple[float, float] | None, untouched: bool) -> float | None:
        """Step of the stored integers; None when nothing is known and 16 bits are spread over the channel."""
        fixed = self.resolution or RESOLUTION.get(unit)
        if grid is None:
            return fixed
        return grid[0] if untouched or fixed is None else min(grid[0], fixed)

    def _network_input(
        self, ready: NDArray[np.float32], scale: NDArray[np.float64], offset: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]:
        if self.standardise == "none":
            reach = float(np.abs(ready).max() + scale.max())
            return scale, offset, (-reach, reach)
        centre, spread = _robust(ready)
        return scale / spread, (offset - centre) / spread, (-INPUT_LIMIT, INPUT_LIMIT)


def _rate(recording: Recording) -> float:
    if recording.rate_hz is None or not recording.rate_hz > 0:
        raise UnreadableRecording("its sampling rate is unknown; declare rate_hz", recording.source)
    return recording.rate_hz


def _grid(row: NDArray[Any]) -> tuple[float, float] | None:
    """Step and level of the ADC, where the samples show it."""
    good = row[np.isfinite(row)]
    return lattice(good, levels=1 << 24) if good.size else None


def _robust(data: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and standard deviation within the 0.5th to 99.5th percentile of each channel; 1 where it is constant.

    A quartile range would do for EEG, but in an ECG it sees only the baseline between the beats.
    """
    low, centre, high = np.percentile(data, (0.5, 50.0, 99.5), axis=1)
    spread = np.clip(data, low[:, None], high[:, None]).std(axis=1, dtype=np.float64)
    return centre, np.where(spread > 0, spread, 1.0)


def _saturation(data: NDArray[Any]) -> dict[str, float]:
    """Largest share of a channel's samples that stand still at its highest or lowest value for 8 samples or more."""
    if data.shape[1] < FLAT_RUN:
        return {"saturated": 0.0}
    edge = (data == data.max(axis=1, keepdims=True)) | (data == data.min(axis=1, keepdims=True))
    still = np.zeros_like(edge)
    still[:, 1:] = edge[:, 1:] & (data[:, 1:] == data[:, :-1])
    sums = np.cumsum(np.pad(still, ((0, 0), (1, 0))), axis=1)
    width = FLAT_RUN - 1
    runs = (sums[:, width:] - sums[:, :-width]) == width  # start of 7 still steps = 8 equal samples
    flat = data.max(axis=1) == data.min(axis=1)
    return {"saturated": float(np.where(flat, 0.0, runs.mean(axis=1)).max())}


def _note_flat(
    data: NDArray[np.float32], names: Sequence[str], recording: Recording, notes: list[str], quality: dict[str, float]
) -> None:
    spread, level = np.ptp(data, axis=1), np.abs(data).max(axis=1)
    flat = spread <= 1e-6 * level  # filters leave rounding noise on a constant
    quality["flat_channels"] = float(flat.sum())
    if flat.all():
        raise UnreadableRecording("all channels are flat", recording.source)
    if flat.any():
        notes.append(f"flat channels: {', '.join(n for n, f in zip(names, flat, strict=True) if f)}")


def _quantise(
    data: NDArray[np.float32], steps: Sequence[float | None], grids: Sequence[tuple[float, float] | None]
) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.float64]]:
    """int16 codes, scale and offset of each channel."""
    stored = np.empty(data.shape, dtype=np.int16)
    scale, offset = np.ones(len(data)), np.zeros(len(data))
    for i, (row, step, grid) in enumerate(zip(data, steps, grids, strict=True)):
        low, high = float(row.min()), float(row.max())
        if low == high:  # only the offset says anything
            stored[i], offset[i] = 0, low
            continue
        base = math.remainder(grid[1], grid[0]) if grid is not None and step == grid[0] else 0.0
        base = 0.0 if step is not None and abs(base) < 0.05 * step else base  # rounding, not a phase of its own
        scale[i] = step if step is not None else max(abs(low), abs(high)) / LARGEST_CODE
        if max(abs(low - base), abs(high - base)) > LARGEST_CODE * scale[i]:
            # A large constant (an amplifier's offset) is taken out before the step is made any coarser.
            base = base + round(((low + high) / 2 - base) / scale[i]) * scale[i]
            scale[i] = max(scale[i], (high - low) / (2 * LARGEST_CODE))
        offset[i] = base
        stored[i] = np.clip(np.rint((row - base) / scale[i]), -LARGEST_CODE - 1, LARGEST_CODE + 1)
    return stored, scale, offset


def _within(events: Sequence[Event], length_s: float, names: Sequence[str], notes: list[str]) -> tuple[Event, ...]:
    """Events of the samples and channels that were kept."""
    kept = tuple(e for e in events if e.onset_s < length_s and (not e.channel or e.channel in names))
    if len(kept) < len(events):
        notes.append(f"{len(events) - len(kept)} events lie outside the samples or channels kept")
    return kept
