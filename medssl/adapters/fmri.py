"""Functional MRI as region series: 4-D images through an atlas, or series that somebody else extracted.

Nothing is cleaned here: a recording holds the raw series of every region of the atlas, the repetition time, and the
confounds beside them. What is not known for certain (a repetition time, which axis is time) is refused or noted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.fmri_atlas import Atlas, read_atlas, template_of
from medssl.adapters.fmri_confounds import read_confounds
from medssl.adapters.fmri_parcellation import LEAST_COVERED, parcellate, region_means
from medssl.adapters.fmri_series import SERIES_SUFFIXES, RegionSeries, read_region_series
from medssl.adapters.recording import Ids, Read, Recording, sha256_of
from medssl.adapters.volume import load_image, stem_of, what_is_broken
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["BOLD_SUFFIXES", "FMRI_SUFFIXES", "TR_RANGE_S", "is_bold", "read_fmri", "run_name", "stated_tr"]

BOLD_SUFFIXES = (".nii", ".nii.gz")
FMRI_SUFFIXES = frozenset({*BOLD_SUFFIXES, *SERIES_SUFFIXES})
"""Every suffix :func:`read_fmri` knows; text may carry ``.gz`` or ``.xz`` in addition."""

TR_RANGE_S = (0.2, 10.0)
"""Repetition times outside are mistakes of a header."""

_DIFFERS = 0.01
_BLOCK = 16
_UNITS_S = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def is_bold(path: Path | str) -> bool:
    """Whether a file name is that of an image in time, not of ready series.

    >>> is_bold("sub-01_bold.nii.gz"), is_bold("rest.ptseries.nii"), is_bold("rois.1D.gz")
    (True, False, False)
    """
    name = Path(path).name.lower()
    return name.endswith(BOLD_SUFFIXES) and not name.endswith((".ptseries.nii", ".dtseries.nii", ".dlabel.nii"))


def run_name(path: Path | str) -> str:
    """File name without the suffix of its format.

    >>> run_name("NYU_0050954_rois_cc200.1D.gz"), run_name("a.ptseries.nii")
    ('NYU_0050954_rois_cc200', 'a')
    """
    name = Path(path).name
    for suffix in (".ptseries.nii", ".dtseries.nii"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    name = name[:-3] if name.lower().endswith((".gz", ".xz")) else name
    return stem_of(name) if is_bold(name) else Path(name).stem


def read_fmri(
    path: Path | str,
    *,
    tr_s: float | None = None,
    atlas: Path | str | None = None,
    atlas_labels: Path | str = "",
    radius_mm: float | None = None,
    mask: Path | str | None = None,
    confounds: Path | str | None = None,
    motion: str = "",
    regions: int | None = None,
    key: str | None = None,
) -> Read:
    """Reads one run as series of regions.

    Args:
        path: a 4-D NIfTI image in the atlas's space, or ready series: ``.1D``, ``.csv``, ``.tsv``, ``.txt`` (a row a
            volume), ``.npy``, ``.npz``, ``.mat``, ``.h5``, CIFTI ``.ptseries.nii``.
        tr_s: repetition time. Series of bare numbers need it; it wins over a header, and must agree
            with a BIDS sidecar.
        atlas, atlas_labels, radius_mm: of an image, see :func:`medssl.adapters.fmri_atlas.read_atlas`.
        mask: the brain, on the grid of the image.
        confounds, motion: see :func:`medssl.adapters.fmri_confounds.read_confounds`; a row a volume.
        regions: how many regions ready series must have.
        key: which array of ``.npz``, ``.mat`` or HDF5.

    Returns:
        One recording with axes ``"ct"``: (N, T) float64 in the units of the source, ``channels`` the regions,
        ``confounds`` by name. A region without voxels, or with less than half of them in the picture and the mask, is
        NaN throughout; notes say which.

    Raises:
        UnreadableRecording: what cannot be read faithfully: no plausible repetition time (0.2 to 10 s) or two that
            differ, a single volume, series of another atlas, a mask on another grid, confounds of another length.
        ConfigError: an option that no file could satisfy.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise UnreadableRecording(what, path)
    if path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    _check_tr(tr_s)
    files = [path]
    if is_bold(path):
        if atlas is None:
            raise UnreadableRecording("an image in time needs an atlas to become series of regions", path)
        found = read_atlas(str(atlas), labels=str(atlas_labels), radius_mm=radius_mm)
        series = _parcellated(path, found, Path(mask) if mask else None, tr_s)
        files += [Path(mask)] if mask else []
    else:
        series = _ready(path, regions, key, tr_s)
    table = read_confounds(confounds, motion=motion) if confounds is not None else {}
    for name, column in table.items():
        if len(column) != series.data.shape[1]:
            raise UnreadableRecording(
                f"its confounds have {len(column)} rows ('{name}'), the run {series.data.shape[1]} volumes", path
            )
    files += [Path(confounds)] if confounds is not None else []
    assert series.tr_s is not None
    recording = Recording(
        data=series.data,
        axes="ct",
        rate_hz=1.0 / series.tr_s,
        channels=series.names,
        units=("",) * len(series.names),
        ids=Ids(recording=run_name(path)),
        source=str(path),
        source_sha256=sha256_of(*files),
        notes=series.notes,
        confounds=table,
    )
    return Read([recording], [])


def stated_tr(path: Path | str, declared: float | None = None) -> float | None:
    """Repetition time in seconds that a run would be read with, from headers alone; None where it would be refused."""
    path = Path(path)
    try:
        _check_tr(declared)
        if is_bold(path):
            return _repetition_time(load_image(path), path, declared, [])
        if path.name.lower().endswith(".ptseries.nii"):
            return _ready(path, None, None, declared).tr_s
        return declared
    except (UnreadableRecording, ConfigError):
        return None


def _check_tr(tr_s: float | None) -> None:
    low, high = TR_RANGE_S
    if tr_s is not None and not low <= tr_s <= high:
        raise ConfigError(f"tr_s={tr_s} is no repetition time; give seconds between {low:g} and {high:g}")


def _ready(path: Path, regions: int | None, key: str | None, declared: float | None) -> RegionSeries:
    """Series that somebody extracted, with their repetition time."""
    if path.name.lower().endswith(".dlabel.nii"):
        raise UnreadableRecording("labels (dlabel), not series", path)
    series = read_region_series(path, regions=regions, key=key)
    if series.tr_s is None:
        if declared is None:
            raise UnreadableRecording("the file does not state its repetition time; declare it with tr_s", path)
        return series._replace(tr_s=declared)
    notes: list[str] = []
    tr = _agreed(path, declared, None, series.tr_s, notes)
    return series._replace(tr_s=tr, notes=(*series.notes, *notes))


def _repetition_time(image: Any, path: Path, declared: float | None, notes: list[str]) -> float:
    zooms = image.header.get_zooms()
    unit = str(image.header.get_xyzt_units()[1])
    header = float(zooms[3]) if len(zooms) > 3 else 0.0
    if unit not in _UNITS_S:
        notes.append(f"the header states no unit of time: {header:g} taken as seconds")
    return _agreed(path, declared, _sidecar_tr(path), header * _UNITS_S.get(unit, 1.0), notes)


def _sidecar_tr(path: Path) -> float | None:
    """RepetitionTime of the JSON file beside an image."""
    file = path.with_name(f"{stem_of(path)}.json")
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get("RepetitionTime")
        return None if value is None else float(value)
    except (ValueError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise UnreadableRecording(f"its sidecar {file.name} cannot be read: {error}", path) from error


def _agreed(path: Path, declared: float | None, sidecar: float | None, header: float, notes: list[str]) -> float:
    """The one repetition time that everybody who knows agrees on."""
    if declared is not None:
        if sidecar is not None and not _alike(declared, sidecar):
            raise UnreadableRecording(f"its sidecar states a repetition time of {sidecar:g} s, tr_s={declared:g}", path)
        if not _alike(declared, header):
            notes.append(f"the header states a repetition time of {header:g} s: the declared {declared:g} s are used")
        return declared
    low, high = TR_RANGE_S
    if sidecar is not None and low <= header <= high and not _alike(sidecar, header):
        raise UnreadableRecording(
            f"its header states a repetition time of {header:g} s, its sidecar {sidecar:g} s; declare tr_s", path
        )
    tr = header if sidecar is None else sidecar
    if not low <= tr <= high:
        where = "header" if sidecar is None else "sidecar"
        raise UnreadableRecording(
            f"its {where} states a repetition time of {tr:g} s, outside {low:g} to {high:g} s; declare tr_s", path
        )
    if sidecar is not None and not _alike(sidecar, header):
        notes.append(f"the header states a repetition time of {header:g} s: the sidecar's {sidecar:g} s are used")
    return tr


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _DIFFERS * max(one, other)


def _parcellated(path: Path, atlas: Atlas, mask: Path | None, declared: float | None) -> RegionSeries:
    image = load_image(path)
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise UnreadableRecording(f"shape {'x'.join(map(str, image.shape))}: a run has several volumes in time", path)
    notes: list[str] = []
    tr = _repetition_time(image, path, declared, notes)
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(float(np.linalg.det(affine[:3, :3]))) < 1e-9:
        raise UnreadableRecording("its affine is singular or not finite: voxels have no place in space", path)
    _compare_templates(path, atlas, notes)
    shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
    brain = None if mask is None else _brain(mask, shape, affine, path)
    if brain is None:
        notes.append("no brain mask: all voxels of a region count")
    places = parcellate(atlas, shape, affine, brain)
    if not len(places.voxels):
        raise UnreadableRecording(f"no region of atlas {atlas.name} lies in it: another space?", path)
    means, odd = region_means(places, _blocks(path, image.shape[3]))
    _note_regions(means, places.covered, odd, atlas, notes)
    means[places.covered < LEAST_COVERED] = np.nan
    if not np.isfinite(means).any():
        raise UnreadableRecording(f"no region of atlas {atlas.name} has half of its voxels in it", path)
    return RegionSeries(means, atlas.regions, tr, tuple(notes))


def _blocks(path: Path, volumes: int) -> Iterator[NDArray[Any]]:
    """A few volumes at a time, scaled as the header says; compressed files are read forwards once."""
    import nibabel

    try:
        proxy = nibabel.load(path, keep_file_open=True).dataobj  # type: ignore[attr-defined]
        if np.dtype(proxy.dtype).kind not in "iuf":
            raise UnreadableRecording(f"its values are of type {proxy.dtype}, not numbers", path)
        for start in range(0, volumes, _BLOCK):
            yield np.asarray(proxy[..., start : min(start + _BLOCK, volumes)])
    except UnreadableRecording:
        raise
    except Exception as error:  # a parser given damaged bytes may raise anything
        raise UnreadableRecording(what_is_broken(path, error), path) from error


def _compare_templates(path: Path, atlas: Atlas, notes: list[str]) -> None:
    """Refuse an atlas of another space where both file names say which; two MNI templates lie within 4 mm."""
    own = template_of(path)
    if not own or not atlas.template or own.lower() == atlas.template.lower():
        return
    if own.startswith("MNI152") and atlas.template.startswith("MNI152"):
        notes.append(f"the image is in {own}, the atlas in {atlas.template}: up to 4 mm apart")
        return
    raise UnreadableRecording(f"it is in {own}, the atlas {atlas.name} in {atlas.template}", path)


def _brain(mask: Path, shape: tuple[int, int, int], affine: NDArray[np.float64], path: Path) -> NDArray[np.bool_]:
    """(X, Y, Z) of a mask on the image's own grid."""
    image = load_image(mask)
    try:
        values = np.asarray(image.dataobj).squeeze()
    except Exception as error:  # a parser given damaged bytes may raise anything
        raise UnreadableRecording(what_is_broken(mask, error), mask) from error
    values = values.reshape(shape) if values.size == np.prod(shape) and image.shape[:3] == shape else values
    if values.shape != shape or not np.allclose(image.affine, affine, rtol=0, atol=1e-2):
        raise UnreadableRecording(f"its brain mask {mask.name} lies on another grid", path)
    return np.asarray(np.nan_to_num(values) > 0)


def _note_regions(
    means: NDArray[np.float64],
    covered: NDArray[np.float64],
    odd: NDArray[np.int64],
    atlas: Atlas,
    notes: list[str],
) -> None:
    empty = np.isnan(means).all(axis=1)
    little = (covered < LEAST_COVERED) & ~empty
    for which, what in (
        (empty, "without voxels"),
        (little, f"with less than {LEAST_COVERED:.0%} of their voxels"),
        (odd > 0, "with voxels that are not finite at some time (left out)"),
    ):
        if which.any():
            names = [atlas.regions[i] for i in np.flatnonzero(which)]
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            notes.append(f"{len(names)} regions {what}: {shown}")
