"""Cases of the methods that contrast single steps."""

from __future__ import annotations

from typing import Any

import torch
from toys import METHODS, Case

from medssl.encoders import ts2vec as encoders
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.comet import COMET
from medssl.methods.ts2vec import TS2Vec
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.signal import SignalViews


class Halves(PairWeighting):
    """Half the weight for all."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, losses: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        self.seen.append((losses, index))
        return torch.full_like(losses, 0.5)


def small() -> Encoder:
    return encoders.TS2Vec(2, 4, out_dim=6, depth=1, dropout=0.0)


def comet(**options: Any) -> Case:
    def make() -> Method:
        settings = {"window": 16, "trial_s": 1.0, "windows": 2, "optim": Optim(lr=1e-2)} | options
        return COMET(small(), **settings)

    return Case(make, "signal", 2)


def ts2vec(*, count: int = 1, **options: Any) -> Case:
    def make() -> Method:
        return TS2Vec(small(), SignalViews((32,), count=count, gap_s=1.0), optim=Optim(lr=1e-2), **options)

    return Case(make, "signal", 2)


METHODS["COMET"] = {
    "all_levels": comet(),
    "reference": comet(reference=True),
    "symmetric": comet(levels=("trial", "sample"), symmetric_ids=True, per_anchor=True),
}
METHODS["TS2Vec"] = {
    "published": ts2vec(),
    "several_windows": ts2vec(count=2, alpha=0.3, temporal_unit=1, mask="continuous"),
}
