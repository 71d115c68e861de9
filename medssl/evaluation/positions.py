"""Does a run know where things are in patients it has never seen? Needs its projection head, so its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CheckpointError, ConfigError, SplitError
from medssl.evaluation.intervals import Interval, patient_interval

if TYPE_CHECKING:
    import torch

    from medssl.cohort import Cohort
    from medssl.methods.position_contrast import PositionContrast

__all__ = ["PositionAccuracy", "position_accuracy"]


@dataclass(frozen=True)
class PositionAccuracy:
    """How often the most similar base crop is (one of) the most overlapped, in held-out patients.

    Attributes:
        interval: mean over patients of their share of right crops, with its 95 % interval over patients.
        chance: of a network that sees nothing, if crops fell evenly over the window.
        best_guess: share that is right if always the same base is named, the one that serves these crops best; above
            ``chance`` where much of the window is empty.
        per_patient: patient → share of right crops.
        n_recordings, n_crops: that were counted; empty crops are not.
    """

    interval: Interval
    chance: float
    best_guess: float
    per_patient: Mapping[str, float]
    n_recordings: int
    n_crops: int

    def __str__(self) -> str:
        i, n = self.interval, self.interval.n
        bounds = f", 95 % interval {i.low:.3f} to {i.high:.3f} ({i.method})" if i.method != "none" else ""
        return (
            f"position accuracy {i.mean:.3f}{bounds}, {n} held-out patients, {self.n_crops} crops; chance "
            f"{self.chance:.3f}, best single guess {self.best_guess:.3f}"
        )


def position_accuracy(
    run: Path, cohort: Path, *, split: str = "default", draws: int = 4, seed: int = 0, device: str = "auto"
) -> PositionAccuracy:
    """Position accuracy of a VoCo run on the test patients of a split.

    Every recording is drawn several times; batches hold as many recordings as in training, over which the projection
    head centres, and nothing is augmented.

    Args:
        run: folder of the run, with its last checkpoint.
        cohort: a prepared cohort with that split.
        split: whose test patients are looked at.
        draws: windows and sets of random crops of each recording.
        seed: of the draws.
        device: ``auto`` takes a GPU if there is one.

    Raises:
        MedSSLError: no such run or split, a method without positions, or a run that has seen these patients.
    """
    import torch

    from medssl.cohort import Cohort
    from medssl.objectives.voco import EPS, position_chance
    from medssl.splits import Split
    from medssl.training.finetune import check_leak

    method, size = _trained(run)
    opened, held_out = Cohort(cohort), Split.load(cohort, split)
    check_leak(run, opened, held_out)
    method.check(opened.info)
    rows = np.flatnonzero(opened.manifest["patient"].isin(held_out.test).to_numpy())
    if not len(rows):
        raise SplitError(f"no recording of '{cohort}' is of a test patient of split '{split}'")
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    method.to(chosen).eval()
    right: list[NDArray[Any]] = []
    serves: list[NDArray[Any]] = []
    owners: list[NDArray[Any]] = []
    for batch, items in _batches(method, opened, rows, size, draws, seed, chosen):
        found = method.positions(batch)
        fits = (found.labels >= found.labels.amax(-1, keepdim=True) - EPS)[: len(items)].cpu().numpy()
        named = found.similarity.argmax(-1)[: len(items)].cpu().numpy()
        counted = found.counted[: len(items)].cpu().numpy()
        right.append(np.take_along_axis(fits, named[..., None], -1)[..., 0][counted])
        serves.append(fits[counted])
        owners.append(np.repeat(items, counted.sum(1)))
    return _summary(
        opened, np.concatenate(right), np.concatenate(serves), np.concatenate(owners), position_chance(method.grid)
    )


def _summary(
    cohort: Cohort, right: NDArray[Any], serves: NDArray[Any], rows: NDArray[Any], chance: float
) -> PositionAccuracy:
    if not len(right):
        raise ConfigError("every crop of the held-out patients is empty, so nothing can be said of their positions")
    patients = cohort.manifest["patient"].to_numpy(dtype=object)[rows]
    per_patient = {str(p): float(right[patients == p].mean()) for p in sorted(set(patients))}
    return PositionAccuracy(
        interval=patient_interval(np.array(list(per_patient.values()))), chance=chance,
        best_guess=float(serves.mean(0).max()), per_patient=per_patient, n_recordings=len(np.unique(rows)),
        n_crops=len(right),
    )  # fmt: skip


def _trained(run: Path) -> tuple[PositionContrast, int]:
    """The method of a run with its last weights, and recordings of a batch."""
    import torch

    from medssl.configurable import Configurable, build, discover
    from medssl.methods.base import Method
    from medssl.methods.position_contrast import PositionContrast
    from medssl.training.run import read_config

    config = read_config(run)
    for package in ("medssl.encoders", "medssl.views", "medssl.objectives", "medssl.methods"):
        discover(package, Configurable)
    method = build(config.get("method") or {}, Method)  # type: ignore[type-abstract]
    if not isinstance(method, PositionContrast) or method.variant is None:
        raise ConfigError(f"'{run}' is a run of {type(method).__name__}, which tells no positions; give one of VoCo")
    file = run / "checkpoints" / "last.ckpt"
    if not file.is_file():
        raise CheckpointError(f"'{run}' has no checkpoint, in which the projection head would be; let it finish first")
    method.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])
    return method, max(2, int(config["trainer"]["batch_size"]))


def _batches(
    method: PositionContrast,
    cohort: Cohort,
    rows: NDArray[np.int64],
    size: int,
    draws: int,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[dict[str, Any], Sequence[int]]]:
    """Batches of ``size`` recordings in random order, and the rows that they are asked about.

    The last batch of a draw is filled with recordings that were asked about already.
    """
    from medssl.methods.position_contrast import PositionContrast
    from medssl.training.data import collate, move

    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(rows)
        for first in range(0, len(order), size):
            asked = order[first : first + size].tolist()
            filled = [*asked, *np.resize(order, size - len(asked)).tolist()]
            samples = [
                # not the method's own draw, which may read more than positions need
                PositionContrast.draw(method, cohort.reader(row), np.random.default_rng([seed, draw, place, row]))
                for place, row in enumerate(filled)
            ]
            batch = collate([(seed, draw), *samples])
            if not isinstance(batch, dict):
                raise ConfigError(batch.message)
            yield move(batch, device), asked
