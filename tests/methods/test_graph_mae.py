"""GraphMAE on connectivity: a hidden row cannot be copied, nothing leaks, and what can be learnt is learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fmri_toys import brain_states
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from toys import signal_encoder

from medssl.encoders.brain_graph import BrainGraph, BrainGraphInput
from medssl.errors import ConfigError
from medssl.methods.graph_mae import GraphMAE
from medssl.objectives.graph_mae import node_masks
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


def method(regions: int = 12, graph: dict[str, Any] | None = None, **options: Any) -> GraphMAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = BrainGraph(regions, **{"width": 16, "depth": 2, "dropout": 0.0, **(graph or {})})
        return GraphMAE(encoder, SignalViews((120,), count=1), **options)


def runs(count: int = 4, regions: int = 12) -> Tensor:
    made = [brain_states(i, regions=regions, volumes=120, lasting=(20, 40), noise=0.5) for i in range(count)]
    return torch.from_numpy(np.stack(made))


def communities(graphs: int, regions: int = 24) -> tuple[Tensor, Tensor]:
    """Series of a planted partition, the same in all graphs, and the community of every region."""
    g = torch.Generator().manual_seed(0)
    member = torch.randint(3, (regions,), generator=g)
    latent = torch.randn(graphs, 3, 80, generator=g)
    return latent[:, member] + 1.5 * torch.randn(graphs, regions, 80, generator=g), member


def train(one: GraphMAE, series: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(one.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        one.train()
        one.generator.manual_seed(step)
        losses = one.reconstruct(one.encoder.graph(series[torch.randperm(len(series), generator=order)[:16]]))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()


def test_copying_the_transpose_is_seen_and_hidden() -> None:
    graph = method().encoder.graph(runs())
    for hide, error in ((True, 1.0), (False, 0.0)):
        one = method(hide_symmetric=hide, replace=0.0)
        terms = one.reconstruct(graph).terms
        assert terms["transposed_error"].item() == pytest.approx(error, abs=1e-6)


def test_codes_and_told_rows_do_not_depend_on_the_rows_that_are_hidden() -> None:
    one = method(hide_symmetric=True, replace=0.0).eval()
    features, adjacency, valid = one.encoder.graph(runs())
    masks = node_masks(valid, 0.5, torch.Generator().manual_seed(3))
    pair = masks.hidden.unsqueeze(1) | masks.hidden.unsqueeze(2)
    other = torch.where(pair, torch.rand_like(features), features)
    told: list[Tensor] = []
    one.decoder.register_forward_hook(lambda _m, _g, out: told.append(out))
    for seen in (features, other):
        one.reconstruct(BrainGraphInput(seen, adjacency, valid), masks)
    assert torch.equal(told[0], told[1])
    one.hide_symmetric = False
    one.reconstruct(BrainGraphInput(other, adjacency, valid), masks)
    assert not torch.equal(told[1], told[2])


def test_edges_between_hidden_nodes_are_hidden_if_asked() -> None:
    for hide in (True, False):
        one = method(graph={"depth": 3}, hide_edges=hide).eval()  # tokens tell each other nothing; what they heard does
        features, adjacency, valid = one.encoder.graph(runs())
        masks = node_masks(valid, 0.5, torch.Generator().manual_seed(3))
        between = masks.hidden.unsqueeze(1) & masks.hidden.unsqueeze(2) & ~torch.eye(12, dtype=torch.bool)
        told: list[Tensor] = []
        one.decoder.register_forward_hook(lambda _m, _g, out, told=told: told.append(out))
        for edges in (adjacency, adjacency ^ between):
            one.reconstruct(BrainGraphInput(features, edges, valid), masks)
        assert torch.equal(told[0], told[1]) == hide


def test_the_decoder_does_not_see_codes_of_hidden_nodes() -> None:
    one = method().eval()
    graph = one.encoder.graph(runs())
    given: list[Tensor] = []
    one.decoder.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
    masks = node_masks(graph.valid, 0.5, torch.Generator().manual_seed(3), replace=0.3)
    one.reconstruct(graph, masks)
    assert (given[0][masks.hidden] == 0).all() and (given[0][~masks.hidden] != 0).any()


def test_rows_of_visible_nodes_have_no_error() -> None:
    one = method(decoder_dropout=0.0)
    told: list[Tensor] = []
    one.decoder.register_forward_hook(lambda _m, _g, out: (out.retain_grad(), told.append(out))[0])
    graph = one.encoder.graph(runs())
    masks = node_masks(graph.valid, 0.5, torch.Generator().manual_seed(3))
    one.reconstruct(graph, masks).total.backward()
    assert (told[0].grad[~masks.hidden] == 0).all() and (told[0].grad[masks.hidden] != 0).any()


def test_constant_regions_are_neither_hidden_nor_told() -> None:
    one, x = method(mask_ratio=0.9), runs()
    x[:, 3] = 1.0
    x[3] = 0.0  # nothing at all
    graph = one.encoder.graph(x)
    masks = node_masks(graph.valid, 0.9, torch.Generator().manual_seed(0), replace=0.3)
    assert not masks.hidden[:, 3].any() and not masks.hidden[3].any() and masks.hidden[0].sum() == 9
    total = one.reconstruct(graph).total
    total.backward()
    assert torch.isfinite(total) and all(p.grad.isfinite().all() for p in one.parameters())


def test_a_region_that_is_told_wrong_in_no_way_has_no_error_and_edges_are_found() -> None:
    one = method(replace=0.0).eval()
    graph = one.encoder.graph(runs())
    one.decode = lambda *_given: 3.0 * graph.features  # type: ignore[method-assign,assign,return-value]
    terms = one.reconstruct(graph).terms
    assert terms["node_error"] < 1e-6 and terms["edge_auroc"] > 0.9
    one.decode = lambda *_given: -graph.features  # type: ignore[method-assign,assign,return-value]
    terms = one.reconstruct(graph).terms
    assert terms["node_error"].item() == pytest.approx(4.0, abs=1e-5) and terms["edge_auroc"] < 0.1


def test_what_is_hidden_of_new_graphs_is_told_and_communities_can_be_read() -> None:
    series, member = communities(48)
    one = method(24, {"width": 32, "dropout": 0.1})

    def measured() -> dict[str, float]:
        one.eval()
        one.generator.manual_seed(0)
        with torch.no_grad():
            return {k: v.item() for k, v in one.reconstruct(one.encoder.graph(series[40:])).terms.items()}

    before = measured()
    train(one, series[:40], 100)
    after = measured()
    assert after["node_error"] < 0.4 < 0.8 < before["node_error"]
    assert after["edge_auroc"] > 0.8
    with torch.no_grad():
        codes = torch.cat(one.encoder.encode(*one.encoder.graph(series)), -1).numpy()
    known = member.repeat(40).numpy()
    probe = LogisticRegression(max_iter=300).fit(codes[:40].reshape(len(known), -1), known)
    assert probe.score(codes[40:].reshape(8 * 24, -1), member.repeat(8).numpy()) >= 0.9


def test_the_exported_encoder_does_not_hide_anything() -> None:
    one = method().eval()
    with torch.no_grad():
        first, second = (one.encoder(runs()).pooled for _ in range(2))
    assert torch.equal(first, second) and one.exported is one.encoder


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="BrainGraph"):
        GraphMAE(signal_encoder(), SignalViews((120,), count=1))
    with pytest.raises(ConfigError, match="SignalViews"):
        GraphMAE(BrainGraph(12), VolumeViews((8, 8, 8), count=1))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"mask_ratio": 0.05}, "hides a region at least"),
        ({"replace": 1.2}, "replace"),
        ({"gamma": 0.5}, "gamma"),
        ({"drop_edges": 1.0}, "drop_edges"),
        ({"mask_mode": "official"}, "exact or reference"),
    ]
    for options, named in wrong:
        with pytest.raises(ConfigError, match=named):
            method(**options)
