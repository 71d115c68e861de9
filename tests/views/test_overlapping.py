"""Two crops that overlap: where they lie, and that both show the same steps."""

from __future__ import annotations

import pytest
import torch

from medssl.views.overlapping import cut, draw_overlapping


@pytest.mark.parametrize("least", [2, 8])
def test_crops_overlap_and_stay_inside(least: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(20.0).expand(7, 2, 20)
    overlaps = set()
    for _ in range(300):
        crops = draw_overlapping(7, 20, generator, least=least)
        first, second = (cut(x, s, n) for s, n in zip(crops.starts, crops.lengths, strict=True))
        assert torch.equal(first[..., -crops.overlap :], second[..., : crops.overlap])
        (a1, a2), (n1, n2) = crops.starts, crops.lengths
        assert (a1 >= 0).all() and (a1 <= a2).all() and (a1 + n1 <= a2 + n2).all() and (a2 + n2 <= 20).all()
        assert (a1 + n1 - a2 == crops.overlap).all()
        overlaps.add(crops.overlap)
    assert overlaps == set(range(least, 21)), "uniform from the least to all"


def test_every_row_is_shifted_for_itself() -> None:
    shifts = [draw_overlapping(50, 40, torch.Generator().manual_seed(s)).starts for s in range(10)]
    assert any(len(starts[0].unique()) > 5 for starts in shifts)
    assert all((s[1] - s[0]).unique().numel() == 1 for s in shifts)
    again = draw_overlapping(50, 40, torch.Generator().manual_seed(3)).starts
    assert torch.equal(shifts[3], again)


def test_the_shortest_rows() -> None:
    crops = draw_overlapping(3, 2, torch.Generator().manual_seed(0))
    assert crops.lengths == (2, 2) and crops.overlap == 2 and not crops.starts.any()
    with pytest.raises(ValueError, match="rows of 1 steps"):
        draw_overlapping(3, 1, torch.Generator())
