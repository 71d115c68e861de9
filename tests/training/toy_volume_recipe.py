"""Recipe of synthetic volumes: a body with a bright ball and a dark cube, one ``PATIENT-NUMBER.txt`` each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation


class ToyVolumes(Recipe):
    kind = "volume"
    modality = "mri"
    mask_labels = {"organs": {1: "ball", 3: "cube"}}  # noqa: RUF012 - values with a gap, as real masks have them

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.txt")):
            number = int(file.stem.split("-")[1])
            labels = {"group": "large" if number % 2 else "small", "radius": float(3 + number % 2)}
            yield Item(file, Ids(patient=file.stem.split("-")[0], recording=file.stem), labels=labels)

    def preparation(self) -> Preparation:
        return VolumePreparation(intensity="mr")

    def read(self, item: Item) -> Read:
        number = int(item.source.rsplit("-", 1)[1].split(".")[0])
        rng = np.random.default_rng(number)
        shape = (18, 20, 22)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
        centre = np.array([9, 7, 8]) + rng.integers(-1, 2, 3)
        ball = ((grid - centre[:, None, None, None]) ** 2).sum(0) < item.labels["radius"] ** 2
        cube = np.zeros(shape, dtype=bool)
        z, y, x = np.array([6, 12, 13]) + rng.integers(-1, 2, 3)
        cube[z : z + 5, y : y + 5, x : x + 5] = True
        image = 100 + 10 * rng.standard_normal(shape) + 120 * ball - 70 * cube
        mask = ball.astype(np.uint8) + 3 * (cube & ~ball).astype(np.uint8)
        affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
        recording = Recording(
            data=image.astype(np.float32), axes="zyx", affine=affine, spacing_mm=(1.0, 1.0, 1.0), ids=item.ids,
            labels={**item.labels, "organs": mask}, source=item.source, source_sha256=f"{number:064d}",
        )  # fmt: skip
        return Read([recording], [])
