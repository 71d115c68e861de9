"""A probe in seconds, on features that hold what is asked for, or do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.encoders.base import Features
from medssl.evaluation.frozen import Frozen
from medssl.evaluation.tiny_probe import few_items, tiny_probe
from medssl.evaluation.voxel_probe import at_places, voxel_samples
from medssl.synth.volumes import write_volumes
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target, resolve_target


class Voxels(nn.Module):
    """Maps of two scales: the image itself and its 2³ means, or noise."""

    def __init__(self, *, blind: bool) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, x: torch.Tensor) -> Features:
        if self.blind:
            x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        return Features(x.mean((2, 3, 4)), [x, nn.functional.avg_pool3d(x, 2)])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("bodies")
    raw = write_volumes(folder / "raw", patients=6, seed=0, shape=(24, 32, 32), modality="mr")
    prepare("msd", raw, folder / "cohort", workers=0, keep_ids=True)
    return resolve_target(Cohort(folder / "cohort"), "segmentation", "labels")


def frozen(*, blind: bool) -> Frozen:
    return Frozen(Voxels(blind=blind), (16, 16, 16), None, "cpu", FinetuneSettings())  # type: ignore[arg-type]


def test_between_cells_features_are_interpolated() -> None:
    """Two cells of four voxels each: their centres lie at voxel 1.5 and 5.5."""
    cells = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 2, 2, 2)
    places = np.array([[0, 0, x] for x in range(8)])
    got = at_places(cells, places, (8, 8, 8))[:, 0]
    expected = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_every_class_gives_as_many_voxels_at_most(target: Target) -> None:
    got = voxel_samples(frozen(blind=False), target, np.arange(2))
    counts = np.bincount(got.y, minlength=len(target.classes))
    assert counts.max() <= 2 * 2 * 60 and (counts > 0).sum() > 2
    again = voxel_samples(frozen(blind=True), target, np.arange(2))
    np.testing.assert_array_equal(got.y, again.y), "the same voxels for every encoder"
    assert got.x.shape == (len(got.y), 2)


def test_voxels_that_show_the_tissue_beat_noise(target: Target) -> None:
    items = np.arange(len(target))
    seeing, blind = (tiny_probe(frozen(blind=b), target, items) for b in (False, True))
    assert seeing.metric == "macro_f1" and seeing.patients == 6
    assert seeing.value > 2 * blind.value


@dataclass
class Labels:
    """Sixty items of twelve patients."""

    task: str
    patients: Any = field(default_factory=lambda: np.repeat(np.arange(12), 5).astype(str))
    multilabel: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return () if self.task == "regression" else ("a", "b", "c")

    @property
    def y(self) -> Any:
        y = np.random.default_rng(0).integers(0, 3, 60)
        return y.astype(float) if self.task == "regression" else np.eye(3, dtype=int)[y] if self.multilabel else y


@dataclass
class Given:
    x: Any

    def features(self, target: Any, items: Any) -> Any:
        return self.x[items]


@pytest.mark.parametrize(
    ("task", "several"), [("classification", False), ("classification", True), ("regression", False)]
)
def test_features_are_asked_about_other_patients(task: str, several: bool) -> None:
    labels, items = Labels(task, multilabel=several), np.arange(60)
    rng = np.random.default_rng(1)
    true = np.random.default_rng(0).integers(0, 3, 60)
    telling = np.eye(3)[true] + 0.1 * rng.normal(size=(60, 3))
    identity = np.eye(12)[labels.patients.astype(int)]
    knows, remembers = (tiny_probe(Given(x), labels, items).value for x in (telling, identity))  # type: ignore[arg-type]
    if task == "classification":
        assert knows > 0.95 and remembers < 0.5
    else:
        assert knows < 0.2 and remembers > 0.5


def test_a_patient_with_many_items_gives_a_few_of_each_class() -> None:
    labels = Labels("classification", patients=np.repeat(["long", "short"], [57, 3]))
    chosen = few_items(labels, np.arange(60), 0)  # type: ignore[arg-type]
    counts = [np.bincount(labels.y[chosen[labels.patients[chosen] == p]], minlength=3) for p in ("long", "short")]
    every = np.bincount(labels.y[:57], minlength=3)
    assert counts[0].tolist() == np.minimum(every, 20).tolist() and counts[1].sum() == 3
    assert few_items(Labels("regression", patients=labels.patients), np.arange(60), 0).size == 23  # type: ignore[arg-type]
