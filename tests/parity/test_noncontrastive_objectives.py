"""Objectives without negatives against stored reference values (float64, from the published code)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.objectives.barlow_twins import BarlowTwins, barlow_twins, mixture_term, standardise
from medssl.objectives.direct_pred import (
    batch_correlation,
    direct_copy,
    direct_predictor,
    running_correlation,
)
from medssl.objectives.distillation import BYOL, SimSiam
from medssl.objectives.vicreg import VICReg

Vectors = Mapping[str, np.ndarray]
Golden = Callable[[str], Vectors]


@pytest.fixture
def vectors(golden: Golden) -> Vectors:
    return golden("noncontrastive_objectives")


def found(vectors: Vectors, pattern: str) -> list[str]:
    """What the group of a key pattern matches, in all keys."""
    matches = [m.group(1) for key in vectors if (m := re.fullmatch(pattern, key))]
    assert matches, f"no {pattern} in the file"
    return matches


def stacked(vectors: Vectors, *keys: str) -> Tensor:
    return torch.stack([torch.from_numpy(vectors[key]) for key in keys])


def assert_gradients(x: Tensor, vectors: Vectors, *keys: str) -> None:
    assert x.grad is not None
    for mine, key in zip(x.grad, keys, strict=True):
        np.testing.assert_allclose(mine.numpy(), vectors[key], atol=1e-12, rtol=1e-10)


def test_simsiam(vectors: Vectors) -> None:
    predictions = stacked(vectors, "p1", "p2").requires_grad_()
    loss = SimSiam()(predictions, targets=stacked(vectors, "z1", "z2")).loss
    loss.backward()
    assert loss.item() == pytest.approx(vectors["simsiam_loss"].item(), abs=1e-12)
    assert_gradients(predictions, vectors, "simsiam_gp1", "simsiam_gp2")


def test_byol(vectors: Vectors) -> None:
    predictions = stacked(vectors, "p1", "p2").requires_grad_()
    loss = BYOL()(predictions, targets=stacked(vectors, "z1", "z2")).loss
    loss.backward()
    assert loss.item() == pytest.approx(vectors["byol_loss"].item(), abs=1e-12)
    assert loss.item() - 4 == pytest.approx(vectors["byol_luck_loss"].item(), abs=1e-12)
    assert_gradients(predictions, vectors, "byol_gp1", "byol_gp2")


def test_direct_pred_over_several_steps(vectors: Vectors) -> None:
    batches = torch.from_numpy(vectors["dp_batches"])
    for name in found(vectors, r"dp_(\w+)_hp"):
        decay, eps, inside, exponent = vectors[f"dp_{name}_hp"]
        running = None
        for step, views in enumerate(batches):
            running = running_correlation(running, batch_correlation(views), decay=decay)
            weight = direct_predictor(running, eps=eps, eps_inside=bool(inside), exponent=exponent).weight
            np.testing.assert_allclose(running, vectors[f"dp_{name}_step{step}_F"], atol=1e-12, rtol=1e-12)
            # eigenvectors of nearly equal eigenvalues turn with rounding, the predictor hardly does
            np.testing.assert_allclose(weight, vectors[f"dp_{name}_step{step}_W"], atol=1e-10, rtol=1e-10)


def test_direct_pred_of_the_paper_and_direct_copy(vectors: Vectors) -> None:
    last = max(found(vectors, r"dp_a_step(\d+)_F"), key=int)
    correlation = torch.from_numpy(vectors[f"dp_a_step{last}_F"])
    for eps in found(vectors, r"dp_paper_eps([\d.]+)_W"):
        weight = direct_predictor(correlation, eps=float(eps), form="paper").weight
        np.testing.assert_allclose(weight, vectors[f"dp_paper_eps{eps}_W"], atol=1e-10, rtol=1e-10)
    for eps in found(vectors, r"directcopy_eps([\d.]+)_W"):
        weight = direct_copy(correlation, eps=float(eps))
        np.testing.assert_allclose(weight, vectors[f"directcopy_eps{eps}_W"], atol=1e-12)


def test_barlow_twins(vectors: Vectors) -> None:
    for off_diagonal in found(vectors, r"bt_l([\d.]+)_loss"):
        views = stacked(vectors, "z1", "z2").requires_grad_()
        loss = BarlowTwins(off_diagonal=float(off_diagonal))(views).loss
        loss.backward()
        prefix = f"bt_l{off_diagonal}"
        assert loss.item() == pytest.approx(vectors[f"{prefix}_loss"].item(), abs=1e-12)
        assert_gradients(views, vectors, f"{prefix}_g1", f"{prefix}_g2")


def test_barlow_twins_with_the_standard_deviation_of_the_mixed_code(vectors: Vectors) -> None:
    for key in ("bt_ddof1", "mixbt_in1k"):
        ending = "loss_bt" if key == "mixbt_in1k" else "loss"
        for off_diagonal in found(vectors, rf"{key}_l([\d.]+)_{ending}"):
            views = stacked(vectors, *(f"mixbt_l{off_diagonal}_{e}" for e in ("e1", "e2")))
            loss = barlow_twins(views, off_diagonal=float(off_diagonal), eps=0.0, correction=1)
            assert loss.item() == pytest.approx(vectors[f"{key}_l{off_diagonal}_{ending}"].item(), abs=1e-12)


@pytest.mark.parametrize("published", [False, True])
def test_term_on_mixed_samples(vectors: Vectors, published: bool) -> None:
    """The equation with the small-data code's weight, and what the code for ImageNet makes of it."""
    pattern = r"mixbt_in1k_l([\d.]+)_loss_mix" if published else r"mixbt_paper_l([\d.]+_scale[\d.]+)_loss_mix"
    for case in found(vectors, pattern):
        off_diagonal, _, scale = case.partition("_scale")
        prefix = f"mixbt_l{off_diagonal}"
        views = stacked(vectors, *(f"{prefix}_{e}" for e in ("e1", "e2", "em")))
        order = torch.from_numpy(vectors[f"{prefix}_perm"]).long()
        share = torch.from_numpy(np.asarray(vectors[f"{prefix}_alpha"])).expand(len(order))
        one = standardise(views, eps=0.0, correction=1)
        term = mixture_term(one[:2], one[2], order, share, published=published)
        weight = float(off_diagonal) * (float(scale) if scale else 0.5)
        wanted = vectors[f"mixbt_{'in1k' if published else 'paper'}_l{case}_loss_mix"].item()
        assert weight * term.item() == pytest.approx(wanted, abs=1e-12)


def test_vicreg(vectors: Vectors) -> None:
    views = stacked(vectors, "z1", "z2").requires_grad_()
    loss = VICReg()(views).loss
    loss.backward()
    assert loss.item() == pytest.approx(vectors["vicreg_loss"].item(), abs=1e-12)
    assert_gradients(views, vectors, "vicreg_g1", "vicreg_g2")
