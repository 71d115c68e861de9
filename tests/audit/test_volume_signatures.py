"""Volumes are recognised whatever their size, scale and mirroring, and not taken for others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from toy_audit import anatomy

from medssl.audit.volume_signatures import mirrored_cosines, shrink, signature


def cosine(a: np.ndarray, b: np.ndarray, edge: int = 16) -> float:
    return float(mirrored_cosines(signature(a[None], edge)[None], signature(b[None], edge)[None], edge)[0])


@pytest.mark.parametrize("axes", [axes for n in range(4) for axes in itertools.combinations(range(3), n)], ids=str)
def test_every_mirroring_of_a_volume_is_the_volume(axes: tuple[int, ...]) -> None:
    assert cosine(anatomy(0), np.flip(anatomy(0), axes)) == pytest.approx(1, abs=1e-5)


def test_scale_offset_precision_and_a_finer_grid_do_not_matter() -> None:
    x = anatomy(1)
    assert cosine(x, (0.2 * x - 40).astype(np.float16)) > 0.9999
    assert cosine(x, x.repeat(2, 0).repeat(2, 1).repeat(2, 2)) > 0.9999


def test_two_people_are_two() -> None:
    assert max(cosine(anatomy(i), anatomy(j)) for i, j in itertools.combinations(range(5), 2)) < 0.9


def test_a_rotation_is_not_a_mirroring() -> None:
    x = anatomy(2)[:20, :20, :20]
    assert cosine(x, x.transpose(0, 2, 1)) < 0.9


def test_the_best_mirroring_equals_the_best_of_eight_made_by_hand() -> None:
    a, b = (shrink(anatomy(n), 16) for n in (3, 4))
    a, b = a - a.mean(), b - b.mean()
    by_hand = [
        (a * np.flip(b, axes)).sum() / np.linalg.norm(a) / np.linalg.norm(b)
        for n in range(4) for axes in itertools.combinations(range(3), n)
    ]  # fmt: skip
    assert cosine(anatomy(3), anatomy(4)) == pytest.approx(max(by_hand), abs=1e-4)


def test_shrinking_averages_cells() -> None:
    x = np.arange(32.0**3).reshape(32, 32, 32)
    by_hand = x.reshape(16, 2, 16, 2, 16, 2).mean((1, 3, 5))
    np.testing.assert_allclose(shrink(x, 16), by_hand, rtol=1e-5)


def test_a_volume_of_one_value_has_no_signature() -> None:
    assert not signature(np.full((1, 9, 9, 9), 7)).any()
