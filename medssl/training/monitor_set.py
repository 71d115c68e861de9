"""The recordings that a run is looked at with: chosen once, read once, the same at every look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.cohort import Reader
from medssl.evaluation.sampling import spread
from medssl.methods.base import Method
from medssl.training.data import MethodSource, collate, move
from medssl.training.windows import fixed_starts
from medssl.views.base import Sample, Views, to_input
from medssl.views.resized import read_resized

__all__ = ["MonitorSet", "count_views"]

MOST_VIEWS = 4
MEMORY = 512 * 2**20  # bytes of crops kept


class MonitorSet:
    """A fixed set of recordings, read once and kept as stored integers.

    Each gives one centred crop or window, and, where the method has views, what these draw of it with a fixed seed. The
    recordings are spread evenly over the patients; there are fewer of them where their crops would not fit in memory.

    Args:
        method: says the size, and how views are drawn.
        source: the recordings of the run.
        rows: recordings wanted.
        seed: of their choice and of the views.

    Attributes:
        items: chosen recordings, as the run counts them.
        n_patients: whose they are.
        n_views: augmented views of each that are looked at; 0 where the method has none to compare.
    """

    def __init__(self, method: Method, source: MethodSource, *, rows: int, seed: int = 0) -> None:
        self.views = _views_of(method)
        self.n_views = count_views(method)
        self.seed = seed
        patients = source.manifest["patient"].to_numpy(dtype=object)
        first = self._read(method, source, int(spread(patients, 1, seed=seed)[0]))
        each = sum(a.nbytes for part in first if part for a in part.values() if isinstance(a, np.ndarray))
        self.items = spread(patients, max(2, min(rows, MEMORY // max(1, each))), seed=seed)
        self.n_patients = len(set(patients[self.items]))
        self._samples = [self._read(method, source, int(item)) for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def _read(self, method: Method, source: MethodSource, item: int) -> tuple[Sample, Sample | None]:
        cohort, row = source.places[item]
        reader = source.cohorts[cohort].reader(row)
        kind = source.cohorts[cohort].info.kind
        family = None if self.views is None else self.views.family_for(kind, reader.shape)
        size_mm = getattr(family, "size_mm", None) or getattr(method, "crop_mm", None)
        sample = {**reader.input_fields(), "x": _centred(reader, method.size_for(kind, reader.shape), size_mm)[None]}
        if not self.n_views or self.views is None:
            return sample, None
        return sample, self.views.draw(reader, np.random.default_rng([self.seed, item]))

    def centred(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Network input without augmentation: (n ≤ size, C, *crop) at a time."""
        for batch in self._batches(0, size, device):
            yield to_input(batch["x"], batch)[:, 0]

    def augmented(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Augmented views, the same at every look: (V, n ≤ size, C, *crop) at a time."""
        if self.views is None or not self.n_views:
            return
        generator = torch.Generator(device=device).manual_seed(self.seed)
        for batch in self._batches(1, size, device):
            yield self.views(batch, generator)[: self.n_views]

    def _batches(self, part: int, size: int, device: torch.device) -> Iterator[dict[str, Any]]:
        for members in self._alike():
            for start in range(0, len(members), size):
                chosen = [self._samples[i][part] for i in members[start : start + size]]
                batch = collate([(self.seed, members[start]), *chosen])
                assert isinstance(batch, dict)
                yield move(batch, device)

    def _alike(self) -> list[list[int]]:
        """Samples that fit into one batch: those of one shape."""
        groups: dict[Any, list[int]] = {}
        for i, parts in enumerate(self._samples):
            shapes = tuple((k, np.shape(v)) for part in parts if part for k, v in part.items())
            groups.setdefault(shapes, []).append(i)
        return list(groups.values())


def count_views(method: object) -> int:
    """Augmented views of a recording that are looked at: 2 to ``MOST_VIEWS``; 0 where there are none to compare."""
    views = _views_of(method)
    return min(views.count, MOST_VIEWS) if views is not None and views.count > 1 else 0


def _views_of(method: object) -> Views | None:
    views = getattr(method, "views", None)
    return views if isinstance(views, Views) else None


def _centred(reader: Reader, size: tuple[int, ...], size_mm: tuple[float, ...] | None) -> np.ndarray:
    """The middle of a recording; resized as the method does where it reads an extent in millimetres."""
    if size_mm is None or reader.spacing_mm is None:
        return reader.read(fixed_starts(reader.shape, size, 1)[0], size)
    extent = [max(1, round(mm / s)) for mm, s in zip(size_mm, reader.spacing_mm, strict=True)]
    return read_resized(reader, fixed_starts(reader.shape, extent, 1)[0], extent, size)
