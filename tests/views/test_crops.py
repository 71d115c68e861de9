"""Cutting on the device."""

from __future__ import annotations

import torch

from medssl.views.crops import cut_bases, cut_crops, foreground_share


def test_crops_are_the_slices_at_their_places() -> None:
    window = torch.randn(3, 2, 6, 10, 12)
    starts = torch.tensor([[[0, 0, 0], [2, 5, 7]], [[1, 1, 1], [0, 5, 0]], [[2, 0, 7], [1, 2, 3]]])
    found = cut_crops(window, starts, (4, 5, 5))
    for row, (b, s) in enumerate([(b, s) for b in range(3) for s in range(2)]):
        z, y, x = starts[b, s].tolist()
        assert torch.equal(found[row], window[b, :, z : z + 4, y : y + 5, x : x + 5])


def test_bases_tile_the_window_with_x_fastest() -> None:
    window = torch.randn(2, 3, 4, 6, 8)
    tiles = cut_bases(window, (2, 3, 4), (2, 2, 2))
    assert tiles.shape == (2, 8, 3, 2, 3, 4)
    assert torch.equal(tiles[1, 1], window[1, :, :2, :3, 4:])
    assert torch.equal(tiles[1, 4], window[1, :, 2:, :3, :4])


def test_foreground_share_counts_voxels_apart_in_any_channel() -> None:
    crops = torch.zeros(1, 2, 2, 2, 2, 2)
    crops[0, 0, 1, 0, 0, 0] = 0.5
    crops[0, 1] = 0.009
    share = foreground_share(crops, torch.zeros(1, 2), torch.tensor([0.01]))
    assert share.tolist() == [[0.125, 0.0]]
    assert foreground_share(crops, torch.tensor([[0.5, 0.5]]), torch.tensor([0.01])).tolist() == [[1.0, 1.0]]
