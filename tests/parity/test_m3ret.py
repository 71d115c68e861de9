"""SimDINO, DINO, DINOv2's Sinkhorn and KoLeo against stored reference values (float64, from the published code).

The measures of retrieval and the vote of the neighbours are compared with a slow evaluation of their equations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.evaluation.neighbours import class_votes, neighbours
from medssl.evaluation.search.measures import ranking_scores
from medssl.evaluation.search.relevance import relevant
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


def measured(vectors: Mapping[str, np.ndarray], name: str) -> dict[str, float]:
    """Every measure of retrieval that the file holds for a name; its inputs and counts are no measures."""
    keys = [k for k in vectors if re.match(rf"{name}_(\w+_at_\d+|mrr)$", k)]
    assert len(keys) == 17
    return {k.removeprefix(f"{name}_"): float(vectors[k]) for k in keys}


def compared(vectors: Mapping[str, np.ndarray], name: str, hits: np.ndarray, n_relevant: np.ndarray) -> None:
    found = ranking_scores(hits, n_relevant, vectors["ret_ks"].tolist())
    asked = n_relevant > 0
    assert int(asked.sum()) == int(vectors[f"{name}_n_queries"])
    for key, wanted in measured(vectors, name).items():
        np.testing.assert_allclose(found[key][asked].mean(), wanted, rtol=0, atol=1e-12, err_msg=key)


def test_every_retrieval_value_of_the_file_is_compared_below(golden: Golden) -> None:
    vectors = golden("m3ret")
    inputs = {"ret_feat", "ret_label", "ret_patient", "ret_ks", "ret_n_queries", "retml_query", "retml_gallery",
              "retml_query_labels", "retml_gallery_labels", "retml_n_queries", "vote_y", "vote_prob"}  # fmt: skip
    there = {k for k in vectors if re.match(r"(ret|retml|vote)\d*_", k)}
    assert there == inputs | {f"{n}_{k}" for n in ("ret", "retml") for k in measured(vectors, n)}


def test_retrieval_of_one_label_leaves_the_patient_out(golden: Golden) -> None:
    v = golden("m3ret")
    x, y, patients = v["ret_feat"], v["ret_label"], v["ret_patient"]
    found = neighbours(x, x, k=len(x), bank_patients=patients, query_patients=patients)
    classes = np.eye(int(y.max()) + 1, dtype=bool)[y]
    wanted = relevant(classes, classes) & (patients[:, None] != patients)
    hits = np.take_along_axis(wanted, found.rows, axis=1) & np.isfinite(found.similarity)
    compared(v, "ret", hits, wanted.sum(1))


def test_retrieval_of_several_labels(golden: Golden) -> None:
    v = golden("m3ret")
    found = neighbours(v["retml_gallery"], v["retml_query"], k=len(v["retml_gallery"]))
    wanted = relevant(v["retml_query_labels"], v["retml_gallery_labels"], rule="any")
    compared(v, "retml", np.take_along_axis(wanted, found.rows, axis=1), wanted.sum(1))


def test_vote_of_the_neighbours(golden: Golden) -> None:
    v = golden("m3ret")
    found = neighbours(v["retml_gallery"], v["retml_query"], k=5)
    shares = class_votes(found, v["vote_y"], classes=v["vote_prob"].shape[1], temperature=0.07)
    np.testing.assert_allclose(shares, v["vote_prob"], rtol=0, atol=1e-12)
