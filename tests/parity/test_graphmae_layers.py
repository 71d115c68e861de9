"""Dense graph layers against embeddings of GraphMAE's released modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.brain_graph import BrainGraph

Golden = Callable[[str], Mapping[str, np.ndarray]]

NORMS = {"gin": "batch", "gat": "layer", "gcn": "none"}
KEYS = {
    "gin": {
        "apply_func.mlp.linears.0": "linear1", "apply_func.mlp.norms.0": "norm1",
        "apply_func.mlp.activations.0": "act1", "apply_func.mlp.linears.1": "linear2", "apply_func.norm": "norm2",
        "apply_func.act": "act2",
    },
    "gat": {"fc": "linear", "activation": "act", "norm": "norm"},
    "gcn": {"fc": "linear", "_activation": "act"},
}  # fmt: skip
ATTENTION = {"attn_l": "source", "attn_r": "target", "bias": "bias"}


def encoder_with_its_weights(kind: str, vectors: Mapping[str, np.ndarray]) -> BrainGraph:
    """Layers of the released encoder; features are 6 numbers a node, as many as a graph of 6 regions has."""
    encoder = BrainGraph(6, 8, depth=2, layer=kind, heads=2, norm=NORMS[kind], dropout=0.0).double()
    folder = f"w.{kind}.encoder.{'' if kind == 'gin' else kind + '_'}layers."
    state = {"stages.0.centre": torch.tensor(1.0), "stages.1.centre": torch.tensor(1.0)} if kind == "gin" else {}
    for name, value in vectors.items():
        if not name.startswith(folder) or name.endswith(".eps"):
            continue
        layer, _, rest = name.removeprefix(folder).partition(".")
        module, _, weight = rest.rpartition(".")
        found = f"{KEYS[kind][module]}.{weight}" if module else ATTENTION[weight]
        state[f"stages.{layer}.{found}"] = (
            torch.from_numpy(value).squeeze(0) if not module and value.ndim == 3 else (torch.from_numpy(value))
        )
    encoder.load_state_dict(state, strict=True)
    return encoder


def embed(encoder: BrainGraph, vectors: Mapping[str, np.ndarray]) -> Tensor:
    x, adjacency = (torch.from_numpy(vectors[k]).unsqueeze(0) for k in ("x", "adj"))
    with torch.no_grad():
        return encoder.encode(x, adjacency, torch.ones(x.shape[:2], dtype=torch.bool))[-1][0]


@pytest.mark.parametrize("kind", NORMS)
def test_embeddings_of_the_released_layers(kind: str, golden: Golden) -> None:
    vectors = golden("graphmae")
    tolerance = 1e-6 if kind == "gcn" else 1e-10  # the reference computes degrees in float32
    encoder = encoder_with_its_weights(kind, vectors)
    wanted = torch.from_numpy(vectors[f"{kind}.embed_train_mode"])
    torch.testing.assert_close(embed(encoder.train(), vectors), wanted, rtol=tolerance, atol=tolerance)
    for name, buffer in encoder.named_buffers():
        if "running" in name:
            buffer.fill_(float("var" in name))
    wanted = torch.from_numpy(vectors[f"{kind}.embed_eval_fresh_stats"])
    torch.testing.assert_close(embed(encoder.eval(), vectors), wanted, rtol=tolerance, atol=tolerance)
