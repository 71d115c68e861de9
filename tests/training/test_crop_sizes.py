"""Crops of large, anisotropic volumes: their extent in mm, and where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy_cohorts import ToyEncoder, make_cohort
from toys import ToyReader, volume

from medssl.cohort import Cohort, CohortInfo, Reader
from medssl.encoders.resenc import ResEnc
from medssl.errors import ConfigError
from medssl.methods.voco import VoCo
from medssl.optim import Optim
from medssl.splits import split
from medssl.training.finetune import finetune
from medssl.training.heads import choose_size
from medssl.training.labelled import LabelledWindows
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import resolve_target
from medssl.training.windows import Recordings
from medssl.views.volume import VolumeViews


def target(kind: Any, shape: tuple[int, ...], **physical: Any) -> Any:
    info = CohortInfo(kind=kind, modality="toy", recipe="toy", channels=("a",), **physical)
    manifest = pd.DataFrame({"shape": [list(shape)] * 3})
    return SimpleNamespace(cohort=SimpleNamespace(info=info, manifest=manifest), rows=np.arange(3), source="label")


HEADS = target("volume", (36, 200, 180), spacing_mm=(5.0, 0.9, 0.9))


def test_an_extent_in_mm_becomes_voxels_that_the_encoder_takes() -> None:
    flat = ResEnc(1, features=(4, 8, 16), blocks=(1, 1, 1), strides=(1, (1, 2, 2), 2))
    settings = FinetuneSettings(size_mm=(60.0, 60.0, 60.0), accelerator="cpu")
    assert choose_size(flat, HEADS, settings) == (12, 68, 68)  # 12, 66.7 and 66.7 voxels; strides of 2, 4 and 4
    assert choose_size(ToyEncoder(), HEADS, settings) == (12, 68, 68)
    same = replace(settings, size_mm=(12 * 5.0, 40 * 0.9, 44 * 0.9))
    assert choose_size(ToyEncoder(), HEADS, same) == (12, 40, 44), "no voxel more by rounding"
    small = replace(settings, size_mm=(1.0, 1.0, 1.0))
    assert choose_size(ToyEncoder(), HEADS, small) == (4, 4, 4), "the least that the encoder takes"


@pytest.mark.parametrize(
    ("cohort", "message"),
    [
        (target("signal", (5000,), rate_hz=250.0), "window_s"),
        (target("volume", (30, 60, 60)), "one voxel size"),
    ],
)
def test_an_extent_in_mm_is_refused_where_it_means_nothing(cohort: Any, message: str) -> None:
    network = ToyEncoder(dims=1 if cohort.cohort.info.kind == "signal" else 3)
    with pytest.raises(ConfigError, match=message):
        choose_size(network, cohort, FinetuneSettings(size_mm=(60.0, 60.0, 60.0)))


def test_impossible_extents_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        FinetuneSettings(size_mm=(60.0, 0.0, 60.0))
    with pytest.raises(ConfigError, match="one of them"):
        FinetuneSettings(size_mm=(60.0, 60.0, 60.0), size=(8, 8, 8))


def head(**changes: Any) -> ToyReader:
    """A body in one corner of a large field of view of thick slices."""
    data = np.zeros((1, 12, 80, 80), np.int16)
    data[:, 1:5, 4:24, 50:76] = 500
    inside = np.argwhere(data[0] > 0)
    return replace(volume(0), data=data, points=inside[::7], spacing_mm=(5.0, 1.0, 1.0), **changes)


def test_crops_of_pre_training_show_the_body() -> None:
    """From coordinates that were stored once; no more is read than the crops."""
    reader: Any = head()
    views = VolumeViews((4, 16, 16), count=1, foreground=1.0, size_mm=(20.0, 16.0, 16.0))
    shares = [(views.draw(reader, np.random.default_rng(i))["x"] > 0).mean() for i in range(20)]
    assert min(shares) > 0.05 and np.mean(shares) > 0.4
    assert max(np.prod(size) for _, size in reader.reads) == 4 * 16 * 16
    anywhere = VolumeViews((4, 16, 16), count=1, foreground=0.0)
    assert np.mean([(anywhere.draw(reader, np.random.default_rng(i))["x"] > 0).mean() for i in range(20)]) < 0.2
    positions = VoCo(ResEnc(1, features=(4, 8), blocks=(1, 1), strides=(1, 2)), crop=(4, 16, 16), grid=(1, 2, 2))
    window = positions.draw(reader, np.random.default_rng(0))["x"]
    assert (window > 0).sum() == (reader.data > 0).sum(), "the whole body is in the window"


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = make_cohort(tmp_path_factory.mktemp("bodies"), "volume", patients=8)
    split(cohort, test=3, stratify="group")
    return cohort


def test_crops_of_labelled_volumes_show_the_body(bodies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = resolve_target(Cohort(bodies), "classification", "group")
    asked: list[int] = []

    def corner(self: Reader, mask: str | None = None, label: int | None = None) -> np.ndarray:
        assert mask is None
        asked.append(self.row)
        return np.array([[17, 19, 21]])

    monkeypatch.setattr(Reader, "foreground", corner)
    recordings = Recordings(wanted.cohort, channels=None, rows=wanted.rows, cache_gb=1.0)
    options: Any = {"size": (4, 4, 4), "balance": False}
    items = np.arange(len(wanted))
    always = LabelledWindows(wanted, items, recordings, foreground=1.0, **options)
    corner_of = recordings.whole(0)[:, -4:, -4:, -4:]
    assert all(np.array_equal(always.draw(0, np.random.default_rng(i))["x"][0], corner_of) for i in range(5))
    assert asked == [0] * 5
    never = LabelledWindows(wanted, items, recordings, foreground=0.0, **options)
    assert not all(np.array_equal(never.draw(0, np.random.default_rng(i))["x"][0], corner_of) for i in range(5))
    assert asked == [0] * 5


def test_a_schedule_and_an_extent_in_mm_from_end_to_end(bodies: Path, tmp_path: Path) -> None:
    summary = finetune(
        cohort=bodies, task="classification", target="group", out=tmp_path / "run", architecture=ToyEncoder(),
        settings=FinetuneSettings(
            max_steps=6, batch_size=2, progress=False, accelerator="cpu", precision="32-true", schedule="sawtooth",
            decoder_phase=0.3, size_mm=(8.0, 9.5, 12.0), optim=Optim(lr=1e-2, algorithm="sgd", warmup=0.3),
        ),
    )  # fmt: skip
    assert summary["size"] == [8, 10, 12] and summary["steps"] == 6 and np.isfinite(summary["metrics"]["macro_f1"])
