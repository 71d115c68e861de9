"""Global and local contrast against stored values of the published code (float64, channels last)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

from medssl.objectives import global_local
from medssl.objectives.global_local import Regions, gather_regions, regions
from medssl.views.partitions import partition_bounds

Golden = Callable[[str], Mapping[str, np.ndarray]]
EXACT = 1e-9
SINGLE = 1e-5


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("global_local_contrast")


def cases(vectors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    found = sorted({m.group(1) for key in vectors if (m := re.match(rf"({pattern})", key))})
    assert found, f"no case of {pattern} in the file"
    return found


def close(got: Tensor | None, wanted: np.ndarray, tolerance: float = EXACT) -> None:
    assert got is not None
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)


def held(
    vectors: Mapping[str, np.ndarray], case: str, rows: str, loss: Callable[[Tensor], Tensor], *, grad: str | None
) -> None:
    """Value and gradient in float64, and the value in float32."""
    z = torch.from_numpy(vectors[f"{case}_{rows}"]).requires_grad_()
    value = loss(z)
    close(value, vectors[f"{case}_loss"])
    if grad:
        value.backward()
        close(z.grad, vectors[f"{case}_{grad}"])
    close(loss(z.detach().float()), vectors[f"{case}_loss"], SINGLE)


def test_contrast_of_random_slices(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"gr_\w+(?=_temp)"):
        temperature = float(vectors[f"{case}_temp"])

        def loss(z: Tensor, temperature: float = temperature) -> Tensor:
            pairs = z.view(1, -1, 2, z.shape[1]).transpose(1, 2)  # rows (2k, 2k+1) are views of one slice
            return global_local.global_random(pairs, temperature=temperature)

        held(vectors, case, "z", loss, grad=None)


def test_contrast_without_negatives_of_the_same_part(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"gdm_\w+(?=_bt_temp)"):
        size, temperature, parts = vectors[f"{case}_bt_temp_nparts"].tolist()

        def loss(z: Tensor, size: float = size, temperature: float = temperature, parts: float = parts) -> Tensor:
            members = z.view(3, -1, int(parts), z.shape[1]).transpose(0, 1)
            assert members.shape[0] * parts == size
            return global_local.global_negatives(members, temperature=temperature, reduction="reference")

        held(vectors, case, "z", loss, grad="grad")


def test_contrast_across_volumes(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"gd_\w+(?=_bt_temp)"):
        size, temperature, parts = vectors[f"{case}_bt_temp_nparts"].tolist()

        def loss(z: Tensor, size: float = size, temperature: float = temperature, parts: float = parts) -> Tensor:
            volumes = z.view(-1, 2, int(parts), z.shape[1])
            assert len(volumes) * parts == 2 * size
            return global_local.global_domain(volumes, temperature=temperature, reduction="reference")

        held(vectors, case, "z", loss, grad="grad")


def described(vectors: Mapping[str, np.ndarray], case: str) -> tuple[dict[str, Any], Regions, float]:
    names = ("loss", "size", "blocks", "image", "wide", "linear", "count", "listed", "override")
    about = dict(zip(names, vectors[f"{case}_cfg"].tolist(), strict=True))
    listed = about["override"] if about["loss"] == 1 else about["listed"]
    height, width = vectors[f"{case}_y"].shape[1:3]
    assert height == about["image"] // 2 ** (5 - about["blocks"])
    table = regions((height, width), edge=3 if about["wide"] else 1, count=about["count"], listed=listed)
    return about, table, float(vectors[f"{case}_temp"])


@pytest.mark.parametrize("pattern", [r"lr_\w+(?=_cfg)", r"ld_\w+(?=_cfg)"])
def test_contrast_of_regions(vectors: Mapping[str, np.ndarray], pattern: str) -> None:
    for case in cases(vectors, pattern):
        about, table, temperature = described(vectors, case)
        assert bool(about["linear"]) == (f"{case}_W" in vectors)
        linear = torch.from_numpy(vectors[f"{case}_W"]).requires_grad_() if about["linear"] else None

        def loss(
            y: Tensor,
            table: Regions = table,
            temperature: float = temperature,
            linear: Tensor | None = linear,
            across: bool = about["loss"] == 1,
        ) -> Tensor:
            z = gather_regions(y.movedim(-1, 1), table.cells)
            z = z if linear is None else z @ linear.to(z.dtype)
            if not across:
                return global_local.local_random(z[0::2], z[1::2], table, temperature=temperature)
            first, second = (half.unflatten(0, (-1, 4)) for half in z.chunk(2))
            return global_local.local_domain(first, second, table, temperature=temperature, reduction="reference")

        held(vectors, case, "y", loss, grad="grad_y")
        if linear is not None:
            close(linear.grad, vectors[f"{case}_grad_W"])


def test_tables_of_regions(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"reg\d+_\dx\d_b\d_\d+"):
        count, edge, blocks, image = map(int, re.findall(r"\d+", case.replace("x3", "").replace("x1", "")))
        size = image // 2 ** (5 - blocks)
        table = regions((size, size), edge=edge, count=count)  # type: ignore[arg-type]
        first = torch.stack([table.cells[:, 0] // size, table.cells[:, 0] % size], 1)
        close(first[table.anchors], vectors[f"{case}_pos"])
        for region, wanted in enumerate(vectors[f"{case}_neg"].tolist()):
            assert sorted(first[table.negatives[region]].tolist()) == sorted(wanted)
        corner = table.cells[0]
        assert corner.tolist() == [row * size + column for row in range(edge) for column in range(edge)]


def test_parts_of_a_volume(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"partition_bounds_\d+"):
        slices = int(case.rpartition("_")[2])
        wanted = vectors[case]  # the last slice is part of it
        bounds = partition_bounds(slices, len(wanted), whole=False)
        np.testing.assert_array_equal(np.stack([bounds[:, 0], bounds[:, 1] - 1], 1), wanted)
        all_slices = partition_bounds(slices, len(wanted))
        assert [b.tolist() for b in np.array_split(np.arange(slices), len(wanted))] == [
            list(range(first, stop)) for first, stop in all_slices
        ]


def test_order_of_the_rows(vectors: Mapping[str, np.ndarray]) -> None:
    """The published builder leaves the last group blank; ours fills it, in the same order."""
    for case in cases(vectors, r"stitch_gd_bt\d+"):
        wanted, size = vectors[case], int(case.rpartition("bt")[2])
        slices = torch.arange(1, size + 1).view(-1, 4)  # of one draw: a volume a row
        draws = torch.stack([slices, 200 + slices], 1).flatten(0, 1)  # partners follow each other
        rows = torch.stack([draws, 100 + draws], 1).flatten()
        np.testing.assert_array_equal(rows[wanted > 0], wanted[wanted > 0])
        assert (wanted[-16:] == 0).all() and (rows > 0).all()
    pairs = torch.stack([torch.arange(1, 4), 101 + torch.arange(3)], 1).flatten()
    np.testing.assert_array_equal(pairs, vectors["stitch_two"])


def test_losses_of_fine_tuning(vectors: Mapping[str, np.ndarray]) -> None:
    """They are MONAI's and torch's; ours adds cross-entropy to the Dice (``heads/losses.py``)."""
    truth = torch.from_numpy(vectors["seg_onehot"]).movedim(-1, 1).double()
    weights = torch.tensor([0.1, 0.3, 0.3, 0.3], dtype=torch.float64)
    dice = {"softmax": True, "smooth_nr": 0.0, "smooth_dr": 1e-10}
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "seg_dice_bg": lambda y: DiceLoss(**dice)(y, truth),
        "seg_dice_fg": lambda y: DiceLoss(include_background=False, **dice)(y, truth),
        "seg_wce": lambda y: functional.cross_entropy(y, truth.argmax(1), weights, reduction="none").mean(),
    }
    for case, loss in found.items():
        logits = torch.from_numpy(vectors["seg_logits"]).movedim(-1, 1).requires_grad_()
        value = loss(logits)
        value.backward()
        close(value, vectors[case])
        assert logits.grad is not None
        close(logits.grad.movedim(1, -1), vectors[f"{case}_grad"])
