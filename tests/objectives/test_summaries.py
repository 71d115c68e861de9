"""Vectors that stand for whole maps."""

from __future__ import annotations

import torch

from medssl.objectives.summaries import batch_centred, mean_cells


def test_a_summary_is_the_mean_cell() -> None:
    maps = torch.arange(2 * 3 * 4 * 5 * 2.0).view(2, 3, 4, 5, 2)
    assert mean_cells(maps).shape == (2, 3, 4)
    assert mean_cells(maps)[1, 2, 3] == maps[1, 2, 3].mean()


def test_parallel_vectors_are_told_apart_once_centred() -> None:
    differences = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    vectors = 100 + differences
    flat = torch.nn.functional.normalize(vectors.flatten(0, 1), dim=1)
    assert (flat @ flat.T).min() > 0.99
    centred = batch_centred(vectors)
    torch.testing.assert_close(centred, differences - differences.mean((0, 1)), atol=1e-4, rtol=0)
    flat = torch.nn.functional.normalize(centred.flatten(0, 1), dim=1)
    assert (flat @ flat.T).min() < -0.2
