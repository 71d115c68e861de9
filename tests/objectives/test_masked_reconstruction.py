"""Patches, masks, targets and the error of hidden patches: loop references, limits, exact counts."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from medssl.encoders.positions import sine_positions
from medssl.objectives.masked_reconstruction import (
    Target,
    hidden_error,
    padded,
    patch_targets,
    patchify,
    random_mask,
    unpatchify,
    visible_cells,
)

SHAPES = [((12,), (3,)), ((6, 4), (2, 4)), ((4, 6, 2), (2, 3, 1))]
shapes = pytest.mark.parametrize(("size", "patch"), SHAPES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def looped_patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    grid = [s // p for s, p in zip(x.shape[2:], patch, strict=True)]
    out = torch.empty(len(x), math.prod(grid), math.prod(patch) * x.shape[1], dtype=x.dtype)
    for b in range(len(x)):
        for i, cell in enumerate(product(*map(range, grid))):
            for j, place in enumerate(product(*map(range, patch))):
                for c in range(x.shape[1]):
                    where = tuple(a * p + k for a, p, k in zip(cell, patch, place, strict=True))
                    out[b, i, j * x.shape[1] + c] = x[(b, c, *where)]
    return out


def looped_error(prediction: Tensor, tokens: Tensor, hidden: Tensor, least: float) -> Tensor:
    errors = []
    for b, i in hidden.nonzero().tolist():
        values = tokens[b, i]
        spread = max(math.sqrt(float(values.var()) + 1e-6), least)
        errors.append((prediction[b, i] - (values - values.mean()) / spread).square().mean())
    return torch.stack(errors).mean()


@shapes
def test_patches_are_those_of_loops_and_can_be_put_together(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    x = random(2, 3, *size)
    tokens = patchify(x, patch)
    assert torch.equal(tokens, looped_patches(x, patch))
    grid = [s // p for s, p in zip(size, patch, strict=True)]
    assert torch.equal(unpatchify(tokens, grid, patch), x)


@shapes
@pytest.mark.parametrize("least", [0.0, 0.9])
def test_the_error_and_its_gradient_are_those_of_loops(
    size: tuple[int, ...], patch: tuple[int, ...], least: float
) -> None:
    tokens = patchify(random(2, 3, *size), patch)
    hidden = torch.rand(tokens.shape[:2], generator=generator(2)) < 0.6
    one, other = (random(*tokens.shape, seed=1).requires_grad_() for _ in range(2))
    found = hidden_error(one, patch_targets(tokens, min_token_std=least), hidden)
    wanted = looped_error(other, tokens, hidden, least)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    assert one.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=1e-12)


def test_visible_predictions_do_not_matter() -> None:
    prediction, target = random(2, 5, 4).requires_grad_(), random(2, 5, 4, seed=1)
    hidden = torch.tensor([[True, False, True, False, False]] * 2)
    loss = hidden_error(prediction, target, hidden)
    loss.backward()
    assert (
        prediction.grad is not None and (prediction.grad[~hidden] == 0).all() and (prediction.grad[hidden] != 0).all()
    )
    moved = torch.where(hidden.unsqueeze(-1), prediction, 1e6)
    assert torch.equal(hidden_error(moved, target, hidden), loss)


def test_weights_leave_patches_and_values_out() -> None:
    prediction, target = random(1, 3, 2).requires_grad_(), random(1, 3, 2, seed=1)
    hidden = torch.tensor([[True, True, False]])
    one = (prediction - target)[0, 0].square().mean()
    alone = hidden_error(prediction, target, hidden, torch.tensor([[1.0, 0.0, 1.0]]))
    torch.testing.assert_close(alone, one)
    values = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(
        hidden_error(prediction, target, hidden, values), (prediction - target)[0, 0, 0].square()
    )
    equal = hidden_error(prediction, target, hidden, torch.full((1, 3), 0.5))
    torch.testing.assert_close(equal, hidden_error(prediction, target, hidden))
    # 2 to 1
    two = hidden_error(prediction, target, hidden, torch.tensor([[2.0, 1.0, 7.0]]))
    torch.testing.assert_close(two, (2 * one + (prediction - target)[0, 1].square().mean()) / 3)


def test_nothing_that_counts_is_no_error() -> None:
    prediction = random(1, 3, 2).requires_grad_()
    for hidden, weights in ((torch.zeros(1, 3), None), (torch.ones(1, 3), torch.zeros(1, 3))):
        loss = hidden_error(prediction, random(1, 3, 2), hidden.bool(), weights)
        loss.backward()
        assert loss.item() == 0 and prediction.grad is not None and (prediction.grad == 0).all()


@pytest.mark.parametrize("target", ["token", "token_channel"])
def test_targets_have_mean_0_and_variance_1(target: Target) -> None:
    tokens = 3 + 5 * random(2, 4, 24)
    found = patch_targets(tokens, channels=3, target=target).view(2, 4, -1, 3)
    axes = (2, 3) if target == "token" else (2,)
    zeros = found.mean(axes)
    torch.testing.assert_close(zeros, torch.zeros_like(zeros), atol=1e-9, rtol=0)
    ones = found.flatten(2).var(-1) if target == "token" else found.var(2)
    torch.testing.assert_close(ones, torch.ones_like(ones), atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", ["token", "token_channel", "raw"])
@pytest.mark.parametrize("least", [0.0, 0.02])
def test_constant_patches_and_single_values_stay_finite(target: Target, least: float) -> None:
    for tokens in (torch.full((1, 2, 8), 7.0), torch.randn(1, 2, 1)):
        channels = 2 if tokens.shape[-1] == 8 else 1
        found = patch_targets(tokens, channels=channels, target=target, min_token_std=least)
        assert found.isfinite().all()
        assert target == "raw" or (found == 0).all()


def test_noise_of_empty_patches_is_not_blown_up() -> None:
    noise = 1e-4 * random(1, 1, 64)
    assert patch_targets(noise, min_token_std=0.0).std() < 0.1 + 1e-4 / 1e-3  # the 1e-6 of the root alone
    assert patch_targets(1e-2 * random(1, 1, 64), min_token_std=0.0).std() > 0.9
    assert patch_targets(1e-2 * random(1, 1, 64), min_token_std=0.02).std() == pytest.approx(0.5, abs=0.1)


def test_a_single_axis_of_padding_repeats_the_edge() -> None:
    x = random(2, 1, 5, 3)
    longer, valid = padded(x, (2, 3))
    assert longer.shape == (2, 1, 6, 3) and torch.equal(longer[..., 5, :], x[..., 4, :])
    assert torch.equal(longer[:, :, valid.nonzero()[:, 0].unique()], x) and int(valid.sum()) == 15


@pytest.mark.parametrize(
    ("grid", "group"),
    [((40,), None), ((40,), (4,)), ((5, 6), None), ((4, 5, 6), (4, 1, 1)), ((4, 4, 4), (2, 2, 2)), ((3, 5), (2, 2))],
)
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.75, 0.9, 0.99])
def test_every_mask_hides_the_same_number(grid: tuple[int, ...], group: tuple[int, ...] | None, ratio: float) -> None:
    masks = random_mask(7, grid, ratio, generator(), group=group)
    seen = visible_cells(grid, ratio, group=group)
    assert masks.shape == (7, *grid) and masks.dtype == torch.bool
    assert ((~masks).flatten(1).sum(1) == seen).all() and 0 < seen < math.prod(grid)
    assert any(not torch.equal(masks[0], m) for m in masks[1:])
    assert torch.equal(masks, random_mask(7, grid, ratio, generator(), group=group))


def test_the_numbers_published_are_hidden() -> None:
    assert visible_cells((14, 14), 0.75) == 49
    assert visible_cells((8, 14, 14), 0.9) == 156
    assert visible_cells((10,), 0.9) == 1


def test_every_cell_is_hidden_equally_often() -> None:
    shares = random_mask(4000, (3, 4), 0.75, generator()).float().mean(0)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.75), atol=0.03, rtol=0)


def test_tubes_run_through_all_frames_and_blocks_are_whole() -> None:
    tubes = random_mask(5, (4, 3, 3), 0.6, generator(), group=(4, 1, 1))
    assert (tubes == tubes[:, :1]).all()
    blocks = random_mask(5, (4, 6), 0.5, generator(), group=(2, 3)).unflatten(1, (2, 2)).unflatten(3, (2, 3))
    whole = blocks.float().mean((2, 4))
    assert ((whole == 0) | (whole == 1)).all()
    uneven = random_mask(1, (7,), 0.5, generator(3), group=(3,))[0].int().tolist()
    assert sum(a != b for a, b in pairwise(uneven)) <= 3


@pytest.mark.parametrize(("grid", "width"), [((7,), 4), ((3, 4), 10), ((2, 3, 4), 26), ((2, 3, 2), 12)])
def test_places_have_codes_of_their_own(grid: tuple[int, ...], width: int) -> None:
    codes = sine_positions(grid, width)
    assert codes.shape == (math.prod(grid), width) and codes.dtype == torch.float32
    assert len(codes.unique(dim=0)) == len(codes)
    torch.testing.assert_close(codes.square().sum(1), torch.full((len(codes),), width / 2))


def test_an_odd_width_has_no_codes() -> None:
    with pytest.raises(ValueError, match="even width"):
        sine_positions((3, 3), 5)
