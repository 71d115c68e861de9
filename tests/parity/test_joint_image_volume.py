"""Joint images and volumes against stored reference values (float64, from the published repository)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.encoders.slice_attention import SliceAttention, filled_mean
from medssl.encoders.slice_transformer import level_vectors
from medssl.objectives.assignment import assign, prediction_loss, sinkhorn
from medssl.objectives.deep_cluster import cluster_loss, spherical_kmeans
from medssl.objectives.joint_image_volume import draw_masked_slices, hide_slices, masked_slice_loss
from medssl.objectives.pairs import unit
from medssl.optim import lr_factor

Golden = Callable[[str], Mapping[str, np.ndarray]]
Vectors = dict[str, Tensor]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
RENAMED = {
    "rel_pos_bias.mlp.0.0": "bias.0",
    "rel_pos_bias.mlp.1.0": "bias.2",
    "rel_pos_bias.mlp.2": "bias.4",
    "ffn.linear1": "feed.0",
    "ffn.linear2": "feed.3",
}


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def vectors(golden: Golden, request: pytest.FixtureRequest) -> Vectors:
    """All arrays, in one precision."""
    found = {k: torch.from_numpy(np.asarray(v)) for k, v in golden("joint_image_volume").items()}
    return {k: v.to(request.param) if v.is_floating_point() else v for k, v in found.items()}


def numbered(vectors: Vectors, name: str) -> list[Vectors]:
    """Entries of every case of a name, without prefix."""
    found = sorted({int(m.group(1)) for key in vectors if (m := re.match(rf"{name}(\d+)(_|$)", key))})
    assert found, f"no case of {name} in the file"
    return [
        {k.removeprefix(f"{name}{i}_"): v for k, v in vectors.items() if k.startswith(f"{name}{i}_")} for i in found
    ]


def close(got: Tensor | None, wanted: Tensor) -> None:
    assert got is not None
    tolerance = TOLERANCE[wanted.dtype] if wanted.is_floating_point() else 0
    torch.testing.assert_close(got.detach(), wanted, rtol=tolerance, atol=tolerance)


def test_sinkhorn(vectors: Vectors) -> None:
    for case in numbered(vectors, "sink"):
        epsilon, iterations = case["eps_iters"].tolist()
        close(sinkhorn(case["scores"], epsilon=epsilon, iterations=int(iterations)), case["q"])


def test_swapped_prediction_and_its_gradients(vectors: Vectors) -> None:
    for case in numbered(vectors, "swav"):
        embeddings, prototypes = (case[k].clone().requires_grad_() for k in ("emb", "prototypes"))
        scores = (embeddings @ prototypes.T).unflatten(0, (2, int(case["bs"])))
        loss = prediction_loss(scores, assign(scores, epsilon=0.05, iterations=3), temperature=0.1)
        loss.backward()
        close(loss, case["loss"])
        close(embeddings.grad, case["grad_emb"])
        close(prototypes.grad, case["grad_proto"])


def test_clusters_of_the_memory_bank(vectors: Vectors) -> None:
    memory, order = vectors["dc_memory"], vectors["dc_memory_index"]
    for head, count in enumerate(vectors["dc_K"].tolist()):
        points, first = memory[head % 2], vectors[f"dc_init_perm{head}"]
        assert len(first) == count
        found = spherical_kmeans(points, points[first], iterations=10)
        close(found.centroids, vectors[f"dc_centroids{head}"])
        close(found.assignments, vectors["dc_assignments"][head, order])


def test_loss_of_clusters_and_its_gradient(vectors: Vectors) -> None:
    embeddings = vectors["dc_batch_emb"].clone().requires_grad_()
    centroids = [vectors[f"dc_centroids{h}"] for h in range(len(vectors["dc_K"]))]
    assigned = vectors["dc_assignments"][:, vectors["dc_batch_index"]]
    loss = cluster_loss(embeddings.unflatten(0, (2, -1)), centroids, assigned, temperature=0.1)
    loss.backward()
    close(loss, vectors["dc_batch_loss"])
    close(embeddings.grad, vectors["dc_batch_grad"])


def test_how_many_slices_are_hidden(vectors: Vectors) -> None:
    for slices, percent, count in vectors["mask_counts"].tolist():
        there = torch.ones(1, int(slices), dtype=torch.bool)
        assert draw_masked_slices(there, percent / 100, torch.Generator().manual_seed(0)).sum() == count


def attention(vectors: Vectors) -> SliceAttention:
    prefix = "enc_w_encoder.encoder."
    weights = {k.removeprefix(prefix): v for k, v in vectors.items() if k.startswith(prefix)}
    for old, new in RENAMED.items():
        weights = {k.replace(old, new): v for k, v in weights.items()}
    weights = {k: v for k, v in weights.items() if not k.endswith("bias.4.bias")}  # a constant before a softmax
    _, slices, width = vectors["layer_in"].shape
    layers = 1 + max(int(k.split(".")[1]) for k in weights)
    hidden = len(weights["layers.0.feed.0.weight"])
    made = SliceAttention(width, layers=layers, hidden=hidden, attend="embedding", slices=slices, dropout=0.0)
    made.to(vectors["layer_in"].dtype).load_state_dict(weights)
    return made


def test_layer_of_attention(vectors: Vectors) -> None:
    layer = attention(vectors).layers[0]
    close(layer.attention(vectors["layer_in"]), vectors["layer_attn_out"])
    close(layer(vectors["layer_in"]), vectors["layer_out"])


def test_masked_slices_and_their_loss(vectors: Vectors) -> None:
    masked = vectors["mask_mask"].squeeze(-1).bool()
    hidden = hide_slices(vectors["mask_src"], masked, vectors["mask_token"])
    close(hidden, vectors["mask_input"])
    found = functional.linear(
        attention(vectors)(hidden), vectors["enc_w_decoder.weight"], vectors["enc_w_decoder.bias"]
    )
    close(found, vectors["mask_output"])
    divisor = int(vectors["mask_loss_divisor"])
    close(masked_slice_loss(found, vectors["mask_src"], masked, divisor=divisor), vectors["mask_loss"])


def test_levels_of_a_slice(vectors: Vectors) -> None:
    *dims, again = vectors["feat_dims"].tolist()
    norms = vectors["feat_level_norms"]
    maps = [torch.rand(len(norms), d, 1, 2, 2, dtype=norms.dtype) for d in dims]
    levels = level_vectors(maps, repeat_last=True).squeeze(1)
    assert levels.shape[1] == vectors["feat_total"] and again == dims[-1]
    close(torch.stack([part.norm(dim=1) for part in levels.split([*dims, again], 1)], 1), norms)
    assert torch.equal(levels[:, -again:], levels[:, -2 * again : -again]) == bool(vectors["feat_last_two_equal"])
    assert level_vectors(maps).shape[-1] == sum(dims), "the repeated level is left out unless asked for"


def test_volume_vector(vectors: Vectors) -> None:
    close(unit(filled_mean(vectors["pool_in"])), vectors["pool_out"])


def test_learning_rate(golden: Golden) -> None:
    """The released warm-up reaches the peak one step earlier: its first part is ours of one step less."""
    wanted = golden("joint_image_volume")["lr_schedule_nb7"]
    total, warmup = len(wanted), len(wanted) // 10
    rising = [lr_factor(s, total=total, warmup=warmup - 1) for s in range(warmup)]
    falling = [lr_factor(s, total=total, warmup=warmup) for s in range(warmup, total)]
    np.testing.assert_allclose(0.01 * np.array(rising + falling), wanted, rtol=0, atol=1e-9)
    ours = [lr_factor(s, total=total, warmup=warmup) for s in range(total)]
    assert max(abs(0.01 * np.array(ours) - wanted)) <= 0.01 / warmup + 1e-12
    assert math.isclose(wanted.max(), 0.01)
