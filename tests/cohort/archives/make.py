"""Writes the archive of the present format version (``python tests/cohort/archives/make.py``); replaces none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from medssl.cohort.info import FORMAT_VERSION
from medssl.cohort.writer import prepare

HERE = Path(__file__).parent
SHAPES = {"volume": (1, 12, 20, 16), "signal": (2, 500)}


def values(stored: str, index: int) -> np.ndarray:
    """The integers of the ``index``-th recording."""
    shape = SHAPES[stored]
    return ((np.arange(np.prod(shape)) * (7 + index)) % 1009 - 300).reshape(shape).astype(np.int16)


def main() -> None:
    """Prepare two volumes and three short signals."""
    target = HERE / f"v{FORMAT_VERSION}"
    if target.exists():
        raise SystemExit(f"{target} is a released archive; it must not be replaced")
    for stored, names in {"volume": ("a_one", "b_one"), "signal": ("a_one", "a_two", "b_one")}.items():
        with tempfile.TemporaryDirectory() as folder:
            for index, name in enumerate(names):
                np.save(Path(folder) / f"{name}.npy", values(stored, index))
            recipe = HERE.parent / "toy_recipe.py"
            prepare(recipe, folder, target / stored, options={"stored": stored}, workers=0, keep_ids=True)
        shutil.rmtree(target / stored / ".prepare")


if __name__ == "__main__":
    main()
