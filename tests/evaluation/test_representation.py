"""What the collapse measures say about embeddings whose state is known."""

from __future__ import annotations

import math

import pytest
import torch

from medssl.evaluation import representation as rq
from medssl.evaluation.spectrum import count_dead


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


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("t", [1.0, 2.0])
def test_uniformity_equals_the_mean_over_pairs(n: int, t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rq, "_CHUNK", 7)  # several chunks, the last one short
    z = torch.randn(n, 5, generator=torch.Generator().manual_seed(0)).double()
    unit = [row / row.norm() for row in z]
    pairs = [float(torch.exp(-t * (unit[i] - unit[j]).square().sum())) for j in range(n) for i in range(j)]
    assert rq.uniformity(z, t=t) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-12)


def test_uniformity_of_near_copies_is_not_lost_in_rounding() -> None:
    z = torch.ones(50, 8).double() + 1e-9 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    assert rq.uniformity(z) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)], ids=["tall", "wide"])
def test_large_sets_take_the_smaller_gram_matrix(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()
    exact = (rq.rankme(z), rq.rankme(z, centre=True), rq.collapse_summary(z), rq.power_law_of(z, low=1))
    monkeypatch.setattr(rq, "_SVD_LIMIT", 3)
    seen: list[int] = []
    real = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda m: (seen.append(len(m)), real(m))[1])
    assert rq.rankme(z) == pytest.approx(exact[0], rel=1e-6)
    assert rq.rankme(z, centre=True) == pytest.approx(exact[1], rel=1e-5)
    assert rq.collapse_summary(z) == pytest.approx(exact[2], rel=1e-5)
    assert rq.power_law_of(z, low=1) == pytest.approx(exact[3], rel=1e-6)
    assert set(seen) == {5}


@pytest.mark.parametrize(
    "z", [torch.full((9, 4), 0.1), torch.zeros(9, 4), torch.ones(1, 4), torch.full((3, 4), math.nan)],
    ids=["identical", "zero", "one", "no finite row"],
)  # fmt: skip
def test_sets_without_variance_have_one_direction(z: torch.Tensor) -> None:
    """What centring leaves of identical rows is rounding, which has directions of its own."""
    found = rq.collapse_summary(z)
    assert found["rankme"] == pytest.approx(1, abs=1e-4)
    assert (found["rankme_centred"], found["top1_share"], found["participation"]) == (1, 1, 1)
    assert math.isnan(rq.alpha_req(z)[0]) and math.isnan(rq.lidar(z[:, None].expand(-1, 3, -1)))
    assert math.isnan(found["uniformity"]) == math.isnan(found["std_l2"]) == (found["n"] < 2)


def test_lidar_of_collapsed_cases_is_undefined_not_full_rank() -> None:
    """Equal eigenvalues of nothing but eps would otherwise count as D directions."""
    noise = 1e-7 * torch.randn(30, 3, 6, generator=torch.Generator().manual_seed(0)).double()
    assert math.isnan(rq.lidar(1 + noise))


def test_lidar_leaves_out_cases_that_are_not_finite() -> None:
    x = torch.randn(30, 3, 6, generator=torch.Generator().manual_seed(0)).double()
    spoiled = x.clone()
    spoiled[4, 1, 2] = math.nan
    assert rq.lidar(spoiled) == pytest.approx(rq.lidar(torch.cat([x[:4], x[5:]])))


def test_alignment_leaves_out_pairs_that_are_not_finite(healthy: torch.Tensor) -> None:
    other = healthy + 0.1
    spoiled = other.clone()
    spoiled[7] = math.inf
    keep = [i for i in range(400) if i != 7]
    assert rq.alignment(healthy, spoiled) == pytest.approx(rq.alignment(healthy[keep], other[keep]))


def test_alpha_req_does_not_fit_ranks_that_are_not_there() -> None:
    """Thirty recordings of 256 dimensions have 29 eigenvalues; up to rank 100 there is nothing but rounding."""
    g = torch.Generator().manual_seed(0)
    z = (torch.randn(30, 256, generator=g) * torch.arange(1, 257).pow(-0.5)).float()
    found = rq.power_law_of(z)
    assert (found.low, found.high) == (4, 29)
    assert 0 < found.alpha < 3 and found.r2 > 0.8


def test_projection_keeps_distances_and_never_changes() -> None:
    x = torch.randn(40, 3, 600, generator=torch.Generator().manual_seed(0)).double()
    y = rq.projected(x, 128)
    assert y.shape == (40, 3, 128) and torch.equal(y, rq.projected(x, 128))
    ratio = torch.pdist(y[:, 0]) / torch.pdist(x[:, 0])
    assert float(ratio.std() / ratio.mean()) < 0.1
    assert torch.equal(rq.projected(x, 700), x)


def test_dead_dimensions_of_nothing_alive_are_all() -> None:
    assert count_dead(torch.zeros(5)) == 5
    assert count_dead(torch.tensor([1.0, 2.0, 1e-5])) == 1


def test_cka_of_a_constant_set_is_undefined(healthy: torch.Tensor) -> None:
    assert math.isnan(rq.linear_cka(healthy, torch.ones(400, 3)))
