"""SimDINO, DINO, DINOv2's Sinkhorn and KoLeo against stored reference values (float64, from the published code)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.objectives.assignment import centred, prediction_loss, sinkhorn, updated_centre
from medssl.objectives.dino import koleo
from medssl.objectives.pairs import unit
from medssl.objectives.sim_dino import SimDINO, alignment, expansion

Golden = Callable[[str], Mapping[str, np.ndarray]]
TIGHT = {"atol": 1e-10, "rtol": 1e-10}
EXPANDED: tuple[Literal["student", "both"], ...] = ("student", "both")


def cases(vectors: Mapping[str, np.ndarray], name: str) -> list[dict[str, Tensor]]:
    """Entries of every case of a name, without prefix."""
    found = sorted({m.group() for key in vectors if (m := re.match(rf"{name}\d+_", key))})
    assert found, f"no case of {name} in the file"
    return [
        {k.removeprefix(p): torch.from_numpy(np.asarray(v)) for k, v in vectors.items() if k.startswith(p)}
        for p in found
    ]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_coding_rate_loss_of_both_versions(golden: Golden, version: str) -> None:
    """The first version takes cosines for the alignment, the second products; equal for unit features."""
    for case in cases(golden("m3ret"), "mcr"):
        student, teacher = case["student"].requires_grad_(), case["teacher"]
        agreement = alignment(unit(student), unit(teacher)) if version == "v1" else alignment(student, teacher)
        of = EXPANDED[int(case["expa_type"])]
        spread = expansion(student, teacher, epsilon=float(case["eps"]), of=of)
        loss = -float(case["coeff"]) * agreement - spread
        loss.backward()
        found = {"loss": loss, "comp": agreement, "expa": spread, "grad_student": student.grad}
        if version == "v2":
            found["global_comp"] = alignment(student[: len(teacher)], teacher)
        for key, value in found.items():
            assert value is not None
            torch.testing.assert_close(value.detach(), case[f"{version}_{key}"], **TIGHT)


def test_sim_dino_of_unit_features_is_that_loss(golden: Golden) -> None:
    tried = 0
    for case in cases(golden("m3ret"), "mcr"):
        student, teacher = case["student"], case["teacher"]
        is_unit = all(torch.allclose(x.norm(dim=-1), torch.ones(()).double()) for x in (student, teacher))
        if not is_unit or student.shape[1] < SimDINO.min_samples:
            continue
        objective = SimDINO(
            epsilon=float(case["eps"]), weight=float(case["coeff"]), expansion=EXPANDED[int(case["expa_type"])]
        )
        torch.testing.assert_close(objective(student, targets=teacher).loss, case["v2_loss"], **TIGHT)
        tried += 1
    assert tried


def test_dino_with_a_centre(golden: Golden) -> None:
    for case in cases(golden("m3ret"), "dino"):
        student, teacher, centre = case["student"].requires_grad_(), case["teacher"], case["center"].view(-1)
        q = centred(teacher, centre, temperature=float(case["teacher_temp"]))
        loss = prediction_loss(student, q, temperature=0.1)
        loss.backward()
        torch.testing.assert_close(loss.detach(), case["loss"], **TIGHT)
        torch.testing.assert_close(student.grad, case["grad"], **TIGHT)
        moved = updated_centre(centre, teacher, momentum=0.9)
        torch.testing.assert_close(moved, case["new_center"].view(-1), **TIGHT)


def test_sinkhorn_of_a_teacher(golden: Golden) -> None:
    for case in cases(golden("m3ret"), "dsk"):
        q = sinkhorn(case["logits"], epsilon=float(case["temp"]), iterations=int(case["iters"]))
        torch.testing.assert_close(q.float(), case["q"], atol=1e-6, rtol=1e-6)  # computed in float32 there


def test_koleo(golden: Golden) -> None:
    for case in cases(golden("m3ret"), "koleo"):
        x = case["x"].requires_grad_()
        loss = koleo(x.unsqueeze(0)).sum()
        loss.backward()
        torch.testing.assert_close(loss.detach(), case["loss"], **TIGHT)
        torch.testing.assert_close(x.grad, case["grad"], **TIGHT)
