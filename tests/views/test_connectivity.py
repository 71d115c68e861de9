"""Connectivity: what it is for good data, and the policies for padding, NaN and constant regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views import connectivity as fc
from medssl.views.connectivity_edges import top_edges


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
    assert torch.equal(top_edges(fc.correlation(x), 0.3), torch.eye(4, dtype=torch.bool).unsqueeze(0))


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


@pytest.mark.parametrize("length", [256, 255])
@pytest.mark.parametrize("together", [True, False])
def test_random_phases_keep_the_power_of_every_region(length: int, together: bool) -> None:
    x = 3 + series(2, 6, length)
    null = fc.phase_randomised(x, torch.Generator().manual_seed(1), together=together)
    torch.testing.assert_close(torch.fft.rfft(null).abs(), torch.fft.rfft(x).abs(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(null.mean(-1), x.mean(-1))
    assert (fc.correlation(torch.cat([x, null], 1))[:, :6, 6:].diagonal(dim1=1, dim2=2).abs() < 0.3).all()


def test_the_same_random_phases_keep_static_connectivity_and_others_leave_none() -> None:
    x = series(3, 6, 400)
    same, other = (fc.phase_randomised(x, torch.Generator().manual_seed(1), together=t) for t in (True, False))
    torch.testing.assert_close(fc.covariance(same), fc.covariance(x), rtol=0, atol=1e-9)
    assert fc.lower_triangle(fc.correlation(x)).mean() > 0.25
    assert fc.lower_triangle(fc.correlation(other)).abs().mean() < 0.08  # √(2 / (400 π)) = 0.04 by chance
    again = fc.phase_randomised(x, torch.Generator().manual_seed(1))
    assert torch.equal(again, same)
    assert not torch.equal(fc.phase_randomised(x, torch.Generator().manual_seed(2)), same)


def test_connectivity_that_switches_fluctuates_more_than_its_stationary_null() -> None:
    """Regions go together in one half of the run and against each other in the other."""
    x = torch.randn(8, 2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stationary, switching = x.clone(), x.clone()
    switching[:, 1] = torch.where(torch.arange(400) < 200, 1.0, -1.0) * x[:, 0] + 0.5 * x[:, 1]
    for run, more in ((stationary, False), (switching, True)):
        null = fc.phase_randomised(run, torch.Generator().manual_seed(1))
        real, expected = (fc.dynamic_correlation(t, 50, 25)[..., 0, 1].std(-1).mean() for t in (run, null))
        assert (real > 2 * expected) == more and (real > 0.7 * expected)


def test_random_phases_leave_invalid_regions_invalid_and_refuse_padding() -> None:
    x, _ = with_faults(series(2, 8, 60))
    null = fc.phase_randomised(x[..., :60], torch.Generator().manual_seed(0))
    assert torch.equal(fc.valid_regions(null), fc.valid_regions(x))
    with pytest.raises(ConfigError, match="padding"):
        fc.phase_randomised(x, torch.Generator())


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


def test_blocks_give_what_is_given_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fc, "BLOCK", 8 * 8 * 8)
    x = with_faults(series(30, 8, 40))[0]
    assert torch.equal(fc.correlation(x), fc.correlation(x.clone().requires_grad_()).detach())
