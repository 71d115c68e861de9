"""Contrastive objectives against stored reference values (float64, from the published code)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from medssl.objectives.contrastive import info_nce

Golden = Callable[[str], Mapping[str, np.ndarray]]


def temperatures(vectors: Mapping[str, np.ndarray], name: str) -> list[float]:
    found = [m.group(1) for key in vectors if (m := re.fullmatch(rf"{name}_t([\d.]+)_loss", key))]
    assert found, f"no case of {name} in the file"
    return [float(t) for t in found]


def test_nt_xent_of_two_views_with_gradients(golden: Golden) -> None:
    vectors = golden("contrastive_objectives")
    for temperature in temperatures(vectors, "ntxent"):
        views = torch.stack([torch.from_numpy(vectors[k]) for k in ("za", "zb")]).requires_grad_()
        loss = info_nce(views, temperature=temperature)
        loss.backward()
        prefix = f"ntxent_t{temperature}"
        assert loss.item() == pytest.approx(vectors[f"{prefix}_loss"].item(), abs=1e-10)
        assert views.grad is not None
        for k, key in enumerate(("ga", "gb")):
            np.testing.assert_allclose(views.grad[k].numpy(), vectors[f"{prefix}_{key}"], atol=1e-10)


def test_nt_xent_of_many_views_is_the_mean_over_pairs(golden: Golden) -> None:
    vectors = golden("contrastive_objectives")
    views = torch.from_numpy(vectors["views"])
    for temperature in temperatures(vectors, "ntxent_pwe"):
        loss = info_nce(views, temperature=temperature)
        assert loss.item() == pytest.approx(vectors[f"ntxent_pwe_t{temperature}_loss"].item(), abs=1e-10)
