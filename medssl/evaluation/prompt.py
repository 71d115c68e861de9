"""Zero-shot segmentation by a prompt: one place of an object is pointed at, and what resembles it is taken for it.

Protocol: masked momentum contrastive learning (Wu et al., 2023, arXiv 2308.11448), section "zero-shot". Nothing is
trained. The prompt is the voxel of the object nearest to its centroid; the cosine of every cell of the encoder's last
map with the cell of the prompt, enlarged to the image, is cut at one threshold, which is the best on development
patients and the same for all objects. Of video the cells are those of the annotated frame's moment.

    …/cells/ARM/0/0/per_case.parquet   one row a (recording, metric, class), as fine-tuning leaves them
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import SplitError, TrainingError
from medssl.evaluation.frozen import Frozen, frozen_encoder, target_of
from medssl.evaluation.map_similarity import (
    THRESHOLDS,
    PromptScores,
    cell_of,
    central_prompt,
    enlarged_maps,
    prompt_maps,
    prompt_scores,
    summarise,
)
from medssl.evaluation.results import POOLED
from medssl.evaluation.sampling import spread

if TYPE_CHECKING:
    from medssl.evaluation.cells import Cell
    from medssl.training.targets import Target
    from medssl.training.windows import Recordings

__all__ = ["TRIED", "Prompt", "Prompted", "prompt_cell", "prompts_of", "similarity_of"]

TRIED = (*THRESHOLDS, 0.96, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
"""The published thresholds and finer ones: features of a network that was not trained crowd near a cosine of 1, and
a grid that ends at 0.95 would make such a baseline worse than it is."""

MOST_TUNED = 32  # recordings of development patients on which the threshold is chosen

Row = dict[str, Any]


class Prompt(NamedTuple):
    """An object that is pointed at, in the crop that the encoder sees.

    Attributes:
        x: (C, *size) network input.
        place: of the prompted voxel in the crop, a number an axis.
        truth: the object, in the part of the crop that lies in the image: (*inside), of video (y, x) of its frame.
        inside: that part, slices of the same axes.
    """

    x: NDArray[np.float32]
    place: tuple[int, ...]
    truth: NDArray[np.bool_]
    inside: tuple[slice, ...]


class Prompted(NamedTuple):
    """How well prompts of many objects did.

    Attributes:
        items: (P,) item of the target that each object is of.
        classes: (P,) class index.
        scores: at all of ``TRIED``.
    """

    items: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: PromptScores


def prompt_cell(cell: Cell) -> None:
    """Prompt every object of the test patients and leave ``per_case.parquet`` and ``summary.json``.

    Raises:
        SplitError: no development patient has an object, so no threshold can be chosen.
    """
    import pandas as pd

    from medssl.splits import Split
    from medssl.training.run import write_json

    target = target_of(cell)
    encoder = frozen_encoder(cell, target)
    split = Split.load(target.cohort.path, cell.options["split"])
    known = target.items_of(split.development)
    tuned = _prompted(encoder, target, known[spread(target.patients[known], MOST_TUNED)])
    if not len(tuned.items):
        raise SplitError(f"no development patient of split '{split.name}' shows a class of '{target.name}' to prompt")
    chosen = int(tuned.scores.dice.mean(0).argmax())
    tested = _prompted(encoder, target, target.items_of(split.test))
    if not len(tested.items):
        raise SplitError(f"no test patient of split '{split.name}' shows a class of '{target.name}' to prompt")
    pd.DataFrame(_rows(tested, target, chosen)).to_parquet(cell.folder / "per_case.parquet", index=False)
    write_json(cell.folder / "summary.json", {
        "status": "finished", "threshold": TRIED[chosen], "n_prompts": len(tested.items),
        "n_prompts_tuned": len(tuned.items), "n_patients_tuned": len(set(target.patients[tuned.items])),
        "size": list(encoder.size), "dice": summarise(tested.scores.dice, chosen),
        "jaccard": summarise(tested.scores.jaccard, chosen),
    })  # fmt: skip


def _prompted(encoder: Frozen, target: Target, items: NDArray[np.int64]) -> Prompted:
    """Scores of all objects of some recordings, a few crops at a time."""
    from medssl.training.windows import Recordings

    recordings = Recordings(
        target.cohort, channels=encoder.channels, rows=target.rows[items], masks=(target.name,), cache_gb=0.5
    )
    of, classes, dice, jaccard = [], [], [], []
    for batch in _batches(_objects(encoder, target, items, recordings), encoder.settings.test_batch):
        prompts = [prompt for _, _, prompt in batch]
        for (item, k, prompt), similarity in zip(batch, similarity_of(encoder, prompts), strict=True):
            truth = torch.from_numpy(prompt.truth).to(similarity.device)
            found = prompt_scores(similarity[prompt.inside][None], truth[None], TRIED)
            of.append(item)
            classes.append(k)
            dice.append(found.dice[0].cpu())
            jaccard.append(found.jaccard[0].cpu())
    none = torch.zeros(0, len(TRIED), dtype=torch.float64)
    scores = PromptScores(torch.stack(jaccard) if jaccard else none, torch.stack(dice) if dice else none)
    return Prompted(np.array(of, dtype=np.int64), np.array(classes, dtype=np.int64), scores)


def similarity_of(encoder: Frozen, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Cosine with the prompted cell at the size of each crop: (*size), of video (y, x) of the prompted frame.

    Raises:
        TrainingError: features that are not finite.
    """
    network = encoder.encoder.to(encoder.device).eval()
    with torch.inference_mode():
        maps = network(torch.from_numpy(np.stack([p.x for p in prompts])).to(encoder.device)).maps[-1].float()
    if not bool(torch.isfinite(maps).all()):
        raise TrainingError("the features of a crop are not finite; the encoder cannot be used")
    found = []
    for features, prompt in zip(maps, prompts, strict=True):
        size = tuple(prompt.x.shape[1:])
        place = cell_of(torch.tensor(prompt.place, device=features.device), size, features.shape[1:])
        if len(prompt.inside) < len(size):  # of video: the cells of one moment
            features, place, size = features[:, place[0]], place[1:], size[1:]
        found.append(enlarged_maps(prompt_maps(features, place[None]), size)[0])
    return found


def _objects(
    encoder: Frozen, target: Target, items: NDArray[np.int64], recordings: Recordings
) -> Iterator[tuple[int, int, Prompt]]:
    for item in items:
        for k, prompt in prompts_of(target, int(item), recordings, encoder.size, encoder.settings.clip_period):
            yield int(item), k, prompt


def prompts_of(
    target: Target, item: int, recordings: Recordings, size: Sequence[int], period: int = 1
) -> Iterator[tuple[int, Prompt]]:
    """Every class of a volume, or of every annotated frame of a video, with the crop around its prompt.

    Args:
        target: masks.
        item: of it.
        recordings: how images and masks are read.
        size: of the crop.
        period: frames of a video from one frame of a clip to the next.

    Yields:
        Class index and prompt.
    """
    row = int(target.rows[item])
    spacing = target.cohort.reader(row).spacing_mm
    key = f"mask:{target.name}"
    if target.traces is None:
        mask = recordings.whole(row, key)[0]
        for k, place in _central(mask, target.values, spacing):
            start, inside = _around(place, mask.shape, size)
            x = recordings.network_input(row, recordings.read(row, start, size))
            yield k, Prompt(x, _within(place, start), _part(mask, start, inside) == target.values[k], inside)
        return
    count, *shape = recordings.shape(row)
    for trace in target.traces[item]:
        mask = recordings.read(row, (trace.frame, 0, 0), (1, *shape), key)[0, 0]
        for k, place in _central(mask, target.values, spacing):
            start, inside = _around(place, shape, size[1:])
            x, moment = _clip(recordings, row, trace.frame, count, start, size, period)
            truth = _part(mask, start, inside) == target.values[k]
            yield k, Prompt(x, (moment, *_within(place, start)), truth, inside)


def _clip(
    recordings: Recordings, row: int, frame: int, count: int, start: Sequence[int], size: Sequence[int], period: int
) -> tuple[NDArray[np.float32], int]:
    """Network input of the clip with an annotated frame in its middle, and the place of that frame in it."""
    from medssl.training.clips import frames_of_clips, read_frames

    middle = size[0] // 2
    shown = frames_of_clips([frame - middle * period], size[0], period, count)[0]
    return recordings.network_input(row, read_frames(recordings, row, shown, start, size[1:])), middle


def _central(
    mask: NDArray[Any], values: Sequence[int], spacing: Sequence[float] | None
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Class index and prompted voxel of every class that is there."""
    for k, value in enumerate(values):
        own = torch.from_numpy(mask == value)
        if k and bool(own.any()):
            yield k, tuple(int(p) for p in central_prompt(own, spacing=spacing))


def _around(
    place: Sequence[int], shape: Sequence[int], size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Start of a crop around a voxel, and the part of the crop that lies in the image."""
    from medssl.training.windows import start_around

    start = start_around(place, shape, size)
    return start, tuple(slice(max(0, -s), min(e, n - s)) for s, e, n in zip(start, size, shape, strict=True))


def _within(place: Sequence[int], start: Sequence[int]) -> tuple[int, ...]:
    return tuple(p - s for p, s in zip(place, start, strict=True))


def _part(mask: NDArray[Any], start: Sequence[int], inside: Sequence[slice]) -> NDArray[Any]:
    return mask[tuple(slice(s + i.start, s + i.stop) for s, i in zip(start, inside, strict=True))]


def _batches(objects: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for one in objects:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(found: Prompted, target: Target, chosen: int) -> list[Row]:
    """Means over the objects of a recording and class, then over its classes; the best threshold over all objects."""
    manifest = target.cohort.manifest
    rows: list[Row] = []
    measured = {"dice": found.scores.dice.numpy(), "jaccard": found.scores.jaccard.numpy()}
    for item in dict.fromkeys(found.items.tolist()):
        row = int(target.rows[item])
        site = str(manifest["site"].iloc[row] or "") if "site" in manifest else ""
        about = {"patient": str(target.patients[item]), "recording": str(manifest["recording"].iloc[row]), "site": site}
        for name, values in measured.items():
            for metric, own in ((name, values[:, chosen]), (f"{name}_oracle", values.max(1))):
                each = {
                    int(k): float(own[(found.items == item) & (found.classes == k)].mean())
                    for k in np.unique(found.classes[found.items == item])
                }
                rows += [_row(about, metric, str(k), target.classes[k], v) for k, v in each.items()]
                rows.append(_row(about, metric, "", "", float(np.mean(list(each.values())))))
    everyone = {"patient": POOLED, "recording": "", "site": ""}
    for name, values in measured.items():
        rows.append(_row(everyone, f"{name}_best", "", "", float(values.mean(0).max())))
    return rows


def _row(about: Row, metric: str, label: str, name: str, value: float) -> Row:
    return {
        "group": "test", **about, "metric": metric, "class": name, "label": label, "value": value,
        "empty_reference": False, "empty_prediction": False,
    }  # fmt: skip
