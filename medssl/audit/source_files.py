"""Facts about raw files: size, kind, and what the header of an image or video says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import ConfigError
from medssl.progress import track

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["file_facts", "files_by_checksum", "table_of_files"]

_VIDEO = {".mp4", ".avi", ".mov", ".mpg", ".mpeg", ".mkv", ".wmv", ".gif", ".webm"}
_IMAGE = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
_NIFTI = {".nii", ".nii.gz"}


def files_by_checksum(root: Path, wanted: Iterable[str]) -> dict[str, Path]:
    """Raw files below ``root`` by the checksum that the manifest has of them.

    The manifest holds no paths, so that a cohort can be given away. Recordings made of several files are not found.

    Raises:
        ConfigError: ``root`` is no folder.
    """
    if not root.is_dir():
        raise ConfigError(f"--source '{root}' is no folder; give the one that `medssl prepare` read")
    missing = set(wanted) - {""}
    found: dict[str, Path] = {}
    files = [f for f in sorted(root.rglob("*")) if f.is_file()]
    with track(len(files), "raw files", unit="files") as progress:
        for file in files:
            with file.open("rb") as handle:
                checksum = hashlib.file_digest(handle, "sha256").hexdigest()
            if checksum in missing:
                found.setdefault(checksum, file)
            progress.advance()
    return found


def table_of_files(files: Sequence[Path | None]) -> pd.DataFrame:
    """Facts of each file, one row each; empty where a file is None."""
    import pandas as pd

    rows = [{} if file is None else file_facts(file) for file in files]
    return pd.DataFrame(rows, index=range(len(rows))).add_prefix("file ")


def file_facts(file: Path) -> dict[str, Any]:
    """Size, extension, first bytes, and what the header has: codec, size in pixels, rate, frames, stored type."""
    suffix = "".join(file.suffixes[-2:]).lower() if file.name.lower().endswith(".nii.gz") else file.suffix.lower()
    with file.open("rb") as handle:
        magic = handle.read(4).hex()
    facts: dict[str, Any] = {"bytes": file.stat().st_size, "extension": suffix, "first bytes": magic}
    reader = (
        _of_video if suffix in _VIDEO else _of_image if suffix in _IMAGE else _of_nifti if suffix in _NIFTI else None
    )
    if reader is None:
        return facts
    try:
        return facts | reader(file)
    except Exception:  # every library has errors of its own; a header that cannot be read is no fault of the audit
        return facts | {"header": "unreadable"}


def _of_video(file: Path) -> dict[str, Any]:
    import av

    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        return {
            "container": container.format.name, "codec": context.name, "pixel format": context.pix_fmt,
            "width": context.width, "height": context.height, "rate": float(stream.average_rate or 0),
            "frames": stream.frames, "bit rate": container.bit_rate or 0, "audio": float(bool(container.streams.audio)),
        }  # fmt: skip


def _of_image(file: Path) -> dict[str, Any]:
    from PIL import Image

    with Image.open(file) as image:
        return {"width": image.width, "height": image.height, "mode": image.mode}


def _of_nifti(file: Path) -> dict[str, Any]:
    import nibabel

    header: Any = nibabel.load(file).header
    shape = header.get_data_shape()
    facts = {"stored type": str(header.get_data_dtype()), "description": bytes(header["descrip"]).decode("latin-1")}
    return facts | {f"axis {i + 1}": n for i, n in enumerate(shape[:3])}
