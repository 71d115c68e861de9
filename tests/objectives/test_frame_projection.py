"""Contrast of frames and errors of mappings: values by hand, symmetries, the loss it is put together from."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from medssl.objectives.contrastive import info_nce
from medssl.objectives.frame_projection import frame_contrast, mapping_error


def frames(count: int = 3, items: int = 5, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, items, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_perfect_alignment_of_orthogonal_items() -> None:
    items = 6
    same = torch.eye(items, dtype=torch.float64).expand(3, -1, -1)
    found = frame_contrast(same, temperature=0.15)
    wanted = math.log1p((2 * items - 2) * math.exp(-1 / 0.15))
    torch.testing.assert_close(found.pairs, torch.full((3,), wanted, dtype=torch.float64))
    assert found.accuracy == 1


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_pair_is_info_nce_of_the_two(count: int) -> None:
    views = frames(count).requires_grad_()
    found = frame_contrast(views, temperature=0.3).pairs
    wanted = torch.stack([info_nce(views[[a, b]], temperature=0.3) for a, b in combinations(range(count), 2)])
    torch.testing.assert_close(found, wanted)
    weights = torch.arange(1, len(found) + 1)
    (one,), (other,) = (torch.autograd.grad((weights * each).sum(), views) for each in (found, wanted))
    torch.testing.assert_close(one, other)


def test_loop_over_anchors() -> None:
    views, tau = frames(2), 0.15
    unit = views / views.norm(dim=-1, keepdim=True)
    rows, n = unit.flatten(0, 1), views.shape[1]
    total = 0.0
    for i in range(2 * n):
        others = [float(rows[i] @ rows[k]) / tau for k in range(2 * n) if k != i]
        total += math.log(sum(map(math.exp, others))) - float(rows[i] @ rows[(i + n) % (2 * n)]) / tau
    assert float(frame_contrast(views, temperature=tau).pairs) == pytest.approx(total / (2 * n), abs=1e-12)


def test_order_of_the_batch_and_length_of_the_embeddings_do_not_matter() -> None:
    views = frames()
    order = torch.tensor([3, 0, 4, 1, 2])
    lengths = torch.linspace(0.1, 30, 5, dtype=torch.float64).unsqueeze(-1)
    wanted = frame_contrast(views).pairs
    torch.testing.assert_close(frame_contrast(views[:, order]).pairs, wanted)
    torch.testing.assert_close(frame_contrast(views * lengths).pairs, wanted)
    assert not torch.allclose(frame_contrast(torch.stack([views[0], views[1, order], views[2]])).pairs, wanted)


def test_frames_may_change_places() -> None:
    views = frames()
    pairs = frame_contrast(views).pairs
    torch.testing.assert_close(frame_contrast(views.flip(0)).pairs, pairs.flip(0))


def test_single_items_and_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        frame_contrast(frames(items=1))
    with pytest.raises(ValueError, match="at least 2 frames"):
        frame_contrast(frames(1))


def test_reductions_of_the_mapping_error() -> None:
    predicted, target = frames(2, 4, 8).requires_grad_().unbind()
    mean, paper, code = (mapping_error(predicted, target, reduction=r) for r in ("mean", "paper", "code"))
    torch.testing.assert_close(mean, (predicted - target).abs().mean())
    torch.testing.assert_close(paper, (predicted - target).abs().sum(1).mean())
    torch.testing.assert_close(paper, code * 8 * 4)
    one, other = torch.autograd.grad(mean, (predicted, target))
    torch.testing.assert_close(one, -other)  # nothing stops the gradient on the target's side
    assert one.abs().sum() > 0


def test_half_precision_is_computed_in_single() -> None:
    views = frames().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = frame_contrast(views.bfloat16()).pairs
        error = mapping_error(views[0].bfloat16(), views[1])
    assert found.dtype == error.dtype == torch.float32
    torch.testing.assert_close(found, frame_contrast(views.bfloat16().float()).pairs)
