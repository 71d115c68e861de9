"""Cleaning of region series of one fMRI run: pure functions on (T, N) arrays, in float64.

Signals and confounds go the same way, and one projection removes what the confounds explain, so that no later step
brings back what an earlier one removed (Lindquist et al., Human Brain Mapping 40:2358, 2019). The order is that of
:func:`clean`. Two faults of common software are avoided on purpose: censored volumes are interpolated where they are
(not at mirrored places), and cosine regressors are never left out because a confound resembles one of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medssl.errors import ConfigError

__all__ = [
    "FILTER_ORDER",
    "Filter",
    "clean",
    "cosine_regressors",
    "degrees_of_freedom",
    "detrend",
    "interpolate_censored",
    "least_volumes",
    "regress_out",
    "standardise",
    "temporal_filter",
    "within_kept",
]

Series = NDArray[np.float64]
Filter = Literal["butterworth", "cosine", "none"]

FILTER_ORDER = 5
_RANK_TOLERANCE = 2.2e-14  # |R_kk| of the pivoted QR below which a confound adds nothing
_SMALLEST_SD = 2.2e-16


def clean(
    series: ArrayLike,
    *,
    tr_s: float,
    confounds: ArrayLike | None = None,
    kept: ArrayLike | None = None,
    filter: Filter = "butterworth",
    band_hz: tuple[float | None, float | None] = (0.01, 0.1),
    remove_trend: bool = True,
) -> Series:
    """Interpolate censored volumes, detrend, filter, cut censored volumes, project confounds out, standardise.

    Args:
        series: (T, N) finite.
        tr_s: seconds between two volumes.
        confounds: (T, K) finite; filtered like the series.
        kept: (T,) False at censored volumes; all are kept when not given.
        filter: ``"butterworth"`` band-pass of signals and confounds, ``"cosine"`` regressors up to the lower edge of
            the band (no low-pass), or ``"none"``.
        band_hz: (low, high), None for an open end.
        remove_trend: subtract a line from signals and confounds first.

    Returns:
        (T', N) of the volumes kept: mean 0 and standard deviation 1 (ddof 1); a series that nothing is left of is 0.

    Raises:
        ConfigError: a band that the repetition time cannot hold, too few volumes to filter, or none kept.
    """
    y = np.asarray(series, dtype=np.float64)
    c = np.zeros((len(y), 0)) if confounds is None else np.asarray(confounds, dtype=np.float64)
    good = np.ones(len(y), dtype=bool) if kept is None else np.asarray(kept, dtype=bool)
    inside = within_kept(good)
    y, c, good = y[inside], c[inside], good[inside]
    y, c = interpolate_censored(y, good), interpolate_censored(c, good)
    if remove_trend:
        y, c = detrend(y), detrend(c)
    if filter == "butterworth":
        y, c = temporal_filter(y, tr_s, band_hz), temporal_filter(c, tr_s, band_hz)
    elif filter == "cosine" and band_hz[0] is not None:
        c = np.concatenate([c, cosine_regressors(len(y), tr_s, band_hz[0])], axis=1)
    return standardise(regress_out(y[good], c[good]))


def within_kept(kept: NDArray[np.bool_]) -> slice:
    """From the first to the last volume kept: outer censored volumes are cut off, since a spline would extrapolate.

    Raises:
        ConfigError: no volume is kept.
    """
    where = np.flatnonzero(kept)
    if not where.size:
        raise ConfigError("every volume is censored: no volume is left; raise the limits of censoring")
    return slice(int(where[0]), int(where[-1]) + 1)


def interpolate_censored(series: ArrayLike, kept: ArrayLike) -> Series:
    """(T, N) with the censored volumes on the cubic spline through all others; kept volumes stay as they are.

    Args:
        series: (T, N).
        kept: (T,) False at volumes to replace; the first and the last must be kept.

    >>> interpolate_censored([[0.0], [1.0], [99.0], [3.0], [4.0]], [True, True, False, True, True]).ravel().round(9)
    array([0., 1., 2., 3., 4.])
    """
    from scipy.interpolate import CubicSpline

    y, good = np.asarray(series, dtype=np.float64), np.asarray(kept, dtype=bool)
    if good.all() or not y.shape[1]:
        return y
    times = np.arange(len(y), dtype=np.float64)
    filled = y.copy()
    filled[~good] = CubicSpline(times[good], y[good], axis=0)(times[~good])
    return filled


def detrend(series: ArrayLike) -> Series:
    """(T, N) less the line of least squares through each column, and its mean."""
    y = np.asarray(series, dtype=np.float64)
    line = np.arange(len(y), dtype=np.float64)
    line -= line.mean()
    y = y - y.mean(axis=0)
    power = float(line @ line)
    return y if power == 0 else np.asarray(y - np.outer(line, line @ y) / power)


def least_volumes(band_hz: tuple[float | None, float | None]) -> int:
    """Volumes that :func:`temporal_filter` needs: its padding of three times the filter's length, and one.

    >>> least_volumes((0.01, 0.1)), least_volumes((0.01, None))
    (34, 19)
    """
    edges = sum(edge is not None for edge in band_hz)
    return 3 * (edges * FILTER_ORDER + 1) + 1 if edges else 1


def temporal_filter(series: ArrayLike, tr_s: float, band_hz: tuple[float | None, float | None]) -> Series:
    """Butterworth filter of order 5 in second-order sections, forwards and backwards, odd padding.

    Args:
        series: (T, N).
        tr_s: seconds between two volumes.
        band_hz: (low, high), None for an open end.

    Raises:
        ConfigError: the upper edge is not below half the sampling rate, or there are too few volumes.
    """
    from scipy.signal import butter, sosfiltfilt

    y = np.asarray(series, dtype=np.float64)
    low, high = band_hz
    if (low is None and high is None) or not y.shape[1]:
        return y
    if high is not None and high >= 0.5 / tr_s:
        raise ConfigError(
            f"the upper edge of {high:g} Hz is not below the {0.5 / tr_s:.4g} Hz that a repetition time of {tr_s:g} s "
            "can hold; lower band_hz, or leave its upper end open"
        )
    needed = least_volumes(band_hz)
    if len(y) < needed:
        raise ConfigError(f"{len(y)} volumes are too few to be filtered: at least {needed} are needed")
    if low is not None and high is not None:
        sections = butter(FILTER_ORDER, (low, high), "bandpass", output="sos", fs=1 / tr_s)
    elif low is not None:
        sections = butter(FILTER_ORDER, low, "highpass", output="sos", fs=1 / tr_s)
    else:
        sections = butter(FILTER_ORDER, high or 0.0, "lowpass", output="sos", fs=1 / tr_s)
    return np.asarray(sosfiltfilt(sections, y, axis=0, padtype="odd"))


def cosine_regressors(volumes: int, tr_s: float, high_pass_hz: float) -> Series:
    """(T, K) discrete cosines below ``high_pass_hz``: ``sqrt(2/T) cos(pi (n + 1/2) k / T)``, k = 1, 2, ... without the
    constant. All of them, whatever the confounds look like.

    >>> cosine_regressors(60, 2.0, 0.02).shape
    (60, 4)
    """
    highest = int(np.floor(2 * volumes * tr_s * high_pass_hz))
    order = np.arange(1, min(highest, volumes - 1) + 1)
    phase = np.pi * (np.arange(volumes)[:, None] + 0.5) * order / volumes
    return np.asarray(np.sqrt(2 / volumes) * np.cos(phase))


def regress_out(series: Series, confounds: Series) -> Series:
    """(T, N) less its projection on the columns of ``confounds`` (T, K), each standardised (ddof 1).

    The basis comes from a QR decomposition with pivoting; columns that add nothing to the others are left out of it.
    """
    basis = _basis(confounds)
    return series if not basis.shape[1] else np.asarray(series - basis @ (basis.T @ series))


def _basis(confounds: Series) -> Series:
    """(T, rank) orthonormal."""
    from scipy.linalg import qr

    if not confounds.shape[1]:
        return confounds
    q, r, _ = qr(standardise(confounds), mode="economic", pivoting=True)
    return np.asarray(q[:, np.abs(np.diag(r)) > _RANK_TOLERANCE])


def standardise(series: ArrayLike) -> Series:
    """(T, N) with mean 0 and standard deviation 1 (ddof 1); constant columns become 0."""
    y = np.asarray(series, dtype=np.float64)
    y = y - y.mean(axis=0)
    deviation = y.std(axis=0, ddof=1) if len(y) > 1 else np.zeros(y.shape[1])
    return np.asarray(y / np.where(deviation < _SMALLEST_SD, 1.0, deviation))


def degrees_of_freedom(
    volumes: int, regressors: int, tr_s: float, band_hz: tuple[float | None, float | None] | None
) -> float:
    """What is left of ``volumes`` after regressors and a filter, each part of the spectrum removed counting as such.

    >>> degrees_of_freedom(150, 24, 2.0, (0.01, 0.1))
    30.0
    """
    nyquist = 0.5 / tr_s
    low, high = band_hz or (None, None)
    share = (min(high or nyquist, nyquist) - (low or 0.0)) / nyquist
    return round(volumes * share - regressors, 6)
