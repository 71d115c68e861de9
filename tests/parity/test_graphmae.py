"""GraphMAE's masks, loss and gradients against stored values of the released model (float64, no dropout)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.brain_graph import BrainGraph, BrainGraphInput
from medssl.methods.graph_mae import GraphMAE
from medssl.objectives.graph_mae import NodeMasks, masked_features, scaled_cosine_error
from medssl.views.signal import SignalViews

Golden = Callable[[str], Mapping[str, np.ndarray]]

NORMS = {"gin": "batch", "gat": "layer", "gcn": "none"}
EXACT = {"gin": 1e-10, "gat": 1e-10, "gcn": 1e-6}  # of the last the reference computes degrees in float32
NAMES = {
    "linears.0": "linear1", "linears.1": "linear2", "norms.0": "norm1", "activations.0": "act1", "norm": "norm2",
    "act": "act2", "fc": "linear", "activation": "act", "_activation": "act", "attn_l": "source", "attn_r": "target",
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", NORMS)


def released_masks(kind: str, vectors: Mapping[str, np.ndarray]) -> NodeMasks:
    """Those of the file, for one graph."""
    nodes = len(vectors["adj"])

    def at(name: str) -> Tensor:
        return torch.zeros(1, nodes, dtype=torch.bool).index_fill_(1, torch.from_numpy(vectors[f"{kind}.{name}"]), True)

    source = torch.arange(nodes).unsqueeze(0)
    source[0, vectors[f"{kind}.noise_nodes"]] = torch.from_numpy(vectors[f"{kind}.noise_source"])
    return NodeMasks(at("mask_nodes"), at("token_nodes"), at("noise_nodes"), source)


def layer_weights(kind: str, vectors: Mapping[str, np.ndarray], part: str) -> dict[str, Tensor]:
    """Weights of ``encoder`` or ``decoder`` under the names of our layers, behind the number of the layer."""
    folder = f"w.{kind}.{part}.{'' if kind == 'gin' else kind + '_'}layers."
    names = NAMES if kind == "gin" else NAMES | {"norm": "norm"}
    found = {}
    for name, value in vectors.items():
        if name.startswith(folder) and not name.endswith(".eps"):
            layer, _, rest = name.removeprefix(folder).replace("apply_func.", "").replace("mlp.", "").partition(".")
            module, dot, weight = rest.rpartition(".")
            module, weight = (names.get(module, module), weight) if module else ("", names.get(weight, weight))
            tensor = torch.from_numpy(value)
            found[f"{layer}.{module}{dot}{weight}"] = tensor[0] if tensor.ndim == 3 else tensor
            if kind == "gin":
                found[f"{layer}.centre"] = torch.tensor(1.0)
    return found


def released_model(kind: str, vectors: Mapping[str, np.ndarray]) -> GraphMAE:
    """The model with the file's weights; features are 6 numbers a node, as many as a graph of 6 regions has."""
    encoder = BrainGraph(6, 8, depth=2, layer=kind, heads=2, norm=NORMS[kind], dropout=0.0)  # type: ignore[arg-type]
    model = GraphMAE(
        encoder, SignalViews((40,), count=1), hide_symmetric=False, gamma=float(vectors["alpha"]), decoder_dropout=0.0
    )
    model.double()
    model.encoder.stages.load_state_dict(layer_weights(kind, vectors, "encoder"), strict=True)
    decoder = {k.partition(".")[2]: v for k, v in layer_weights(kind, vectors, "decoder").items()}
    model.decoder.load_state_dict(decoder, strict=True)
    model.between.load_state_dict({"weight": torch.from_numpy(vectors[f"w.{kind}.encoder_to_decoder.weight"])})
    model.load_state_dict({"token": torch.from_numpy(vectors[f"w.{kind}.enc_mask_token"])}, strict=False)
    return model.train()


@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_scaled_cosine_error_and_its_gradient(golden: Golden, gamma: int) -> None:
    vectors = golden("graphmae")
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        prediction = torch.from_numpy(vectors[f"sce_pred_{gamma}"]).to(dtype).requires_grad_()
        target = torch.from_numpy(vectors[f"sce_target_{gamma}"]).to(dtype)
        found = scaled_cosine_error(prediction, target, gamma=gamma)
        (gradient,) = torch.autograd.grad(found, prediction)
        np.testing.assert_allclose(found.detach(), vectors[f"sce_loss_{gamma}"], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gradient, vectors[f"sce_grad_{gamma}"], rtol=tolerance, atol=tolerance)


@kinds
def test_what_the_encoder_sees(golden: Golden, kind: str) -> None:
    vectors = golden("graphmae")
    x, token = torch.from_numpy(vectors["x"]).unsqueeze(0), torch.from_numpy(vectors[f"w.{kind}.enc_mask_token"])
    shown = masked_features(x, released_masks(kind, vectors), token)
    np.testing.assert_allclose(shown[0], vectors[f"{kind}.x_masked"], rtol=0, atol=1e-12)


@kinds
def test_loss_and_gradients_of_the_whole_model(golden: Golden, kind: str) -> None:
    vectors = golden("graphmae")
    model = released_model(kind, vectors)
    x, adjacency = (torch.from_numpy(vectors[name]).unsqueeze(0) for name in ("x", "adj"))
    graph = BrainGraphInput(x, adjacency, torch.ones(x.shape[:2], dtype=torch.bool))
    losses = model.reconstruct(graph, released_masks(kind, vectors))
    losses.total.backward()
    tolerance = {"rtol": EXACT[kind], "atol": EXACT[kind]}
    np.testing.assert_allclose(losses.total.detach(), vectors[f"{kind}.loss_train_mode"], **tolerance)
    assert model.token.grad is not None and model.between.weight.grad is not None
    np.testing.assert_allclose(model.token.grad, vectors[f"{kind}.grad_mask_token"], **tolerance)
    np.testing.assert_allclose(model.between.weight.grad, vectors[f"{kind}.grad_enc_to_dec"], **tolerance)
