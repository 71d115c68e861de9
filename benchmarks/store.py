"""How fast and how small is the store? Prints a Markdown table; asserts nothing.

Run ``python benchmarks/store.py`` (about two minutes) or with ``--quick`` (under 20 s). CT-like volumes and 10 s
12-lead ECG are made by a generator and prepared into a cohort the ordinary way: this file is also their recipe. Random
crops are read warm, in one process, and compared with loading the whole ``.nii.gz`` and with a NumPy memory map of raw
int16.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording
from medssl.cohort import Cohort
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.writer import prepare

__all__ = ["AsIs", "Synthetic", "main"]

Array = NDArray[np.int16]


def ct_like(seed: int, shape: tuple[int, int, int]) -> Array:
    """(Z, Y, X) int16 Hounsfield units: a body with organs and correlated noise, in air."""
    from scipy.ndimage import gaussian_filter, zoom

    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    body = (y / 0.72) ** 2 + (x / 0.86) ** 2 + 0.1 * z**2 < 1
    coarse = gaussian_filter(rng.normal(size=[max(n // 8, 4) for n in shape]), 1.5)
    organs = zoom(coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=1)
    organs = np.digitize(organs / organs.std(), [-0.8, 0.2, 1.0]) * 45.0 - 80.0
    noise = gaussian_filter(rng.normal(size=shape).astype(np.float32), 0.6) * 30
    return np.where(body, organs + noise, -1000 + 0.1 * noise).round().astype(np.int16)


def ecg_like(seed: int, leads: int = 12, samples: int = 5000) -> Array:
    """(leads, samples) int16 at 500 Hz and 5 uV a step: beats, wander and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 500.0
    phase = (t * rng.uniform(0.9, 1.8)) % 1.0
    waves = [(0.2, 0.025, 25), (0.37, 0.01, -20), (0.4, 0.012, 220), (0.43, 0.01, -45), (0.65, 0.05, 60)]
    beat = sum(a * np.exp(-((phase - c) ** 2) / (2 * w**2)) for c, w, a in waves)
    wander = 30 * np.sin(2 * np.pi * 0.3 * t + rng.uniform(0, 6))
    gains = rng.uniform(-1, 1, (leads, 1))
    return (gains * beat + wander + rng.normal(0, 4, (leads, samples))).round().astype(np.int16)


class AsIs(Preparation):
    """Integers as they come."""

    def __call__(self, recording: Recording) -> Prepared:
        """Nothing is changed."""
        image = recording.data if recording.data.ndim == 2 else recording.data[None]
        n = len(image)
        ones, zeros = np.ones(n), np.zeros(n)
        fill = -1000 if image.ndim == 4 else 0
        names = tuple(str(i) for i in range(n))
        return Prepared(image, ones, zeros, ones, zeros, (-1e4, 1e4), fill, names, rate_hz=recording.rate_hz)


class Synthetic(Recipe):
    """Makes its recordings instead of reading them.

    Args:
        stored: what to make. count: how many. shape: of a volume.
    """

    def __init__(
        self,
        *,
        stored: Literal["volume", "signal"] = "volume",
        count: int = 12,
        shape: Sequence[int] = (200, 320, 320),
    ) -> None:
        self.kind, self.count, self.shape = stored, count, tuple(shape)  # type: ignore[misc]

    def find(self, source: Path) -> Iterable[Item]:
        """One item a seed."""
        return (Item(source / str(i), Ids(patient=f"p{i}", recording=f"r{i:05d}")) for i in range(self.count))

    def preparation(self) -> Preparation:
        """Integers as they come."""
        return AsIs()

    def read(self, item: Item) -> Read:
        """Generate."""
        assert isinstance(item.path, Path)
        seed = int(item.path.name)
        if self.kind == "signal":
            return Read([Recording(ecg_like(seed), "ct", rate_hz=500.0)], [])
        z, y, x = self.shape
        return Read([Recording(ct_like(seed, (z, y, x)), "zyx", spacing_mm=(1.0, 1.0, 1.0))], [])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller volumes")
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder by default)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [*_volumes(Path(folder), quick=options.quick), *_signals(Path(folder), quick=options.quick)]
    print("| what | CPU ms, median (10 to 90 %) | wall ms, median | size / raw int16 | target |")
    print("|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _volumes(folder: Path, *, quick: bool) -> list[tuple[str, ...]]:
    import nibabel as nib

    count, shape, size = (3, (112, 160, 160), 96) if quick else (12, (200, 320, 320), 96)
    prepare(__file__, folder, folder / "ct", options={"count": count, "shape": shape}, workers=0, keep_ids=True)
    cohort = Cohort(folder / "ct")
    raw = count * int(np.prod(shape)) * 2
    maps, files = [], []
    for i in range(count):
        volume = cohort.reader(i).read_all()[0]
        volume.tofile(folder / f"{i}.raw")
        maps.append(np.memmap(folder / f"{i}.raw", np.int16, "r", shape=shape))
        files.append(folder / f"{i}.nii.gz")
        nib.Nifti1Image(volume, np.eye(4)).to_filename(files[-1])  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    edge = [n - size for n in shape]

    def place() -> tuple[int, NDArray[np.int64]]:
        return int(rng.integers(count)), rng.integers(0, np.array(edge) + 1)

    def store() -> None:
        i, start = place()
        cohort.reader(i).read(start, (size,) * 3)

    def memmap() -> None:
        i, (z, y, x) = place()
        np.array(maps[i][z : z + size, y : y + size, x : x + size])

    def nifti() -> None:
        i, (z, y, x) = place()
        whole = np.asanyarray(nib.load(files[i]).dataobj)  # type: ignore[attr-defined]
        np.array(whole[z : z + size, y : y + size, x : x + size])

    compressed = sum(f.stat().st_size for f in files)
    crop = f"{size}³ crop of {'x'.join(map(str, shape))}"
    n = 100 if quick else 300
    return [
        (f"{crop}, medssl store", *_timed(store, n), f"{_bytes(cohort.path / 'arrays') / raw:.2f}", "2.5 ms, 0.45"),
        (f"{crop}, raw int16 memory map", *_timed(memmap, n), "1.00", ""),
        (f"{crop}, whole .nii.gz", *_timed(nifti, 5 if quick else 20), f"{compressed / raw:.2f}", ""),
        ("growth of memory over 2,000 crops", f"{_growth(store):+.1f} MiB", "", "", "0"),
    ]


def _signals(folder: Path, *, quick: bool) -> list[tuple[str, ...]]:
    count = 400 if quick else 1200
    prepare(__file__, folder, folder / "ecg", options={"stored": "signal", "count": count}, workers=0, keep_ids=True)
    cohort = Cohort(folder / "ecg")
    rng = np.random.default_rng(0)

    def whole() -> None:
        cohort.reader(int(rng.integers(count))).read([0], [5000])

    def window() -> None:
        cohort.reader(int(rng.integers(count))).read(rng.integers(0, 4000, 1), [1000])

    ratio = _bytes(cohort.path / "arrays") / (count * 12 * 5000 * 2)
    return [
        ("10 s 12-lead ECG at 500 Hz, packed", *_timed(whole, 1000), f"{ratio:.2f}", "0.4 ms, 0.45"),
        ("2 s window of it", *_timed(window, 1000), "", ""),
        ("growth of memory over 2,000 ECG", f"{_growth(whole):+.1f} MiB", "", "", "0"),
    ]


def _timed(function: Callable[[], None], count: int) -> tuple[str, str]:
    """CPU time (all threads) as median with spread, and wall time; after a warm-up."""
    for _ in range(max(count // 5, 3)):
        function()
    cpu, wall = np.empty(count), np.empty(count)
    for i in range(count):
        c, w = time.process_time(), time.perf_counter()
        function()
        cpu[i], wall[i] = time.process_time() - c, time.perf_counter() - w
    low, middle, high = 1e3 * np.percentile(cpu, [10, 50, 90])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{1e3 * np.median(wall):.2f}"


def _growth(function: Callable[[], None]) -> float:
    """MiB of resident memory that 2,000 calls add, after a warm-up of 200."""
    for _ in range(200):
        function()
    before = _resident()
    for _ in range(2000):
        function()
    return (_resident() - before) / 2**20


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


if __name__ == "__main__":
    main()
