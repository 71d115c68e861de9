"""Recipe of synthetic clips with two traced frames: a bright square that jumps from frame to frame.

A mask that is one frame off misses its square, so nothing but the right alignment scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import TRACE, VideoPreparation

FRAMES, HEIGHT, WIDTH, RATE_HZ = 24, 20, 24, 25.0


def square(number: int, frame: int) -> np.ndarray:
    """Where the square of clip ``number`` is: of 6 x 6 pixels in even frames, of 4 x 4 in odd ones."""
    edge = 6 if frame % 2 == 0 else 4
    y, x = (7 * frame + number) % (HEIGHT - edge), (11 * frame + 3 * number) % (WIDTH - edge)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + edge, x : x + edge] = True
    return mask


def traced(number: int) -> dict[int, str]:
    """The traced frames and their phase."""
    return {2 * (number % 8) + 3: "ES", 2 * (number % 8) + 6: "ED"}


def clip(number: int) -> np.ndarray:
    """(T, Y, X); the background says which frame it is, 20 + 4 t, and the last column whether the number is odd."""
    frames = np.stack([np.where(square(number, t), 220, 20 + 4 * t) for t in range(FRAMES)])
    frames[:, :, -1] = 170 if number % 2 else 0
    return frames.astype(np.uint8)


class ToyTraced(Recipe):
    """Clips of patients P0-0, P1-1, ...

    Args:
        events: which frames were traced is said.
        spacing_mm: of a pixel; 0: unknown.
    """

    kind = "video"
    modality = "us"
    mask_labels = {"spot": {7: "square"}}  # noqa: RUF012

    def __init__(self, *, events: bool = True, spacing_mm: float = 0.0) -> None:
        self.events, self.spacing_mm = events, spacing_mm

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.txt")):
            odd = int(file.stem.split("-")[1]) % 2
            labels = {"column": "bright" if odd else "dark", "level": 20.0 + 30 * odd}
            yield Item(file, Ids(patient=file.stem.split("-")[0], recording=file.stem), labels=labels)

    def preparation(self) -> Preparation:
        return VideoPreparation(size=None, sector="keep", crop=False, text="keep", min_sector=0.0)

    def read(self, item: Item) -> Read:
        number = int(item.source.rsplit("-", 1)[1].split(".")[0])
        mask = np.zeros((FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
        for frame in traced(number):
            mask[frame] = 7 * square(number, frame)
        events = [Event(frame / RATE_HZ, 0.0, TRACE, phase) for frame, phase in traced(number).items()]
        recording = Recording(
            data=clip(number), axes="tyx", rate_hz=RATE_HZ, ids=item.ids, source=item.source,
            labels={**item.labels, "spot": mask}, events=tuple(events) if self.events else (),
            source_sha256=f"{number:064d}", spacing_mm=(self.spacing_mm,) * 2 if self.spacing_mm else None,
        )  # fmt: skip
        return Read([recording], [])
