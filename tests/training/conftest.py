"""Cohorts that several training tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_cohorts import make_cohort


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients with one volume each."""
    return make_cohort(tmp_path_factory.mktemp("volumes"), "volume", patients=8)


@pytest.fixture(scope="session")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients with one signal each."""
    return make_cohort(tmp_path_factory.mktemp("signals"), "signal", patients=8)
