"""Regions of an ultrasound picture that a DICOM header names (Sequence of Ultrasound Regions, PS3.3 C.8.5.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.adapters.dicom_frame import number
from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Region", "ultrasound_region"]

TWO_D, TISSUE, COLOUR_FLOW, CENTIMETRES = 1, 1, 2, 3


@dataclass(frozen=True)
class Region:
    """What of a picture shows tissue.

    Attributes:
        box: rows and columns.
        spacing_mm: of a pixel (y, x), or None.
        quality: ``flow_region`` 1 where the header names a region of colour flow.
    """

    box: tuple[slice, slice] = (slice(None), slice(None))
    spacing_mm: tuple[float, float] | None = None
    quality: dict[str, float] = field(default_factory=dict)


def ultrasound_region(dataset: Dataset, path: Path, notes: list[str]) -> Region:
    """The largest two-dimensional tissue region; the whole picture where no region is named.

    Args:
        dataset: its header.
        path: the file, for messages.
        notes: gets a line where the picture is cut, or a region is not usable.

    Raises:
        UnreadableRecording: regions are named, and none shows tissue in two dimensions (M-mode, spectral Doppler).
    """
    regions = list(dataset.get("SequenceOfUltrasoundRegions") or [])
    if not regions:
        return Region(spacing_mm=_pixel_spacing(dataset))
    quality = {"flow_region": float(any(_code(r, "RegionDataType") == COLOUR_FLOW for r in regions))}
    flat = [r for r in regions if _code(r, "RegionSpatialFormat") in (None, TWO_D)]
    tissue = [r for r in flat if _code(r, "RegionDataType") in (None, TISSUE)] or [
        r
        for r in flat
        if _code(r, "RegionDataType") == COLOUR_FLOW  # drawn over tissue
    ]
    if not tissue:
        raise UnreadableRecording(
            "none of its regions shows tissue in two dimensions (M-mode or spectral Doppler)", path
        )
    x0, y0, x1, y1, region = _largest(tissue)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not (0 <= x0 < x1 < columns and 0 <= y0 < y1 < rows):
        notes.append(
            f"the ultrasound region in the header (columns {x0} to {x1}, rows {y0} to {y1}) does not lie inside the "
            f"{rows}x{columns} picture: neither it nor its pixel size used"
        )
        return Region(quality=quality)
    if (x1 - x0 + 1, y1 - y0 + 1) != (columns, rows):
        notes.append(f"cut to the tissue region in the header: rows {y0} to {y1}, columns {x0} to {x1}")
    return Region((slice(y0, y1 + 1), slice(x0, x1 + 1)), _spacing(region), quality)


def _largest(regions: list[Any]) -> tuple[int, int, int, int, Any]:
    def area(region: Any) -> int:
        x0, y0, x1, y1 = _corners(region)
        return max(x1 - x0, 0) * max(y1 - y0, 0)

    region = max(regions, key=area)
    return (*_corners(region), region)


def _corners(region: Any) -> tuple[int, int, int, int]:
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    x0, y0, x1, y1 = (int(number(region.get(name)) or 0) for name in names)
    return x0, y0, x1, y1


def _code(region: Any, keyword: str) -> int | None:
    value = number(region.get(keyword))
    return None if value is None else int(value)


def _spacing(region: Any) -> tuple[float, float] | None:
    units = {_code(region, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    y, x = (abs(number(region.get(f"PhysicalDelta{axis}")) or 0.0) * 10 for axis in "YX")
    return (y, x) if units == {CENTIMETRES} and y > 0 and x > 0 else None


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    spacing = dataset.get("PixelSpacing")
    if spacing is None or len(spacing) != 2 or not all(float(v) > 0 for v in spacing):
        return None
    return float(spacing[0]), float(spacing[1])
