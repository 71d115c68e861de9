"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings; tests that use it are skipped where it is missing."""
    folder = Path(os.environ.get("MEDSSL_SHARED", REPO.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real recordings are not here ({folder.name}/ missing; set MEDSSL_SHARED)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Loads reference vectors by name; ``MEDSSL_GOLDEN`` points to another folder of the same files."""
    folder = Path(os.environ.get("MEDSSL_GOLDEN", REPO / "tests" / "parity" / "golden"))

    def load(name: str) -> Mapping[str, np.ndarray]:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load
