"""CoTAP's terms and prompt-patch evaluation against stored reference values (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.evaluation.map_similarity import (
    cell_labels,
    enlarged_maps,
    object_similarity,
    prompt_maps,
    prompt_scores,
)
from medssl.objectives.cotap import Cells, neighbour_ranking_loss
from medssl.objectives.foreground import foreground_mask, strongest_cells
from medssl.objectives.neighbours import neighbour_cross_entropy
from medssl.objectives.object_filter import filter_cells, filter_summary, prototype_entropy
from medssl.objectives.ranking import ap_loss, misranking, not_exceeded

Golden = Callable[[str], Mapping[str, np.ndarray]]
Case = dict[str, Tensor]

TIGHT = {"atol": 1e-12, "rtol": 1e-10}


def cases(golden: Golden, name: str) -> list[Case]:
    """All cases of a kind, their keys without the prefix."""
    vectors = golden("dense_objectives")
    numbers = sorted({int(m.group(1)) for key in vectors if (m := re.match(rf"{name}(\d+)_", key))})
    assert numbers, f"no case of {name} in the file"
    return [
        {k.removeprefix(f"{name}{i}_"): torch.from_numpy(np.array(v)) for k, v in vectors.items()
         if k.startswith(f"{name}{i}_")}
        for i in numbers
    ]  # fmt: skip


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.detach(), wanted, check_dtype=False, **TIGHT)


@pytest.mark.parametrize("fast", [False, True])
def test_continuous_average_precision(golden: Golden, fast: bool) -> None:
    for case in cases(golden, "ap"):
        target, margin = case["target"], float(case["tau"])
        pred = case["pred"].requires_grad_()
        close(misranking(target, pred, margin=margin, fast=fast), case["pn"])
        close(not_exceeded(target, pred.detach(), fast=fast), case["pp"])
        loss = ap_loss(
            target, pred, case["match"] > 0, margin=margin, floor=float(case["thres"]),
            unmatched=float(case["alpha"]), fast=fast,
        )  # fmt: skip
        loss.backward()
        close(loss, case["loss"])
        assert pred.grad is not None
        close(pred.grad, case["grad"])


@pytest.mark.parametrize("fast", [False, True])
def test_hinge_misranking_of_a_batch(golden: Golden, fast: bool) -> None:
    for case in cases(golden, "hinge"):
        found = misranking(case["target"], case["pred"], margin=float(case["tau"]), surrogate="hinge", fast=fast)
        close(found, case["pn"])


def test_ranking_of_neighbours_cells(golden: Golden) -> None:
    for case in cases(golden, "patch"):
        items = len(case["teacher"])
        keep = case["keep"].view(2, items, -1, *case["keep"].shape[1:]).transpose(1, 2)
        student, student_pos = case["student"].requires_grad_(), case["student_pos"].requires_grad_()
        losses = []
        for order, cells in zip(case["perms"].split(5), case["pool_ks"].tolist(), strict=True):
            chosen = [
                strongest_cells(kept, [s.transpose(0, 1), t.transpose(0, 1)], cells=cells, count=int(case["topk"]))
                for kept, s, t in zip(keep, (student, student_pos), (case["teacher"], case["teacher_pos"]), strict=True)
            ]
            of_student, of_teacher = (Cells(a.unsqueeze(0), b.unsqueeze(0)) for a, b in zip(*chosen, strict=True))
            losses.append(
                neighbour_ranking_loss(
                    of_student,
                    of_teacher,
                    torch.cat([torch.arange(items).unsqueeze(0), order]),
                    margin=float(case["tau"]),
                    floor=float(case["thres"]),
                )
            )
        loss = torch.stack(losses).mean()
        loss.backward()
        close(loss, case["loss"])
        assert student.grad is not None and student_pos.grad is not None
        close(student.grad, case["grad_student"])
        close(student_pos.grad, case["grad_student_pos"])


def test_object_filter(golden: Golden) -> None:
    for case in cases(golden, "oaf"):
        heads = int(case["heads"])

        def split(x: Tensor, case: Case = case, heads: int = heads) -> Tensor:
            """(..., C) → queries, keys and values (3, ..., heads, C / heads)."""
            return (x @ case["w_qkv"].T + case["b_qkv"]).unflatten(-1, (3, heads, -1)).movedim(-3, 0)

        def project(x: Tensor, case: Case = case) -> Tensor:
            return x @ case["w_proj"].T + case["b_proj"]

        tokens = case["tokens"]
        edge = round(tokens.shape[1] ** 0.5)
        queries = split(tokens)[0].movedim(1, -1).unflatten(-1, (edge, edge))
        keys, values = split(case["kernel"])[1:].movedim((4, 5), (2, 3))
        found, attention = filter_cells(queries, keys, values)
        close(attention.flatten(3).transpose(2, 3), case["attn"])
        close(project(found.flatten(3).movedim(-1, 1).flatten(2)), case["out"])
        summary = filter_summary(split(case["cls"].squeeze(1))[0], keys, values)
        close(project(summary.flatten(1)), case["cls_out"].squeeze(1))


def test_entropy_of_prototypes(golden: Golden) -> None:
    for case in cases(golden, "ent"):
        kernel = case["kernel"].requires_grad_()
        loss = prototype_entropy(kernel, case["samples"], temperature=float(case["temp"]))
        loss.backward()
        close(loss, case["loss"])
        assert kernel.grad is not None
        close(kernel.grad, case["grad"])


def test_clusters_across_neighbours(golden: Golden) -> None:
    for case in cases(golden, "cls"):
        scores = [case[k].requires_grad_() for k in ("student", "student_pos")]
        mine, other = (s.transpose(0, 1) for s in scores)
        loss = neighbour_cross_entropy(
            mine, case["teacher"].transpose(0, 1), other, case["teacher_pos"].transpose(0, 1),
            temperature=float(case["temp"]),
        )  # fmt: skip
        loss.backward()
        close(loss, case["loss"])
        for each, key in zip(scores, ("grad_student", "grad_student_pos"), strict=True):
            assert each.grad is not None
            close(each.grad, case[key])


def test_foreground_masks(golden: Golden) -> None:
    for case in cases(golden, "fg"):
        found = foreground_mask(
            case["attn"].mean(1), keep=float(case["keep_mass"]), sigma=float(case["blur_sigma"])
        )  # fmt: skip
        assert torch.equal(found, case["mask"])


def test_prompts_and_similarity_of_objects(golden: Golden) -> None:
    for case in cases(golden, "prompt"):
        features, labels = case["feat"].movedim(-1, 0), case["label"]
        names, prompts = case["prompts_obj_row_col"][:, 0], case["prompts_obj_row_col"][:, 1:]
        maps = prompt_maps(features, prompts)
        close(maps, case["maps"])
        objects = labels == names.view(-1, 1, 1)
        scores = prompt_scores(enlarged_maps(maps, labels.shape), objects, case["thresholds"].tolist())
        close(scores.jaccard, case["jaccard"])
        close(scores.dice, 2 * case["jaccard"] / (1 + case["jaccard"]))
        cells = cell_labels(labels, features.shape[1:])
        assert torch.equal(cells, case["patch_label"])
        found = object_similarity(features, cells)
        close(found.intra_mean, case["intra_mean"])
        close(found.inter_mean, case["inter_mean"])
        close(found.overlap, case["overlap"])
