"""Layers of graph networks in dense, batched form: graphs of one size, as connectivity gives them.

All take node features (..., N, D), adjacency (..., N, N), true or 1 where node i hears node j, self-loops included, and
valid nodes (..., N). Invalid nodes must have no edge but their self-loop; they count in no statistics of a norm.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import full_precision, promoted
from medssl.objectives.gather import sum_over_processes

__all__ = [
    "GATLayer",
    "GCNLayer",
    "GINLayer",
    "GraphLayer",
    "MaskedBatchNorm",
    "attended_mean",
    "graph_layer",
    "masked_max",
    "masked_mean",
]

GraphLayer = Literal["gin", "gcn", "gat"]
Norm = Literal["batch", "layer", "none"]
Activation = Literal["prelu", "relu", "none"]


class MaskedBatchNorm(nn.Module):
    """Batch norm over all rows that count, as ``nn.BatchNorm1d`` of these rows alone; weights have its names.

    In training with a single such row or none, the running statistics are used and stay as they are. Processes that
    train in step normalise over the rows of all of them, however many each has, as with ``nn.SyncBatchNorm``; a look
    without gradients is each one's own, so that one process may take it alone.

    Args:
        width: D.
        momentum: of the running statistics.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, h: Tensor, valid: Tensor | None = None) -> Tensor:
        """(..., D) with rows (...) that count, or all of them → the same shape."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._statistics(h, valid)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul((self.bias - mean * scale).to(h.dtype), h, scale.to(h.dtype))

    def _statistics(self, h: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of the batch; the running ones follow."""
        rows = promoted(h)
        counted = (torch.ones_like(rows[..., 0]) if valid is None else valid.expand(h.shape[:-1])).to(rows.dtype)
        everywhere = sum_over_processes if torch.is_grad_enabled() else _own
        with full_precision(h.device):
            sums = everywhere(torch.cat([_summed(rows, counted), counted.sum().view(1)]))
            count = sums[-1].detach()
            total = count.clamp_min(1.0)
            mean = sums[:-1] / total
            # its gradient towards the mean is 0: the deviations of all rows sum to that
            variance = everywhere(_summed((rows - mean.detach()).square(), counted)) / total
        some = count > 1
        with torch.no_grad():
            share = torch.where(some, self.momentum, 0.0).to(self.running_mean.dtype)
            unbiased = variance * (total / (total - 1).clamp_min(1.0))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return torch.where(some, mean, self.running_mean), torch.where(some, variance, self.running_var)


class GINLayer(nn.Module):
    r"""Graph isomorphism layer (Xu et al., ICLR 2019): a perceptron of what a node and its neighbours sum to.

    .. math:: h ← \mathrm{MLP}((A + c I) h)

    The self-loop in A counts as well. GraphMAE (Hou et al., KDD 2022): c = 1, fixed. STAGIN (Kim et al., NeurIPS 2021):
    c is learnt, from 0 on.

    Args:
        width_in: D of the input.
        width: D of the output.
        hidden: of the perceptron; ``width`` by default.
        norm: after both linear layers.
        activation: after both norms.
        centre: c, or what it starts from.
        learnt: c is learnt.
        last: without norm and activation at the end.
    """

    centre: Tensor

    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        hidden: int | None = None,
        norm: Norm = "batch",
        activation: Activation = "prelu",
        centre: float = 1.0,
        learnt: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden or width
        if learnt:
            self.centre = nn.Parameter(torch.tensor(float(centre)))
        else:
            self.register_buffer("centre", torch.tensor(float(centre)))
        self.linear1, self.norm1, self.act1 = nn.Linear(width_in, hidden), make_norm(norm, hidden), _act(activation)
        self.linear2 = nn.Linear(hidden, width)
        self.norm2, self.act2 = make_norm("none" if last else norm, width), _act("none" if last else activation)

    def forward(self, h: Tensor, adjacency: Tensor, valid: Tensor | None = None) -> Tensor:
        """(..., N, D) → (..., N, width); see the module for the other arguments."""
        summed = adjacency.to(h.dtype) @ h
        h = torch.addcmul(summed, self.centre.to(summed.dtype), h.to(summed.dtype))
        h = self.act1(normalised(self.norm1, self.linear1(h), valid))
        out: Tensor = self.act2(normalised(self.norm2, self.linear2(h), valid))
        return out


class GCNLayer(nn.Module):
    r"""Graph convolution (Kipf and Welling, ICLR 2017) in the order of DGL's, as GraphMAE uses it.

    .. math:: D^{-1/2} (A D^{-1/2} h W^T + b)

    The bias is scaled by the root of the degree, too.

    Args:
        width_in: D of the input.
        width: D of the output.
        norm: after the layer.
        activation: after the norm.
        last: without both.
    """

    def __init__(
        self, width_in: int, width: int, *, norm: Norm = "batch", activation: Activation = "prelu", last: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.norm, self.act = make_norm("none" if last else norm, width), _act("none" if last else activation)

    def forward(self, h: Tensor, adjacency: Tensor, valid: Tensor | None = None) -> Tensor:
        """(..., N, D) → (..., N, width); see the module for the other arguments."""
        edges = adjacency.to(h.dtype)
        heard, hearing = (edges.sum(axis).clamp_min(1.0).rsqrt().unsqueeze(-1) for axis in (-2, -1))
        h = hearing * self.linear(edges @ (heard * h))
        out: Tensor = self.act(normalised(self.norm, h, valid))
        return out


class GATLayer(nn.Module):
    r"""Graph attention (Veličković et al., ICLR 2018), heads side by side.

    .. math:: o_i = \sum_j α_{ij} W h_j + b, \quad α_{ij} ∝ A_{ij} \exp \mathrm{LeakyReLU}_{0.2}(a_l·W h_j + a_r·W h_i)

    Args:
        width_in: D of the input.
        width: D of the output, a multiple of the heads.
        heads: attention heads.
        dropout: of attention.
        norm: after the layer.
        activation: after the norm.
        last: without both.

    Raises:
        ConfigError: a width that is no multiple of the heads.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        heads: int = 1,
        dropout: float = 0.0,
        norm: Norm = "layer",
        activation: Activation = "prelu",
        last: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"graph attention of {heads} heads needs a width that is a multiple of them, not {width}")
        self.heads, self.dropout = heads, dropout
        self.linear = nn.Linear(width_in, width, bias=False)
        self.source = nn.Parameter(torch.empty(heads, width // heads))
        self.target = nn.Parameter(torch.empty(heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.linear.weight, self.source, self.target):
            nn.init.xavier_normal_(weight, gain=math.sqrt(2.0))
        self.norm, self.act = make_norm("none" if last else norm, width), _act("none" if last else activation)

    def forward(self, h: Tensor, adjacency: Tensor, valid: Tensor | None = None) -> Tensor:
        """(..., N, D) → (..., N, width); see the module for the other arguments."""
        f = self.linear(h).unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # (..., heads, N, width / heads)
        spoken, heard = ((f * a.unsqueeze(-2)).sum(-1) for a in (self.source, self.target))
        logits = functional.leaky_relu(heard.unsqueeze(-1) + spoken.unsqueeze(-2), 0.2)
        logits = logits.masked_fill(~adjacency.bool().unsqueeze(-3), -torch.inf)
        attention = torch.softmax(promoted(logits), -1)
        attention = functional.dropout(attention, self.dropout, self.training)
        o = (attention.to(f.dtype) @ f).transpose(-2, -3).flatten(-2) + self.bias.to(f.dtype)
        out: Tensor = self.act(normalised(self.norm, o, valid))
        return out


def graph_layer(
    kind: GraphLayer,
    width_in: int,
    width: int,
    *,
    hidden: int | None = None,
    heads: int = 1,
    norm: Norm = "batch",
    activation: Activation = "prelu",
    last: bool = False,
) -> nn.Module:
    """A layer by name.

    Args:
        kind: of it.
        width_in: D of the input.
        width: D of the output.
        hidden: of GIN's perceptron.
        heads: of GAT.
        norm: of the nodes of a batch.
        activation: after each norm.
        last: without norm and activation at the end.

    Raises:
        ConfigError: an unknown kind, norm or activation.
    """
    shared = {"norm": norm, "activation": activation, "last": last}
    if kind == "gin":
        return GINLayer(width_in, width, hidden=hidden, **shared)  # type: ignore[arg-type]
    if kind == "gcn":
        return GCNLayer(width_in, width, **shared)  # type: ignore[arg-type]
    if kind == "gat":
        return GATLayer(width_in, width, heads=heads, **shared)  # type: ignore[arg-type]
    raise ConfigError(f"a graph layer is gin, gcn or gat, not '{kind}'")


def masked_mean(h: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid nodes, 0 where there is none: (..., N, D), (..., N) → (..., D), in at least float32."""
    h = promoted(h)
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    return h.masked_fill(~valid.unsqueeze(-1), 0.0).sum(-2) / count


def attended_mean(h: Tensor, valid: Tensor, attention: Tensor | None = None) -> Tensor:
    """``masked_mean`` of nodes multiplied with an attention, as one product of matrices.

    Args:
        h: (..., N, D); finite even where invalid.
        valid: (..., N).
        attention: (..., N); None: 1.

    Returns:
        (..., D), at least float32.
    """
    h = promoted(h)
    share = valid.to(h.dtype) / valid.sum(-1, keepdim=True).clamp_min(1)
    share = share if attention is None else share * attention.to(h.dtype)
    with nullcontext() if torch.compiler.is_exporting() else full_precision(h.device):
        return (share.unsqueeze(-2) @ h).squeeze(-2)


def masked_max(h: Tensor, valid: Tensor) -> Tensor:
    """Maximum over valid nodes, 0 where there is none: (..., N, D), (..., N) → (..., D), in at least float32."""
    h = promoted(h)
    largest = h.masked_fill(~valid.unsqueeze(-1), -torch.inf).amax(-2)
    return torch.where(valid.any(-1, keepdim=True), largest, 0.0)


def make_norm(norm: Norm, width: int) -> nn.Module:
    """Over the nodes of a batch, over the features of a node, or none."""
    if norm == "batch":
        return MaskedBatchNorm(width)
    if norm not in ("layer", "none"):
        raise ConfigError(f"a norm of nodes is batch, layer or none, not '{norm}'")
    return nn.LayerNorm(width) if norm == "layer" else nn.Identity()


def normalised(norm: nn.Module, h: Tensor, valid: Tensor | None) -> Tensor:
    """Nodes after a norm of ``make_norm``."""
    out: Tensor = norm(h, valid) if isinstance(norm, MaskedBatchNorm) else norm(h)
    return out


def _act(activation: Activation) -> nn.Module:
    if activation not in ("prelu", "relu", "none"):
        raise ConfigError(f"an activation of nodes is prelu, relu or none, not '{activation}'")
    made: dict[str, type[nn.Module]] = {"prelu": nn.PReLU, "relu": nn.ReLU, "none": nn.Identity}
    return made[activation]()


def _own(values: Tensor) -> Tensor:
    """Of this process alone."""
    return values


def _summed(h: Tensor, counted: Tensor) -> Tensor:
    """(..., N, D), (..., N) → (D,); graph by graph first, which rounds less than one long sum."""
    return (counted.unsqueeze(-2) @ h).flatten(0, -2).sum(0)
