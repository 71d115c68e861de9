"""Images, volumes and video in one training: a view family for each, and batches of one sort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views.base import Batch, Drawable, Sample, Views

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["ViewsByKind"]


class ViewsByKind(Views):
    """One encoder for several kinds of recordings (M3Ret, 2025): each kind has a view family of its own.

    All recordings of a batch are of one cohort and one kind: statistics over a batch (a coding rate, negatives,
    assignments) would else be met by telling modalities apart. Which cohort a batch comes from is drawn with a
    probability in proportion to a power of its size, so that small cohorts are seen more often than their size asks
    for; recordings of a small one then come again within an epoch.

    Args:
        images: of recordings with one frame or slice; None leaves them to the two others.
        volumes: of volumes.
        video: of video.
        power: 1 draws in proportion to the number of recordings, 0 all cohorts equally often.

    Raises:
        ConfigError: no family, families of another kind, with other numbers of views, or other axes.
    """

    mixes = True

    def __init__(
        self,
        *,
        images: Views | None = None,
        volumes: Views | None = None,
        video: Views | None = None,
        power: float = 0.5,
    ) -> None:
        self.images, self.volumes, self.video = images, volumes, video
        self._refuse(power)
        self.power = power
        first = self.families[0]
        self.kind, self.size, self.count = " or ".join(self._kinds()), first.size, first.count
        self._groups: NDArray[np.int64] | None = None
        self._batch = 1

    @property
    def families(self) -> tuple[Views, ...]:
        """See ``Views.families``."""
        return tuple(family for family in (self.images, self.volumes, self.video) if family is not None)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """See ``Views.sizes``, of all families."""
        return tuple(size for family in self.families for size in family.sizes)

    def check(self, info: CohortInfo) -> None:
        """See ``Views.check``: there must be a family for the cohort's kind."""
        for family in (self.volumes, self.video):
            if family is not None and family.kind == info.kind:
                return family.check(info)
        if self.images is not None and info.kind in ("volume", "video"):
            return None
        raise ConfigError(
            f"ViewsByKind has no views of {info.kind}s (it has some of {self.kind}s); add a family for them, or leave "
            "the cohort out"
        )

    def family_for(self, kind: str, shape: tuple[int, ...]) -> Views:
        """See ``Views.family_for``.

        Raises:
            ConfigError: there is none for it.
        """
        if self.images is not None and len(shape) == len(self.images.size) and shape[0] == 1:
            return self.images
        for family in (self.volumes, self.video):
            if family is not None and family.kind == kind:
                return family
        raise ConfigError(
            f"ViewsByKind has no views for a {kind} of {shape}; add a family for it, or leave such recordings out"
        )

    def family_of(self, batch: Batch) -> Views:
        """See ``Views.family_of``."""
        number: int = batch["family"].shape[1]
        return self.families[number]

    def plan(self, source: Drawable, batch: int) -> None:
        """See ``Views.plan``: learns which recordings can stand in a batch together."""
        kinds = [cohort.info.kind for cohort in source.cohorts]
        pairs = [
            (cohort, self.families.index(self.family_for(kinds[cohort], tuple(shape))))
            for (cohort, _), shape in zip(source.places, source.manifest["shape"], strict=True)
        ]
        self._groups = np.unique(np.array(pairs), axis=0, return_inverse=True)[1].reshape(-1)
        self._batch = batch

    def order(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See ``Views.order``: every batch of one group; an epoch has as many batches as the recordings would fill."""
        if self._groups is None:
            return rng.permutation(count)
        sizes = np.bincount(self._groups)
        share = sizes**self.power / (sizes**self.power).sum()
        groups = rng.choice(len(sizes), size=max(1, count // self._batch), p=share)
        order = np.empty((len(groups), self._batch), np.int64)
        for group in np.unique(groups):
            members, wanted = np.flatnonzero(self._groups == group), int((groups == group).sum()) * self._batch
            rounds = [rng.permutation(members) for _ in range(-(-wanted // len(members)))]
            order[groups == group] = np.concatenate(rounds)[:wanted].reshape(-1, self._batch)
        return order.ravel()

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the family of the recording reads, and ``family``, whose length is the family's number."""
        family = self.family_for(reader.kind, reader.shape)
        # a shape is known without waiting for the device
        return {**family.draw(reader, rng), "family": np.zeros(self.families.index(family), np.uint8)}

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """See ``Views.augment``, by the first family of that size."""
        return self._by_size(x).augment(x, generator)

    def augment_aligned(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See ``Views.augment_aligned``, by the first family of that size."""
        return self._by_size(x).augment_aligned(x, generator)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Views of a batch by its family: (V, B, C, *size)."""
        return self.family_of(batch)(batch, generator)

    def aligned(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See ``Views.aligned``."""
        return self.family_of(batch).aligned(batch, generator)

    def crops(self, batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """See ``Views.crops``."""
        return self.family_of(batch).crops(batch, generator)

    def _by_size(self, x: Tensor) -> Views:
        fitting = [family for family in self.families if family.size == tuple(x.shape[2:])]
        if not fitting:
            raise ConfigError(f"ViewsByKind has no family of size {tuple(x.shape[2:])}")
        return fitting[0]

    def _kinds(self) -> list[str]:
        named = (("image", self.images), ("volume", self.volumes), ("video", self.video))
        return [name for name, family in named if family is not None]

    def _refuse(self, power: float) -> None:
        if not self.families:
            raise ConfigError("ViewsByKind needs a family of views: images, volumes or video")
        for name, family in (("volume", self.volumes), ("video", self.video)):
            if family is not None and family.kind != name:
                raise ConfigError(f"ViewsByKind's {name} views must cut {name}s, but {type(family).__name__} cuts "
                                  f"{family.kind}s")  # fmt: skip
        if len({(f.count, len(f.size), len(f.sizes)) for f in self.families}) > 1:
            described = ", ".join(f"{type(f).__name__} {f.count} of {f.sizes}" for f in self.families)
            raise ConfigError(f"families of ViewsByKind need the same count of views and axes, not {described}")
        if not 0 <= power <= 1:
            raise ConfigError(f"ViewsByKind takes a power from 0 to 1, not {power}")
