"""Reading what was prepared: the same values, padded at the edges, from any process that was not forked."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medssl.cohort import Cohort, Reader
from medssl.errors import CohortError

Make = Callable[..., Cohort]


def source_of(folder: Path, reader: Reader) -> np.ndarray:
    return np.round(np.load(folder / f"{reader.recording.replace('-', '_')}.npy")).astype(np.int16)


def test_whole_recording_is_what_was_prepared(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    assert len(cohort) == 6
    for row in range(6):
        reader = cohort.reader(row)
        np.testing.assert_array_equal(reader.read_all(), source_of(volumes, reader))


def test_what_a_reader_knows(make: Make, volumes: Path) -> None:
    reader = make(volumes).reader(2)
    assert (reader.patient, reader.recording, reader.row) == ("bert", "bert-one", 2)
    assert (reader.shape, reader.channels, reader.masks) == ((20, 33, 40), ("c0", "c1"), ("bright",))
    assert (reader.spacing_mm, reader.rate_hz) == ((2.0, 1.0, 1.0), None)
    np.testing.assert_array_equal(reader.affine, np.diag([2.0, 1.0, 1.0, 1.0]))
    assert reader.record["label_sex"] == "m"
    assert reader.record["axes"] == "czyx"


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((3, 5, 7), (8, 16, 16)),
        ((-4, 0, 0), (8, 8, 8)),
        ((15, 30, 38), (10, 10, 10)),
        ((-5, -5, -5), (40, 50, 60)),
        ((100, 0, 0), (4, 4, 4)),
        ((-9, 0, 0), (4, 4, 4)),
        ((0, 0, 0), (0, 4, 4)),
    ],
)
def test_crops_equal_slices_of_the_padded_array(
    make: Make, volumes: Path, start: tuple[int, ...], size: tuple[int, ...]
) -> None:
    reader = make(volumes).reader(0)
    margin = 110
    padding = [(0, 0)] + [(margin, margin)] * 3
    image = np.pad(source_of(volumes, reader), padding, constant_values=-1000)
    box = (slice(None), *(slice(s + margin, s + margin + e) for s, e in zip(start, size, strict=True)))
    crop = reader.read(start, size)
    np.testing.assert_array_equal(crop, image[box])
    assert crop.dtype == np.int16
    assert crop.flags.writeable and crop.flags.c_contiguous
    mask = np.pad((source_of(volumes, reader)[:1] > 500).astype(np.uint8), padding)
    np.testing.assert_array_equal(reader.read(start, size, "mask:bright"), mask[box])


def test_a_choice_of_channels(make: Make, volumes: Path) -> None:
    reader = make(volumes).reader(0)
    image = source_of(volumes, reader)
    np.testing.assert_array_equal(reader.read((1, 2, 3), (4, 5, 6), channels=[1]), image[1:, 1:5, 2:7, 3:9])
    swapped = reader.read((-1, 2, 3), (4, 5, 6), channels=[1, 0])
    np.testing.assert_array_equal(swapped[:, 1:], image[::-1, :3, 2:7, 3:9])
    assert (swapped[:, 0] == -1000).all()


def test_signals_packed_or_not_read_alike(make: Make, signals: Path) -> None:
    cohort = make(signals, stored="signal")
    assert cohort.info.kind == "signal" and cohort.info.rate_hz == 100.0
    packed = cohort.manifest["position"] >= 0
    assert packed.sum() == 10  # all but the long one
    for row in range(len(cohort)):
        reader = cohort.reader(row)
        image = source_of(signals, reader)
        assert reader.shape == image.shape[1:]
        np.testing.assert_array_equal(reader.read_all(), image)
        window = reader.read([-10], [60])
        np.testing.assert_array_equal(window[:, 10:], image[:, :50])
        assert not window[:, :10].any()
        assert reader.foreground().shape == (0, 1)


def test_input_fields(make: Make, volumes: Path) -> None:
    fields = make(volumes).reader(4).input_fields()
    assert {k: (v.dtype.name, v.shape) for k, v in fields.items()} == {
        "input_scale": ("float32", (2,)),
        "input_offset": ("float32", (2,)),
        "input_range": ("float32", (2,)),
        "row": ("int64", ()),
    }
    assert fields["row"] == 4
    np.testing.assert_allclose(fields["input_offset"], [0.0, 1.0])


def test_foreground_of_body_mask_and_label(make: Make, volumes: Path) -> None:
    reader = make(volumes).reader(1)
    image = source_of(volumes, reader)[0]
    body = reader.foreground()
    assert len(body) == len(np.argwhere(image > 0)[::7])
    assert (image[tuple(body.T)] > 0).all()
    np.testing.assert_array_equal(reader.foreground("bright", 1), np.argwhere(image > 500)[:50])
    np.testing.assert_array_equal(reader.foreground("bright"), reader.foreground("bright", 1))
    assert reader.foreground("bright", 2).shape == (0, 3)


def test_events_of_one_recording_and_kind(make: Make, signals: Path) -> None:
    cohort = make(signals, stored="signal")
    assert len(cohort.events) == 4 * len(cohort)
    events = cohort.reader(3).events("beat")
    assert events["onset_s"].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert events["value"].tolist() == ["N", "V", "N", "V"]
    assert set(events["recording"]) == {cohort.reader(3).recording}
    assert cohort.reader(3).events("stage").empty
    assert cohort.info.events == {"beat": {"N": 22, "V": 22}}


def test_wrong_requests_say_what_there_is(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    with pytest.raises(CohortError, match="mask:bright"):
        cohort.reader(0).read((0, 0, 0), (2, 2, 2), "mask:liver")
    with pytest.raises(CohortError, match="3 axes"):
        cohort.reader(0).read([0], [10])
    with pytest.raises(CohortError, match="rows 0 to 5, not 6"):
        cohort.reader(6)
    with pytest.raises(CohortError, match="run `medssl prepare` first"):
        Cohort(volumes)


def first_value(reader: Reader) -> int:
    return int(reader.read((0, 0, 0), (1, 1, 1))[0, 0, 0, 0])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_readers_travel_to_workers_after_the_parent_used_them(make: Make, volumes: Path, method: str) -> None:
    cohort = make(volumes)
    wanted = [first_value(cohort.reader(row)) for row in range(6)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(first_value, [cohort.reader(row) for row in range(6)])) == wanted


def test_a_pickled_cohort_is_small_and_holds_no_handles(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    cohort.reader(0).read_all()
    _ = cohort.manifest
    assert len(pickle.dumps(cohort)) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cohort)).reader(0).read_all(), cohort.reader(0).read_all())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_gets_an_error_and_does_not_hang(make: Make, volumes: Path) -> None:
    reader = make(volumes).reader(0)
    reader.read_all()
    pid = os.fork()
    if pid == 0:
        try:
            reader.read_all()
        except CohortError as error:
            os._exit(7 if "forkserver" in str(error) else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_number_of_open_arrays_is_bounded(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    cohort._arrays.most = 3
    for _ in range(2):
        for row in range(6):
            cohort.reader(row).read((0, 0, 0), (1, 1, 1))
    assert len(cohort._arrays._items) == 3


def test_memory_does_not_grow_over_many_reads(make: Make, volumes: Path) -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident memory is read from /proc")
    cohort = make(volumes)
    rng = np.random.default_rng(0)

    def reads(count: int) -> int:
        for _ in range(count):
            cohort.reader(int(rng.integers(6))).read(rng.integers(-4, 10, 3), (16, 16, 16))
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = reads(500)
    assert reads(2000) - before < 8 << 20
