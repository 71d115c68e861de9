"""Which sample stands where: a function of seed and position, whatever the workers, ranks and interruptions."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from toy_cohorts import ToyEncoder, toy_method

from medssl.errors import TrainingError
from medssl.training.data import Batches, Draws, Loader, batch_seed, collate, weightless


class Numbers:
    """Items 0 … n-1; a sample says which item and which random number it got."""

    def __init__(self, n: int, broken: int = -1) -> None:
        self.n, self.broken = n, broken

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self.n)

    def name(self, item: int) -> str:
        return f"number {item}"

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        if item == self.broken:
            raise ValueError("no such number")
        return {"row": np.int64(item), "x": rng.standard_normal(3).astype(np.float32), "name": f"n{item}", "y": 0.5}


def batches(loader: Loader) -> list[dict[str, Any]]:
    return list(loader)


def test_every_epoch_holds_every_item_once_in_another_order() -> None:
    draws = Draws(Numbers(6), seed=1)
    epochs = [[int(draws[p]["row"]) for p in range(start, start + 6)] for start in (0, 6)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(6))
    assert epochs[0] != epochs[1]


def test_a_sample_depends_on_seed_and_position_only() -> None:
    first, again, other = Draws(Numbers(6), seed=1), Draws(Numbers(6), seed=1), Draws(Numbers(6), seed=2)
    again[11]  # another history
    assert np.array_equal(first[3]["x"], again[3]["x"])
    assert not np.array_equal(first[3]["x"], other[3]["x"])
    assert not np.array_equal(first[3]["x"], first[9]["x"])


def test_starting_later_gives_the_rest_of_the_same_batches() -> None:
    draws = Draws(Numbers(5), seed=1)
    whole = batches(Loader(draws, size=2, first=0, count=6))
    rest = batches(Loader(draws, size=2, first=4, count=2))
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a["x"], b["x"])
        assert a["seed"] == b["seed"]
    assert len({b["seed"] for b in whole}) == 6


def test_ranks_share_the_positions_without_overlap() -> None:
    both = [list(Batches(first=2, count=3, size=4, rank=rank, world=2)) for rank in (0, 1)]
    assert sorted(p for rank in both for batch in rank for p in batch) == list(range(16, 40))


def test_collate_stacks_arrays_numbers_and_text() -> None:
    batch = batches(Loader(Draws(Numbers(4), seed=0), size=3, first=0, count=1))[0]
    assert batch["x"].shape == (3, 3)
    assert batch["row"].dtype == torch.int64
    assert batch["y"].dtype == torch.float32
    assert len(batch["name"]) == 3
    assert isinstance(batch["seed"], int)
    assert batch["seed"] == batch_seed(0, 0)


def test_samples_of_different_shapes_are_named_in_the_error() -> None:
    failure = collate([(0, 0), {"x": np.zeros(2)}, {"x": np.zeros(3)}])
    assert "shapes" in failure.message  # type: ignore[union-attr]


def test_a_fault_is_raised_with_the_name_of_the_recording() -> None:
    with pytest.raises(TrainingError, match="recording 'number 2' could not be read: ValueError: no such number"):
        batches(Loader(Draws(Numbers(4, broken=2), seed=0), size=4, first=0, count=1))


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        Draws(Numbers(0), seed=0)


def test_waiting_for_data_is_measured() -> None:
    loader = Loader(Draws(Numbers(4), seed=0), size=2, first=0, count=2)
    batches(loader)
    assert loader.waited_s > 0


def test_a_method_for_workers_has_no_weights_and_pickles_small() -> None:
    method = toy_method("volume")
    assert method.generator is not None
    clone = weightless(method)
    assert isinstance(clone.encoder, ToyEncoder)
    assert clone.encoder.divisor == (2, 2, 2)
    assert list(clone.parameters()) == []
    assert len(list(method.parameters())) > 0
    assert len(pickle.dumps(clone)) < 4000
