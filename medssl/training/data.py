"""Which recording is read when, and how batches reach the device: stateless, so that a run can continue anywhere.

The sample at global position ``p`` of a run depends on nothing but ``(seed, p)``: its epoch is ``p // N``, its
recording is entry ``p % N`` of that epoch's order, and its generator is seeded with ``[seed, p]``. Hence the number of
workers, a kill and a resume leave no trace in the data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from medssl.errors import TrainingError

if TYPE_CHECKING:
    from medssl.cohort import Cohort
    from medssl.methods.base import Method

__all__ = ["Batches", "Draws", "Loader", "MethodSource", "Source", "batch_seed", "collate", "move", "weightless"]

_NOT_FOR_WORKERS = {"init_args", "_compiled_call_impl"}
_ORDER, _BATCH = 1, 2  # keep the random streams of epochs, samples and batches apart


class Source(Protocol):
    """What can be drawn from: a method over cohorts, or the labelled items of a target."""

    def order(self, rng: np.random.Generator) -> NDArray[Any]:
        """Indices of the items of one epoch, in order. Every epoch has the same length."""

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """The sample of one item."""

    def name(self, item: int) -> str:
        """How people call the item (a recording's id), for error messages."""


@dataclass(frozen=True)
class Failure:
    """What a worker hands over instead of a batch; raised in the training process, in one clean sentence."""

    message: str


class Draws(Dataset[Any]):
    """Map-style dataset over global positions; picklable, holds no weights and no open files.

    Args:
        source: what is drawn from.
        seed: of the run.
    """

    def __init__(self, source: Source, *, seed: int) -> None:
        self.source = source
        self.seed = seed
        self._epoch = -1
        self._order: NDArray[Any] = np.empty(0, dtype=np.int64)
        self._length = len(self._order_of(0))
        if self._length == 0:
            raise TrainingError("there is nothing to train on; the cohort or the training part of its split is empty")

    def _order_of(self, epoch: int) -> NDArray[Any]:
        if epoch != self._epoch:
            self._order = self.source.order(np.random.default_rng([self.seed, epoch, _ORDER]))
            self._epoch = epoch
        return self._order

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch."""
        return self._length

    def __getitem__(self, position: int) -> Any:
        epoch, place = divmod(position, self._length)
        item = int(self._order_of(epoch)[place])
        try:
            return self.source.draw(item, np.random.default_rng([self.seed, position]))
        except Exception as error:  # any fault of any reader: it is named and raised again in the training process
            return Failure(f"recording '{self.source.name(item)}' could not be read: {type(error).__name__}: {error}")

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """A whole batch; the first position goes along for the batch's seed."""
        return [(self.seed, positions[0]), *(self[p] for p in positions)]


class Batches:
    """Positions of the batches ``first … first + count - 1`` of one rank; together the ranks see every position once.

    >>> list(Batches(first=1, count=2, size=2, rank=1, world=2))
    [[5, 7], [9, 11]]
    """

    def __init__(self, *, first: int, count: int, size: int, rank: int = 0, world: int = 1) -> None:
        self.first, self.count, self.size, self.rank, self.world = first, count, size, rank, world

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first, self.first + self.count):
            start = batch * self.size * self.world + self.rank
            yield list(range(start, start + self.size * self.world, self.world))


def batch_seed(seed: int, position: int) -> int:
    """Seed of the device-side generator for the batch whose first sample stands at ``position``; 63 bits."""
    return int(np.random.SeedSequence([seed, position, _BATCH]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def collate(samples: Sequence[Any]) -> dict[str, Any] | Failure:
    """Stack samples: arrays and numbers to tensors with a leading B, strings to lists; adds ``seed``."""
    (seed, position), *rows = samples
    for row in rows:
        if isinstance(row, Failure):
            return row
    try:
        batch = {key: _stack([row[key] for row in rows]) for key in rows[0]}
    except (KeyError, RuntimeError, ValueError) as error:
        shapes = {key: [np.shape(r.get(key, ())) for r in rows] for key in rows[0]}
        return Failure(f"the samples of a batch do not fit together ({error}); shapes: {shapes}")
    return {**batch, "seed": batch_seed(seed, position)}


def _stack(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, str):
        return values
    if isinstance(first, np.ndarray) and first.ndim:
        # default_collate writes into shared memory when it runs in a worker: one copy, not two
        return default_collate([torch.from_numpy(np.ascontiguousarray(v)) for v in values])
    if isinstance(first, torch.Tensor):
        return default_collate(values)
    array = np.asarray(values)
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64))


class Loader:
    """Batches from the position where the run stands; measures how long training waits for them.

    Args:
        draws: the dataset.
        size: samples a batch on this device.
        first, count: number of the first batch of this rank, and how many follow.
        workers: reading processes; 0 reads here.
        rank, world: place of this process among those that train together.
        pin: copy batches to page-locked memory (for a GPU).
    """

    def __init__(
        self,
        draws: Draws,
        *,
        size: int,
        first: int,
        count: int,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        self.count = count
        self.waited_s = 0.0
        # forkserver: forking a process that has threads (torch, tensorstore) may hang it
        context = _process_context() if workers else None
        self._loader: DataLoader[Any] = DataLoader(
            draws,
            batch_sampler=Batches(first=first, count=count, size=size, rank=rank, world=world),
            collate_fn=collate,
            num_workers=workers,
            multiprocessing_context=context,
            persistent_workers=workers > 0,
            pin_memory=pin,
            generator=torch.Generator().manual_seed(0),  # else the loader consumes the global random state
        )

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start = time.perf_counter()
        for batch in self._loader:
            self.waited_s += time.perf_counter() - start
            if isinstance(batch, Failure):
                raise TrainingError(batch.message)
            yield batch
            start = time.perf_counter()


def move(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on ``device``."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def weightless(module: torch.nn.Module) -> Any:
    """A copy of a module that keeps its plain attributes (and those of its parts) but no parameters and buffers.

    Workers need a method's ``draw`` and its settings; sending weights to them would cost memory and, on a GPU, open
    the device in every worker.
    """
    fresh = torch.nn.Module().__dict__  # hooks and the like start empty
    own = {k: v for k, v in module.__dict__.items() if k not in fresh and k not in _NOT_FOR_WORKERS}
    clone = object.__new__(type(module))
    clone.__dict__.update(fresh | {k: v for k, v in own.items() if not isinstance(v, torch.Generator)})
    clone.__dict__["_modules"] = {k: None if m is None else weightless(m) for k, m in module._modules.items()}
    return clone


def _process_context() -> Any:
    """How workers are started; the server that forks them has done the slow imports once for all."""
    if "forkserver" not in torch.multiprocessing.get_all_start_methods():
        return torch.multiprocessing.get_context("spawn")
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning", "pandas", "medssl.training.data"])
    return context


class MethodSource:
    """What a method draws from its cohorts.

    Args:
        method: its ``order`` and ``draw`` are used; its weights stay here.
        cohorts: one or several.
        rows: for each cohort the manifest rows that may be used.
    """

    def __init__(self, method: Method, cohorts: Sequence[Cohort], rows: Sequence[NDArray[Any]]) -> None:
        import pandas as pd

        self.refresh(method)
        self.cohorts: Sequence[Cohort] = list(cohorts)
        self.places: Sequence[tuple[int, int]] = [(c, int(row)) for c, chosen in enumerate(rows) for row in chosen]
        chosen = [cohort.manifest.iloc[list(r)] for cohort, r in zip(cohorts, rows, strict=True)]
        self.manifest: pd.DataFrame = pd.concat(chosen, ignore_index=True) if len(chosen) > 1 else chosen[0]
        self.manifest = self.manifest.reset_index(drop=True)

    def refresh(self, method: Method) -> None:
        """Take the method's settings anew, after something was prepared in them."""
        self.method = weightless(method)

    def order(self, rng: np.random.Generator) -> NDArray[Any]:
        """The method's own order of one epoch."""
        return np.asarray(self.method.order(self.manifest, rng))

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """The method's sample of one recording; ``row`` counts through all cohorts."""
        cohort, row = self.places[item]
        return {**self.method.draw(self.cohorts[cohort].reader(row), rng), "row": np.int64(item)}

    def name(self, item: int) -> str:
        """The recording's id."""
        return str(self.manifest["recording"].iloc[item])
