"""What tests of recipes for signals share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medssl.adapters.recording import Recording, Rejected
from medssl.cohort.recipe import Item, Recipe, load_recipe


def find(name: str, source: Path, **options: Any) -> tuple[Recipe, dict[str, Item], dict[str, str]]:
    """The recipe, items by recording, reasons by file name."""
    recipe = load_recipe(name, options)
    found = list(recipe.find(source))
    items = {f.ids.recording: f for f in found if isinstance(f, Item)}
    return recipe, items, {Path(f.source).name: f.reason for f in found if isinstance(f, Rejected)}


def one(recipe: Recipe, item: Item) -> Recording:
    read = recipe.read(item)
    assert read.rejected == []
    (recording,) = read.recordings
    return recording


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 50, length)


def write_wfdb(folder: Path, name: str, leads: tuple[str, ...], rate_hz: int, comments: list[str]) -> None:
    import wfdb

    folder.mkdir(parents=True, exist_ok=True)
    signal = np.random.default_rng(0).normal(0, 0.3, (2 * rate_hz, len(leads)))
    wfdb.wrsamp(
        name, fs=rate_hz, units=["mV"] * len(leads), sig_name=list(leads), p_signal=signal, fmt=["16"] * len(leads),
        comments=comments, write_dir=str(folder),
    )  # fmt: skip


def values(recording: Recording, kind: str) -> list[tuple[float, float, str]]:
    return [(e.onset_s, e.duration_s, e.value) for e in recording.events if e.kind == kind]
