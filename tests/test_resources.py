"""Shipped files are found by name, the user's own by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl import resources
from medssl.errors import ConfigError


def test_a_shipped_name_is_found() -> None:
    assert resources.find("data_prep", "ixi").name == "ixi.py"


def test_the_users_own_file_is_taken_as_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("method: x\n")
    assert resources.find("configs", mine) == mine


def test_a_misspelt_name_shows_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mitbih'"):
        resources.find("data_prep", "mitbhi")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        resources.find("configs", tmp_path / "none.yaml")
