"""Dense graph layers: batch norm that leaves nodes out, equivariance, invalid nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medssl.encoders.graph_layers import (
    GATLayer,
    GCNLayer,
    GINLayer,
    MaskedBatchNorm,
    attended_mean,
    graph_layer,
    masked_max,
    masked_mean,
)
from medssl.errors import ConfigError

KINDS = ("gin", "gcn", "gat")
every = pytest.mark.parametrize("kind", KINDS)


def graphs(nodes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three random graphs with self-loops whose nodes 2 and 5 are invalid: features, adjacency, valid."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(3, nodes, nodes, generator=generator) < 0.4
    valid = torch.ones(3, nodes, dtype=torch.bool)
    valid[:, [2, 5]] = False
    edges = (edges | edges.mT) & valid.unsqueeze(1) & valid.unsqueeze(2)
    own = torch.eye(nodes, dtype=torch.bool)
    return torch.randn(3, nodes, 4, generator=generator), edges | own, valid


def make(kind: str, norm: str = "batch") -> nn.Module:
    torch.manual_seed(0)
    return graph_layer(kind, 4, 6, heads=2, norm=norm)


def test_masked_batch_norm_is_batch_norm_of_the_rows_that_count() -> None:
    ours, theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    for seed in range(3):
        h, _, valid = graphs(seed=seed)
        torch.testing.assert_close(ours(h, valid)[valid], theirs(h[valid]))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(h), theirs.eval()(h.flatten(0, 1)).unflatten(0, h.shape[:2]))
    torch.testing.assert_close(ours.train()(h), theirs.train()(h.flatten(0, 1)).unflatten(0, h.shape[:2]))


def test_masked_batch_norm_has_the_gradients_of_batch_norm() -> None:
    ours, theirs = MaskedBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    h, _, valid = graphs()
    one, other = (h.double().requires_grad_() for _ in range(2))
    for module, x, out in ((ours, one, ours(one, valid)[valid]), (theirs, other, theirs(other[valid]))):
        (out * torch.linspace(0, 1, out.numel()).view_as(out)).sin().sum().backward()
        assert module.weight.grad is not None and x.grad is not None
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_masked_batch_norm_of_many_rows_far_from_zero_keeps_its_precision() -> None:
    h = 300 + torch.randn(300, 200, 3, generator=torch.Generator().manual_seed(0))
    norm, rows = MaskedBatchNorm(3), h.double().flatten(0, 1)
    exact = ((rows - rows.mean(0)) / (rows.var(0, correction=0) + norm.eps).sqrt()).view_as(h)
    torch.testing.assert_close(norm(h).double(), exact, rtol=0, atol=2e-4)


@pytest.mark.parametrize("counted", [0, 1])
def test_masked_batch_norm_of_hardly_any_rows_uses_what_it_remembers(counted: int) -> None:
    norm, h = MaskedBatchNorm(4), torch.randn(5, 4)
    valid = torch.arange(5) < counted
    torch.testing.assert_close(norm(h, valid), h / (1 + norm.eps) ** 0.5)
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all()


@every
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_layers_follow_the_order_of_nodes(kind: str, norm: str) -> None:
    layer, (h, adjacency, valid) = make(kind, norm), graphs()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    moved = layer(h[:, order], adjacency[:, order][:, :, order], valid[:, order])
    torch.testing.assert_close(moved, layer(h, adjacency, valid)[:, order], rtol=1e-4, atol=1e-5)


@every
def test_invalid_nodes_change_nothing_for_the_others(kind: str) -> None:
    layer, (h, adjacency, valid) = make(kind), graphs()
    keep = valid[0].nonzero()[:, 0]
    without = layer(h[:, keep], adjacency[:, keep][:, :, keep], None)
    h = torch.where(valid.unsqueeze(-1), h, 1e3)
    torch.testing.assert_close(make(kind)(h, adjacency, valid)[:, keep], without, rtol=1e-4, atol=1e-5)


@every
def test_a_batch_is_its_graphs_one_by_one_without_batch_norm(kind: str) -> None:
    layer, (h, adjacency, valid) = make(kind, "layer"), graphs()
    alone = torch.cat([layer(*(t[i : i + 1] for t in (h, adjacency, valid))) for i in range(3)])
    torch.testing.assert_close(layer(h, adjacency, valid), alone, rtol=1e-4, atol=1e-5)
    windows = layer(h.unsqueeze(0), adjacency.unsqueeze(0), valid.unsqueeze(0))
    torch.testing.assert_close(windows[0], alone, rtol=1e-4, atol=1e-5)


@every
def test_nodes_hear_their_neighbours_only(kind: str) -> None:
    layer, (h, adjacency, valid) = make(kind, "none"), graphs()
    heard = h.clone().requires_grad_()
    layer(heard, adjacency, valid)[0, 0].sum().backward()
    assert heard.grad is not None
    assert torch.equal(heard.grad[0].abs().sum(-1) > 0, adjacency[0, 0])
    assert (heard.grad[1:] == 0).all()


def test_gin_counts_its_centre_as_often_as_asked() -> None:
    h, adjacency, _ = graphs()
    layer = GINLayer(4, 6, norm="none")
    torch.testing.assert_close(
        layer(h, adjacency), layer.act2(layer.linear2(layer.act1(layer.linear1(adjacency.float() @ h + h))))
    )
    assert isinstance(GINLayer(4, 6, centre=0.0, learnt=True).centre, nn.Parameter)
    assert "centre" not in dict(layer.named_parameters()) and "centre" in layer.state_dict()


def test_gcn_normalises_by_both_degrees_of_a_directed_graph() -> None:
    h = torch.randn(1, 3, 4)
    adjacency = torch.tensor([[[1, 1, 1], [0, 1, 0], [0, 1, 1]]])
    layer = GCNLayer(4, 6, last=True)
    heard, hearing = torch.tensor([1.0, 3, 2]), torch.tensor([3.0, 1, 2])
    mixed = (adjacency[0] / (hearing.unsqueeze(1).sqrt() * heard.sqrt())) @ h[0]
    wanted = mixed @ layer.linear.weight.T + layer.linear.bias / hearing.sqrt().unsqueeze(1)
    torch.testing.assert_close(layer(h, adjacency)[0], wanted)


def test_gat_weighs_all_neighbours_alike_where_nothing_tells_them_apart() -> None:
    h, adjacency, _ = graphs()
    layer = GATLayer(4, 6, heads=3, norm="none", activation="none")
    nn.init.zeros_(layer.source)
    mean = adjacency.float() / adjacency.sum(-1, keepdim=True) @ layer.linear(h)
    torch.testing.assert_close(layer(h, adjacency), mean)


def test_pooling_leaves_invalid_nodes_out() -> None:
    h, _, valid = graphs()
    h[:, 2] = torch.inf
    torch.testing.assert_close(masked_mean(h, valid), h[:, valid[0]].mean(1))
    torch.testing.assert_close(masked_max(h, valid), h[:, valid[0]].amax(1))
    nothing = torch.zeros_like(valid)
    assert (masked_mean(h, nothing) == 0).all() and (masked_max(h, nothing) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sage"}, "gin, gcn or gat, not 'sage'"),
        ({"kind": "gat", "heads": 4}, "multiple of them, not 6"),
        ({"kind": "gin", "norm": "group"}, "batch, layer or none, not 'group'"),
        ({"kind": "gcn", "activation": "elu"}, "prelu, relu or none, not 'elu'"),
    ],
)
def test_what_there_is_not_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        graph_layer(width_in=4, width=6, **arguments)


def test_mean_of_attended_nodes_is_that_of_their_products() -> None:
    h, _, valid = graphs()
    attention = torch.rand(3, 7, generator=torch.Generator().manual_seed(1))
    valid[1] = False
    torch.testing.assert_close(attended_mean(h, valid), masked_mean(h, valid))
    torch.testing.assert_close(attended_mean(h, valid, attention), masked_mean(h * attention.unsqueeze(-1), valid))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(attended_mean(h, valid), masked_mean(h, valid))
