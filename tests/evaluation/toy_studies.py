"""Studies without training: plans made by hand and functions that stand for a model of known quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.errors import TrainingError
from medssl.evaluation.cells import Cell
from medssl.evaluation.planning import Arm, Plan
from medssl.evaluation.results import TaskInfo
from medssl.evaluation.summary import Layout

PATIENTS = tuple(f"p{i:02d}" for i in range(24))
SKILL = {"scratch": 0.0, "voco": 1.0, "worse": -1.0, "floor": 0.3}
MASKS = TaskInfo("segmentation", "labels", ("1", "2"), names={"1": "head", "2": "tail"})
BEATS = TaskInfo("classification", "beat", ("N", "S", "V"))
AGE = TaskInfo("regression", "age")


def make_plan(
    out: Path,
    info: TaskInfo = MASKS,
    *,
    arms: tuple[str, ...] = ("scratch", "voco"),
    repeats: int = 2,
    options: dict[str, Any] | None = None,
    budgets: tuple[str, ...] = ("2", "all"),
) -> Plan:
    """Budgets of as many patients as their name says; all are 10."""
    sizes = {b: float(b.replace("all", "10")) for b in budgets}
    floor = "a random forest" if "floor" in arms else None
    baselines = dict.fromkeys((a for a in arms if a not in ("scratch", "floor")), "scratch")
    layout = Layout(info, arms, baselines, sizes, repeats, "floor" if floor else None)
    given = {"task": info.task, **(options or {})}
    cells = [
        Cell(a, "none" if a == "scratch" else a, b, r, out / "cells" / a / b / str(r), given)
        for b in sizes for r in range(repeats) for a in arms
    ]  # fmt: skip
    facts = {
        "task": info.task, "target": info.target, "protocol": "finetune", "baseline": "scratch", "floor": floor,
        "level": "window" if info is BEATS else "recording", "aggregation": "mean of at most 8 windows a recording",
        "cohort": {"path": "cohort", "kind": "volume", "modality": "mri", "recipe": "msd", "fingerprint": "f" * 64,
                   "n_recordings": 60, "n_patients": 60, "n_rejected": 3, "channels": ["image"], "rate_hz": None,
                   "spacing_mm": [1.0, 1.0, 1.0]},
        "split": {"name": "default", "sha256": "5" * 64, "unit": "patient", "rule": "hold-out", "seed": 0,
                  "stratified_by": "labels", "n_test_patients": len(PATIENTS), "n_development_patients": 36},
        "repeats": repeats, "classes": list(info.classes), "class_names": dict(info.names or {}), "multilabel": False,
        "budgets": [{"asked": b, "n_patients": n, "draws": []} for b, n in sizes.items()],
        "encoders": {a: {"source": a} for a in arms}, "architecture": None, "settings": {"max_steps": 10}, "notes": [],
    }  # fmt: skip
    contenders = tuple(Arm(a, "none" if a == "scratch" else a) for a in arms)
    return Plan(tuple(cells), contenders, layout, facts, PATIENTS, out)


def run(cell: Cell) -> None:
    """A model whose quality grows with the budget and with the arm's skill; the same test patients for every arm."""
    if cell.options.get("fail") == [cell.encoder, cell.budget, cell.repeat]:
        raise TrainingError("the loss is not finite")
    skill = SKILL[cell.encoder] + (1.0 if cell.budget == "all" else 0.0)
    arm = list(SKILL).index(cell.encoder)
    rng = np.random.default_rng([arm, cell.repeat, cell.budget == "all"])
    patient = np.random.default_rng(0).normal(size=len(PATIENTS))
    {"segmentation": _masks, "classification": _beats, "regression": _ages}[cell.options["task"]](
        cell, skill, rng, patient
    )
    (cell.folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    (cell.folder / "metrics.csv").write_text("step,loss,seconds\n10,1.5,1\n20,1.2,2\n")


def _masks(cell: Cell, skill: float, rng: np.random.Generator, patient: np.ndarray) -> None:
    rows = []
    for i, name in enumerate(PATIENTS):
        for label in ("1", "2", ""):
            dice = float(np.clip(0.7 + 0.05 * skill + 0.04 * patient[i] + 0.02 * rng.normal(), 0, 1))
            for metric, value in (("dice", dice), ("hd95_mm", 10 * (1 - dice)), ("nsd", dice)):
                rows.append({"group": "test", "patient": name, "recording": name, "metric": metric, "label": label,
                             "class": MASKS.names[label] if label and MASKS.names else "", "value": value})  # fmt: skip
    pd.DataFrame(rows).to_parquet(cell.folder / "per_case.parquet")
    grid = np.add.outer(np.arange(32) - 16, (np.arange(40) - 20) * 1j)
    image = (200 * np.exp(-(np.abs(grid) ** 2) / 300)).astype(np.uint8)
    prediction = (np.abs(grid) < 7 + skill).astype(np.uint8)
    np.savez(
        cell.folder / "examples.npz", image_0=image, reference_0=(np.abs(grid) < 9).astype(np.uint8),
        prediction_0=prediction, recording_0=np.array("r0"),
    )  # fmt: skip


def _beats(cell: Cell, skill: float, rng: np.random.Generator, patient: np.ndarray) -> None:
    items = np.random.default_rng(1)
    owner = np.repeat(np.arange(len(PATIENTS)), items.integers(20, 40, len(PATIENTS)))
    y = items.choice(3, len(owner), p=[0.7, 0.1, 0.2])
    logits = rng.normal(size=(len(y), 3)) + (1.2 + 0.5 * skill + 0.2 * patient[owner, None]) * np.eye(3)[y]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = np.array(BEATS.classes)
    frame = {"group": "test", "patient": np.array(PATIENTS)[owner], "recording": np.array(PATIENTS)[owner],
             "onset_s": np.arange(len(y)) * 0.8, "y_true": names[y], "y_pred": names[p.argmax(1)]}  # fmt: skip
    pd.DataFrame(frame | {f"p/{c}": p[:, k] for k, c in enumerate(BEATS.classes)}).to_parquet(
        cell.folder / "predictions.parquet"
    )


def _ages(cell: Cell, skill: float, rng: np.random.Generator, patient: np.ndarray) -> None:
    age = 50 + 10 * patient
    guess = age + rng.normal(0, 6 * 0.4**skill, len(age))
    frame = {
        "group": "test",
        "patient": PATIENTS,
        "recording": PATIENTS,
        "onset_s": None,
        "y_true": age,
        "y_pred": guess,
    }
    pd.DataFrame(frame).to_parquet(cell.folder / "predictions.parquet")
