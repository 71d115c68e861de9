"""Masked autoencoding against stored reference values (float64, mae_st, VideoMAE, and the unified patches of M3Ret)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.positions import sine_positions
from medssl.objectives.masked_reconstruction import hidden_error, padded, patch_targets, patchify, unpatchify

Golden = Callable[[str], Mapping[str, np.ndarray]]
TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def cases(golden: Golden, pattern: str) -> list[dict[str, Tensor]]:
    """Entries of every case whose prefix matches, without the prefix."""
    vectors = golden("m3ret")
    found = sorted({m.group() for key in vectors if (m := re.match(pattern, key))})
    assert found, f"no case of {pattern} in the file"
    return [
        {k.removeprefix(p): torch.from_numpy(np.array(v)) for k, v in vectors.items() if k.startswith(p)} for p in found
    ]


def patch_of(case: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(case["patch"].tolist())


def shown_frames(case: Mapping[str, Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """mae_st predicts evenly picked frames of its clips; the frames left, and the patch that is left of them."""
    frames, count = case["x"].shape[2], int(case["pred_frames"])
    places = torch.linspace(0, frames - 1, count).long()
    time, *plane = patch_of(case)
    return case["x"][:, :, places], (time * count // frames, *plane)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("target", "name"), [("token", "norm"), ("raw", "raw")])
def test_error_of_hidden_patches(
    golden: Golden, target: Literal["token", "raw"], name: str, dtype: torch.dtype
) -> None:
    close = TIGHT if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    for case in cases(golden, r"mae\d+_"):
        x, patch = shown_frames(case)
        tokens = patchify(x.to(dtype), patch)
        torch.testing.assert_close(tokens, case["tokens"].to(dtype), atol=0, rtol=0)
        prediction = case["pred"].to(dtype).requires_grad_()
        wanted = patch_targets(tokens, channels=x.shape[1], target=target, min_token_std=0.0)
        loss = hidden_error(prediction, wanted, case["mask"] > 0)
        torch.testing.assert_close(loss.detach(), case[f"loss_{name}"].to(dtype), **close)
        if target == "token":
            loss.backward()
            assert prediction.grad is not None
            torch.testing.assert_close(prediction.grad, case["grad_pred_norm"].to(dtype), **close)


def test_targets_of_each_channel(golden: Golden) -> None:
    for case in cases(golden, r"vmae\d+_"):
        edge, tubelet = int(case["patch"]), 2
        tokens = patchify(case["x"], (tubelet, edge, edge))
        found = patch_targets(tokens, channels=case["x"].shape[1], target="token_channel", min_token_std=0.0)
        torch.testing.assert_close(found, case["target"], **TIGHT)


def test_images_volumes_and_video_are_cut_alike(golden: Golden) -> None:
    """An image is a clip of one frame, a channel three; padding repeats the edge and is known."""
    patch = tuple(int(p) for p in golden("m3ret")["uni_patch"])
    for case in cases(golden, r"uni_(?!patch)[a-z]+_"):
        x = case["x"].unsqueeze(1) if case["x"].ndim == 3 else case["x"]
        whole, valid = padded(x.expand(3, *x.shape[1:]).unsqueeze(0), patch)
        torch.testing.assert_close(whole[0], case["padded"], atol=0, rtol=0)
        assert torch.equal(valid, case["valid"])
        tokens = patchify(whole, patch)
        torch.testing.assert_close(tokens[0], case["tokens"], atol=0, rtol=0)
        torch.testing.assert_close(patch_targets(tokens, min_token_std=0.0)[0], case["target"], **TIGHT)
        grid = [s // p for s, p in zip(whole.shape[2:], patch, strict=True)]
        torch.testing.assert_close(unpatchify(tokens, grid, patch), whole, atol=0, rtol=0)


def test_codes_of_places(golden: Golden) -> None:
    vectors = golden("m3ret")
    found = sine_positions(vectors["pos3d_grid"].tolist(), int(vectors["pos3d_dim"]))
    torch.testing.assert_close(found, torch.from_numpy(vectors["pos3d"]).float(), atol=1e-7, rtol=1e-6)
