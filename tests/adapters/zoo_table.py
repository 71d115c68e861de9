"""What the zoos of awkward files hold, as independent readers found it, against what medssl makes of them.

The tests assert every row. Run as a script it prints the rows as a Markdown table:

    python tests/adapters/zoo_table.py [DATA_FOLDER]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from medssl.adapters.dicom import read_dicom
from medssl.adapters.dicom_header import read_dataset
from medssl.adapters.dicom_pixels import stored_values
from medssl.adapters.recording import Recording
from medssl.adapters.volume import read_volume
from medssl.errors import UnreadableRecording

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MEDSSL_SHARED", REPO.parent / "shared")) / "data"


class Row(NamedTuple):
    """One line of the table."""

    name: str
    expected: str
    got: str
    ok: bool


# Folders of which dcm2niix makes something else than is right, or of which a part must be refused:
# shapes of the volumes in (t, z, y, x), and for every refusal a part of the file name and of the reason.
SPECIAL: dict[str, tuple[list[tuple[int, ...]], list[tuple[str, str]]]] = {
    "multiframe/enhanced_mr_10frames": ([(10, 64, 64)], [("too_short", "cut short")]),
    # two orientations; the first in two echoes, whose second covers other slices in each of its two repeats
    "multiframe/enhanced_mr_non_parallel_stacks": ([(3, 256, 256)] * 4, []),
    "multiframe/seg_liver_1bit": ([(3, 512, 512), (3, 510, 510)], [("liver_rle", "cannot be decoded")]),
    "series/ct_head_gantry_tilt_variable_spacing": (
        [],
        [("variable_spacing", "uneven gaps between slices (4.00, 1.08, 7.00 mm), with a gantry tilt of 18.5 degrees")],
    ),
    "series/mr_rgb_j2k": ([(3, 4, 77, 52)], []),
    "syntaxes/ct_one_slice": (
        [(1, 512, 512)],
        [
            ("JPEGProcess10_12", "cannot be decoded"),
            ("JPEGProcess6_8", "cannot be decoded"),
            ("JPEG2000TransferSyntax", "lossily compressed copy"),
            ("JPEGLSLossy", "lossily compressed copy"),
            ("JPEGProcess1Transfer", "lossily compressed copy"),
            ("JPEGProcess2_4", "lossily compressed copy"),
        ],
    ),
    "syntaxes/mr_small": ([(1, 64, 64)], [("MR_truncated", "less than expected")]),
    "not_images": (
        [(1, 128, 128)],
        [
            ("image_dfl", "no ImagePositionPatient"),
            ("no_meta_group_length", "without pixels"),
            ("rtplan", "RT Plan Storage"),
            ("test-SR", "Comprehensive SR"),
        ],
    ),
    "ultrasound": (
        [],
        [("color-pl", "ultrasound image"), ("examples_palette", "ultrasound image"), ("ybr", "ultrasound video")],
    ),
}


def entries(zoo: str, data: Path = DATA) -> dict[str, Any]:
    """The expectations of ``dicom_zoo`` or ``nifti_zoo``; empty where the data are not here."""
    path = data / zoo / "expected.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def file_affine(recording: Recording) -> np.ndarray:
    """The affine with columns x, y, z as nibabel has them."""
    assert recording.affine is not None
    return recording.affine[:, [2, 1, 0, 3]]


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sorted world coordinates of the eight outer voxel centres: equal for one grid however its axes run."""
    index = np.array([[*c, 1] for c in product(*[(0, n - 1) for n in shape[:3]])], dtype=float)
    world = np.round((index @ np.asarray(affine).T)[:, :3], 1) + 0.0
    return world[np.lexsort(world.T)]


def same_place(recording: Recording, affine: Any, shape: Any) -> bool:
    """Whether a recording fills the same place in space as a reference volume given in (x, y, z)."""
    mine = tuple(recording.data.shape[a] for a in recording.spatial_axes)[::-1]
    if sorted(mine) != sorted(shape[:3]):
        return False
    return bool(np.abs(corners(file_affine(recording), mine) - corners(np.array(affine), tuple(shape))).max() < 0.25)


def onto(recording: Recording, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A recording's values on a reference grid that differs from its own by flips and swaps of axes alone."""
    step = np.linalg.inv(file_affine(recording)) @ affine
    turn = np.rint(step[:3, :3]).astype(int)
    assert np.abs(step[:3, :3] - turn).max() < 0.02, "the grids are not parallel"
    index = np.indices(shape[:3]).reshape(3, -1)
    x, y, z = np.rint(turn @ index + step[:3, 3:]).astype(int)
    return np.asarray(recording.data[..., z, y, x]).reshape(*recording.data.shape[:-3], *shape[:3])


def file_rows(name: str, entry: dict[str, Any], data: Path = DATA) -> Iterator[Row]:
    """Decoded pixels of every file of a DICOM folder against the hashes of other decoders."""
    for file, facts in entry["files"].items():
        path = data / "dicom_zoo" / name / file
        try:
            values: np.ndarray | None = stored_values(read_dataset(path))
        except Exception as error:
            values, why = None, f"refused: {type(error).__name__}"
        array = facts.get("array")
        if array is None:
            yield Row(f"{name}/{file}", "undecodable", why if values is None else "decoded", values is None)
            continue
        if values is None:
            yield Row(f"{name}/{file}", f"sha256 {array['sha256'][:12]}", why, False)
            continue
        digest = hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()
        ok, wanted, got = digest == array["sha256"], f"sha256 {array['sha256'][:12]}", f"sha256 {digest[:12]}"
        if not ok and "JPEG Baseline" in facts["transfer_syntax"]:  # decoders of lossy JPEG may differ in rounding
            wanted = f"mean {array['mean']:.1f}, max {array['max']:g}"
            got = f"mean {values.mean():.1f}, max {values.max():g}"
            ok = abs(values.mean() - array["mean"]) < 0.2 and abs(values.max() - array["max"]) <= 3
        yield Row(f"{name}/{file}", wanted, got, ok)


def folder_row(name: str, entry: dict[str, Any], data: Path = DATA) -> Row:
    """Volumes and refusals of a DICOM folder: shapes, and place in space against dcm2niix."""
    read = read_dicom(data / "dicom_zoo" / name)
    found = [one.data.shape for one in read.recordings]
    reference = entry.get("dcm2niix") or []
    if name in SPECIAL:
        shapes, refusals = SPECIAL[name]
        placed = True
    else:
        shapes, refusals = [tuple(r["shape"])[::-1] for r in reference], []
        placed = all(
            any(same_place(one, r["affine"], r["shape"]) for r in reference) for one in read.recordings
        ) and bool(reference)
        # dcm2niix reorders axes of sagittal stacks, so shapes are compared as sets of lengths
        shapes, found = [tuple(sorted(s)) for s in shapes], [tuple(sorted(s)) for s in found]
    refused = len(read.rejected) == len(refusals) and all(
        any(part in r.source and why in r.reason for r in read.rejected) for part, why in refusals
    )
    ok = sorted(found) == sorted(shapes) and placed and refused
    return Row(name, describe(shapes, [w for _, w in refusals]), describe(found, [r.reason for r in read.rejected]), ok)


def describe(shapes: Any, reasons: list[str]) -> str:
    """One cell of the table."""
    volumes = ", ".join("x".join(map(str, shape)) for shape in shapes) or "no volume"
    return volumes + (f"; refused {len(reasons)}: " + "; ".join(r[:60] for r in reasons) if reasons else "")


def geometry_row(name: str, entry: dict[str, Any], data: Path = DATA) -> Row:
    """Slice spacing, number of positions and order of files along the normal against the expectations."""
    read = read_dicom(data / "dicom_zoo" / name)
    gaps, count = entry["slice_gaps_mm"], entry["distinct_slice_positions"]
    depths = [one.data.shape[one.spatial_axes[0]] for one in read.recordings]
    spacings = [one.spacing_mm[0] for one in read.recordings]
    ok = sum(depths) == count and all(min(abs(s - g) for g in gaps) < 2e-3 for s in spacings)
    ordered = entry.get("files_sorted_along_normal")
    if ok and ordered and len(read.recordings) == 1:
        one = read.recordings[0]
        header = read_dataset(data / "dicom_zoo" / name / ordered[0])
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
        lowest = stored_values(header)[0] * slope + intercept
        ok = bool(np.allclose(one.data[0], lowest, rtol=1e-6))
    return Row(
        f"{name} (slices)",
        f"{count} positions, gaps {gaps} mm",
        f"{sum(depths)} positions, spacing {[round(s, 3) for s in spacings]} mm",
        ok,
    )


def reference_row(name: str, data: Path = DATA) -> Row:
    """Values voxel by voxel against the NIfTI that the owners of a series made of it."""
    folder = data / "dicom_zoo" / name.removesuffix(Path(name).name).rstrip("/").removesuffix("_ref")
    image = nib.load(data / "dicom_zoo" / name)
    wanted = np.asarray(image.dataobj)
    recording = read_dicom(folder).recordings[0]
    values = onto(recording, image.affine, image.shape)
    if wanted.dtype.fields:
        wanted = np.stack([wanted[c] for c in "RGB"])
    elif wanted.ndim == 4:
        wanted = np.moveaxis(wanted, -1, 0)
    error = float(np.abs(values.astype(float) - wanted.astype(float)).max())
    scale = float(np.abs(wanted.astype(float)).max())
    return Row(name, "the same values in the same places", f"largest difference {error:.2g}", error <= 1e-5 * scale)


def nifti_row(zoo: str, name: str, entry: dict[str, Any], data: Path = DATA) -> Row:
    """Shape, affine, orientation and values of one file read by nibabel or pynrrd, against medssl's."""
    try:
        one = read_volume(data / zoo / name).recordings[0]
    except UnreadableRecording as error:
        return Row(
            name, "an error" if "error" in entry else str(entry["shape"]), f"refused: {error.reason}", "error" in entry
        )
    if "error" in entry:
        return Row(name, "an error", f"read as {one.data.shape}", False)
    # MINC lies slowest axis first on disk, as recordings do
    native = entry.get("format") == "Minc1Image"
    mine = one.data.shape if native else one.data.shape[::-1]
    shape = [n for i, n in enumerate(entry["shape"]) if i < 3 or n > 1]
    shape, mine = ([*shape[:3], 3], [*mine]) if "('R'" in str(entry.get("dtype")) else (shape, [*mine])
    affine = (one.affine if native else file_affine(one)) if "affine" in entry else None
    expected_affine = np.array(entry["affine"]) if "affine" in entry else nrrd_affine(entry)
    affine = file_affine(one) if affine is None else affine
    ok = mine == shape and bool(np.abs(affine - expected_affine).max() < 2e-4)
    codes = "".join(nib.aff2axcodes(affine))
    ok &= codes == entry.get("axcodes", codes)
    for key, got in (("min", one.data.min()), ("max", one.data.max()), ("mean", one.data.mean(dtype=np.float64))):
        if key in entry:
            ok &= bool(np.isclose(float(got), entry[key], rtol=1e-5, atol=1e-4))
    labels = entry.get("labels")
    if labels:
        ok &= np.unique(one.data).tolist() == labels
    if entry.get("n_labels"):
        ok &= len(np.unique(one.data)) == entry["n_labels"]
    return Row(name, f"{entry['shape']} {entry.get('axcodes', '')}", f"{mine} {codes} {one.data.dtype}", ok)


def nrrd_affine(entry: dict[str, Any]) -> np.ndarray:
    """The RAS affine of a left-posterior-superior NRRD header."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(entry["space_directions"]).T
    affine[:3, 3] = entry["space_origin"]
    affine[:2] *= -1
    return affine


def table(data: Path = DATA) -> Iterator[Row]:
    """All rows of both zoos."""
    for name, entry in entries("dicom_zoo", data).items():
        if "files" not in entry:
            yield nifti_row("dicom_zoo", name, entry, data)
            if "_ref/" in name:
                yield reference_row(name, data)
            continue
        yield from file_rows(name, entry, data)
        yield folder_row(name, entry, data)
        if entry.get("slice_gaps_mm") and name not in SPECIAL:
            yield geometry_row(name, entry, data)
    for name, entry in entries("nifti_zoo", data).items():
        yield nifti_row("nifti_zoo", name, entry, data)


def main() -> int:
    """Prints the table; 1 if a row is not as expected."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    rows = list(table(data))
    print("| file | expected | got | ok |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.expected} | {row.got} | {'yes' if row.ok else 'NO'} |")
    print(f"\n{sum(row.ok for row in rows)} of {len(rows)} rows as expected")
    return 0 if rows and all(row.ok for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
