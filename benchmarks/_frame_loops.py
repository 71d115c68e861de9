"""Frames of windows as the released code makes them: one window, channel and scale after the other, in NumPy.

The wavelet transform follows PyWavelets ≥ 1.1 with ``cmor1-1`` and its direct convolution: the running integral of the
wavelet is read at the scale, convolved with the signal, differentiated, and the middle is kept. Results are those of
``medssl.views.frames`` with ``cwt="pywt_compatible"``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["coefficients", "fourier", "wavelet"]


def coefficients(signal: NDArray[np.floating], scales: Sequence[float]) -> NDArray[np.complex128]:
    """Complex coefficients (S, T) of one channel (T,)."""
    grid = np.linspace(-8, 8, 4096)
    step = grid[1] - grid[0]
    integral = np.conj(np.cumsum(np.exp(2j * np.pi * grid - grid**2) / np.sqrt(np.pi)) * step)
    rows = []
    for scale in scales:
        places = (np.arange(scale * (grid[-1] - grid[0]) + 1) / (scale * step)).astype(int)
        kernel = integral[places[places < len(grid)]][::-1]
        whole = -np.sqrt(scale) * np.diff(np.convolve(signal, kernel))
        surplus = (len(whole) - len(signal)) / 2
        rows.append(whole[int(np.floor(surplus)) : len(whole) - int(np.ceil(surplus))])
    return np.stack(rows)


def wavelet(windows: NDArray[np.floating], scales: Sequence[float]) -> NDArray[np.float64]:
    """Magnitudes (N, C, S, T) of windows (N, C, T)."""
    return np.stack([np.stack([np.abs(coefficients(c, scales)) for c in window]) for window in windows])


def fourier(windows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitudes and angles (N, C, F) of windows (N, C, T)."""
    spectra = [np.fft.rfft(window, norm="ortho") for window in windows]
    return np.stack([np.abs(s) for s in spectra]), np.stack([np.angle(s) for s in spectra])
