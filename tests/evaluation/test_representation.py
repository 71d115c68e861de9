"""What the collapse measures say about embeddings whose state is known."""

from __future__ import annotations

import math

import pytest
import torch

from medssl.evaluation import representation as rq


@pytest.fixture
def healthy() -> torch.Tensor:
    return torch.randn(400, 16, generator=torch.Generator().manual_seed(0))


def test_rankme_ignores_scale_rotation_and_copies(healthy: torch.Tensor) -> None:
    rank = rq.rankme(healthy)
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    assert 15 < rank <= 16.1
    assert rq.rankme(5 * healthy @ turn) == pytest.approx(rank, abs=1e-3)
    assert rq.rankme(torch.cat([healthy, healthy])) == pytest.approx(rank, abs=1e-6)


def test_collapse_shows_in_every_number(healthy: torch.Tensor) -> None:
    constant = torch.ones(400, 16) + 1e-6 * healthy
    good, bad = rq.collapse_summary(healthy), rq.collapse_summary(constant)
    assert bad["rankme"] < 1.01 < good["rankme"]
    assert bad["std_l2"] < 1e-5 and good["std_l2"] == pytest.approx(1 / 4, rel=0.05)
    assert bad["uniformity"] > -0.01 > good["uniformity"]
    assert good["top1_share"] < 0.15 and good["participation"] > 14


def test_bad_rows_are_dropped_and_counted(healthy: torch.Tensor) -> None:
    spoiled = healthy.clone()
    spoiled[3, 2], spoiled[7, 0] = math.nan, math.inf
    assert rq.collapse_summary(spoiled)["dropped"] == 2
    assert math.isfinite(rq.rankme(spoiled))


def test_a_dead_dimension_is_counted(healthy: torch.Tensor) -> None:
    healthy[:, 5] = 2.0
    assert rq.collapse_summary(healthy)["dead_dims"] == 1


@pytest.mark.parametrize("z", [torch.zeros(5, 3), torch.ones(1, 3), torch.empty(0, 3)], ids=["zeros", "one", "none"])
def test_degenerate_sets_have_rank_one(z: torch.Tensor) -> None:
    assert rq.rankme(z) == pytest.approx(1, abs=1e-4)


def test_half_precision_is_computed_in_double(healthy: torch.Tensor) -> None:
    assert rq.rankme(healthy.bfloat16()) == pytest.approx(rq.rankme(healthy), abs=1e-2)


def test_streaming_equals_whole(healthy: torch.Tensor) -> None:
    stream = rq.StreamingRankMe(16)
    for part in healthy.split(64):
        stream.update(part)
    assert stream.n == 400
    assert stream.compute() == pytest.approx(rq.rankme(healthy), abs=1e-4)


def test_two_antipodal_points_are_most_uniform() -> None:
    assert rq.uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)


def test_lidar_counts_directions_that_augmentation_leaves_alone() -> None:
    means = torch.eye(9, 12, dtype=torch.float64)
    views = means[:, None].expand(9, 4, 12)
    assert rq.lidar(views) == pytest.approx(8, abs=0.01)
    mixed = views.reshape(36, 12)[torch.randperm(36, generator=torch.Generator().manual_seed(2))].reshape(9, 4, 12)
    assert rq.lidar(mixed) < 8
    assert math.isnan(rq.lidar(views[:1]))


def test_alpha_req_recovers_a_power_law() -> None:
    basis, _ = torch.linalg.qr(torch.randn(64, 20, generator=torch.Generator().manual_seed(3)).double())
    basis, _ = torch.linalg.qr(basis - basis.mean(0))
    z = basis * torch.arange(1, 21).double().pow(-1.5 / 2)
    alpha, fit = rq.alpha_req(z, low=1, high=20)
    assert (alpha, fit) == pytest.approx((1.5, 1.0))


def test_debiased_cka_does_not_call_noise_similar() -> None:
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(40, 100, generator=g), torch.randn(40, 100, generator=g)
    assert rq.linear_cka(x, y) > 0.5
    assert abs(rq.linear_cka(x, y, debiased=True)) < 0.15
    assert rq.linear_cka(x, x, debiased=True) == pytest.approx(1)
