"""Edges of graphs of regions: those above a percentile, whatever is tied, invalid or worked on in blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views import connectivity as fc
from medssl.views.connectivity_edges import edge_threshold, top_edges


def series(*shape: int, seed: int = 0) -> Tensor:
    """Smooth noise in which regions share something, (*shape) float64."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(shape, generator=generator, dtype=torch.float64)
    return own + 0.7 * own.mean(-2, keepdim=True) * shape[-2] ** 0.5


def edges_by_percentile(r: Tensor, density: float, valid: Tensor) -> tuple[Tensor, float]:
    """One graph, with NumPy."""
    where = np.flatnonzero(valid)
    edges = np.eye(len(r), dtype=bool)
    if not len(where):
        return torch.from_numpy(edges), np.nan
    among = r.numpy()[np.ix_(where, where)]
    threshold = np.percentile(among, 100 * (1 - density))
    edges[np.ix_(where, where)] |= among > threshold
    return torch.from_numpy(edges), float(threshold)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("regions", [2, 3, 9, 30])
def test_edges_and_thresholds_are_those_of_percentiles_over_valid_pairs(regions: int, density: float) -> None:
    generator = torch.Generator().manual_seed(regions)
    r = fc.correlation(torch.randn(3, 2, regions, 40, generator=generator, dtype=torch.float64))
    some = torch.rand(3, 2, regions, generator=generator) < 0.7
    for valid in (some, torch.ones_like(some)):
        edges, threshold = top_edges(r, density, valid), edge_threshold(r, density, valid)
        for i in np.ndindex(3, 2):
            wanted, level = edges_by_percentile(r[i], density, valid[i])
            assert torch.equal(edges[i], wanted)
            assert np.isnan(level) or threshold[i].item() == pytest.approx(level, abs=1e-14)


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.3, 0.6, 0.95, 1.0])
def test_ties_and_perfect_correlations_are_treated_as_percentiles_treat_them(density: float) -> None:
    """Values of one decimal are tied a hundredfold; regions 0 to 3 are copies of each other, of correlation 1."""
    x = series(4, 25, 40)
    x[:, 1:4] = x[:, :1]
    r = (10 * fc.correlation(x)).round() / 10
    assert (r == 1).sum((1, 2)).min() >= 25 + 12
    some = torch.rand(4, 25, generator=torch.Generator().manual_seed(0)) < 0.6
    for graphs in (r, r.abs()):
        for valid in (some, torch.ones_like(some)):
            edges, threshold = top_edges(graphs, density, valid), edge_threshold(graphs, density, valid)
            for i in range(4):
                wanted, level = edges_by_percentile(graphs[i], density, valid[i])
                assert torch.equal(edges[i], wanted)
                assert threshold[i].item() == pytest.approx(level, abs=1e-14)


@pytest.mark.parametrize("leading", [(), (1,), (9,), (3, 5), (20, 1), (1, 20), (2, 3, 4)])
def test_many_graphs_are_those_of_one_by_one(leading: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU they are worked on in blocks, here of 8."""
    monkeypatch.setattr(fc, "BLOCK", 8 * 7 * 7)
    x = series(*leading, 7, 30)
    x[..., 4, 3] = torch.nan
    x[..., 2, :] *= (torch.rand(leading, generator=torch.Generator().manual_seed(0)) < 0.5)[..., None]
    r, valid = fc.correlation_and_valid(x)
    edges = top_edges(r, 0.4, valid)
    assert torch.equal(valid, fc.valid_regions(x)) and r.shape == (*leading, 7, 7)
    for i in np.ndindex(leading):
        torch.testing.assert_close(r[i], fc.correlation(x[i]), rtol=0, atol=1e-15)
        assert torch.equal(edges[i], edges_by_percentile(r[i], 0.4, valid[i])[0])


def test_share_of_edges_is_the_density() -> None:
    edges = top_edges(fc.correlation(series(5, 40, 80)), 0.3)
    assert torch.equal(edges, edges.mT) and edges.diagonal(dim1=1, dim2=2).all()
    assert (edges.float().mean((1, 2)) - 0.3).abs().max() <= 2 / 40**2


def test_edges_follow_any_increasing_map_and_any_order_of_regions() -> None:
    r = fc.correlation(series(3, 15, 60))
    edges, order = top_edges(r, 0.25), torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(top_edges(torch.exp(2 * r), 0.25), edges)
    assert torch.equal(top_edges(r[:, order][:, :, order], 0.25), edges[:, order][:, :, order])


def test_a_region_that_is_constant_within_a_window_has_no_edge_there() -> None:
    x = series(1, 6, 60)
    x[:, 2, :20] = 1.0
    edges = top_edges(fc.dynamic_correlation(x, 20, 20), 0.9)
    assert edges[0, :, 2].sum(-1).tolist()[0] == 1 and (edges[0, 1:, 2].sum(-1) > 1).all()


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
def test_a_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ConfigError, match="density"):
        top_edges(torch.eye(3), density)


def test_both_ways_to_select_the_threshold_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's on a CPU; torch's on a GPU and in exported graphs."""
    r = fc.correlation(series(3, 20, 50))
    some = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.8
    for density in (0.1, 0.3, 0.8):
        expected = top_edges(r, density, some)
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            assert torch.equal(top_edges(r, density, some), expected)
