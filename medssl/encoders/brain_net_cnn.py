"""BrainNetCNN: convolutions whose filters are crosses over a connectivity matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.whole_run import WholeRun
from medssl.errors import ConfigError
from medssl.views.connectivity import correlation, valid_regions

__all__ = ["BrainNetCNN"]

SLOPE = 0.33


class _EdgeToEdge(nn.Module):
    """Every edge hears all edges of its two regions: (B, C, N, N) → (B, C', N, N)."""

    def __init__(self, channels_in: int, channels: int, regions: int) -> None:
        super().__init__()
        self.rows = nn.Conv2d(channels_in, channels, (1, regions))
        self.columns = nn.Conv2d(channels_in, channels, (regions, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.rows(x) + self.columns(x)
        return out


class BrainNetCNN(WholeRun):
    """BrainNetCNN (Kawahara et al., NeuroImage 2017): edge-to-edge, edge-to-node and node-to-graph filters.

    Input is the correlation of a run, the diagonal 0; edges and nodes of invalid regions stay 0 from layer to layer.
    Pooled: the last linear layer; one map of one place.

    Args:
        in_channels: regions N.
        edge: filters of each edge-to-edge layer (published: two layers of 32).
        node: filters of the edge-to-node layer (published: 64).
        graph: filters of the node-to-graph layer (published: 256).
        out_dim: D (published: 128).
        dropout: after the edge-to-node and node-to-graph layers (published: 0.5).

    Raises:
        ConfigError: fewer than two regions, or a layer without filters.
    """

    exports_any_size = True

    def __init__(
        self,
        in_channels: int = 100,
        edge: tuple[int, ...] = (32, 32),
        *,
        node: int = 64,
        graph: int = 256,
        out_dim: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if in_channels < 2 or min(node, graph, out_dim, *edge) < 1:
            raise ConfigError(
                f"BrainNetCNN needs 2 regions and filters in every layer, not {in_channels} regions and "
                f"{tuple(edge)}, {node}, {graph}, {out_dim} filters"
            )
        self.describe(in_channels, out_dim)
        inputs = (1, *edge)
        self.edges = nn.ModuleList(_EdgeToEdge(a, b, in_channels) for a, b in zip(inputs, edge, strict=False))
        self.node = nn.Conv2d(inputs[-1], node, (1, in_channels))
        self.graph = nn.Conv2d(node, graph, (in_channels, 1))
        self.linear = nn.Linear(graph, out_dim)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def vector(self, x: Tensor) -> Tensor:
        """See ``WholeRun.vector``."""
        r, valid = correlation(x), valid_regions(x)
        own = torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
        h = r.masked_fill(own, 0.0).unsqueeze(1)
        there = (valid.unsqueeze(-1) & valid.unsqueeze(-2)).unsqueeze(1)
        for layer in self.edges:
            h = functional.leaky_relu(layer(h), SLOPE) * there
        h = self.dropout(functional.leaky_relu(self.node(h), SLOPE)) * valid[:, None, :, None]
        h = self.dropout(functional.leaky_relu(self.graph(h), SLOPE))
        out: Tensor = functional.leaky_relu(self.linear(h.flatten(1)), SLOPE)
        return out

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """One group a layer; the linear one goes with the node-to-graph filters."""
        edges = [(f"edges.{i}.",) for i in range(len(self.edges))]
        return parameters_by_prefix(self, [*edges, ("node.",), ("graph.", "linear.")])
