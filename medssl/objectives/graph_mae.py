"""GraphMAE's masks of nodes and its error: what is hidden of a graph, and how far the told features are off.

Hou et al., *GraphMAE: Self-supervised masked graph autoencoders*, KDD 2022 (arXiv 2205.10803), on dense batches of
graphs with the same number of nodes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medssl.objectives.base import full_precision, promoted

__all__ = [
    "MaskMode",
    "NodeMasks",
    "cosine_errors",
    "drop_edges",
    "hide_edges_between",
    "masked_features",
    "mean_where",
    "node_masks",
    "scaled_cosine_error",
    "transposed_error",
]

MaskMode = Literal["exact", "reference"]
"""Of r·N hidden nodes, ⌊p·r·N⌋ are noise and all others tokens (``exact``); or only ⌊(1 - p)·r·N⌋ are tokens, as
released, which may leave one hidden node visible (``reference``)."""

SMALLEST_NORM = 1e-12


class NodeMasks(NamedTuple):
    """Which nodes are hidden, and what is seen there.

    Attributes:
        hidden: (B, N) booleans, nodes that are told.
        token: (B, N) booleans, hidden nodes that show the token.
        noise: (B, N) booleans, hidden nodes that show the features of another node.
        source: (B, N) int64, that other node; meaningful at ``noise``.
    """

    hidden: Tensor
    token: Tensor
    noise: Tensor
    source: Tensor


def node_masks(
    valid: Tensor, ratio: float, generator: torch.Generator, *, replace: float = 0.0, mode: MaskMode = "exact"
) -> NodeMasks:
    """Hide ⌊ratio·n⌋ of the n valid nodes of each graph, uniformly and without replacement.

    Args:
        valid: (B, N) booleans; only these are hidden, and only their features are shown as noise.
        ratio: share of hidden nodes, from 0 to below 1.
        generator: of all draws, on the device of ``valid``.
        replace: p, share of the hidden nodes that show the features of random nodes (each of them once).
        mode: see ``MaskMode``.

    Raises:
        ValueError: no node of a graph would be hidden.

    >>> masks = node_masks(torch.ones(1, 10, dtype=torch.bool), 0.5, torch.Generator().manual_seed(0), replace=0.2)
    >>> [int(part.sum()) for part in masks[:3]]
    [5, 4, 1]
    """
    nodes, device = valid.shape[1], valid.device
    if not 0 <= ratio < 1 or not 0 <= replace <= 1 or int(ratio * nodes) < 1:
        raise ValueError(f"a share of {ratio} of {nodes} nodes, {replace} of them noise, hides none or cannot be")
    hidden = [int(ratio * n) for n in range(nodes + 1)]  # Python's floor of a product, as released, for all n
    noise = [int(replace * n) for n in hidden]
    tokens = [int((1 - replace) * n) if mode == "reference" else n - k for n, k in zip(hidden, noise, strict=True)]
    table = torch.tensor([hidden, tokens, noise], device=device)
    counts = table[:, valid.sum(1)].unsqueeze(-1)  # (3, B, 1)
    orders = [_order(valid, generator) for _ in range(2)]
    rank = orders[0].argsort(1)
    is_hidden, from_noise = rank < counts[0], counts[0] - counts[2]
    is_noise = is_hidden & (rank >= from_noise)
    source = orders[1].gather(1, (rank - from_noise).clamp_min(0))
    return NodeMasks(is_hidden, rank < counts[1], is_noise, source)


def masked_features(features: Tensor, masks: NodeMasks, token: Tensor, *, hide_symmetric: bool = False) -> Tensor:
    """What the encoder sees: tokens and noise at hidden nodes.

    Args:
        features: (B, N, F).
        masks: of the nodes.
        token: (F,) or (1, F).
        hide_symmetric: where features are rows of a symmetric matrix (F = N), also set column i of every row to 0 for
            each hidden node i: else its row can be read from the others.

    Returns:
        (B, N, F).
    """
    index = masks.source.unsqueeze(-1).expand_as(features)
    shown = torch.where(masks.noise.unsqueeze(-1), features.gather(1, index), features)
    if hide_symmetric:
        shown = shown.masked_fill(masks.hidden.unsqueeze(1), 0.0)
    return torch.where(masks.token.unsqueeze(-1), token.to(features.dtype), shown)


def cosine_errors(prediction: Tensor, target: Tensor, gamma: float) -> Tensor:
    """``(1 - cos)^γ`` of each row, in at least float32: (..., F), (..., F) → (...). Norms are at least 1e-12.

    A row of zeros has a cosine of 0; a prediction that is one has no gradient there (that of the norm is unbounded).
    ``1 - cos`` is at least 0, whatever the rounding.

    >>> cosine_errors(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0]] * 3), 2.0).tolist()
    [0.0, 1.0, 4.0]
    """
    with full_precision(prediction.device):
        cosine = (_unit(promoted(prediction)) * _unit(promoted(target.detach()))).sum(-1)
        return (1 - cosine).clamp_min(0).pow(gamma)


def mean_where(errors: Tensor, counted: Tensor) -> Tensor:
    """Mean of what counts; 0 where nothing does.

    Args:
        errors: (...).
        counted: (...) booleans.
    """
    return torch.where(counted, errors, 0.0).sum() / counted.sum().clamp_min(1)


def scaled_cosine_error(
    prediction: Tensor, target: Tensor, hidden: Tensor | None = None, *, gamma: float = 2.0
) -> Tensor:
    """GraphMAE's error: mean of ``(1 - cos)^γ`` over hidden nodes. Targets of zeros (isolated nodes) are left out.

    Args:
        prediction: (..., F).
        target: (..., F); no gradient.
        hidden: (...) booleans; None: all.
        gamma: γ, from 1.

    Returns:
        Scalar, at least float32.
    """
    told = target.abs().amax(-1) > 0
    return mean_where(cosine_errors(prediction, target, gamma), told if hidden is None else told & hidden)


def drop_edges(adjacency: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Directed edges, each removed with a probability; self-loops stay.

    Args:
        adjacency: (..., N, N) booleans with self-loops.
        rate: probability, from 0 to below 1.
        generator: on the device of ``adjacency``.
    """
    if rate == 0:
        return adjacency
    kept = torch.rand(adjacency.shape, generator=generator, device=adjacency.device) >= rate
    return adjacency & (kept | _loops(adjacency))


def hide_edges_between(adjacency: Tensor, hidden: Tensor, *, one_end: bool = False) -> Tensor:
    """The graph without edges whose ends are both hidden; self-loops stay.

    Args:
        adjacency: (..., N, N) booleans.
        hidden: (..., N) booleans.
        one_end: remove edges of which one end is hidden, too.
    """
    rows, columns = hidden.unsqueeze(-1), hidden.unsqueeze(-2)
    gone = rows | columns if one_end else rows & columns
    return adjacency & (~gone | _loops(adjacency))


@torch.no_grad()
def transposed_error(features: Tensor, shown: Tensor, masks: NodeMasks, gamma: float) -> Tensor:
    """Error of telling a hidden row from its own column of what the encoder sees, at the columns of visible nodes.

    0: the rows can be copied (features are a symmetric matrix and nothing hides that). 1: the columns show nothing.

    Args:
        features: (B, N, N).
        shown: (B, N, N), see ``masked_features``.
        masks: of the nodes.
        gamma: of the error.
    """
    seen = (~masks.hidden).unsqueeze(1)
    return scaled_cosine_error(shown.mT * seen, features * seen, masks.hidden, gamma=gamma)


def _order(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Nodes of each graph in random order, the valid ones first."""
    noise = torch.rand(valid.shape, generator=generator, device=valid.device)
    return torch.where(valid, noise, 2.0).argsort(1)


def _unit(x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    some = norm > SMALLEST_NORM
    return torch.where(some, x, 0.0) / torch.where(some, norm, 1.0)


def _loops(adjacency: Tensor) -> Tensor:
    return torch.eye(adjacency.shape[-1], dtype=torch.bool, device=adjacency.device)
