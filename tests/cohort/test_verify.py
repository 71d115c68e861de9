"""``cohort verify`` finds what was changed since; ``cohort info`` tells what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.cohort import Cohort
from medssl.cohort.verify import cohort_info, cohort_verify
from medssl.errors import CohortError

Make = Callable[..., Cohort]


def shard_of(array: Path) -> Path:
    (shard,) = [f for f in array.rglob("*") if f.is_file() and f.name != "zarr.json"]
    return shard


def test_a_sound_cohort(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    found = cohort_verify(cohort.path)
    assert (found.n_recordings, found.n_arrays, found.fingerprint) == (6, 12, cohort.info.fingerprint)


@pytest.mark.parametrize("part", ["image", "mask.bright", "foreground"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_recording_is_named(make: Make, volumes: Path, part: str, harm: str) -> None:
    cohort = make(volumes)
    array = cohort.path / "arrays" / "bert-one" / part
    shard = shard_of(array)
    content = bytearray(shard.read_bytes())
    if harm == "flip":
        for i in range(0, len(content), 5):
            content[i] ^= 0xFF
        shard.write_bytes(content)
    elif harm == "cut":
        shard.write_bytes(content[: len(content) // 2])
    else:
        (array / "zarr.json").unlink()
    with pytest.raises(CohortError, match=r"1 of 6 recordings .* damaged: bert-one"):
        cohort_verify(cohort.path)


def test_another_recordings_array_is_noticed(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    arrays = cohort.path / "arrays"
    shard_of(arrays / "anna-one" / "image").write_bytes(shard_of(arrays / "anna-two" / "image").read_bytes())
    with pytest.raises(CohortError, match=r"anna-one .image differs"):
        cohort_verify(cohort.path)


def test_a_manifest_that_lost_rows_or_changed_is_noticed(make: Make, volumes: Path) -> None:
    import pyarrow.parquet as pq

    cohort = make(volumes)
    file = cohort.path / "recordings.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 5), file)
    with pytest.raises(CohortError, match="should hold 6"):
        cohort_verify(cohort.path)
    patients = table.column("patient").to_pylist()
    pq.write_table(table.set_column(1, "patient", [[*patients[:5], "anna"]]), file)
    with pytest.raises(CohortError, match=r"manifest .* fingerprint"):
        cohort_verify(cohort.path)


def test_info_of_volumes(make: Make, volumes: Path) -> None:
    said = cohort_info(make(volumes).path)
    assert "6 recordings of 3 patients (toy)" in said
    assert "grid (z, y, x): 20 x 33 x 40, spacing 2x1x1 mm" in said
    assert "label sex (class): f 4, m 2" in said
    assert "label age (number): 4 to 4" in said
    assert "mask bright: in 6 recordings" in said
    assert "site: here 6" in said


def test_info_of_signals(make: Make, signals: Path) -> None:
    said = cohort_info(make(signals, stored="signal").path)
    assert "rate: 100 Hz, 7 to 90 s each" in said
    assert "events beat: N 22, V 22" in said
