"""What people type becomes what jsonargparse takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medssl.arguments import normalise
from medssl.training.settings import FinetuneSettings


def verb(
    recipe: str,
    *,
    cohort: list[Path],
    encoders: dict[str, str],
    options: Mapping[str, Any] | None = None,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008 - frozen
    dry_run: bool = False,
    max_steps: int = 3,
) -> None:
    """A function with every kind of parameter."""


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        (["--cohort", "a", "b"], ['--cohort=["a", "b"]']),
        (["--cohort", '["a"]'], ['--cohort=["a"]']),
        (["--cohort", "a", "--dry-run"], ['--cohort=["a"]', "--dry_run=true"]),
        (["--dry-run", "ixi"], ["--dry_run=true", "ixi"]),
        (["--dry-run=false"], ["--dry_run=false"]),
        (["--encoders", "voco=RUN", "scratch=none"], ['--encoders={"voco": "RUN", "scratch": "none"}']),
        (["--options", "glob=*.nii"], ['--options={"glob": "*.nii"}']),
        (
            ["--options", "masks.liver=l.nii", "drop=false", "n=3"],
            ['--options={"masks": {"liver": "l.nii"}, "drop": false, "n": 3}'],
        ),
        (["--max-steps", "7", "ixi"], ["--max_steps=7", "ixi"]),
        (["--trainer.max-steps=5"], ["--trainer.max_steps=5"]),
        (["--settings.size", "8", "8", "8"], ["--settings.size=[8, 8, 8]"]),
        (["--settings.deterministic"], ["--settings.deterministic=true"]),
        (["--method.projector", "64", "32", "--dry-run"], ["--method.projector=[64, 32]", "--dry_run=true"]),
        (["--method.objective", "DCL"], ["--method.objective=DCL"]),
        (["ixi", "-h"], ["ixi", "-h"]),
    ],
)
def test_normalise(typed: list[str], taken: list[str]) -> None:
    assert normalise(verb, typed) == taken
