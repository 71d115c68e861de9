"""Small cohorts made from .npy files by the toy recipe beside this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare

TOY = Path(__file__).with_name("toy_recipe.py")


@pytest.fixture
def toy() -> Path:
    """The toy recipe's file."""
    return TOY


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Where the pseudonym key of the test lies."""
    return tmp_path / "keys" / "pseudonym.key"


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Six volumes (2, 20, 33, 40) of three patients."""
    folder = tmp_path / "volumes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for patient in ("anna", "bert", "carl"):
        for recording in ("one", "two"):
            np.save(folder / f"{patient}_{recording}.npy", rng.normal(0, 400, (2, 20, 33, 40)).astype(np.float32))
    return folder


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    """Nine short signals (2, 1000), one of another length and one long (2, 9000), at 100 Hz."""
    folder = tmp_path / "signals"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(9):
        np.save(folder / f"p{i // 2}_r{i}.npy", rng.normal(0, 200, (2, 1000)).astype(np.float32))
    np.save(folder / "q_short.npy", rng.normal(0, 200, (2, 700)).astype(np.float32))
    np.save(folder / "q_long.npy", rng.normal(0, 200, (2, 9000)).astype(np.float32))
    return folder


@pytest.fixture
def make(tmp_path: Path, key: Path) -> Callable[..., Cohort]:
    """Prepares a source with the toy recipe, in this process, ids kept unless told otherwise."""

    def run(source: Path, name: str = "cohort", **options: Any) -> Cohort:
        stored = options.pop("stored", "volume")
        given = {"workers": 0, "keep_ids": True, "pseudonym_key": key} | options
        prepare(TOY, source, tmp_path / name, options={"stored": stored}, **given)
        return Cohort(tmp_path / name)

    return run
