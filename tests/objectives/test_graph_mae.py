"""GraphMAE's masks and error: loop references, limits by hand, exact counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medssl.objectives.graph_mae import (
    NodeMasks,
    cosine_errors,
    drop_edges,
    hide_edges_between,
    masked_features,
    node_masks,
    scaled_cosine_error,
    transposed_error,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def everywhere(graphs: int, nodes: int) -> Tensor:
    return torch.ones(graphs, nodes, dtype=torch.bool)


def symmetric(graphs: int, nodes: int) -> Tensor:
    """Correlations without their diagonal."""
    series = random(graphs, nodes, 30)
    full = torch.stack([torch.corrcoef(one) for one in series])
    return full.masked_fill(torch.eye(nodes, dtype=torch.bool), 0.0)


def looped_error(prediction: Tensor, target: Tensor, hidden: Tensor, gamma: float) -> Tensor:
    errors = []
    for place in hidden.nonzero().tolist():
        one, other = prediction[tuple(place)], target[tuple(place)]
        if other.norm() > 0:
            errors.append((1 - one @ other / (one.norm() * other.norm())) ** gamma)
    return torch.stack(errors).mean()


@pytest.mark.parametrize("gamma", [1.0, 2.0, 2.5])
def test_the_error_and_its_gradient_are_those_of_loops(gamma: float) -> None:
    target, hidden = random(3, 7, 5, seed=1), torch.rand(3, 7, generator=generator(2)) < 0.6
    target[0, 0] = 0.0
    one, other = (random(3, 7, 5).requires_grad_() for _ in range(2))
    found, wanted = scaled_cosine_error(one, target, hidden, gamma=gamma), looped_error(other, target, hidden, gamma)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    (mine,), (theirs,) = torch.autograd.grad(found, one), torch.autograd.grad(wanted, other)
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)
    assert torch.equal(mine[~hidden], torch.zeros_like(mine[~hidden])), "visible nodes have no gradient"
    torch.testing.assert_close((mine * one).sum(-1), torch.zeros(3, 7, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.0])
def test_the_error_is_0_of_multiples_1_of_orthogonal_ones_and_2_to_gamma_of_opposites(gamma: float) -> None:
    target = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    prediction = torch.tensor([[3.0, 6.0], [-2.0, 1.0], [-0.1, -0.2]])
    torch.testing.assert_close(cosine_errors(prediction, target, gamma), torch.tensor([0.0, 1.0, 2.0**gamma]))


def test_rounding_and_rows_of_zeros_leave_gradients_finite() -> None:
    target = torch.randn(64, 300, generator=generator())
    prediction = torch.cat((target[:-1] * 0.37, torch.zeros(1, 300))).requires_grad_()
    error = scaled_cosine_error(prediction, target, gamma=1.5)  # 1 - cos of equal rows may round to below 0
    error.backward()
    assert torch.isfinite(error)
    assert torch.isfinite(prediction.grad).all() and prediction.grad.abs().max() < 1.0


def test_exactly_the_asked_share_of_valid_nodes_is_hidden_in_every_graph() -> None:
    valid = torch.rand(50, 12, generator=generator()) < 0.8
    masks = node_masks(valid, 0.5, generator(1), replace=0.2)
    count = valid.sum(1) // 2
    assert torch.equal(masks.hidden.sum(1), count) and not (masks.hidden & ~valid).any()
    assert torch.equal(masks.noise.sum(1), torch.tensor([int(0.2 * int(n)) for n in count]))
    assert torch.equal(masks.hidden, masks.token ^ masks.noise), "every hidden node is token or noise"
    assert valid.gather(1, masks.source)[masks.noise].all(), "noise comes from valid nodes"


def test_every_node_is_hidden_equally_often() -> None:
    often = node_masks(everywhere(4000, 6), 0.5, generator()).hidden.float().mean(0)
    assert (often - 0.5).abs().max() < 5 * 0.5 / 4000**0.5


@pytest.mark.parametrize(("mode", "left"), [("exact", 0), ("reference", 1)])
def test_the_released_floors_leave_a_hidden_node_visible(mode: str, left: int) -> None:
    masks = node_masks(everywhere(3, 15), 0.5, generator(), replace=0.2, mode=mode)  # type: ignore[arg-type]
    assert masks.noise.sum(1).tolist() == [1, 1, 1]  # of 7 hidden ones
    assert (masks.hidden & ~masks.token & ~masks.noise).sum(1).tolist() == [left] * 3


def test_too_few_noise_nodes_for_one_work_and_too_few_hidden_ones_are_refused() -> None:
    assert not node_masks(everywhere(2, 6), 0.5, generator(), replace=0.1).noise.any()
    with pytest.raises(ValueError, match="hides none"):
        node_masks(everywhere(2, 3), 0.3, generator())


def test_tokens_and_noise_are_seen_where_they_should_be() -> None:
    x, token = random(2, 10, 4), torch.full((4,), 9.0, dtype=torch.float64)
    masks = node_masks(everywhere(2, 10), 0.6, generator(), replace=0.5)
    shown = masked_features(x, masks, token)
    for b in range(2):
        for i in range(10):
            wanted = token if masks.token[b, i] else x[b, masks.source[b, i] if masks.noise[b, i] else i]
            assert torch.equal(shown[b, i], wanted)
    assert masks.noise.sum() == 6


def test_a_hidden_row_of_correlations_can_be_copied_from_its_column_unless_that_is_hidden() -> None:
    x = symmetric(4, 20)
    masks = node_masks(everywhere(4, 20), 0.5, generator())
    token = torch.zeros(20, dtype=torch.float64)
    open_, closed = (masked_features(x, masks, token, hide_symmetric=hide) for hide in (False, True))
    assert transposed_error(x, open_, masks, 2.0) < 1e-12
    assert transposed_error(x, closed, masks, 2.0) == 1.0


def test_nothing_of_hidden_rows_is_left_when_columns_are_hidden() -> None:
    x = symmetric(3, 16)
    masks = node_masks(everywhere(3, 16), 0.5, generator())
    pair = masks.hidden.unsqueeze(1) | masks.hidden.unsqueeze(2)
    other = torch.where(pair, symmetric(3, 16).flip(0), x)  # other values in hidden rows and columns
    token = torch.ones(16, dtype=torch.float64)
    first, second = (masked_features(one, masks, token, hide_symmetric=True) for one in (x, other))
    assert torch.equal(first, second)
    assert not torch.equal(masked_features(x, masks, token), masked_features(other, masks, token))


def test_edges_are_dropped_one_way_and_loops_never() -> None:
    full = torch.ones(20, 12, 12, dtype=torch.bool)
    kept = drop_edges(full, 0.5, generator())
    assert kept.diagonal(dim1=1, dim2=2).all() and not torch.equal(kept, kept.mT)
    assert kept.float().mean() == pytest.approx(0.5 + 0.5 / 12, abs=0.03)
    assert drop_edges(full, 0.0, generator()) is full


def test_edges_between_hidden_nodes_are_hidden_and_to_visible_ones_if_asked() -> None:
    hidden = torch.tensor([True, True, False])
    full = torch.ones(3, 3, dtype=torch.bool)
    assert hide_edges_between(full, hidden).int().tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert hide_edges_between(full, hidden, one_end=True).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_masks_can_be_written_down_and_used_again() -> None:
    masks = node_masks(everywhere(2, 8), 0.5, generator(4), replace=0.3)
    again = NodeMasks(*(part.clone() for part in node_masks(everywhere(2, 8), 0.5, generator(4), replace=0.3)))
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
