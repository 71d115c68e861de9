"""Cohorts with leaks that were planted on purpose, made by the real ``prepare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medssl.audit.sides import Placement, Sides, place
from medssl.cohort.writer import prepare
from medssl.splits import Split

RECIPE = Path(__file__).with_name("audit_recipe.py")


def prepared(source: Path, cohort: Path, kind: str) -> Path:
    """A cohort with ids as they are; patients whose name begins with "t" are the test patients of its split."""
    prepare(RECIPE, source, cohort, options={"stored": kind}, workers=0, keep_ids=True)
    names = sorted({f.stem.partition("_")[0] for f in source.glob("*.npy")})
    split_of(names).save(cohort)
    return cohort


def split_of(names: list[str], **options: Any) -> Split:
    """The split that keeps patients "t…" back."""
    test, rest = ([n for n in names if n.startswith("t") == held] for held in (True, False))
    return Split(name=options.pop("name", "default"), test=tuple(test), development=tuple(rest), **options)


def placed(patients: list[str]) -> Placement:
    """Where recordings of these patients stand in that split."""
    split = split_of(sorted(set(patients)))
    return place(Sides("default", "", {"test": split.test, "development": split.development}), patients)


def anatomy(number: int) -> np.ndarray:
    """A volume (20, 24, 22) of its own kind: a body of smooth structures, another for every number."""
    from scipy.ndimage import gaussian_filter

    return 300 + 100 * gaussian_filter(np.random.default_rng(number).normal(size=(20, 24, 22)), 1.5) / 0.1


def noise(number: int, samples: int = 3000) -> np.ndarray:
    """Two channels of low-pass noise, another for every number; as unlike as the EEG of two people."""
    x = np.random.default_rng([number, 7]).normal(size=(2, samples + 8))
    return np.stack([np.convolve(row, np.hanning(9)[1:-1], "valid")[:samples] for row in x])


def write_volumes(folder: Path) -> Path:
    """Six people; ``tb`` is ``a`` mirrored and rescaled, ``tc`` is ``c`` in half precision, ``te`` is ``e`` itself."""
    made = {f"{p}_1": anatomy(i) for i, p in enumerate("abcdef")}
    made["tb_1"] = 3.0 * made["a_1"][:, ::-1, ::-1] + 50
    made["tc_1"] = made["c_1"].astype(np.float16)
    made["te_1"] = made["e_1"]
    made["f_2"] = made["f_1"]
    return _write(folder, made, {})


def write_signals(folder: Path) -> Path:
    """Six people; copies: ``ta`` of ``a`` shifted, ``tb`` of ``b`` with its sign changed, ``tc`` of ``c`` backwards."""
    made = {f"{p}_1": noise(i) for i, p in enumerate("abcdef")}
    made["ta_1"] = made["a_1"][:, 60:]  # 0.6 s are gone
    made["tb_1"] = (-0.5 * made["b_1"]).astype(np.float16)
    made["tc_1"] = made["c_1"][:, ::-1]
    made["td_1"] = noise(99)
    return _write(folder, made, {})


def write_clean(folder: Path) -> Path:
    """Twenty-four people, half of them "sick", as many at either site."""
    made, facts = {}, {}
    for i in range(24):
        name = f"{'t' if i >= 18 else 'p'}{i:02d}_1"
        made[name] = noise(i, 1000)
        labels = {"sick": "yes" if i // 2 % 2 else "no", "age": float(20 + 7 * i % 50)}
        facts[name] = {"labels": labels, "site": "AB"[i % 2]}
    return _write(folder, made, facts)


def _write(folder: Path, made: dict[str, np.ndarray], facts: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, data in made.items():
        np.save(folder / f"{name}.npy", data)
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder
