"""AutoTCL against stored values of the published code (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.trend import TrendTS2Vec
from medssl.objectives.autotcl import (
    local_contrast,
    max_mean_discrepancy,
    one_way_info_nce,
    relaxed_gate,
    sampled_variation,
    straight_through,
)

Golden = Callable[[str], Mapping[str, np.ndarray]]
EXACT, SINGLE = 1e-9, 1e-5


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("autotcl")


def close(got: Tensor | None, wanted: np.ndarray, tolerance: float = EXACT) -> None:
    assert got is not None
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)


def cases(vectors: Mapping[str, np.ndarray]) -> list[str]:
    found = sorted({m.group(1) for key in vectors if (m := re.match(r"(c\d+)_z1", key))})
    assert found, "no case in the file"
    return found


def held(vectors: Mapping[str, np.ndarray], case: str, name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Value and both gradients in float64, and the value in float32."""
    first, second = (torch.from_numpy(vectors[f"{case}_z{i}"]).requires_grad_() for i in (1, 2))
    value = loss(first, second)
    value.backward()
    close(value, vectors[f"{case}_{name}"])
    close(first.grad, vectors[f"{case}_{name}_g1"])
    close(second.grad, vectors[f"{case}_{name}_g2"])
    close(loss(first.detach().float(), second.detach().float()), vectors[f"{case}_{name}"], SINGLE)


def test_contrast_in_one_direction(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors):
        temperature = float(vectors[f"{case}_tau"])

        def loss(x: Tensor, v: Tensor, temperature: float = temperature) -> Tensor:
            return one_way_info_nce(x.amax(1), v.amax(1), temperature=temperature)[0]

        held(vectors, case, "infonce", loss)


def test_discrepancy(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors):
        held(vectors, case, "mmd", lambda x, v: max_mean_discrepancy(x.amax(1), v.amax(1)))


def test_local_contrast_of_every_sample(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors):
        steps, start = torch.from_numpy(vectors[f"{case}_z1"]).requires_grad_(), int(vectors[f"{case}_local_start"])
        temperature = float(vectors[f"{case}_tau"])
        losses = local_contrast(steps, start, temperature=temperature)
        close(losses, vectors[f"{case}_local_per_sample"])
        close(losses[0], vectors[f"{case}_local_official_first_sample_only"])
        losses[0].backward()
        close(steps.grad, vectors[f"{case}_local_g1"])
        single = local_contrast(steps.detach().float(), start, temperature=temperature)
        close(single, vectors[f"{case}_local_per_sample"], SINGLE)


def test_gate(vectors: Mapping[str, np.ndarray]) -> None:
    w, u = torch.from_numpy(vectors["gate_w"]), torch.from_numpy(vectors["gate_u"])
    options = {"bias": float(vectors["gate_bias"]), "stretch": float(vectors["gate_gamma"])}
    gate = relaxed_gate(w, u, **options)
    close(gate, vectors["gate_train"])
    close(relaxed_gate(w, None, **options), vectors["gate_eval"])
    close(straight_through(gate), vectors["gate_hard"])
    close(relaxed_gate(w.float(), u.float(), **options), vectors["gate_train"], SINGLE)


def test_published_regulariser(vectors: Mapping[str, np.ndarray]) -> None:
    w = torch.from_numpy(vectors["reg_w"]).requires_grad_()
    drawn = [torch.from_numpy(vectors[f"reg_sel{i}"]) for i in (0, 1)]
    loss = sampled_variation(w, *drawn)
    loss.backward()
    close(loss, vectors["reg_loss"])
    close(w.grad, vectors["reg_grad"])


def test_encoder_with_the_trend_layer(vectors: Mapping[str, np.ndarray]) -> None:
    channels, out_dim, width, depth = vectors["enc_cfg"].tolist()
    kernels = vectors["enc_kernels"].tolist()
    encoder = TrendTS2Vec(channels, width, out_dim=out_dim, depth=depth, kernels=len(kernels)).double().eval()
    assert [conv.kernel_size[0] for conv in encoder.tfd] == kernels
    prefix = "enc_param/"
    stored = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in vectors.items() if k.startswith(prefix)}
    encoder.load_state_dict(stored)
    x = torch.from_numpy(vectors["enc_x"]).mT
    close(encoder(x).maps[0].mT, vectors["enc_y"])
    last = torch.ones(x.shape[0], x.shape[2], dtype=torch.bool)
    last[:, -1] = False
    close(encoder(x, last).maps[0].mT, vectors["enc_y_mask_last"])
