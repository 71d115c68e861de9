"""What people type becomes what jsonargparse takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medssl import cli
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


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--method.objective", "DLC"], "method.objective: unknown class 'DLC'; did you mean 'DCL'?"),
        (
            ["--method.objective", "DCL", "--method.objective.temprature", "0.1"],
            "unknown option 'method.objective.temprature'; did you mean 'method.objective.temperature'?",
        ),
        (["--method.projectr", "3"], "unknown option 'method.projectr'; did you mean 'method.projector'?"),
        (["--method.objective.temperature", "x"], "--method.objective.temperature: expected a float. Got value: x"),
        (["--method.views.gap_s", "x"], "--method.views.gap_s: expected a float. Got value: x"),
        (["--method.momentum", "high"], "--method.momentum: expected a float or one of 'auto'. Got value: high"),
        (["--method.same_patient", "maybe"], "--method.same_patient: expected one of 'ignore', 'negative'"),
        (["--trainer.max_steps", "many"], "--trainer.max_steps: expected an int. Got value: many"),
    ],
)
def test_a_wrong_value_is_explained(typed: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also deep inside optional classes, where jsonargparse explains every alternative."""
    assert cli.main(["pretrain", "--config", "contrastive_ecg_laptop", "--cohort", "a", "--out", "b", *typed]) == 2
    assert said in capsys.readouterr().err
