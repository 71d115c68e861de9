"""Studies without training that have every part a page can show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import toy_searches
import toy_studies
from toy_studies import BEATS, MASKS, PATIENTS, make_plan

from medssl.evaluation.cells import Cell
from medssl.evaluation.search import search
from medssl.evaluation.study import run_study
from medssl.training.example_stacks import example_stack

__all__ = [
    "MEASURES",
    "add_card",
    "add_map",
    "add_pictures",
    "add_strip",
    "beat_study",
    "mask_study",
    "run_with_stack",
    "torso_search",
]

MEASURES = {
    arm: {"rankme": rank, "rankme_sd": 0.25, "rankme_centred": rank / 2, "dimension": 64, "n_recordings": 36,
          "n_patients": 36}
    for arm, rank in (("scratch", 4.0), ("voco", 21.5))
}  # fmt: skip


def mask_study(out: Path, arms: tuple[str, ...] = ("scratch", "voco")) -> Path:
    """A study of segmentation with stacks of slices, maps and a cohort's card."""
    run_study(make_plan(out, MASKS, arms=arms), run_with_stack, progress=False, representation=MEASURES)
    add_map(out)
    add_card(out)
    return out


def torso_search(out: Path) -> Path:
    """Every torso as a query, by its pixels and by a network that was never trained."""
    cohort = toy_searches.volumes(out)
    encoder = toy_searches.run_for(cohort, out / "mine")
    search(str(encoder), cohort, label=["class"], strips=2, out=out / "found")
    return out / "found"


def beat_study(out: Path) -> Path:
    """A study of heart beats with strips, maps and calibration."""
    arms = ("scratch", "voco", "floor")
    run_study(make_plan(out, BEATS, arms=arms), toy_studies.run, progress=False, representation=MEASURES)
    add_strip(out)
    add_map(out)
    return out


def run_with_stack(cell: Cell) -> None:
    """A cell that keeps a ball of two halves, head and tail, as its example: 20 slices of 48 x 48."""
    toy_studies.run(cell)
    z, y, x = np.mgrid[:20, :48, :48]
    distance = np.sqrt((2 * (z - 9)) ** 2 + (y - 24) ** 2 + (x - 20) ** 2)
    skill = toy_studies.SKILL[cell.encoder]
    half = 1 + (x >= 20).astype(np.uint8)
    reference, prediction = half * (distance < 12), half * (distance < 10 + skill)
    kept = example_stack(np.exp(-distance / 20) + z / 40, reference, prediction)
    named = {f"{name}_0": array for name, array in kept.items()}
    np.savez(cell.folder / "examples.npz", recording_0=np.array("r0"), dice_0=np.array(0.87), **named)


def add(study: Path, **arrays: np.ndarray) -> None:
    """More arrays in ``examples.npz``."""
    file = study / "examples.npz"
    known = dict(np.load(file)) if file.is_file() else {}
    np.savez(file, **(known | arrays))


def add_strip(study: Path) -> None:
    """What the study keeps of a signal, without a cohort to read it from."""
    answers = {
        f"prediction_0/{a}/{b}": np.array(["N", "V"]) for a in ("scratch", "voco", "floor") for b in ("2", "all")
    }
    add(
        study, kind_0=np.array("strip"), recording_0=np.array("r<0>"), rate_hz_0=np.array(100.0),
        signal_0=np.sin(np.arange(1000) / 9)[None].astype(np.float16), channels_0=np.array(["II"]),
        start_s_0=np.array(3.0), onset_s_0=np.array([4.0, 6.5]), true_0=np.array(["N", "S"]), **answers,
    )  # fmt: skip


def add_pictures(study: Path) -> None:
    """What the study keeps of recordings with one answer each."""
    arrays: dict[str, np.ndarray] = {}
    for n, true in enumerate(("N", "S")):
        arrays |= {
            f"kind_{n}": np.array("picture"),
            f"recording_{n}": np.array(f"r<{n}>"),
            f"true_{n}": np.array([true]),
        }
        arrays |= {f"picture_{n}": np.full((8, 8, 3), 9 * n, np.uint8), f"aspect_{n}": np.array(1.0)}
        arrays |= {f"what_{n}": np.array("correlations of 8 regions")}
        arrays |= {f"prediction_{n}/{a}/{b}": np.array(["N"]) for a in ("scratch", "voco") for b in ("2", "all")}
    add(study, **arrays)


def add_map(study: Path) -> None:
    """Where 48 recordings of 24 patients from two sites lie."""
    rng = np.random.default_rng(0)
    n = 48
    add(
        study, map_recording=np.array([f"r{i}" for i in range(n)]), map_tested=np.arange(n) < 24,
        map_patient=np.array([PATIENTS[i % 24] for i in range(n)]),
        map_site=np.array(["A<", "B"])[np.arange(n) % 2], map_label=np.array(["N", "S", "V"])[np.arange(n) % 3],
        **{f"map/{a}": rng.normal(size=(n, 2)).astype(np.float32) for a in ("scratch", "voco")},
        **{f"map_kind/{a}": np.array("t-SNE") for a in ("scratch", "voco")},
    )  # fmt: skip


def add_card(study: Path) -> None:
    """How the recordings of a cohort differ."""
    card = {
        "histograms": {
            "Voxel size along z (mm)": {"edges": [1.0, 1.0], "counts": [60]},
            "Extent along z (voxels)": {"edges": [20.0, 25.0, 30.0, 35.0], "counts": [10, 44, 6]},
        },
        "counts": {"site": {"A<": 30, "B": 30}},
        "rejected": {"no header <b>": 3},
    }
    add(study, cohort_card=np.array(json.dumps(card)))
