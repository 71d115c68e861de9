"""MedMNIST's six 3-D sets, such as AdrenalMNIST3D: small cubes with a class, at 28 or 64 voxels a side.

Get the data: https://zenodo.org/records/10519652 (``adrenalmnist3d_64.npz``, ``organmnist3d.npz``, ...). Licence: CC BY
4.0. Cite: Yang J. et al., MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification, Scientific Data 10:41, 2023.

Layout: one ``.npz`` with ``{train,val,test}_images`` (N, D, H, W) uint8 and ``{train,val,test}_labels`` (N, 1); give
the file, or the folder it is in. The name of the file says which set it is. Label ``class``: of AdrenalMNIST3D normal
or hyperplasia (shapes of glands from CT: values 0 and 255 only, so that views of intensity change nothing there).
The files tell neither voxel size nor orientation: ``voxel_mm`` and S, A, R are taken, and noted. Cubes of
AdrenalMNIST3D and FractureMNIST3D are 64 mm wide, so a voxel is 1 mm at 64 a side and 2.29 mm at 28.

Splits: ``split`` is train, val or test, as released; ``medssl cohort split COHORT --test-where split=test`` takes it
over. The sets do not say which cubes are of one patient (AdrenalMNIST3D has left and right glands), while the released
split keeps patients apart: a cube is a patient here, so **any other split may leak**.
"""

from __future__ import annotations

import functools
import hashlib
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["MedMNIST3D"]

SPLITS = ("train", "val", "test")
CLASSES = {
    "organmnist3d": (
        *("liver", "right kidney", "left kidney", "right femur", "left femur", "bladder", "heart"),
        *("right lung", "left lung", "spleen", "pancreas"),
    ),
    "nodulemnist3d": ("benign", "malignant"),
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "vesselmnist3d": ("vessel", "aneurysm"),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
}
DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


class MedMNIST3D(Recipe):
    """Cubes with the labels class and split.

    Args:
        voxel_mm: size of a voxel, which the files do not tell.
    """

    kind = "volume"
    modality = "medmnist"

    def __init__(self, *, voxel_mm: float = 1.0) -> None:
        self.voxel_mm = voxel_mm

    def preparation(self) -> VolumePreparation:
        """Values by robust percentiles; binary shapes become 0 and 1."""
        return VolumePreparation(intensity="mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every cube of the three parts, in order."""
        file = _the_file(source)
        classes = CLASSES.get(file.stem.partition("_")[0], ())
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                labels = {s: arrays[f"{s}_labels"].ravel() for s in SPLITS if f"{s}_labels" in arrays.files}
        except (*DAMAGED, TypeError) as error:
            raise RecipeError(f"'{file}' cannot be read as MedMNIST's .npz ({error}); download it again") from error
        if not labels:
            raise RecipeError(f"'{file}' has no train_labels, val_labels or test_labels; is it of MedMNIST?")
        for split, values in labels.items():
            try:
                with _Cubes(file, f"{split}_images") as cubes:
                    count = cubes.checked()
            except DAMAGED as error:
                yield Rejected(f"{file}:{split}_images", f"cannot be read: {error}")
                continue
            if count != len(values):
                yield Rejected(f"{file}:{split}_images", f"{count} images, but {len(values)} labels")
                continue
            for i, value in enumerate(values.tolist()):
                name = classes[value] if value < len(classes) else str(value)
                ids = Ids(f"{split}-{i:04d}", recording=f"{split}-{i:04d}")
                yield Item(file, ids, labels={"class": name, "split": split})

    def read(self, item: Item) -> Read:
        """One cube."""
        assert isinstance(item.path, Path)
        split, _, index = item.ids.recording.partition("-")
        try:
            cube = _open_cubes(item.path, f"{split}_images", item.path.stat().st_mtime_ns)[int(index)]
        except DAMAGED as error:
            _open_cubes.cache_clear()
            raise UnreadableRecording(f"{item.ids.recording} cannot be read: {error}", item.path) from error
        if cube.min() == cube.max():
            raise UnreadableRecording(f"all voxels of {item.ids.recording} are {cube.flat[0]}", item.path)
        recording = Recording(
            data=cube,
            axes="zyx",
            spacing_mm=(self.voxel_mm,) * 3,
            units=("",),
            ids=item.ids,
            labels=dict(item.labels),
            source=item.source,
            source_sha256=hashlib.sha256(cube.tobytes()).hexdigest(),
        )
        return Read([recording], [])


def _the_file(source: Path) -> Path:
    if source.is_file() and source.suffix == ".npz":
        return source
    files = files_below(require_folder(source, "medmnist3d"), (".npz",))
    if len(files) != 1:
        raise RecipeError(
            f"{len(files)} files .npz below '{source}'; recipe 'medmnist3d' wants one: give the file itself"
        )
    return files[0]


class _Cubes:
    """A (N, D, H, W) array of an .npz, read cube by cube: whole it would take hundreds of megabytes in every worker.

    Reading forward costs nothing extra; going back starts again from the front.
    """

    def __init__(self, file: Path, key: str) -> None:
        self.archive = zipfile.ZipFile(file)
        try:
            self.stream: IO[bytes] = self.archive.open(f"{key}.npy")
            version = np.lib.format.read_magic(self.stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = header(self.stream)
            if fortran or self.dtype.hasobject or len(self.shape) != 4:
                raise ValueError(f"{key} is {self.dtype} {self.shape}, not numbers of (N, D, H, W)")
        except BaseException:
            self.archive.close()
            raise
        self.start = self.stream.tell()
        self.close = weakref.finalize(self, _close, self.stream, self.archive)  # at the latest when the process ends

    def checked(self) -> int:
        """Number of cubes, after reading to the end, where the archive's checksum tells whether all is well."""
        while self.stream.read(1 << 20):
            pass
        return int(self.shape[0])

    def __getitem__(self, index: int) -> NDArray[Any]:
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self.stream.seek(self.start + index * size)
        content = self.stream.read(size)
        if len(content) < size:
            raise EOFError("the file ends early")
        return np.frombuffer(content, self.dtype).reshape(self.shape[1:])

    def __enter__(self) -> _Cubes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(*opened: IO[bytes] | zipfile.ZipFile) -> None:
    for one in opened:
        one.close()


@functools.lru_cache(maxsize=1)
def _open_cubes(file: Path, key: str, changed: int) -> _Cubes:
    """The cubes of one part, left open between calls; ``changed`` tells a replaced file from the old one."""
    return _Cubes(file, key)
