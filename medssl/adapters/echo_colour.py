"""Colours of ultrasound: luminance and chrominance to RGB, RGB to grey, and what is coloured in a clip.

B-mode is grey, whatever it is stored as; what is coloured is flow (colour Doppler), a tinted grey map, or burnt in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURED", "ColourCount", "grey_of", "looks_like_green_fault", "looks_like_ybr", "ybr_full_to_rgb"]

COLOURED = 25
"""A pixel is coloured when its largest and smallest channel are further apart than this."""

_TINT = 12.0  # red minus blue: a tint has more on average at a luminance, and less as standard deviation there
_MIDDLE = slice(40, 200)  # luminance: a tint fades towards black and white
_LIT = 20
_DOT = 16  # pixels that a mark has at least
_STEP = 3  # every third row and column do for a distribution of colours
_ENOUGH = 8  # frames from which "always" means something


def ybr_full_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """YBR_FULL to RGB by the full-range formula of DICOM PS3.3 C.7.6.3.1.2 (ITU-R BT.601).

    Args:
        pixels: (..., 3) uint8: luminance, blue and red chrominance.

    Returns:
        (..., 3) uint8: red, green, blue; rounded and clipped.
    """
    y = pixels[..., 0].astype(np.float32)
    cb, cr = (pixels[..., i].astype(np.float32) - 128 for i in (1, 2))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.asarray(np.clip(np.floor(rgb + 0.5), 0, 255), dtype=np.uint8)


def grey_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance of RGB (ITU-R BT.601, in 8 bits): equal channels keep their value exactly.

    Args:
        rgb: (..., 3) uint8.

    Returns:
        (...) uint8.

    >>> grey_of(np.array([[7, 7, 7], [255, 0, 0]], dtype=np.uint8)).tolist()
    [7, 77]
    """
    total = np.full(rgb.shape[:-1], 128, dtype=np.uint16)
    for channel, weight in enumerate((77, 150, 29)):
        total += rgb[..., channel] * np.uint16(weight)
    return np.asarray(total >> 8, dtype=np.uint8)


def looks_like_ybr(rgb: NDArray[np.uint8]) -> bool:
    """Whether what is called RGB is luminance and chrominance: dark in the first channel, 128 in the others.

    Args:
        rgb: (Y, X, 3) of one frame. Its median decides: most of an ultrasound picture is black background.
    """
    first, second, third = (float(np.median(rgb[..., i])) for i in range(3))
    return first < 100 and abs(second - 128) < 8 and abs(third - 128) < 8


def looks_like_green_fault(rgb: NDArray[np.uint8]) -> bool:
    """Whether RGB was taken for luminance and chrominance, which makes a black background green.

    Args:
        rgb: (Y, X, 3) of one frame.
    """
    red, green, blue = (float(np.median(rgb[..., i])) for i in range(3))
    return red < 20 and blue < 20 and 110 < green < 160


class ColourCount:
    """Counts coloured pixels frame by frame, so that a clip kept in grey still tells whether it showed flow.

    Args:
        shape: (Y, X) of a frame.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.frames = 0
        self._often: NDArray[np.uint32] = np.zeros(shape, dtype=np.uint32)
        self._lit: NDArray[np.bool_] = np.zeros(shape, dtype=bool)
        # of red minus blue, at every luminance: how many, their sum and their sum of squares
        self._sums: NDArray[np.float64] = np.zeros((3, 256))

    def add(self, rgb: NDArray[np.uint8], grey: NDArray[np.uint8]) -> None:
        """Take note of one frame (Y, X, 3) and its luminance (Y, X)."""
        self.frames += 1
        red, green, blue = (rgb[..., i] for i in range(3))
        high = np.maximum(np.maximum(red, green), blue)
        self._lit |= high > _LIT
        coloured = high - np.minimum(np.minimum(red, green), blue) > COLOURED
        if not coloured.any():
            return
        self._often += coloured
        few = np.s_[::_STEP, ::_STEP]
        luminance = grey[few].ravel()
        difference = (red[few].astype(np.float64) - blue[few]).ravel()
        for row, weights in enumerate((None, difference, difference**2)):
            self._sums[row] += np.bincount(luminance, weights, minlength=256)

    @property
    def tinted(self) -> bool:
        """One colour at every luminance, as a sepia or blue grey map has; flow and grey tissue share theirs."""
        count, total, squares = self._sums[:, _MIDDLE]
        mean = total / np.maximum(count, 1)
        within = np.sqrt(np.maximum(squares - total * mean, 0).sum() / max(count.sum(), 1))
        return bool(count[np.abs(mean) > _TINT].sum() > 0.7 * count.sum() > 0 and within < _TINT)

    def overlay(self) -> NDArray[np.bool_]:
        """(Y, X): coloured in 95 % of the frames, as a scale, a marker or text are, and flow is only here and there."""
        none = np.zeros_like(self._lit)
        if self.tinted or self.frames < _ENOUGH:
            return none
        always = np.asarray(self._often >= 0.95 * self.frames)
        return always if _DOT <= np.count_nonzero(always) < 0.05 * np.count_nonzero(self._lit) else none

    def coloured_fraction(self) -> float:
        """Share of coloured pixels among those that are not always black, without overlay and tint; 0 to 1."""
        if self.tinted:
            return 0.0
        moving = self._often * ~self.overlay()
        return float(moving.sum()) / max(self.frames * int(np.count_nonzero(self._lit)), 1)
