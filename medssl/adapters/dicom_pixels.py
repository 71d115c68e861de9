"""DICOM pixel data: decoding whatever the transfer syntax, colours, mosaics, and rescaling to physical values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["decode_dicom", "one_line", "physical_values", "stored_values", "unmosaic"]


def one_line(error: BaseException) -> str:
    """The message of an exception as one clause, e.g. for ``rejected.csv``."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def stored_values(dataset: Dataset) -> NDArray[Any]:
    """Decodes the pixel data as stored, before any rescale; YBR colours come out as RGB.

    Args:
        dataset: a fully read data set.

    Returns:
        ``(frames, rows, columns)`` or, for colour, ``(frames, rows, columns, 3)``, in native byte order. Palette
        images keep their indices.

    Raises:
        Exception: whatever the decoder raised; :func:`decode_dicom` turns it into a reason.
    """
    from pydicom.pixels.utils import pixel_array

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # excess padding, odd private tags: nothing that changes the values
        pixels = pixel_array(dataset)
    colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    if pixels.ndim == (3 if colour else 2):
        pixels = pixels[None]
    return np.asarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def decode_dicom(dataset: Dataset, path: Path) -> NDArray[Any]:
    """Stored values of all frames, palette indices replaced by their colours.

    Args:
        dataset: a fully read data set.
        path: its file, for the message.

    Returns:
        ``(frames, rows, columns)`` integers, or ``(frames, rows, columns, 3)`` for RGB, YBR and palette images.

    Raises:
        UnreadableRecording: the file holds no pixels, too few, or a transfer syntax nothing here can decode.
    """
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableRecording("it holds no pixel data", path)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    try:
        pixels = stored_values(dataset)
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            pixels = np.asarray(apply_color_lut(pixels, dataset))
            if pixels.dtype == np.uint16:
                pixels = (pixels >> 8).astype(np.uint8)
    except BaseException as error:
        # Decoders raise anything on damaged data; the Rust one even panics with what is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        name = getattr(syntax, "name", "unknown transfer syntax")
        raise UnreadableRecording(f"its pixel data ({name}) cannot be decoded: {one_line(error)}", path) from error
    return pixels


def unmosaic(pixels: NDArray[Any], count: int, path: Path) -> NDArray[Any]:
    """Cuts a Siemens mosaic into its slices.

    Args:
        pixels: ``(1, rows, columns)``, the tiles in reading order.
        count: how many tiles are slices; the rest is empty.
        path: the file, for the message.

    Returns:
        ``(count, rows / n, columns / n)`` with ``n = ceil(sqrt(count))``.

    Raises:
        UnreadableRecording: the image does not divide into that many tiles.
    """
    tiles = int(np.ceil(np.sqrt(count)))
    rows, columns = pixels.shape[1:3]
    if rows % tiles or columns % tiles:
        raise UnreadableRecording(f"a {rows}x{columns} mosaic does not hold {count} equal tiles", path)
    grid: NDArray[Any] = pixels[0].reshape(tiles, rows // tiles, tiles, columns // tiles)
    return grid.swapaxes(1, 2).reshape(tiles * tiles, rows // tiles, columns // tiles)[:count]


def physical_values(
    frames: list[NDArray[Any]], slopes: NDArray[np.float64], intercepts: NDArray[np.float64]
) -> NDArray[Any]:
    """Stacks frames and applies each one's own rescale.

    Integers stay integers where every slope is 1 and every intercept whole (CT), in the narrowest of the stored
    type, int16 and int32; anything else becomes float32.

    Args:
        frames: ``N`` arrays of one shape. The list is emptied on the way, so that memory is not held twice.
        slopes, intercepts: ``(N,)``.

    Returns:
        ``(N, *frame.shape)``.
    """
    stored = frames[0].dtype
    whole = bool(np.all(slopes == 1) and np.all(intercepts == np.round(intercepts)) and stored.kind in "iu")
    dtype: np.dtype[Any] = np.dtype(np.float32)
    if whole and not intercepts.any():
        dtype = stored
    elif whole:
        low = min(float(f.min()) + b for f, b in zip(frames, intercepts, strict=True))
        high = max(float(f.max()) + b for f, b in zip(frames, intercepts, strict=True))
        info = np.iinfo(np.int16)
        dtype = np.dtype(np.int16 if info.min <= low and high <= info.max else np.int32)
    out = np.empty((len(frames), *frames[0].shape), dtype)
    frames.reverse()
    for i in range(len(out)):
        frame = frames.pop()
        if not whole:
            out[i] = frame * slopes[i] + intercepts[i]
        elif intercepts[i]:
            np.add(frame, int(intercepts[i]), out=out[i], dtype=np.int32, casting="unsafe")
        else:
            out[i] = frame
    return out
