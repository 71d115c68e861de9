"""What is accumulated over batches equals what is computed at once, however the rows are cut and joined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medssl.evaluation import representation as rq
from medssl.evaluation.spectrum import StreamingSpectrum, power_law
from medssl.evaluation.streaming import StreamingAlignment, StreamingLidar, StreamingUniformity


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def coloured(n: int, d: int, mean: float = 3.0) -> torch.Tensor:
    """Features as encoders give them: a mean larger than the spread, and a spectrum that decays."""
    return mean + draw(n, d) * torch.arange(1, d + 1).double().pow(-1)


CUTS = pytest.mark.parametrize("size", [1, 7, 64, 400], ids=lambda s: f"batches of {s}")


@CUTS
@pytest.mark.parametrize(("n", "d"), [(400, 16), (12, 30)], ids=["more rows", "more dimensions"])
def test_spectrum(size: int, n: int, d: int) -> None:
    z = coloured(n, d)
    stream = StreamingSpectrum(d)
    for part in z.split(size):
        stream.update(part)
    assert stream.n == n
    assert stream.rankme() == pytest.approx(rq.rankme(z), rel=1e-4)
    assert stream.rankme(centre=True) == pytest.approx(rq.rankme(z, centre=True), rel=1e-4)
    law, whole = stream.power_law(low=2), rq.power_law_of(z, low=2)
    assert (law.low, law.high) == (whole.low, whole.high)
    assert (law.alpha, law.r2) == pytest.approx((whole.alpha, whole.r2), rel=1e-9)
    summary = rq.collapse_summary(z)
    for name, value in stream.summary().items():
        assert value == pytest.approx(summary[name], rel=1e-4), name
    torch.testing.assert_close(stream.std(), z.std(0), rtol=1e-10, atol=0)


def test_a_large_mean_costs_no_digits() -> None:
    """Sums of squares would lose the spread of 1 beside a mean of 1e8."""
    z = draw(500, 8)
    stream = StreamingSpectrum(8)
    for part in (z + 1e8).split(50):
        stream.update(part)
    assert stream.std().numpy() == pytest.approx(z.std(0).numpy(), rel=1e-6)
    assert stream.rankme(centre=True) == pytest.approx(rq.rankme(z, centre=True), rel=1e-4)


def test_memory_does_not_grow_with_the_rows() -> None:
    stream = StreamingSpectrum(8)
    for seed in range(20):
        stream.update(draw(100, 8, seed=seed))
    kept = [v for v in vars(stream).values() if isinstance(v, torch.Tensor)]
    assert sum(v.numel() for v in kept) == 8 * 8 + 3 * 8


def test_two_processes_join_to_one() -> None:
    z, x = coloured(90, 6), draw(30, 3, 6)
    first, second = StreamingSpectrum(6), StreamingSpectrum(6)
    first.update(z[:31])
    second.update(z[31:])
    first.merge(second)
    assert first.rankme() == pytest.approx(rq.rankme(z), rel=1e-6)
    assert first.summary()["std_l2"] == pytest.approx(rq.std_l2(z), rel=1e-10)
    one, other = StreamingLidar(6), StreamingLidar(6)
    one.update(x[:11])
    other.update(x[11:])
    one.merge(other)
    assert one.compute() == pytest.approx(rq.lidar(x), rel=1e-9)
    pairs, others = StreamingAlignment(), StreamingAlignment()
    pairs.update(x[:11])
    others.update(x[11:])
    pairs.merge(others)
    assert pairs.pairs == 90
    empty = StreamingSpectrum(6)
    empty.merge(first)
    assert empty.rankme() == first.rankme()


@CUTS
@pytest.mark.parametrize("standardise", [True, False])
def test_lidar(size: int, standardise: bool) -> None:
    x = 5 + draw(60, 1, 8) + 0.5 * draw(60, 4, 8, seed=1)
    stream = StreamingLidar(8, standardise=standardise)
    for part in x.split(size):
        stream.update(part)
    assert stream.compute() == pytest.approx(rq.lidar(x, standardise=standardise), rel=1e-9)


@CUTS
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_is_the_mean_over_all_pairs_of_views(size: int, alpha: float) -> None:
    x = draw(60, 3, 8)
    stream = StreamingAlignment(alpha=alpha)
    for part in x.split(size):
        stream.update(part)
    pairs = [rq.alignment(x[:, i], x[:, j], alpha=alpha) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert stream.compute() == pytest.approx(float(np.mean(pairs)), rel=1e-12)


@CUTS
def test_uniformity_of_a_sample_that_does_not_depend_on_the_batches(size: int) -> None:
    z = draw(400, 8)
    all_rows, some, again = StreamingUniformity(400), StreamingUniformity(64, seed=3), StreamingUniformity(64, seed=3)
    for part in z.split(size):
        all_rows.update(part)
        some.update(part)
    again.update(z)
    assert all_rows.compute() == pytest.approx(rq.uniformity(z), rel=1e-12)
    assert some.compute() == pytest.approx(again.compute(), rel=1e-12)
    assert some._rows is not None and len(some._rows) == 64
    assert some.compute() == pytest.approx(rq.uniformity(z), abs=0.1)


def test_every_row_is_as_likely_to_be_in_the_sample() -> None:
    counts = np.zeros(50)
    rows = torch.arange(50.0).double()[:, None]
    for seed in range(400):
        sample = StreamingUniformity(10, seed=seed)
        for part in rows.split(7):
            sample.update(part)
        assert sample._rows is not None
        counts[sample._rows[:, 0].long()] += 1
    assert counts.sum() == 4000
    assert counts.std() < 2.5 * math.sqrt(80 * 0.8), "binomial spread about 80 each"


def test_joined_samples_stand_for_both_parts() -> None:
    first, second = StreamingUniformity(40, seed=1), StreamingUniformity(40, seed=2)
    first.update(torch.zeros(100, 2))
    second.update(torch.ones(300, 2))
    first.merge(second)
    assert first.n == 400 and first._rows is not None
    assert 22 <= int(first._rows[:, 0].sum()) <= 38, "about three quarters of 40"


def test_rows_and_cases_that_are_not_finite_are_dropped_and_counted() -> None:
    z, x = draw(50, 4), draw(20, 2, 4)
    bad, worse = z.clone(), x.clone()
    bad[3, 1], bad[9] = math.nan, math.inf
    worse[5, 1, 2] = math.nan
    keep, cases = [i for i in range(50) if i not in (3, 9)], [i for i in range(20) if i != 5]
    spectrum, uniform = StreamingSpectrum(4), StreamingUniformity()
    lidar, alignment = StreamingLidar(4), StreamingAlignment()
    for stream, data in ((spectrum, bad), (uniform, bad), (lidar, worse), (alignment, worse)):
        stream.update(data)  # type: ignore[attr-defined]
    assert (spectrum.dropped, uniform.dropped, lidar.dropped, alignment.dropped) == (2, 2, 1, 1)
    assert spectrum.rankme() == pytest.approx(rq.rankme(z[keep]), rel=1e-6)
    assert lidar.compute() == pytest.approx(rq.lidar(x[cases]), rel=1e-9)
    assert alignment.compute() == pytest.approx(rq.alignment(x[cases, 0], x[cases, 1]), rel=1e-12)


def test_nothing_seen_yet() -> None:
    assert StreamingSpectrum(4).rankme() == 1.0
    assert math.isnan(StreamingUniformity().compute())
    assert math.isnan(StreamingLidar(4).compute())
    assert math.isnan(StreamingAlignment().compute())


@pytest.mark.parametrize("rows", [torch.zeros(9, 4), torch.full((9, 4), 0.1), torch.ones(1, 4)])
def test_identical_rows_have_one_direction_and_no_variance(rows: torch.Tensor) -> None:
    stream = StreamingSpectrum(4)
    for part in rows.split(2):
        stream.update(part)
    found = stream.summary()
    assert found["rankme"] == pytest.approx(1, abs=1e-4)
    assert (found["rankme_centred"], found["top1_share"], found["participation"]) == (1, 1, 1)
    assert math.isnan(stream.power_law().alpha)


def test_a_power_law_leaves_out_rounding() -> None:
    """Thirty recordings have 29 eigenvalues; the fit must not run into the noise behind them."""
    exact = torch.arange(1, 65).double().pow(-1.2)
    exact[29:] = 1e-30
    found = power_law(exact, low=4, high=64)
    assert (found.alpha, found.high) == (pytest.approx(1.2), 29)
