"""Short records of equal shape share one array, 64 to 1000 of them a shard: one file instead of a thousand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import store
from medssl.cohort.manifest import RECORDINGS
from medssl.cohort.worker import WORK, staged_file
from medssl.errors import CohortError

__all__ = ["Packer"]

_SHARD_BYTES = 1 << 26
_SHARD_RECORDS = (64, 1000)


class Packer:
    """Gathers short records in the order of the manifest, then writes one array for every shape.

    Args:
        cohort: folder being written.
        profile: compression.
    """

    def __init__(self, cohort: Path, profile: store.Profile) -> None:
        self.cohort, self.profile = cohort, profile
        self._groups: dict[tuple[Any, ...], list[tuple[str, str, str]]] = {}
        self._before: dict[str, tuple[str, int]] | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Take note of a staged record."""
        group = (row["dtype"], len(row["channels"]), *row["shape"])
        self._groups.setdefault(group, []).append((row["recording"], row["staged"], row["sha256"]))

    def write(self) -> dict[str, tuple[str, int]]:
        """Write every group not yet written. Returns recording → (array, position)."""
        places: dict[str, tuple[str, int]] = {}
        for (dtype, *shape), members in sorted(self._groups.items()):
            digest = hashlib.sha256("".join(sha for _, _, sha in members).encode()).hexdigest()[:12]
            name = f"packed-{'x'.join(map(str, shape))}-{dtype}-{digest}"
            if not (self.cohort / "arrays" / name).is_dir():
                self._write_group(name, np.dtype(dtype), shape, members)
            places |= {recording: (name, i) for i, (recording, _, _) in enumerate(members)}
        return places

    def _write_group(
        self, name: str, dtype: np.dtype[Any], shape: Sequence[int], members: Sequence[tuple[str, str, str]]
    ) -> None:
        record_bytes = int(np.prod(shape)) * dtype.itemsize
        least, most = _SHARD_RECORDS
        shard = min(max(_SHARD_BYTES // record_bytes, least), most)
        chunk = (1, *store.chunk_shape(shape, itemsize=dtype.itemsize))
        temporary = self.cohort / WORK / "tmp" / name
        array = store.create_array(
            temporary,
            (len(members), *shape),
            dtype,
            chunk=chunk,
            axes=("record", "c", "t"),
            shard=(min(shard, len(members)), *shape),
            profile=self.profile,
        )
        for start in range(0, len(members), shard):
            block = np.stack([self._load(r, staged) for r, staged, _ in members[start : start + shard]])
            array[start : start + len(block)].write(block).result()
        store.replace_folder(temporary, self.cohort / "arrays" / name)

    def _load(self, recording: str, staged: str) -> NDArray[Any]:
        file = staged_file(self.cohort, staged)
        if file.is_file():
            values: NDArray[Any] = np.load(file, allow_pickle=False)
            return values
        place = self.before(recording)
        if place is None:
            raise CohortError(
                f"the array of recording {recording} is gone from '{self.cohort}'; prepare with --overwrite"
            )
        array, position = place
        return store.read_array(store.open_array(self.cohort / "arrays" / array)[position])

    def before(self, recording: str) -> tuple[str, int] | None:
        """The (array, position) that an earlier call gave this recording, if it still stands."""
        if self._before is None:
            self._before = self._packed_before()
        place = self._before.get(recording)
        return place if place is not None and (self.cohort / "arrays" / place[0]).is_dir() else None

    def _packed_before(self) -> dict[str, tuple[str, int]]:
        """Where the manifest of an earlier call found its packed records."""
        import pyarrow.parquet as pq

        file = self.cohort / RECORDINGS
        if not file.is_file():
            return {}
        table = pq.read_table(file, columns=["recording", "array", "position"]).to_pydict()
        rows = zip(table["recording"], table["array"], table["position"], strict=True)
        return {recording: (array, position) for recording, array, position in rows if position >= 0}
