"""Parts of a volume along the axial axis, and how their slices are changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medssl.views.partitions import (
    SliceParameters,
    apply_slice_intensity,
    apply_zoom,
    draw_slice_parameters,
    partition_bounds,
)


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_every_slice_is_in_one_part(parts: int) -> None:
    for slices in range(parts, 40):
        bounds = partition_bounds(slices, parts)
        assert bounds[0, 0] == 0 and bounds[-1, 1] == slices
        np.testing.assert_array_equal(bounds[1:, 0], bounds[:-1, 1])
        lengths = np.diff(bounds, axis=1)
        assert lengths.min() >= 1 and lengths.max() - lengths.min() <= 1
        published = partition_bounds(slices, parts, whole=False)
        assert (np.diff(published, axis=1) == slices // parts).all()


def neutral(n: int, **changes: torch.Tensor) -> SliceParameters:
    return SliceParameters(torch.full((n, 2), 0.5), torch.zeros(n), torch.ones(n))._replace(**changes)


def test_parameters_are_drawn_for_each_slice() -> None:
    drawn = draw_slice_parameters(200, torch.Generator().manual_seed(0), brightness=0.3, contrast=0.2)
    for values, low, high in ((drawn.window, 0, 1), (drawn.brightness, -0.3, 0.3), (drawn.contrast, 0.8, 1.2)):
        assert len(values.unique()) > 190
        assert low <= values.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < values.max() <= high


def test_a_window_is_enlarged_to_the_plane() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(8.0), indexing="ij")
    x = torch.stack([rows, columns]).expand(3, 1, 2, 16, 8)  # two slices: y in one, x in the other
    places = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.0]])
    out = apply_zoom(x, neutral(3, window=places), 0.5)
    assert out.shape == x.shape
    inside = out[:, 0, :, 2:-2, 2:-2]  # the border repeats half a voxel
    along_y, along_x = (torch.arange(16) + 0.5) / 2 - 0.5, (torch.arange(8) + 0.5) / 2 - 0.5
    for row, (first_y, first_x) in enumerate(((0, 0), (8, 4), (4, 0))):
        torch.testing.assert_close(inside[row, 0], (first_y + along_y)[2:-2, None].expand(12, 4))
        torch.testing.assert_close(inside[row, 1], (first_x + along_x)[None, 2:-2].expand(12, 4))
    assert apply_zoom(x, neutral(3), 1.0) is x


def test_intensities_change_slice_by_slice_and_stay_in_bounds() -> None:
    x = torch.rand(3, 2, 1, 6, 6) * 10 - 5
    bounds = torch.tensor([[-10.0, 10.0]]).expand(3, 2)
    torch.testing.assert_close(apply_slice_intensity(x, neutral(3), bounds), x)
    brighter = apply_slice_intensity(x, neutral(3, brightness=torch.tensor([0.1, 0.0, -0.1])), bounds)
    torch.testing.assert_close(brighter - x, torch.tensor([2.0, 0.0, -2.0]).view(3, 1, 1, 1, 1).expand_as(x))
    flat = apply_slice_intensity(x, neutral(3, contrast=torch.tensor([0.0, 1.0, 1.0])), bounds)
    torch.testing.assert_close(flat[0], x[0].mean((1, 2, 3), keepdim=True).expand_as(x[0]))
    torch.testing.assert_close(flat[1:], x[1:])
    wild = apply_slice_intensity(x, neutral(3, brightness=torch.tensor([9.0, -9.0, 0.0])), bounds)
    assert wild[0].unique().tolist() == [20.0] and wild[1].unique().tolist() == [-10.0]
