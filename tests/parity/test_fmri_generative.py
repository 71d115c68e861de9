"""Losses of masked autoencoding of connectivity against stored values of the equations (float64, by loops)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.objectives.connectivity_mae import (
    edge_loss,
    edge_scores,
    node_loss,
    pairs_between,
    temporal_edge_loss,
    temporal_gap,
)

Golden = Callable[[str], Mapping[str, np.ndarray]]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
types = pytest.mark.parametrize("dtype", list(TOLERANCE))


def given(vectors: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
    found = {k.removeprefix("eq_"): torch.from_numpy(v) for k, v in vectors.items() if k.startswith("eq_") and v.ndim}
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in found.items()}


def held(found: Tensor, vectors: Mapping[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(found.detach().numpy(), vectors[name], rtol=TOLERANCE[found.dtype], atol=1e-12)


@types
def test_errors_of_regions(golden: Golden, dtype: torch.dtype) -> None:
    vectors = golden("fmri_generative")
    eq, gamma = given(vectors, dtype), float(vectors["eq_gamma"])
    held(node_loss(eq["pred"], eq["target"], eq["mask"], kind="mse"), vectors, "eq_node_mse")
    held(node_loss(eq["pred"], eq["target"], eq["mask"], gamma=gamma), vectors, "eq_node_sce")


@types
def test_losses_of_edges_and_their_gradient(golden: Golden, dtype: torch.dtype) -> None:
    vectors = golden("fmri_generative")
    eq = given(vectors, dtype)
    za, zb = (eq[name].requires_grad_() for name in ("za", "zb"))
    for pairs, which in ((pairs_between(eq["mask"]), "square"), (pairs_between(torch.ones_like(eq["mask"])), "full")):
        held(edge_loss(edge_scores(za, za), eq["adj"], pairs), vectors, f"eq_edge_spatial_{which}")
        temporal, _ = temporal_edge_loss(za, zb, eq["adj"], pairs)
        held(temporal, vectors, f"eq_edge_temporal_{which}")
        if which == "square":
            for gradient, z in zip(torch.autograd.grad(temporal, (za, zb)), ("za", "zb"), strict=True):
                wanted = vectors[f"eq_edge_temporal_square_grad_{z}"]
                np.testing.assert_allclose(gradient.numpy(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 100)
    big, _ = temporal_edge_loss(eq["za_big"], eq["zb_big"], eq["adj"], pairs_between(torch.ones_like(eq["mask"])))
    held(big, vectors, "eq_edge_temporal_full_big")


def test_gaps_between_windows(golden: Golden) -> None:
    vectors = golden("fmri_generative")
    found = [temporal_gap(window, stride) for _, window, stride in vectors["win_cases"].tolist()]
    assert found == vectors["temporal_gap"].tolist()
