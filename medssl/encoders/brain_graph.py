"""A graph network on the static connectivity of a run."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.graph_layers import Activation, GraphLayer, Norm, graph_layer, masked_max, masked_mean
from medssl.encoders.whole_run import WholeRun
from medssl.errors import ConfigError
from medssl.views.connectivity import correlation, fisher_z, valid_regions
from medssl.views.connectivity_edges import top_edges

__all__ = ["BrainGraph", "BrainGraphInput"]


class BrainGraphInput(NamedTuple):
    """What a run looks like as a graph.

    Attributes:
        features: (B, N, N), row i the connectivity of region i, with 0 for itself.
        adjacency: (B, N, N) booleans, with self-loops, which are the only edges of invalid regions.
        valid: (B, N) booleans, see ``medssl.views.connectivity``.
    """

    features: Tensor
    adjacency: Tensor
    valid: Tensor


class BrainGraph(WholeRun):
    """Regions as nodes, strong correlations as edges, rows of the connectivity as features; GIN, GCN or GAT layers.

    The encoder of GraphMAE (Hou et al., KDD 2022) in dense form. Pooled: mean and maximum over valid regions of what
    all layers say, one beside the other; one map of one place.

    Args:
        in_channels: regions N.
        width: D of each layer.
        depth: layers.
        layer: their kind.
        heads: of GAT; must divide the width.
        norm: over the nodes of a batch, over the features of a node, or none.
        activation: after each norm.
        density: share of the pairs that are edges, see ``top_edges``.
        absolute: strong negative correlations are edges as well.
        fisher: features are Fisher z instead of correlations.
        dropout: of each layer's input.

    Raises:
        ConfigError: numbers that do not fit each other.
    """

    exports_any_size = True

    def __init__(
        self,
        in_channels: int = 100,
        width: int = 128,
        *,
        depth: int = 3,
        layer: GraphLayer = "gin",
        heads: int = 4,
        norm: Norm = "batch",
        activation: Activation = "prelu",
        density: float = 0.3,
        absolute: bool = False,
        fisher: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if in_channels < 2 or width < 1 or depth < 1 or not 0 < density <= 1:
            raise ConfigError(
                f"BrainGraph needs 2 regions, a width and a depth of 1 and a density above 0 and at most 1, not "
                f"{in_channels}, {width}, {depth} and {density}"
            )
        self.width, self.density, self.absolute, self.fisher, self.dropout = width, density, absolute, fisher, dropout
        self.describe(in_channels, 2 * depth * width)
        self.stages = nn.ModuleList(
            graph_layer(
                layer, width if i else in_channels, width, heads=heads, norm=norm, activation=activation,
                last=norm == "none" and layer == "gin" and i == depth - 1,
            )
            for i in range(depth)
        )  # fmt: skip

    def graph(self, x: Tensor) -> BrainGraphInput:
        """The graph of each run: (B, N, T) → see ``BrainGraphInput``."""
        r, valid = correlation(x), valid_regions(x)
        adjacency = top_edges(r.abs() if self.absolute else r, self.density, valid)
        own = torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
        return BrainGraphInput((fisher_z(r) if self.fisher else r).masked_fill(own, 0.0), adjacency, valid)

    def encode(self, features: Tensor, adjacency: Tensor, valid: Tensor) -> list[Tensor]:
        """What each layer says of each node.

        Args:
            features: (B, N, N).
            adjacency: (B, N, N).
            valid: (B, N).

        Returns:
            One (B, N, width) a layer.
        """
        found, h = [], features
        for stage in self.stages:
            h = stage(functional.dropout(h, self.dropout, self.training), adjacency, valid)
            found.append(h)
        return found

    def pool(self, layers: list[Tensor], valid: Tensor) -> Tensor:
        """Mean and maximum over valid nodes of all layers: (B, out_dim)."""
        h = torch.cat(layers, -1)
        return torch.cat([masked_mean(h, valid), masked_max(h, valid)], -1)

    def vector(self, x: Tensor) -> Tensor:
        """See ``WholeRun.vector``."""
        features, adjacency, valid = self.graph(x)
        return self.pool(self.encode(features, adjacency, valid), valid)

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """One group a layer."""
        return parameters_by_prefix(self, [(f"stages.{i}.",) for i in range(len(self.stages))])
