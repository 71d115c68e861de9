"""Makes ``toy_studies`` (beside this file) importable, and holds what studies of exported encoders share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from toy_cohorts import ToyEncoder

from medssl.encoders.base import InputSpec, save_encoder

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported encoder."""
    folder = tmp_path_factory.mktemp("run")
    inputs = InputSpec(kind="signal", channels=("C3",), size=(64,), rate_hz=32.0)
    save_encoder(ToyEncoder(dims=1), folder / "encoder", inputs, {"cohorts": [], "patients": {}})
    return folder
