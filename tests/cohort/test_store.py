"""The arrays on disk: layout, compression, and that any Zarr v3 reader could read them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl.cohort import store
from medssl.cohort.preparation import Prepared
from medssl.errors import CohortError


def prepared(image: np.ndarray, **more: Any) -> Prepared:
    n = len(image)
    ones, zeros = np.ones(n), np.zeros(n)
    given = {"fill": 0, "channels": ("c",) * n} | more
    return Prepared(image, ones, zeros, ones, zeros, (0.0, 1.0), **given)


def smooth_volume(shape: tuple[int, int, int], *, noise: float = 12.0) -> np.ndarray:
    """A body in air at 1 HU steps, with scanner noise inside."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(a**2 for a in axes) < 0.6
    values = np.where(inside, 40 + 60 * np.sin(7 * axes[0]) * np.cos(5 * axes[1]), -1000)
    rng = np.random.default_rng(0)
    return (values + inside * rng.normal(0, noise, shape)).round().astype(np.int16)[None]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 200, 320, 320), None),
        ((1, 35, 51, 35), None),
        ((4, 155, 240, 240), (1.0, 1.0, 1.0)),
        ((1, 30, 512, 512), (5.0, 0.7, 0.7)),
        ((1, 1, 2000, 2000), (1.0, 1.0, 1.0)),
        ((1, 3, 4, 5), None),
    ],
)
def test_chunks_are_about_64_kib_and_fit(shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> None:
    chunk = store.chunk_shape(shape, itemsize=2, spacing_mm=spacing)
    assert chunk[0] == 1
    assert all(1 <= c <= n + 7 for c, n in zip(chunk, shape, strict=True))
    assert math.prod(chunk) % 8 == 0  # or Blosc would not shuffle
    voxels = math.prod(chunk)
    assert voxels <= 1.1 * 32**3
    assert voxels >= min(32**3 / 4, math.prod(shape[1:]))


def test_chunks_follow_millimetres_not_voxels() -> None:
    chunk = store.chunk_shape((1, 40, 512, 512), itemsize=2, spacing_mm=(6.0, 0.8, 0.8))
    lengths = [c * s for c, s in zip(chunk[1:], (6.0, 0.8, 0.8), strict=True)]
    assert max(lengths) / min(lengths) <= 2


def test_one_shard_object_an_array_in_standard_zarr(tmp_path: Path) -> None:
    image = smooth_volume((40, 70, 70))
    mask = (image[0] > 0).astype(np.uint8)
    points = {"organ": {1: np.argwhere(mask)[:100]}}
    store.write_recording(tmp_path / "r", prepared(image, masks={"organ": mask}, mask_foreground=points))
    files = sorted(str(f.relative_to(tmp_path / "r")) for f in (tmp_path / "r").rglob("*") if f.is_file())
    assert files == [
        *("foreground/c/0", "foreground/zarr.json", "image/c/0/0/0/0", "image/zarr.json"),
        *("mask.organ/c/0/0/0/0", "mask.organ/zarr.json", "zarr.json"),
    ]
    metadata = json.loads((tmp_path / "r" / "image" / "zarr.json").read_text())
    assert (metadata["zarr_format"], metadata["node_type"], metadata["data_type"]) == (3, "array", "int16")
    assert metadata["dimension_names"] == ["c", "z", "y", "x"]
    (sharding,) = metadata["codecs"]
    assert sharding["name"] == "sharding_indexed"
    assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == ["bytes", "blosc"]
    blosc = sharding["configuration"]["codecs"][1]["configuration"]
    assert (blosc["cname"], blosc["clevel"], blosc["shuffle"]) == ("lz4", 5, "bitshuffle")


def test_a_path_that_goes_up_first_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    image = np.arange(64, dtype=np.int16).reshape(1, 4, 4, 4)
    store.write_recording(Path("../there"), prepared(image))
    np.testing.assert_array_equal(store.read_array(store.open_array(Path("../there/image"))), image)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    def digest(folder: Path) -> list[str]:
        store.write_recording(folder, prepared(smooth_volume((40, 40, 40))))
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        return [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]

    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def size_of(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_noisy_body_in_air_takes_less_than_045_of_raw_and_an_archive_less(tmp_path: Path) -> None:
    image = smooth_volume((96, 128, 128))
    store.write_recording(tmp_path / "fast", prepared(image, fill=-1000))
    store.write_recording(tmp_path / "archive", prepared(image, fill=-1000), profile="archive")
    assert size_of(tmp_path / "fast") <= 0.45 * image.nbytes
    assert size_of(tmp_path / "archive") < size_of(tmp_path / "fast")


def test_foreground_is_small_and_exact(tmp_path: Path) -> None:
    image = smooth_volume((64, 64, 64))
    rng = np.random.default_rng(0)
    inside = np.argwhere(image[0] > -500)
    points = inside[rng.permutation(len(inside))[:4096]].astype(np.int16)
    nothing = np.empty((0, 3), np.int16)
    store.write_recording(tmp_path / "r", prepared(image, foreground=points, mask_foreground={"m": {2: nothing}}))
    table = store.read_foreground(tmp_path / "r")
    assert table is not None
    assert {tuple(p) for p in table.points()} == {tuple(p) for p in points.tolist()}
    assert table.points("m", 2).shape == (0, 3)
    assert size_of(tmp_path / "r" / "foreground") < 16_000


def test_missing_or_damaged_array_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="missing or damaged"):
        store.open_array(tmp_path / "nothing")
    store.write_recording(tmp_path / "r", prepared(smooth_volume((8, 8, 8))))
    (shard,) = (tmp_path / "r" / "image" / "c").rglob("0/0/0/0")
    shard.write_bytes(b"no shard")
    with pytest.raises(CohortError, match="damaged"):
        store.read_array(store.open_array(tmp_path / "r" / "image"))


def test_checksum_sees_values_shape_and_type() -> None:
    values = np.arange(12, dtype=np.int16)
    same = store.array_sha256(values.astype(">i2"))
    assert same == store.array_sha256(values) == store.array_sha256(np.repeat(values, 2)[::2])
    others = [values.reshape(3, 4), values.astype(np.uint8), values[::-1]]
    assert len({store.array_sha256(v) for v in [values, *others]}) == 4
