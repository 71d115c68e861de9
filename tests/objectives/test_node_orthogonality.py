"""A regulariser that keeps nodes apart."""

from __future__ import annotations

import torch

from medssl.objectives.node_orthogonality import node_orthogonality


def loop(h: torch.Tensor) -> float:
    total = 0.0
    for i in range(len(h)):
        products = [float(h[i] @ other) for other in h]
        total += sum((products[j] / max(products) - (i == j)) ** 2 for j in range(i, len(h)))
    return total**0.5


def test_orthogonal_nodes_cost_nothing_whatever_their_length() -> None:
    assert node_orthogonality(torch.diag(torch.tensor([1.0, 5.0, 0.1]))) < 1e-6


def test_it_is_what_a_loop_says() -> None:
    h = torch.rand(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([[loop(graph) for graph in run] for run in h], dtype=torch.float64)
    torch.testing.assert_close(node_orthogonality(h), wanted)


def test_nodes_of_zeros_stay_finite_and_invalid_ones_do_not_count() -> None:
    h = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([True, True, False, True, True]).expand(2, 5)
    torch.testing.assert_close(node_orthogonality(h, valid), node_orthogonality(h[:, [0, 1, 3, 4]]))
    silent = torch.zeros(1, 3, 4, requires_grad=True)
    node_orthogonality(silent).sum().backward()
    assert silent.grad is not None and silent.grad.isfinite().all()
