"""DISCOVR's losses, assignments and centres against stored values of the published code (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.objectives.assignment import sinkhorn
from medssl.objectives.dino import warmed
from medssl.objectives.discovr import (
    Targets,
    cluster_distillation,
    masked_self_distillation,
    moved_centre,
    standardised_frames,
)
from medssl.objectives.pairs import unit

Golden = Callable[[str], Mapping[str, np.ndarray]]
Case = dict[str, Tensor]
TIGHT = {"atol": 1e-10, "rtol": 1e-10}
SINGLE = {"atol": 2e-6, "rtol": 1e-5}  # stored assignments are float32, as are the soft targets made of them


def cases(golden: Golden, name: str, count: int) -> list[Case]:
    """Entries of all cases of a name, without prefix."""
    tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in golden("discovr").items()}
    numbers = sorted({int(m.group(1)) for k in tensors if (m := re.match(rf"{name}(\d+)_", k))})
    assert len(numbers) == count, "another number of cases in the file than is checked here"
    return [{k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in
            (f"{name}{i}_" for i in numbers)]  # fmt: skip


def test_assignments_of_few_and_many_samples(golden: Golden) -> None:
    for case in cases(golden, "sk", 5):
        options = {"epsilon": float(case["eps"]), "iterations": int(case["iters"])}
        torch.testing.assert_close(sinkhorn(case["scores"], **options).float(), case["q"], **SINGLE)
        torch.testing.assert_close(sinkhorn(case["scores"].float(), **options), case["q"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("targets", "prefix"), [("hard", ""), ("soft", "soft_")])
def test_cluster_distillation_and_its_gradients(golden: Golden, targets: Targets, prefix: str) -> None:
    tolerance = TIGHT if targets == "hard" else SINGLE
    for case in cases(golden, "scd", 3):
        student, teacher = (case[k].flatten(0, 1) for k in ("student", "teacher"))
        student.requires_grad_()
        prototypes = unit(case["protos_raw"])
        torch.testing.assert_close(prototypes, case["protos"], **TIGHT)
        prototypes.requires_grad_()
        options = {"epsilon": float(case["eps"]), "iterations": int(case["iters"]), "targets": targets}
        found = cluster_distillation(student, teacher, prototypes, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(found.loss.detach(), case[f"{prefix}loss_student_side"], **tolerance)
        torch.testing.assert_close(found.scores, case["scores_s"].flatten(0, 1), **TIGHT)
        torch.testing.assert_close(found.assignments.float(), case["q_t"].flatten(0, 1), **SINGLE)
        assert torch.equal(found.assignments.argmax(-1), case["hard_t"].flatten())
        found.loss.backward()
        torch.testing.assert_close(student.grad, case[f"{prefix}grad_student"].flatten(0, 1), **tolerance)
        torch.testing.assert_close(prototypes.grad, case[f"{prefix}grad_protos"], **tolerance)


@pytest.mark.parametrize(("targets", "prefix"), [("hard", ""), ("soft", "soft_")])
def test_the_other_side_of_cluster_distillation(golden: Golden, targets: Targets, prefix: str) -> None:
    tolerance = TIGHT if targets == "hard" else SINGLE
    for case in cases(golden, "scd", 3):
        student, teacher = (case[k].flatten(0, 1) for k in ("student", "teacher"))
        options = {"epsilon": float(case["eps"]), "iterations": int(case["iters"]), "targets": targets}
        exchanged = cluster_distillation(teacher, student, case["protos"], **options)  # type: ignore[arg-type]
        torch.testing.assert_close(exchanged.loss, case[f"{prefix}loss_teacher_side"], **tolerance)
        torch.testing.assert_close(exchanged.assignments.float(), case["q_s"].flatten(0, 1), **SINGLE)
        assert torch.equal(exchanged.assignments.argmax(-1), case["hard_s"].flatten())
        both = cluster_distillation(student, teacher, case["protos"], symmetric=True, **options)  # type: ignore[arg-type]
        wanted = case[f"{prefix}loss_student_side"] + case[f"{prefix}loss_teacher_side"]
        torch.testing.assert_close(both.loss, wanted, **tolerance)
        if targets == "hard":
            torch.testing.assert_close(both.loss, case["loss"], **TIGHT)


def test_self_distillation_its_gradients_and_temperatures(golden: Golden) -> None:
    for case in cases(golden, "dino", 3):
        scores, teacher = case["student_logits"].requires_grad_(), case["teacher_logits"]
        hot = warmed(float(case["epoch"]), (0.04, 0.07), 29)  # the last of 30 epochs has the last temperature
        assert hot == pytest.approx(float(case["teacher_temp"]), rel=1e-12)
        options = {"temperature": float(case["student_temp"]), "teacher_temperature": hot}
        found = masked_self_distillation(scores, teacher, case["center"][0], **options)
        torch.testing.assert_close(found.loss.detach(), case["loss"], **TIGHT)
        factor = 256 / len(teacher)
        torch.testing.assert_close(factor * found.loss.detach(), case["loss_official_scaled"], **TIGHT)
        (factor * found.loss).backward()
        torch.testing.assert_close(scores.grad, case["grad_student_official_scaled"], **TIGHT)


@pytest.mark.parametrize(("reference", "name"), [(False, "new_center_fixed"), (True, "new_center_official")])
def test_centre(golden: Golden, reference: bool, name: str) -> None:
    for case in cases(golden, "dino", 3):
        centre, teacher = case["center"][0], case["teacher_logits"]
        shares = masked_self_distillation(
            case["student_logits"], teacher, centre, temperature=0.1, teacher_temperature=float(case["teacher_temp"])
        ).shares
        moved = moved_centre(centre, teacher, shares, momentum=float(case["center_momentum"]), reference=reference)
        torch.testing.assert_close(moved, case[name][0], **TIGHT)


def test_standardised_frames(golden: Golden) -> None:
    for case in cases(golden, "fn", 2):
        tokens = case["tokens_with_cls"][:, 1:].unsqueeze(0)
        torch.testing.assert_close(standardised_frames(tokens)[0], case["out"], **TIGHT)
