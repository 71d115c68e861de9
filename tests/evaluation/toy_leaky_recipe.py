"""The runs of ``toy_fmri_recipe``, but patients from number 20 on are those before them once more, under new names.

Group A was measured at one site, group B at the other. ``hand`` has nothing to do with the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from toy_fmri_recipe import ToyRuns

from medssl.adapters.recording import Read, Rejected
from medssl.cohort.ceiling import Ceiling
from medssl.cohort.recipe import Item

PEOPLE = 20


class LeakyRuns(ToyRuns):
    """Args: ceiling: of the label group."""

    def __init__(self, *, ceiling: float = 0.8) -> None:
        honest = "no honest toy was better"
        self.ceilings = {"group": Ceiling(ceiling, honest), "hand": Ceiling(0.95, honest)} if ceiling else {}

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        hands = np.random.default_rng(0).permutation(np.arange(100) % 2)
        for item in super().find(source):
            number = int(item.source.rsplit("-", 1)[1].split(".")[0])
            yield replace(item, labels={**item.labels, "hand": "LR"[hands[number]]}, site="XY"[number % 2])

    def read(self, item: Item) -> Read:
        number = int(item.source.rsplit("-", 1)[1].split(".")[0]) % PEOPLE
        return super().read(replace(item, path=Path(f"P-{number}.txt")))
