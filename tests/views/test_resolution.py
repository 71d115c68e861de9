"""Blur and coarse sampling as matrices."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from medssl.views.resolution import apply_along, blur_matrix, coarse_matrix


def test_neutral_values_give_the_identity() -> None:
    for matrix in (blur_matrix(torch.zeros(2), 7), coarse_matrix(torch.ones(2), 7)):
        torch.testing.assert_close(matrix, torch.eye(7).expand(2, 7, 7))


def test_rows_sum_to_one_so_that_constants_stay() -> None:
    strength = torch.tensor([0.3, 1.0, 2.5])
    for matrix in (blur_matrix(strength, 12), coarse_matrix(1 + strength, 12)):
        torch.testing.assert_close(matrix.sum(-1), torch.ones(3, 12))


def test_blur_is_the_gaussian_filter_away_from_the_edge() -> None:
    x = torch.randn(1, 1, 20, 24, 28, generator=torch.Generator().manual_seed(0))
    matrices = [blur_matrix(torch.tensor([1.0]), length) for length in x.shape[2:]]
    found = apply_along(x, (matrices[0], matrices[1], matrices[2]))[0, 0].numpy()
    wanted = gaussian_filter(x[0, 0].numpy(), 1.0, truncate=8)
    inside = (slice(6, -6),) * 3
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-4)


def test_coarse_sampling_by_hand() -> None:
    ramp = torch.arange(8.0)
    found = coarse_matrix(torch.tensor([2.0]), 8)[0] @ ramp
    assert set(found[[0, -1]].tolist()) <= set(ramp.tolist()), "edges repeat the outermost sample"
    assert ((found[2:-1] - found[1:-2]) - 1).abs().max() < 1e-5, "linear in between"
    alternating = torch.tensor([0.0, 1.0] * 4)
    assert (coarse_matrix(torch.tensor([2.0]), 8)[0] @ alternating).std() < 1e-6, "finer detail is lost"
    assert torch.isfinite(coarse_matrix(torch.tensor([50.0]), 8)).all()


def test_each_row_has_its_own_strength() -> None:
    x = torch.randn(2, 3, 6, 7, 8)
    strength = torch.tensor([0.0, 1.5])
    found = apply_along(x, tuple(blur_matrix(strength, n) for n in (6, 7, 8)))  # type: ignore[arg-type]
    torch.testing.assert_close(found[0], x[0])
    assert found[1].std() < 0.6 * x[1].std()
