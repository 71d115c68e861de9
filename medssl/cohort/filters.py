"""Zero-phase filters and gap filling for (C, T) signals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["band_pass", "fill_gaps", "notch"]

Signal = NDArray[np.floating[Any]]
ORDER = 4
NOTCH_QUALITY = 30.0


def band_pass(data: Signal, rate_hz: float, low_hz: float | None, high_hz: float | None) -> NDArray[np.float64]:
    """Butterworth filter of order 4, run forwards and backwards: no delay, so event times stay true.

    Args:
        data: (C, T).
        rate_hz: of ``data``.
        low_hz: lower edge; None for a low-pass.
        high_hz: upper edge below ``rate_hz / 2``; None for a high-pass.
    """
    from scipy.signal import butter

    if low_hz is not None and high_hz is not None:
        sections = butter(ORDER, (low_hz, high_hz), "bandpass", fs=rate_hz, output="sos")
    elif low_hz is not None:
        sections = butter(ORDER, low_hz, "highpass", fs=rate_hz, output="sos")
    elif high_hz is not None:
        sections = butter(ORDER, high_hz, "lowpass", fs=rate_hz, output="sos")
    else:
        return np.asarray(data, dtype=np.float64)
    return _both_ways(sections, data, rate_hz, low_hz)


def notch(data: Signal, rate_hz: float, notch_hz: float) -> NDArray[np.float64]:
    """Remove one frequency (mains), zero phase, quality factor 30."""
    from scipy.signal import iirnotch, tf2sos

    return _both_ways(tf2sos(*iirnotch(notch_hz, NOTCH_QUALITY, fs=rate_hz)), data, rate_hz, notch_hz / NOTCH_QUALITY)


def _both_ways(sections: Any, data: Signal, rate_hz: float, slowest_hz: float | None) -> NDArray[np.float64]:
    from scipy.signal import sosfiltfilt

    # scipy's default padding covers a few samples; the transient of a slow high-pass lasts about one period.
    wanted = int(rate_hz / slowest_hz) if slowest_hz else 0
    padding = min(max(wanted, 3 * (2 * len(sections) + 1)), data.shape[-1] - 1)
    return np.asarray(sosfiltfilt(sections, np.asarray(data, dtype=np.float64), axis=-1, padlen=padding))


def fill_gaps(row: Signal) -> Signal:
    """Replace non-finite samples of (T,) by the straight line between their neighbours; ends hold the nearest value."""
    good = np.isfinite(row)
    if good.all() or not good.any():
        return row
    where = np.flatnonzero(good)
    filled = row.copy()
    filled[~good] = np.interp(np.flatnonzero(~good), where, row[where])
    return filled
