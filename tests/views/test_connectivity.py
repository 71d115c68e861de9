"""Connectivity: what it is for good data, and the policies for padding, NaN and constant regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views import connectivity as fc


def series(*shape: int, seed: int = 0) -> Tensor:
    """Smooth noise in which regions share something, (*shape) float64."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(shape, generator=generator, dtype=torch.float64)
    return own + 0.7 * own.mean(-2, keepdim=True) * shape[-2] ** 0.5


def with_faults(x: Tensor) -> tuple[Tensor, Tensor]:
    """Regions 1 and 3 of every run are unusable, and its last 7 volumes are padding; and what is left."""
    x = x.clone()
    good = x[:, [0, 2, *range(4, x.shape[1])]]
    x[:, 1], x[:, 3, 5] = 0.25, torch.nan
    return torch.nn.functional.pad(x, (0, 7)), good


def test_correlation_is_that_of_numpy() -> None:
    x = series(3, 5, 40)
    wanted = np.stack([np.corrcoef(run) for run in x.numpy()])
    np.testing.assert_allclose(fc.correlation(x), wanted, atol=1e-12)


def test_correlation_ignores_gain_and_offset_of_every_region() -> None:
    x = series(2, 6, 50)
    gain, offset = 0.1 + torch.rand(2, 6, 1).double(), 5 * torch.randn(2, 6, 1).double()
    torch.testing.assert_close(fc.correlation(gain * x + offset), fc.correlation(x), rtol=0, atol=1e-12)


def test_correlation_is_exactly_symmetric_with_ones_on_the_diagonal() -> None:
    r = fc.correlation(series(4, 30, 25).float())
    assert torch.equal(r, r.mT) and (r.diagonal(dim1=1, dim2=2) == 1).all() and (r.abs() <= 1).all()


def test_half_precision_is_raised() -> None:
    x = series(2, 6, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        r = fc.correlation(x.float())
    assert r.dtype == torch.float32
    torch.testing.assert_close(r.double(), fc.correlation(x), rtol=0, atol=1e-5)
    assert fc.correlation(x.bfloat16()).dtype == torch.float32


def test_padding_and_bad_regions_change_nothing_for_the_others() -> None:
    x, good = with_faults(series(2, 8, 60))
    valid = fc.valid_regions(x)
    assert valid.tolist() == [[i not in (1, 3) for i in range(8)]] * 2
    assert fc.volume_weights(x).tolist() == [[1.0] * 60 + [0.0] * 7] * 2
    keep = valid[0].nonzero()[:, 0]

    def left(m: Tensor) -> Tensor:
        return m[:, keep][:, :, keep]

    bad = torch.eye(8, dtype=torch.float64)[[1, 3]].expand(2, 2, 8)
    assert torch.equal(fc.correlation(x)[:, [1, 3]], bad)
    torch.testing.assert_close(left(fc.correlation(x)), fc.correlation(good), rtol=0, atol=1e-12)
    torch.testing.assert_close(left(fc.covariance(x)), fc.covariance(good), rtol=0, atol=1e-12)
    assert (fc.covariance(x)[:, [1, 3]] == 0).all()
    shrunk, share = fc.ledoit_wolf(x)
    torch.testing.assert_close(share, fc.ledoit_wolf(good)[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(left(shrunk), fc.ledoit_wolf(good)[0], rtol=0, atol=1e-12)
    partial = fc.partial_correlation(shrunk)
    assert torch.equal(partial[:, [1, 3]], bad)
    torch.testing.assert_close(left(partial), fc.partial_correlation(fc.ledoit_wolf(good)[0]), rtol=0, atol=1e-12)


def test_nothing_but_padding_is_all_invalid_and_finite() -> None:
    x = torch.zeros(1, 4, 20)
    assert not fc.valid_regions(x).any()
    assert torch.equal(fc.correlation(x), torch.eye(4).unsqueeze(0))
    assert fc.ledoit_wolf(x)[0].isfinite().all() and fc.covariance(x).isfinite().all()
    assert torch.equal(fc.top_edges(fc.correlation(x), 0.3), torch.eye(4, dtype=torch.bool).unsqueeze(0))


@pytest.mark.parametrize("value", [0.1, 1e4, -3.3])
def test_rounding_does_not_make_a_constant_region_vary(value: float) -> None:
    x = torch.cat([torch.full((1, 1, 77), value), torch.randn(1, 2, 77)], 1)
    assert fc.valid_regions(x).tolist() == [[False, True, True]]
    raw = value + 1e-3 * abs(value) * torch.randn(1, 2, 77)  # signal changes of a scanner are 0.1 % of its units
    assert fc.valid_regions(raw).all()


def test_gradients_reach_the_series_and_stay_finite_beside_a_constant_region() -> None:
    x = with_faults(series(2, 8, 30))[0].nan_to_num().requires_grad_()
    (fc.fisher_z(fc.correlation(x)).sum() + fc.ledoit_wolf(x)[0].square().sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad[:, 0].abs().sum() > 0


def test_correlation_has_the_right_gradient() -> None:
    x = series(1, 3, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: fc.lower_triangle(fc.correlation(t)), (x,))


def test_partial_correlation_of_a_chain_is_zero_off_the_chain() -> None:
    """In a chain 0 – 1 – 2 – 3 – 4, each region depends on the others through its neighbours alone."""
    links = torch.diag(torch.full((4,), -0.4, dtype=torch.float64), 1)
    partial = fc.partial_correlation(torch.linalg.inv(torch.eye(5).double() + links + links.T))
    wanted = torch.eye(5).double() - links - links.T
    torch.testing.assert_close(partial, wanted, rtol=0, atol=1e-12)


def test_a_covariance_of_too_few_volumes_cannot_be_inverted_unless_it_is_shrunk() -> None:
    x = series(2, 12, 10)
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(ConfigError, match=r"recording 0 \(12 regions\).*ledoit_wolf"):
            fc.partial_correlation(fc.covariance(x.to(dtype)))
        assert fc.partial_correlation(fc.ledoit_wolf(x.to(dtype))[0]).isfinite().all()
    with pytest.raises(ConfigError, match="cannot be inverted"):
        fc.tangent_reference(fc.covariance(x))


def test_fisher_z_is_finite_at_one() -> None:
    z = fc.fisher_z(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
    assert z.isfinite().all() and z[1] == 0 and z[0] == -z[3]
    assert z[2].item() == pytest.approx(np.arctanh(0.5))


def test_the_tangent_vector_of_the_reference_is_zero() -> None:
    covariances = fc.ledoit_wolf(series(6, 5, 40))[0]
    reference = fc.tangent_reference(covariances)
    assert fc.tangent(reference.unsqueeze(0), reference).abs().max() < 1e-12
    assert fc.tangent(covariances, reference).mean(0).abs().max() < 1e-5, "they lie around it"


def test_the_geometric_mean_of_commuting_matrices_is_that_of_their_eigenvalues() -> None:
    a, b = torch.diag(torch.tensor([1.0, 4.0, 9.0])).double(), torch.diag(torch.tensor([4.0, 1.0, 1.0])).double()
    reference = fc.tangent_reference(torch.stack([a, b]))
    torch.testing.assert_close(reference, torch.diag(torch.tensor([2.0, 2.0, 3.0])).double(), rtol=0, atol=1e-6)


def test_vectors_keep_the_distances_of_their_matrices() -> None:
    m = fc.covariance(series(2, 6, 30))
    vector = fc.lower_triangle(m, diagonal=True)
    torch.testing.assert_close(2**0.5 * vector.norm(dim=-1), torch.linalg.matrix_norm(m))
    assert vector.shape == (2, 21) and fc.lower_triangle(m).shape == (2, 15)


def test_windows_are_those_of_a_loop() -> None:
    x = with_faults(series(2, 6, 47))[0]
    found = fc.dynamic_correlation(x, 20, 7)
    assert found.shape == (2, fc.window_count(54, 20, 7), 6, 6)
    x[:, 3] = 0  # NaN somewhere makes a region invalid everywhere
    for k in range(found.shape[1]):
        torch.testing.assert_close(found[:, k], fc.correlation(x[:, :, 7 * k : 7 * k + 20]), rtol=0, atol=1e-12)
    one_less = fc.dynamic_correlation(x[..., :48], 20, 7, exclusive=True)
    assert one_less.shape[1] == 4 == fc.window_count(48, 20, 7) - 1


@pytest.mark.parametrize(("length", "window", "stride"), [(19, 20, 1), (20, 1, 1), (30, 10, 0)])
def test_windows_that_do_not_fit_are_refused(length: int, window: int, stride: int) -> None:
    with pytest.raises(ConfigError, match=f"window of {window} volumes every {stride} fits into a run of {length}"):
        fc.window_count(length, window, stride)


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
        edges, threshold = fc.top_edges(r, density, valid), fc.edge_threshold(r, density, valid)
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
            edges, threshold = fc.top_edges(graphs, density, valid), fc.edge_threshold(graphs, density, valid)
            for i in range(4):
                wanted, level = edges_by_percentile(graphs[i], density, valid[i])
                assert torch.equal(edges[i], wanted)
                assert threshold[i].item() == pytest.approx(level, abs=1e-14)


@pytest.mark.parametrize("leading", [(), (1,), (9,), (3, 5), (20, 1), (1, 20), (2, 3, 4)])
def test_many_graphs_are_those_of_one_by_one(leading: tuple[int, ...]) -> None:
    """On a CPU they are worked on in blocks."""
    x = series(*leading, 7, 30)
    x[..., 4, 3] = torch.nan
    x[..., 2, :] *= (torch.rand(leading, generator=torch.Generator().manual_seed(0)) < 0.5)[..., None]
    r, valid = fc.correlation_and_valid(x)
    edges = fc.top_edges(r, 0.4, valid)
    assert torch.equal(valid, fc.valid_regions(x)) and r.shape == (*leading, 7, 7)
    for i in np.ndindex(leading):
        torch.testing.assert_close(r[i], fc.correlation(x[i]), rtol=0, atol=1e-15)
        assert torch.equal(edges[i], edges_by_percentile(r[i], 0.4, valid[i])[0])


def test_blocks_give_what_is_given_with_gradients() -> None:
    x = with_faults(series(30, 8, 40))[0]
    assert torch.equal(fc.correlation(x), fc.correlation(x.clone().requires_grad_()).detach())


def test_share_of_edges_is_the_density() -> None:
    edges = fc.top_edges(fc.correlation(series(5, 40, 80)), 0.3)
    assert torch.equal(edges, edges.mT) and edges.diagonal(dim1=1, dim2=2).all()
    assert (edges.float().mean((1, 2)) - 0.3).abs().max() <= 2 / 40**2


def test_edges_follow_any_increasing_map_and_any_order_of_regions() -> None:
    r = fc.correlation(series(3, 15, 60))
    edges, order = fc.top_edges(r, 0.25), torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fc.top_edges(torch.exp(2 * r), 0.25), edges)
    assert torch.equal(fc.top_edges(r[:, order][:, :, order], 0.25), edges[:, order][:, :, order])


def test_a_region_that_is_constant_within_a_window_has_no_edge_there() -> None:
    x = series(1, 6, 60)
    x[:, 2, :20] = 1.0
    edges = fc.top_edges(fc.dynamic_correlation(x, 20, 20), 0.9)
    assert edges[0, :, 2].sum(-1).tolist()[0] == 1 and (edges[0, 1:, 2].sum(-1) > 1).all()


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
def test_a_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ConfigError, match="density"):
        fc.top_edges(torch.eye(3), density)


def test_both_ways_to_select_the_threshold_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's on a CPU; torch's on a GPU and in exported graphs."""
    r = fc.correlation(series(3, 20, 50))
    some = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.8
    for density in (0.1, 0.3, 0.8):
        expected = fc.top_edges(r, density, some)
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            assert torch.equal(fc.top_edges(r, density, some), expected)
