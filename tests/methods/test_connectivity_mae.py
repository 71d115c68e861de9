"""Masked autoencoding of connectivity: nothing leaks, what can be learnt is learnt, and too few windows are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fmri_toys import brain_states, run
from torch import Tensor
from toys import collate, signal_encoder

from medssl.encoders.spatio_temporal_graph import SpatioTemporalGraph
from medssl.errors import ConfigError
from medssl.methods.connectivity_mae import ConnectivityMAE
from medssl.objectives.graph_mae import hide_edges_between
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


def encoder(regions: int = 12, **options: Any) -> SpatioTemporalGraph:
    return SpatioTemporalGraph(regions, **{"width": 16, "depth": 2, "window": 20, "stride": 10, **options})


def method(
    regions: int = 12, volumes: int = 120, graph: dict[str, Any] | None = None, **options: Any
) -> ConnectivityMAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConnectivityMAE(encoder(regions, **(graph or {})), SignalViews((volumes,), count=1), **options)


def runs(count: int = 4, regions: int = 12, volumes: int = 120) -> Tensor:
    made = [brain_states(i, regions=regions, volumes=volumes, lasting=(20, 40), noise=0.5) for i in range(count)]
    return torch.from_numpy(np.stack(made))


def changed(graphs: Any, **windows: Tensor) -> Any:
    return graphs._replace(windows=graphs.windows._replace(**windows))


@pytest.mark.parametrize("options", [{}, {"mask": "random", "mask_ratio": 0.4}, {"hide_node_edges": True}])
def test_codes_do_not_know_what_is_hidden(options: dict[str, Any]) -> None:
    """Neither hidden edges nor, where the graph is the same, correlations reach the encoder."""
    one = method(**options).eval()
    graphs = one.graphs(runs())
    codes = one.encode(graphs)
    hidden, adjacency = graphs.masks.hidden, graphs.windows.adjacency
    gone = adjacency & ~hide_edges_between(adjacency, hidden, one_end=one.hide_node_edges)
    between = hidden.unsqueeze(-1) & hidden.unsqueeze(-2) & ~torch.eye(12, dtype=torch.bool)
    assert gone.any()
    assert torch.equal(one.encode(changed(graphs, adjacency=adjacency ^ between)), codes)
    assert torch.equal(one.encode(changed(graphs, correlation=torch.rand_like(graphs.windows.correlation))), codes)
    assert torch.equal(one.encode(graphs._replace(nodes=graphs.nodes + 5 * hidden.unsqueeze(-1))), codes)
    visible = adjacency ^ (~hidden.unsqueeze(-1) & ~hidden.unsqueeze(-2) & ~torch.eye(12, dtype=torch.bool))
    assert not torch.equal(one.encode(changed(graphs, adjacency=visible)), codes), "what is visible does"


def test_the_series_reaches_the_encoder_through_the_graph_alone() -> None:
    """Other correlations at the same graph give the same input features: the time encoding tells no series."""
    one = method().eval()
    first, second = runs(2), runs(2).pow(3)
    windows = one.encoder.windows(first)
    assert torch.equal(one.encoder.nodes(first, windows), one.encoder.nodes(second, windows))
    with pytest.raises(ConfigError, match="gru"):
        method(graph={"time_encoding": "gru"})


def test_the_target_is_the_row_of_correlations_without_itself() -> None:
    one = method().eval()
    graphs = one.graphs(runs())
    for r, k, i in ((0, 0, 0), (1, 4, 7), (3, 9, 11)):
        piece = runs()[r, :, 10 * k : 10 * k + 20]
        wanted = torch.corrcoef(piece)[i]
        wanted[i] = 0.0
        torch.testing.assert_close(one.targets(graphs)[r, k, i], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target", ["fc_row", "embedding", "ema"])
@pytest.mark.parametrize("error", ["cosine", "mse"])
def test_every_target_has_an_error_and_no_gradient_of_its_own(target: str, error: str) -> None:
    one = method(node_target=target, node_loss=error, edge_weight=0.0)
    one.generator.manual_seed(0)
    graphs = one.graphs(runs())
    assert not one.targets(graphs).requires_grad
    losses = one.compare(runs())
    losses.total.backward()
    assert set(losses.terms) >= {"node_spatial", "node_temporal"} and "edge_spatial" not in losses.terms
    assert one.mask_token.grad is not None and one.mask_token.grad.abs().sum() > 0
    if one.teacher is not None:
        assert all(p.grad is None for p in one.teacher.parameters()) and not one.teacher.training


def test_the_slow_copy_follows_the_encoder_and_starts_as_it_is() -> None:
    one = method(node_target="ema", momentum=0.75)
    weight, copied = one.encoder.embedding.weight, one.teacher.embedding.weight  # type: ignore[union-attr]
    assert torch.equal(weight, copied)
    with torch.no_grad():
        weight += 1.0
    one.follow()
    torch.testing.assert_close(weight - copied, torch.full_like(weight, 0.75))


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    one = method(spatial=0.3, node_weight=2.0, edge_weight=0.5)
    losses = one.compare(runs())
    t = losses.terms
    space, time = (2.0 * t[f"node_{kind}"] + 0.5 * t[f"edge_{kind}"] for kind in ("spatial", "temporal"))
    torch.testing.assert_close(losses.total.detach(), 0.3 * space + 0.7 * time)


def test_without_time_and_edges_it_is_graphmaes_error() -> None:
    one = method(spatial=1.0, edge_weight=0.0).eval()
    one.generator.manual_seed(0)
    losses = one.compare(runs())
    assert set(losses.terms) == {"node_spatial", "windows", "temporal_runs"}
    torch.testing.assert_close(losses.total.detach(), losses.terms["node_spatial"])


def test_runs_with_too_few_windows_have_no_temporal_terms_and_are_counted() -> None:
    """Ten windows in 110 volumes; the gap is two, so that five windows are needed."""
    one = method(volumes=110).eval()
    x = runs(volumes=110)
    x[0, :, 50:] = 0.0  # what is padded leaves windows at 0, 10, 20, 30 (and none that is padded to 40 % or more)
    x[1, :, :] = 0.0  # nothing at all
    losses = one.compare(x)
    assert losses.terms["temporal_runs"] == 0.5
    assert losses.terms["windows"] == (4 + 0 + 10 + 10) / 4
    assert torch.isfinite(losses.total)
    alone = one.compare(x[:1])
    assert alone.terms["node_temporal"] == alone.terms["edge_temporal"] == 0 < alone.terms["edge_spatial"]
    with pytest.raises(ConfigError, match="too few windows"):
        method(volumes=50)
    assert method(volumes=50, spatial=1.0).compare(runs(volumes=50)).terms["windows"] == 4


def test_constant_regions_are_never_hidden_nor_told() -> None:
    one = method(mask="random", mask_ratio=0.9)
    x = runs()
    x[:, 3] = 0.7
    graphs = one.graphs(x)
    assert not graphs.masks.hidden[:, :, 3].any() and graphs.masks.hidden.any()
    losses = one.compare(x)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(p.grad.isfinite().all() for p in one.parameters() if p.grad is not None)


def test_crops_are_taken_as_they_are() -> None:
    """The views' own augmentation would change what is connected; it is not applied."""
    one = method()
    samples = [one.draw(run(i), np.random.default_rng(i)) for i in range(2)]  # type: ignore[arg-type]
    seen: list[Tensor] = []
    one.compare = lambda x: seen.append(x)  # type: ignore[method-assign,assign,func-returns-value]
    one.loss(collate(samples, seed=0))
    wanted = torch.from_numpy(np.stack([s["x"][0] for s in samples])).float() / 1000
    torch.testing.assert_close(seen[0], wanted)


@pytest.mark.slow
def test_hidden_edges_and_rows_of_new_subjects_are_told_after_a_hundred_steps() -> None:
    """Three brain states of 40 regions; bars of the specification: 0.85, 0.58 and 0.45."""
    one = method(
        40, 600, {"width": 48, "depth": 3, "window": 30, "stride": 10}, mask_ratio=0.15,
    )  # fmt: skip
    x = torch.from_numpy(np.stack([brain_states(i) for i in range(48)]))
    train, held_out = x[:36], x[36:]

    def measured() -> dict[str, float]:
        one.eval()
        one.generator.manual_seed(7)
        with torch.no_grad():
            return {k: float(v) for k, v in one.compare(held_out).terms.items()}

    before = measured()
    optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    for step in range(100):
        one.train()
        one.generator.manual_seed(step)
        losses = one.compare(train[torch.randperm(36, generator=order)[:8]])
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    after = measured()
    assert after["edge_auroc_spatial"] >= 0.85 > 0.7 > before["edge_auroc_spatial"], (before, after)
    assert after["edge_auroc_temporal"] >= 0.58 > before["edge_auroc_temporal"], (before, after)
    assert after["node_spatial"] <= 0.45 < 0.7 < before["node_spatial"], (before, after)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="SpatioTemporalGraph"):
        ConnectivityMAE(signal_encoder(), SignalViews((120,), count=1))
    with pytest.raises(ConfigError, match="SignalViews"):
        ConnectivityMAE(encoder(), VolumeViews((8, 8, 8), count=1))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"gamma": 0.5}, "gamma"),
        ({"spatial": 1.5}, "spatial"),
        ({"mask": "blocks"}, "block, random"),
        ({"node_target": "row"}, "fc_row"),
        ({"node_loss": "sce"}, "cosine"),
        ({"node_weight": 0.0, "edge_weight": 0.0}, "not both 0"),
        ({"gap": 1}, "overlap"),
    ]
    for options, named in wrong:
        with pytest.raises(ConfigError, match=named):
            method(**options)
