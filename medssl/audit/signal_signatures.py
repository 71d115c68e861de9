"""Which signals are the same, whatever their scale, polarity, direction in time and a small shift.

The search compares magnitudes of the spectrum of the middle of each recording: a shift, another sign and reversal in
time leave them as they are. Candidates are then compared sample by sample: normalised cross-correlation over all lags
that leave enough in common, by FFT, many pairs at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medssl.progress import track

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["correlations", "cross_correlation", "spectra"]

SEARCHED = 4096  # samples of the middle that the search sees
COMPARED = 16_384  # samples that are correlated
FEW, SEVERAL = 2, 8  # channels of the search, and of the comparison
LARGEST = 10.0  # deviations beyond which a sample is an artefact
COMMON = 0.5  # share of either window's energy that a lag must leave in common
_BATCH = 32  # pairs at once: 64 windows of 8 x 16,384 samples are 34 MB


class _Windows:
    """The middle of recordings, on the lowest rate of the cohort, see ``robust``.

    Args:
        cohort: of signals.
        samples: length of a window; shorter recordings are followed by zeros.
        channels: at most so many, evenly spread.
    """

    def __init__(self, cohort: Cohort, samples: int, channels: int) -> None:
        manifest = cohort.manifest
        self.cohort, self.samples = cohort, samples
        self.rates = manifest["rate_hz"].to_numpy(dtype=np.float64)
        self.rate = float(np.nanmin(self.rates)) if np.isfinite(self.rates).any() else math.nan
        least = min(len(names) for names in manifest["channels"])
        self.chosen = np.unique(np.linspace(0, least - 1, min(channels, least)).astype(np.int64)).tolist()

    def read(self, row: int) -> NDArray[np.float32]:
        """(C, samples)."""
        reader = self.cohort.reader(row)
        rate = self.rates[row]
        ratio = rate / self.rate if np.isfinite(rate) and np.isfinite(self.rate) else 1.0
        size = min(reader.shape[0], round(self.samples * ratio))
        x = reader.read([(reader.shape[0] - size) // 2], [size], channels=self.chosen).astype(np.float32)
        if abs(ratio - 1) > 1e-3:
            from scipy.signal import resample

            x = resample(x, max(2, round(size / ratio)), axis=1).astype(np.float32)
        out = np.zeros((len(self.chosen), self.samples), dtype=np.float32)
        length = min(x.shape[1], self.samples)
        out[:, :length] = robust(x[:, :length])
        return out


def robust(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each channel (C, T) in units of its usual deviation from the median, at most 10 of them, its mean taken off.

    One artefact would else be all there is of a window, and lie outside that of a shifted copy.
    """
    x = x - np.median(x, axis=1, keepdims=True)
    usual = 1.48 * np.median(np.abs(x), axis=1, keepdims=True)
    usual = np.where(usual > 0, usual, x.std(1, keepdims=True))
    x = np.clip(np.where(usual > 0, x / np.where(usual > 0, usual, 1), 0), -LARGEST, LARGEST)
    return np.asarray(x - x.mean(1, keepdims=True), dtype=np.float32)


def spectra(cohort: Cohort, rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Whitened magnitudes of manifest rows (n, D), unit length; zeros where there is nothing but one value.

    Whitening by the mean over the cohort takes away what all recordings have in common, the fall with frequency above
    all, so that only copies stay alike.
    """
    lengths = np.array([cohort.reader(int(r)).shape[0] for r in rows[:1000]])
    samples = min(SEARCHED, 2 ** math.ceil(math.log2(max(2, int(lengths.max(initial=2))))))
    windows = _Windows(cohort, samples, FEW)
    found = np.zeros((len(rows), len(windows.chosen), samples // 2), dtype=np.float16)
    with track(len(rows), "comparing signals", unit="recordings") as progress:
        for i, row in enumerate(rows):
            found[i] = np.abs(np.fft.rfft(windows.read(int(row)), axis=1))[:, 1:] / math.sqrt(samples)
            progress.advance()
    usual = found.mean(0, dtype=np.float64)
    usual += 0.1 * np.sqrt(np.square(usual).mean())  # so that bins with next to no energy do not become loud
    flat = found.reshape(len(rows), -1)
    for start in range(0, len(rows), 256):
        part = (found[start : start + 256] / usual).reshape(-1, flat.shape[1])
        length = np.linalg.norm(part, axis=1, keepdims=True)
        flat[start : start + 256] = np.where(length > 1e-3, part / np.maximum(length, 1e-3), 0)
    return flat


def correlations(cohort: Cohort, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Highest normalised cross-correlation of pairs of rows (P, 2), whatever sign and direction: (P,)."""
    out = np.zeros(len(pairs))
    if not len(pairs):
        return out
    windows = _Windows(cohort, COMPARED, SEVERAL)
    with track(len(pairs), "correlating", unit="pairs") as progress:
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            rows, places = np.unique(batch, return_inverse=True)
            read = np.stack([windows.read(int(row)) for row in rows])
            a, b = (read[places.reshape(batch.shape)[:, k]] for k in (0, 1))
            out[start : start + _BATCH] = np.maximum(cross_correlation(a, b), cross_correlation(a, b[..., ::-1]))
            progress.advance(len(batch))
    return out


def cross_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Highest magnitude of the normalised cross-correlation over lags, channels taken together.

    Each lag is divided by the energy of what then overlaps, so a shift costs nothing; lags that leave less than half of
    either energy in common do not count.

    Args:
        first, second: (P, C, T), pair by pair.

    Returns:
        (P,) between 0 and 1.
    """
    from scipy.fft import irfft, rfft

    samples = first.shape[-1]
    size = 2 * samples
    crossed = (rfft(second, size) * np.conj(rfft(first, size))).sum(1)
    lagged = irfft(crossed, size)  # lag τ ≥ 0 at τ, lag −τ at 2T − τ
    early, late = (np.cumsum(np.square(x, dtype=np.float64).sum(1), axis=1) for x in (first, second))
    nothing = np.zeros((len(first), 1))
    early, late = np.hstack([nothing, early]), np.hstack([nothing, late])
    steps = np.arange(samples)
    overlaps = ((lagged[:, :samples], early[:, samples - steps], late[:, -1:] - late[:, steps]),
                (lagged[:, -steps], early[:, -1:] - early[:, steps], late[:, samples - steps]))  # fmt: skip
    best = np.zeros(len(first))
    for values, energy, other in overlaps:
        enough = (energy >= COMMON * early[:, -1:]) & (other >= COMMON * late[:, -1:]) & (energy > 0) & (other > 0)
        scale = np.sqrt(np.where(enough, energy * other, 1))
        best = np.maximum(best, np.where(enough, np.abs(values) / scale, 0).max(1))
    return np.minimum(best, 1)
