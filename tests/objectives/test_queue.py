"""The key queue against a deque: order, masks, what is kept and what is not."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from medssl.objectives.queue import KeyQueue


def keys(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 4, 7, 20])
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_it_holds_what_came_last(size: int, batch: int) -> None:
    queue, wanted = KeyQueue(size, 3), deque[tuple[float, ...]](maxlen=size)
    for step in range(9):
        new = keys(batch, step)
        queue.push(new)
        wanted.extend(tuple(row) for row in new.tolist())
        assert sorted(tuple(row) for row in queue.read().tolist()) == sorted(wanted)


def test_slots_that_were_never_filled_are_not_there() -> None:
    queue = KeyQueue(10, 3)
    assert queue.read().shape == (0, 3) and queue.negatives(torch.tensor([0]), None).shape == (1, 0)
    queue.push(keys(4, 0))
    assert queue.read().shape == (4, 3)


def test_keys_of_the_same_group_or_label_are_no_negatives() -> None:
    queue = KeyQueue(4, 3)
    queue.push(keys(3, 0), group=torch.tensor([5, 6, 7]), labels=torch.tensor([1, 1, 2]))
    allowed = queue.negatives(torch.tensor([6, 9]), torch.tensor([2, 1]))
    assert allowed.tolist() == [[True, False, False], [False, False, True]]
    assert queue.negatives(torch.tensor([6, 9]), None).tolist() == [[True, False, True], [True, True, True]]
    assert queue.negatives(None, None).all()


def test_what_is_known_of_a_key_leaves_together_with_it() -> None:
    queue = KeyQueue(3, 3)
    queue.push(keys(3, 0), group=torch.tensor([1, 2, 3]))
    queue.push(keys(2, 1))  # nobody knows whose these are: they are negatives of everybody
    assert queue.negatives(torch.tensor([1, 2, 3]), None).sum(1).tolist() == [3, 3, 2]


def test_it_is_a_copy_without_gradient() -> None:
    queue, new = KeyQueue(4, 3), keys(2, 0).requires_grad_()
    queue.push(new)
    read = queue.read()
    assert not read.requires_grad
    queue.push(keys(4, 1))
    assert torch.equal(read, new.detach()), "a later push does not reach what was read"


def test_a_checkpoint_continues_where_it_stopped() -> None:
    one, other = KeyQueue(5, 3), KeyQueue(5, 3)
    one.push(keys(4, 0), group=torch.arange(4))
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.push(keys(3, 1), group=torch.arange(3))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
