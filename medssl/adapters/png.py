"""One PNG file → its array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medssl.errors import UnreadableRecording

__all__ = ["read_png"]


def read_png(path: Path) -> NDArray[Any]:
    """(Y, X) grey, or (Y, X, 2 to 4) with colour or transparency, as stored: 8 or 16 bits.

    Raises:
        UnreadableRecording: missing, a folder, empty, damaged, or no PNG.
    """
    import SimpleITK

    if not path.is_file():
        raise UnreadableRecording("it is a folder" if path.is_dir() else "it does not exist", path)
    if path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    try:
        image: NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="PNGImageIO"))
    except RuntimeError as error:
        raise UnreadableRecording("it is damaged, or no PNG of grey values or colours", path) from error
    return image
