"""The plainest network on functional connectivity: its edges as a vector, and a perceptron."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.whole_run import WholeRun
from medssl.errors import ConfigError
from medssl.views.connectivity import correlation, fisher_z, ledoit_wolf, lower_triangle, partial_correlation

__all__ = ["ConnectivityMLP"]


class ConnectivityMLP(WholeRun):
    """Edges of the connectivity of a run (Fisher z, lower triangle) through a perceptron with layer norms.

    Edges of invalid regions are 0. Pooled: the last layer; one map of one place.

    Args:
        in_channels: regions N.
        widths: of the layers; the last is the output's.
        connectivity: Pearson ``correlation``, or ``partial`` correlation of the Ledoit-Wolf covariance.
        dropout: after each layer but the last, and of the edges.

    Raises:
        ConfigError: fewer than two regions, no layer, or an unknown connectivity.
    """

    exports_any_size = True

    def __init__(
        self,
        in_channels: int = 100,
        widths: tuple[int, ...] = (256, 128),
        *,
        connectivity: Literal["correlation", "partial"] = "correlation",
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if in_channels < 2 or not widths or min(widths) < 1:
            raise ConfigError(f"ConnectivityMLP needs 2 regions and a layer, not {in_channels} and {tuple(widths)}")
        if connectivity not in ("correlation", "partial"):
            raise ConfigError(f"the connectivity is correlation or partial, not '{connectivity}'")
        self.describe(in_channels, widths[-1])
        self.connectivity = connectivity
        self.dropout = nn.Dropout(dropout)
        inputs = (in_channels * (in_channels - 1) // 2, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.GELU()) for a, b in zip(inputs, widths, strict=True)
        )

    def edges(self, x: Tensor) -> Tensor:
        """Fisher z of all pairs of regions: (B, N, T) → (B, N (N - 1) / 2)."""
        r = correlation(x) if self.connectivity == "correlation" else partial_correlation(ledoit_wolf(x)[0])
        return lower_triangle(fisher_z(r))

    def vector(self, x: Tensor) -> Tensor:
        """See ``WholeRun.vector``."""
        h = self.edges(x)
        for stage in self.stages:
            h = stage(self.dropout(h))
        return h

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """One group a layer."""
        return parameters_by_prefix(self, [(f"stages.{i}.",) for i in range(len(self.stages))])
