"""Cases of VoCo's omni-supervised stage: some recordings have a mask, others not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from toys import METHODS, Case, ToyReader, info, volume, volume_encoder

from medssl.cohort import CohortInfo
from medssl.methods.base import Method
from medssl.methods.voco_omni import VoCoOmni
from medssl.optim import Optim

VALUES = (0, 1, 3)
"""Of the toy mask; with a gap, as real masks have them."""


@dataclass
class LabelledReader(ToyReader):
    """A toy volume whose bright and whose dark voxels have a label."""

    masks: tuple[str, ...] = ("organs",)

    @property
    def labels(self) -> NDArray[np.uint8]:
        low, high = np.quantile(self.data[0], (0.2, 0.8))
        return np.where(self.data[0] > high, 3, np.where(self.data[0] < low, 1, 0)).astype(np.uint8)

    def read(self, start: Sequence[int], size: Sequence[int], key: str = "image") -> NDArray[Any]:
        if key == "image":
            return super().read(start, size)
        assert key.removeprefix("mask:") in self.masks
        return ToyReader(self.labels[None]).read(start, size)  # type: ignore[arg-type]

    def foreground(self, mask: str | None = None, label: int | None = None) -> NDArray[np.int64]:
        return super().foreground() if mask is None else np.argwhere(self.labels > 0)


def labelled_volume(
    row: int, shape: tuple[int, int, int] = (8, 24, 24), *, masked: bool | None = None
) -> LabelledReader:
    """A toy volume; every second one has a mask."""
    plain = volume(row, shape)
    has = row % 2 == 0 if masked is None else masked
    return LabelledReader(**vars(plain), masks=("organs",) if has else ())


@dataclass
class ToyCohort:
    """Recordings in memory, found by their row."""

    readers: list[LabelledReader]
    values: tuple[int, ...] = VALUES
    info: CohortInfo = field(init=False)

    def __post_init__(self) -> None:
        names = {str(v): f"part{v}" for v in self.values if v}
        self.info = CohortInfo(**{**vars(info("volume", 1)), "masks": {"organs": names}})

    def reader(self, row: int) -> LabelledReader:
        return self.readers[row]


def source_of(*cohorts: ToyCohort) -> Any:
    """What a run would read of them."""
    places = [(c, row) for c, cohort in enumerate(cohorts) for row in range(len(cohort.readers))]
    masks = [list(r.masks) for c in cohorts for r in c.readers]
    return SimpleNamespace(cohorts=list(cohorts), places=places, manifest=pd.DataFrame({"masks": masks}))


@dataclass(frozen=True)
class OmniCase(Case):
    """Every second recording has a mask."""

    def readers(self, count: int) -> list[ToyReader]:
        return [labelled_volume(row) for row in range(count)]


def _omni(**options: Any) -> OmniCase:
    def make() -> Method:
        settings = {"crop": (8, 8, 8), "crops": 2, "projector": (16, 8), "optim": Optim(lr=1e-2)} | options
        made = VoCoOmni(volume_encoder(), "organs", len(VALUES), **settings)
        made.prepare(source_of(ToyCohort([labelled_volume(row) for row in range(4)])), batch=6)
        return made

    return OmniCase(make, "volume", 1)


METHODS["VoCoOmni"] = {
    "omni": _omni(pseudo_from=0.0),
    "semi_supervised": _omni(grid=(1, 2, 2), semi_supervised=True, pseudo_from=0.0),
    "millimetres": _omni(grid=(1, 2, 2), crop_mm=(6.0, 10.0, 10.0), encoder_size=(4, 8, 8), patches=2),
}
