"""Makes ``toy_audit`` (beside this file) importable, and shares its cohorts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes with three planted copies, see ``toy_audit.write_volumes``."""
    from toy_audit import prepared, write_volumes

    folder = tmp_path_factory.mktemp("volumes")
    return prepared(write_volumes(folder / "source"), folder / "cohort", "volume")


@pytest.fixture(scope="session")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signals with four planted copies, see ``toy_audit.write_signals``."""
    from toy_audit import prepared, write_signals

    folder = tmp_path_factory.mktemp("signals")
    return prepared(write_signals(folder / "source"), folder / "cohort", "signal")


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signals of 24 patients without copies; ``sick`` has nothing to do with anything."""
    from toy_audit import prepared, write_clean

    folder = tmp_path_factory.mktemp("clean")
    return prepared(write_clean(folder / "source"), folder / "cohort", "signal")
