"""Masks of runs of time steps: share, lengths of runs and gaps, channels, and one generator for all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.masks import hidden_runs

MILLION = (250, 4, 1000)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_run(mask: Tensor) -> float:
    """Mean length of runs of True along the last axis."""
    starts = functional.pad(mask.int(), (1, 0)).diff().clamp_min(0).sum()
    return float(mask.sum() / starts)


@pytest.mark.parametrize(("ratio", "length"), [(0.15, 3.0), (0.3, 8.0), (0.6, 2.5), (0.15, 1 / 0.85)])
def test_share_and_mean_lengths_of_runs_and_gaps(ratio: float, length: float) -> None:
    mask = hidden_runs(MILLION, ratio, length, generator=generator())
    assert mask.shape == MILLION and mask.dtype == torch.bool
    assert mask.float().mean().item() == pytest.approx(ratio, abs=0.01)
    assert mean_run(mask) == pytest.approx(length, rel=0.05)
    assert mean_run(~mask) == pytest.approx(length * (1 - ratio) / ratio, rel=0.05)


def test_lengths_are_geometric() -> None:
    mask = hidden_runs((1, 1, 300_000), 0.2, 4.0, generator=generator())[0, 0]
    edges = functional.pad(mask.int(), (1, 1)).diff()
    lengths = (edges == -1).nonzero().flatten() - (edges == 1).nonzero().flatten()
    found = torch.bincount(lengths, minlength=9)[1:9] / len(lengths)
    torch.testing.assert_close(found, 0.25 * 0.75 ** torch.arange(8.0), atol=0.01, rtol=0)


def test_a_run_ends_with_its_row_and_begins_anywhere() -> None:
    mask = hidden_runs((20_000, 1, 6), 0.3, 5.0, generator=generator())[:, 0].float()
    torch.testing.assert_close(mask.mean(0), torch.full((6,), 0.3), atol=0.02, rtol=0)
    before, after = mask[:-1, -1], mask[1:, 0]
    assert torch.corrcoef(torch.stack([before, after]))[0, 1].abs() < 0.03


def test_channels_are_hidden_apart_or_together() -> None:
    apart = hidden_runs((8, 3, 200), 0.3, 4.0, generator=generator())
    together = hidden_runs((8, 3, 200), 0.3, 4.0, generator=generator(), sync=True)
    assert not torch.equal(apart[:, 0], apart[:, 1])
    assert torch.equal(together[:, 0], together[:, 2]) and not torch.equal(together[0], together[1])


def test_shares_that_vary_go_from_none_to_twice_the_ratio() -> None:
    shares = hidden_runs((200, 1, 5000), 0.2, 3.0, generator=generator(), variable=True).float().mean(-1)
    assert shares.mean().item() == pytest.approx(0.2, abs=0.02)
    assert shares.min() < 0.02 and 0.38 < shares.max() < 0.43
    fixed = hidden_runs((200, 1, 5000), 0.2, 3.0, generator=generator()).float().mean(-1)
    assert shares.std() > 5 * fixed.std()


def test_one_generator_decides_everything() -> None:
    torch.manual_seed(1)
    first = hidden_runs((4, 2, 50), 0.3, 3.0, generator=generator(7), variable=True)
    torch.manual_seed(2)
    assert torch.equal(first, hidden_runs((4, 2, 50), 0.3, 3.0, generator=generator(7), variable=True))
    assert not torch.equal(first, hidden_runs((4, 2, 50), 0.3, 3.0, generator=generator(8), variable=True))


@pytest.mark.parametrize(
    ("ratio", "length", "variable"), [(0.0, 3, False), (1.0, 9, False), (0.5, 1.5, False), (0.4, 3, True)]
)
def test_impossible_laws_are_refused(ratio: float, length: float, variable: bool) -> None:
    with pytest.raises(ValueError, match="cannot hide"):
        hidden_runs((2, 1, 9), ratio, length, generator=generator(), variable=variable)
