"""Volume files → recordings: NIfTI, MGH, MINC (nibabel), NRRD and MetaImage (SimpleITK), DICOM (:mod:`.dicom`)."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom import read_dicom
from medssl.adapters.dicom_pixels import one_line
from medssl.adapters.recording import Ids, Read, Recording, sha256_of
from medssl.errors import UnreadableRecording

__all__ = ["VOLUME_SUFFIXES", "is_volume", "load_image", "read_volume", "stem_of", "what_is_broken"]

NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz", ".mgh", ".mgz", ".mnc")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
VOLUME_SUFFIXES = (*NIBABEL_SUFFIXES, *ITK_SUFFIXES, *DICOM_SUFFIXES)

FourthAxis = Literal["time", "channel"]
_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_IMPLAUSIBLE_S = 100.0  # between two volumes: milliseconds written under the unit of seconds


def is_volume(path: Path | str) -> bool:
    """Whether a file name ends like one of the volume formats.

    >>> is_volume("case_01.nii.gz"), is_volume("notes.txt")
    (True, False)
    """
    return Path(path).name.lower().endswith(VOLUME_SUFFIXES)


def stem_of(path: Path | str) -> str:
    """File name without its (double) suffix.

    >>> stem_of("sub/case_01.nii.gz")
    'case_01'
    """
    name = Path(path).name
    for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def read_volume(path: Path | str, *, fourth_axis: FourthAxis = "time") -> Read:
    """Reads one volume file, or everything in a DICOM file or folder.

    Values are scaled as the header says: native integers where there is nothing to scale, else float32. Axes come
    out as ``z, y, x`` (the file's last spatial axis first) with the affine's columns in the same order; nothing is
    flipped or resampled. Values that are not finite are kept and noted.

    Args:
        path: a file, or a folder of DICOM files.
        fourth_axis: what a fourth axis is: ``"time"`` → ``"tzyx"`` with ``rate_hz``, ``"channel"`` → ``"czyx"``.

    Returns:
        One recording for a single file; for DICOM as many as :func:`medssl.adapters.dicom.read_dicom` finds.

    Raises:
        UnreadableRecording: the file is missing, empty, cut short, not what its name says, has a singular affine or
            more axes than a recording has.
    """
    path = Path(path)
    name = path.name.lower()
    if path.is_dir() or (name.endswith(DICOM_SUFFIXES) and path.exists()):
        return read_dicom(path)
    if not path.is_file():
        raise UnreadableRecording("it does not exist", path)
    if path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":  # whatever it is called: .img, .ima, no suffix at all
            return read_dicom(path)
    if name.endswith(NIBABEL_SUFFIXES):
        return Read([_read_nibabel(path, fourth_axis)], [])
    if name.endswith(ITK_SUFFIXES):
        return Read([_read_itk(path, fourth_axis)], [])
    raise UnreadableRecording(f"no volume format ends like this; known: {', '.join(VOLUME_SUFFIXES)}", path)


def _read_nibabel(path: Path, fourth_axis: FourthAxis) -> Recording:
    image = load_image(path)
    notes: list[str] = []
    affine = np.array(image.affine, dtype=np.float64) if image.affine is not None else None
    if affine is None:
        raise UnreadableRecording("its header holds no affine", path)
    data, colour = _values(image, path)
    header_mm, interval_s = _units(image, affine, notes)
    if type(image).__name__.startswith("Minc"):
        # MINC arrays are already slowest axis first (time, z, y, x), and so are the columns nibabel gives
        ordered = data
    else:
        data = _squeezed(data, notes, colour=colour)
        lead = data.ndim - 3
        ordered = data.transpose(*range(data.ndim - 1, 2, -1), 2, 1, 0) if lead >= 0 else data
        affine = affine[:, [2, 1, 0, 3]]
    _orientation_notes(image, notes)
    vector = image.ndim == 5 and image.shape[4] > 1  # NIfTI keeps time in the fourth and vectors in the fifth axis
    axes = _axes(ordered, path, "channel" if colour or vector else fourth_axis)
    spacing = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    if header_mm is not None and not np.allclose(sorted(spacing), sorted(header_mm), rtol=0.01, atol=1e-3):
        stated = ", ".join(f"{v:g}" for v in header_mm)
        used = ", ".join(f"{v:g}" for v in spacing)
        notes.append(f"voxel size in the header ({stated} mm) differs from the affine's ({used} mm): affine used")
    rate = 1.0 / interval_s if axes[0] == "t" and interval_s else None
    recording = _recording(path, _companions(path), ordered, axes, affine, rate, notes)
    return recording.with_(channels=("red", "green", "blue")) if colour else recording


def load_image(path: Path) -> Any:
    """The nibabel image of a file, its values not yet read.

    Raises:
        UnreadableRecording: nibabel cannot open it, or it is no image of voxels.
    """
    import nibabel
    from nibabel.spatialimages import SpatialImage

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflows in damaged headers, which are refused below
            image = nibabel.load(path)
    except Exception as error:  # a parser given damaged bytes may raise anything
        raise UnreadableRecording(what_is_broken(path, error), path) from error
    if not isinstance(image, SpatialImage):
        raise UnreadableRecording(f"a {type(image).__name__}, not a volume", path)
    return image


def what_is_broken(path: Path, error: BaseException) -> str:
    """In words, why nibabel failed."""
    if isinstance(error, FileNotFoundError):
        return f"its other half is missing: {Path(str(error.filename)).name}"
    if isinstance(error, EOFError | zlib.error) or "end-of-stream" in str(error) or "CRC check" in str(error):
        return "its compressed data end early: the file is cut short or damaged"
    if path.name.lower().endswith((".gz", ".mgz")) and "gzip" in str(error):
        return "it is not gzip-compressed as its name says"
    if "Cannot work out file type" in str(error):
        kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
        return f"not a valid .{kind} file: its header is not of that format"
    if "Expected" in str(error) and "bytes" in str(error):
        return f"the file is cut short: {one_line(error)}"
    return f"it cannot be read: {one_line(error)}"


def _values(image: Any, path: Path) -> tuple[NDArray[Any], bool]:
    """The array as float32 or native integers, and whether its last axis is colour."""
    stored = np.dtype(image.get_data_dtype())
    if stored.kind == "c":
        raise UnreadableRecording("its values are complex: split magnitude and phase first", path)
    try:
        if stored.fields:  # RGB and RGBA: three or four bytes a voxel
            raw = np.ascontiguousarray(image.dataobj)
            channels = raw.view(np.uint8).reshape(*raw.shape, len(stored.fields))[..., :3]
            return channels, True
        scaled = stored.kind == "f" or _is_scaled(image)
        # float32 from the start: float64 would take twice the memory for digits no scanner delivers
        with np.errstate(all="ignore"):  # values that overflow float32 are counted as not finite afterwards
            data = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged") if scaled else image.dataobj)
    except Exception as error:
        raise UnreadableRecording(what_is_broken(path, error), path) from error
    return data.astype(data.dtype.newbyteorder("="), copy=False), False


def _is_scaled(image: Any) -> bool:
    slope, offset = getattr(image.dataobj, "slope", None), getattr(image.dataobj, "inter", None)
    return slope is None or offset is None or float(slope) != 1.0 or float(offset) != 0.0


def _units(image: Any, affine: NDArray[np.float64], notes: list[str]) -> tuple[tuple[float, ...] | None, float | None]:
    """Voxel size in the header (mm) and seconds between volumes; converts the affine to millimetres in place."""
    zooms = tuple(float(z) for z in image.header.get_zooms())
    if type(image).__name__.startswith("Minc"):
        return None, zooms[0] if len(zooms) > 3 and zooms[0] > 0 else None
    try:
        space, time = getattr(image.header, "get_xyzt_units", lambda: ("mm", "sec"))()
    except KeyError:  # a code that means nothing
        space, time = "unknown", "unknown"
    interval = zooms[3] if len(zooms) > 3 and zooms[3] > 0 else None
    if space in ("meter", "micron"):
        affine[:3] *= _MM[space]
        zooms = tuple(z * _MM[space] for z in zooms[:3])
        notes.append(f"lengths converted from {space} to millimetres")
    if type(image).__name__.startswith("MGH"):
        time = "msec"  # MGH headers hold TR in milliseconds
        tr = float(image.header["tr"])
        interval = tr if tr > 0 else None
    if interval is not None and time in _SECONDS:
        interval *= _SECONDS[time]
        if interval > _IMPLAUSIBLE_S:
            notes.append(f"{interval:g} s between volumes is implausible: taken as milliseconds")
            interval /= 1000.0
    elif time not in _SECONDS:
        interval = None  # hertz, ppm, radians: the fourth axis is no time
    sizes = zooms[:3]
    return (sizes if len(sizes) == 3 and min(sizes) > 0 else None), interval


def _squeezed(data: NDArray[Any], notes: list[str], *, colour: bool) -> NDArray[Any]:
    """Drops axes of length 1 past the third; gives a plane its third axis."""
    if data.ndim == 2 and not colour:
        notes.append("a 2-D image read as one slice")
        return data[:, :, None]
    single = tuple(i for i in range(3, data.ndim) if data.shape[i] == 1)
    if single:
        notes.append(f"axes of length 1 past the third left out: shape {'x'.join(map(str, data.shape))}")
        data = np.squeeze(data, axis=single)
    return data


def _orientation_notes(image: Any, notes: list[str]) -> None:
    kind = type(image).__name__
    if kind.startswith(("Spm", "Analyze")):
        notes.append("Analyze format: it does not record left and right; x taken to grow to the left")
        return
    if not kind.startswith("Nifti"):
        return
    header = image.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform == 0 and qform == 0:
        notes.append("no orientation in the header: x taken to grow to the left, y to anterior, z to superior")
    elif sform > 0 and qform > 0:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                one, other = header.get_sform(), header.get_qform()
        except Exception:  # a quaternion that is none: the sform, which is used, stands
            return
        ends = np.array([[0, 0, 0, 1], [*(n - 1 for n in (*image.shape, 1, 1)[:3]), 1]], dtype=np.float64).T
        apart = float(np.abs((one - other) @ ends).max())
        if apart > max(0.05 * float(np.linalg.norm(one[:3, :3], axis=0).min()), 0.01):
            notes.append(f"sform and qform place voxels up to {apart:.2f} mm apart: sform used")


def _axes(data: NDArray[Any], path: Path, fourth_axis: FourthAxis) -> str:
    if 0 in data.shape:
        raise UnreadableRecording(f"its array is empty (shape {data.shape})", path)
    if data.ndim == 3:
        return "zyx"
    if data.ndim == 4:
        return "czyx" if fourth_axis == "channel" else "tzyx"
    raise UnreadableRecording(f"{data.ndim}-D data (shape {data.shape[::-1]}): a volume has 3 or 4 axes", path)


def _read_itk(path: Path, fourth_axis: FourthAxis) -> Recording:
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
        data = SimpleITK.GetArrayFromImage(image)  # slowest axis first, components last
    except RuntimeError as error:
        text = one_line(error).rpartition("ERROR:")[2].strip()
        raise UnreadableRecording(f"it cannot be read: {text}", path) from error
    notes: list[str] = []
    dimension = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        data, fourth_axis = np.moveaxis(data, -1, 0), "channel"
    if dimension == 2:
        data = data[..., None, :, :]
        notes.append("a 2-D image read as one slice")
    if data.dtype.kind == "c":
        raise UnreadableRecording("its values are complex: split magnitude and phase first", path)
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    affine = _itk_affine(image)
    axes = _axes(data, path, fourth_axis)
    interval = float(image.GetSpacing()[3]) if dimension == 4 else 0.0
    rate = 1.0 / interval if axes[0] == "t" and interval > 0 else None
    return _recording(path, _companions(path), data, axes, affine, rate, notes)


def _itk_affine(image: Any) -> NDArray[np.float64]:
    """Index (z, y, x) → RAS millimetres from ITK's LPS geometry."""
    count = image.GetDimension()
    spatial = min(count, 3)
    direction = np.eye(3)
    direction[:spatial, :spatial] = np.array(image.GetDirection()).reshape(count, count)[:spatial, :spatial]
    spacing, origin = np.ones(3), np.zeros(3)
    spacing[:spatial] = image.GetSpacing()[:spatial]
    origin[:spatial] = image.GetOrigin()[:spatial]
    affine = np.eye(4)
    affine[:3, :3] = (direction * spacing)[:, ::-1]
    affine[:3, 3] = origin
    affine[:2] *= -1.0
    return affine + 0.0  # no negative zeros


def _companions(path: Path) -> tuple[Path, ...]:
    """All files a volume is made of, the named one first."""
    name = path.name
    for one, other in ((".hdr", ".img"), (".img", ".hdr"), (".nhdr", ".raw"), (".mhd", ".raw"), (".mhd", ".zraw")):
        for gz in ("", ".gz"):
            if name.lower().endswith(one + gz):
                partner = path.with_name(name[: -len(one + gz)] + other + gz)
                if partner.is_file():
                    return (path, partner)
    return (path,)


def _recording(
    path: Path,
    files: tuple[Path, ...],
    data: NDArray[Any],
    axes: str,
    affine: NDArray[np.float64],
    rate: float | None,
    notes: list[str],
) -> Recording:
    if not np.isfinite(affine).all() or abs(float(np.linalg.det(affine[:3, :3]))) < 1e-9:
        raise UnreadableRecording("its affine is singular or not finite: voxels have no place in space", path)
    if data.dtype.kind == "f":
        odd = int(data.size - np.count_nonzero(np.isfinite(data)))
        if odd:
            notes.append(f"{odd} of {data.size} values are not finite (kept)")
    channels = tuple(f"channel {i}" for i in range(data.shape[0])) if axes[0] == "c" else ()
    return Recording(
        data=data,
        axes=axes,
        affine=affine + 0.0,
        spacing_mm=tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0)),
        rate_hz=rate,
        channels=channels,
        units=("",),
        ids=Ids(recording=stem_of(path)),
        source=str(path),
        source_sha256=sha256_of(*files),
        notes=tuple(notes),
    )
