"""Batched flips and quarter turns equal torch's own, row by row."""

from __future__ import annotations

import itertools

import torch

from medssl.views.dihedral import apply_dihedral, draw_dihedral


def test_all_sixteen_combinations_on_squares_and_half_turns_on_rectangles() -> None:
    for size, turns in (((3, 4, 4), range(4)), ((2, 3, 5), (0, 2))):
        cases = list(itertools.product((False, True), (False, True), (False, True), turns))
        x = torch.randn(len(cases), 2, *size)
        flip, turn = torch.tensor([c[:3] for c in cases]), torch.tensor([c[3] for c in cases])
        found = apply_dihedral(x, flip, turn)
        for row, (z, y, across, k) in enumerate(cases):
            flipped = x[row].flip([a for a, f in zip((1, 2, 3), (z, y, across), strict=True) if f])
            assert torch.equal(found[row], torch.rot90(flipped, k, (2, 3))), cases[row]


def test_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = draw_dihedral(4000, generator, flip=(0.0, 0.2, 1.0), turn=0.3, square=True)
    assert not drawn["flip"][:, 0].any() and drawn["flip"][:, 2].all()
    assert abs(drawn["flip"][:, 1].float().mean() - 0.2) < 0.03
    assert abs((drawn["turn"] > 0).float().mean() - 0.3) < 0.03
    assert set(drawn["turn"].tolist()) == {0, 1, 2, 3}
    oblong = draw_dihedral(100, generator, flip=(0, 0, 0), turn=1.0, square=False)
    assert set(oblong["turn"].tolist()) == {2}
