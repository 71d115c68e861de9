"""Cluster assignments, SwAV, Franca's heads and losses, RASA and masks against stored reference values (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.objectives import positions
from medssl.objectives.assignment import assign, cross_entropies, prediction_loss, sinkhorn
from medssl.objectives.masks import inverse_blocks
from medssl.objectives.matryoshka import NestedHead
from medssl.objectives.swav import SwAV, pushed

Golden = Callable[[str], Mapping[str, np.ndarray]]
TIGHT = {"atol": 1e-10, "rtol": 1e-10}
SINGLE = {"atol": 2e-6, "rtol": 1e-6}  # the stored assignments went through a float32 Sinkhorn


Case = dict[str, Tensor]


def cases(vectors: Mapping[str, np.ndarray], name: str) -> list[Case]:
    """Entries of every case of a name, without prefix."""
    tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in vectors.items()}
    return part(tensors, rf"{name}\d+_")


def part(entries: Mapping[str, Tensor], pattern: str) -> list[Case]:
    """Entries whose names start alike, in the order of their numbers."""
    found = {m.group() for key in entries if (m := re.match(pattern, key))}
    assert found, f"nothing like {pattern} in the file"
    ordered = sorted(found, key=lambda prefix: int(re.sub(r"\D", "", prefix)))
    return [{k.removeprefix(p): v for k, v in entries.items() if k.startswith(p)} for p in ordered]


def test_swav_assignments_loss_gradients_and_queue(golden: Golden) -> None:
    for case in cases(golden("cluster_objectives"), "swav"):
        embeddings, prototypes = case["emb"].requires_grad_(), case["protos"].requires_grad_()
        queue = case.get("queue_before")
        options = {"epsilon": float(case["eps"]), "iterations": int(case["iters"])}
        scores = embeddings @ prototypes.T
        earlier = None if queue is None else queue @ prototypes.T
        q = assign(scores[:2], earlier=earlier, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(q, case["q"], **TIGHT)
        loss = prediction_loss(scores, q, temperature=float(case["temp"]))
        loss.backward()
        torch.testing.assert_close(loss.detach(), case["loss"], **TIGHT)
        torch.testing.assert_close(embeddings.grad, case["grad_emb"], **TIGHT)
        torch.testing.assert_close(prototypes.grad, case["grad_protos"], **TIGHT)
        if queue is not None:
            torch.testing.assert_close(pushed(queue, case["emb"][:2]), case["queue_after"], **TIGHT)


def test_swav_objective_normalises_its_prototypes_and_moves_its_queue(golden: Golden) -> None:
    for case in cases(golden("cluster_objectives"), "swav"):
        count, width = case["protos_raw"].shape
        length = case["queue_before"].shape[1] if "queue_before" in case else 0
        objective = SwAV(
            prototypes=count, epsilon=float(case["eps"]), iterations=int(case["iters"]),
            temperature=float(case["temp"]), queue=length, queue_start=0.0, frozen=0.0,
        )  # fmt: skip
        objective.fit_width(width)
        objective.double()
        with torch.no_grad():
            objective.prototypes.copy_(case["protos_raw"])
        if length:
            objective.queue.copy_(case["queue_before"])
            objective.filled.fill_(length)
        loss = objective(case["emb"]).loss
        loss.backward()
        torch.testing.assert_close(loss.detach(), case["loss"], **TIGHT)
        if length:
            torch.testing.assert_close(objective.queue, case["queue_after"], **TIGHT)
        # the gradient of a raw prototype is that of its unit vector, across it, over its length
        unit, length_of = case["protos"], case["protos_raw"].norm(dim=1, keepdim=True)
        across = case["grad_protos"] - (case["grad_protos"] * unit).sum(1, keepdim=True) * unit
        torch.testing.assert_close(objective.prototypes.grad, across / length_of, **TIGHT)


def test_franca_head_as_coded(golden: Golden) -> None:
    for case in cases(golden("cluster_objectives"), "mrl"):
        x, nesting, outputs = case["x"], case["nesting"].tolist(), case["out_dims"].tolist()
        for share, count, level in zip(nesting, outputs, part(case, r"l\d+_"), strict=True):
            hidden, bottleneck = level["mlp0_w"].shape[0], level["last_v"].shape[1]
            head = NestedHead(
                x.shape[1], share / nesting[-1], nesting="project", hidden=hidden, bottleneck=bottleneck,
                prototypes=outputs[-1],
            ).double()  # fmt: skip
            assert len(head.prototypes) == count
            layers = {f"network.{2 * n}.{k}": level[f"mlp{n}_{k[0]}"] for n in range(3) for k in ("weight", "bias")}
            entry = {"projection.weight": level["proj_w"], "projection.bias": level["proj_b"]}
            head.load_state_dict({**entry, **layers, "prototypes": level["last_v"]})
            gain = level["last_g"].T  # of the weight-normed layer; it is 1 here and not trained
            torch.testing.assert_close(head(x) * gain, level["out"], **TIGHT)


def test_franca_losses_and_gradients_summed_over_levels(golden: Golden) -> None:
    for case in cases(golden("cluster_objectives"), "mrll"):
        sums = {"local": 0.0, "global": 0.0}
        views = {"local": int(case["n_local"]), "global": 2}
        for level in part(case, r"l\d+_"):
            q = sinkhorn(level["teacher"], epsilon=float(case["temp"]), iterations=int(case["iters"]))
            torch.testing.assert_close(q, level["q"], **SINGLE)
            q = q.unflatten(0, (2, -1))
            for kind, count in views.items():
                student = level[f"student_{kind}"].requires_grad_()
                pairs = cross_entropies(student.unflatten(0, (count, -1)), q, temperature=0.1)
                # all local views with both of the teacher's; of the global views each with one, in the given order
                loss = pairs.sum() if kind == "local" else pairs.diagonal().mean()
                loss.backward()
                torch.testing.assert_close(student.grad, level[f"grad_{kind}"], **SINGLE)
                sums[kind] += loss.item()
        for kind, value in sums.items():
            assert value == pytest.approx(float(case[f"loss_{kind}_sum"]), rel=1e-6)


def test_rasa_prediction_loss_and_removal(golden: Golden) -> None:
    for case in cases(golden("cluster_objectives"), "rasa"):
        x, weight = case["x"], case["pos_weight"].requires_grad_()
        side = round(x.shape[1] ** 0.5)
        rounds = list(case["pre_weights"])
        cleaned = x
        for one in rounds:
            cleaned = cleaned @ positions.removal(one)
        torch.testing.assert_close(cleaned, case["after_pre"], **TIGHT)
        merged = positions.merged_removal(rounds, x.shape[2]).to(x)
        torch.testing.assert_close(x @ merged, case["after_pre"], **TIGHT)
        targets = positions.position_targets((side, side), dtype=x.dtype)
        torch.testing.assert_close(targets.expand_as(case["target"]), case["target"], **TIGHT)
        predicted = positions.predicted_positions(cleaned, weight)
        torch.testing.assert_close(predicted.detach(), case["pred"], **TIGHT)
        loss = positions.position_loss(predicted, targets)
        loss.backward()
        torch.testing.assert_close(loss.detach(), case["loss"], **TIGHT)
        torch.testing.assert_close(weight.grad, case["grad_pos_weight"], **TIGHT)
        component = positions.position_component(cleaned, weight.detach())
        torch.testing.assert_close(component, case["pos_component"], **TIGHT)
        torch.testing.assert_close(cleaned @ positions.removal(weight.detach()), case["out"], **TIGHT)


def wrapped_runs(line: Tensor) -> int:
    """Runs of True on a circle."""
    return int((line & ~line.roll(1)).sum())


def test_stored_masks_and_ours_have_the_same_properties(golden: Golden) -> None:
    vectors = golden("cluster_objectives")
    stored, described = vectors["invblock_masks"], vectors["invblock_meta_grid_n_roll_count"]
    assert len(stored) and len(stored) == len(described)
    for canvas, (side, hidden, rolled, count) in zip(stored, described.tolist(), strict=True):
        theirs = torch.from_numpy(canvas[:side, :side])
        generator = torch.Generator().manual_seed(hidden)
        (ours,) = inverse_blocks((side, side), hidden, count=1, generator=generator, roll=bool(rolled))
        assert count == hidden
        for mask in (theirs, ours):
            assert mask.shape == (side, side) and int(mask.sum()) == hidden
            for axis in range(2):  # one block: its shadow on each axis is one run, on the circle where it was rolled
                shadow = (~mask).any(axis)
                assert shadow.all() or wrapped_runs(shadow) == 1
                if not rolled:
                    where = shadow.nonzero().flatten()
                    assert len(where) == where[-1] - where[0] + 1
