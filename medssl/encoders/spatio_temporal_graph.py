"""A graph network on dynamic connectivity: every window is a graph, and a transformer looks over the windows."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Encoder, Features
from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.graph_layers import GINLayer, MaskedBatchNorm, attended_mean, masked_mean
from medssl.encoders.positions import interleaved_sines
from medssl.errors import ConfigError
from medssl.objectives.base import promoted
from medssl.views.connectivity import correlation_and_valid, sliding_windows, valid_regions, volume_weights
from medssl.views.connectivity_edges import top_edges

__all__ = ["GARO", "SERO", "BrainWindows", "MeanReadout", "SpatioTemporalGraph", "WindowTransformer"]

Readout = Literal["sero", "garo", "mean"]
TimeEncoding = Literal["sincos", "gru", "none"]
KEPT = 0.6
"""A window with a smaller share of volumes that count is left out."""


class BrainWindows(NamedTuple):
    """What a run looks like as a sequence of graphs.

    Attributes:
        correlation: (B, K, N, N), diagonal 1.
        adjacency: (B, K, N, N) booleans, with self-loops, which are the only edges of invalid regions.
        valid: (B, N) booleans, see ``medssl.views.connectivity``.
        ends: (K,) int64, the last volume of each window.
        kept: (B, K) booleans: windows that hold enough volumes that count.
    """

    correlation: Tensor
    adjacency: Tensor
    valid: Tensor
    ends: Tensor
    kept: Tensor


class SERO(nn.Module):
    """Squeeze-excitation readout (Kim et al., *STAGIN*, NeurIPS 2021): a graph's mean decides how each node counts.

    Args:
        nodes: N.
        width: D.
        dropout: of the attention.
    """

    def __init__(self, nodes: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.squeeze, self.norm = nn.Linear(width, width), MaskedBatchNorm(width)
        self.excite, self.dropout = nn.Linear(width, nodes), dropout

    def forward(self, h: Tensor, valid: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read graphs.

        Args:
            h: (B, K, N, D).
            valid: (B, N) nodes.
            kept: (B, K) graphs that count in the norm.

        Returns:
            (B, K, D), and the attention (B, K, N) in [0, 1].

        Raises:
            ConfigError: a single graph in training, which the norm cannot normalise.
        """
        if self.training and h.shape[0] * h.shape[1] < 2:
            raise ConfigError(
                "the SERO readout cannot be trained on a single window; use larger batches or more windows"
            )
        g = attended_mean(h, valid.unsqueeze(1))
        attention = torch.sigmoid(self.excite(functional.gelu(self.norm(self.squeeze(g), kept))))
        counted = functional.dropout(attention, self.dropout, self.training)
        return attended_mean(h, valid.unsqueeze(1), counted), attention


class GARO(nn.Module):
    """Graph-attention readout (Kim et al., *STAGIN*, NeurIPS 2021): the mean of a graph is compared with each node.

    Args:
        width: D.
        dropout: of the attention.
        outer_scale: divide by √D outside the sigmoid instead of inside, so that attention never exceeds 1 / √D.
    """

    def __init__(self, width: int, *, dropout: float = 0.1, outer_scale: bool = False) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout, self.outer_scale = dropout, outer_scale

    def forward(self, h: Tensor, valid: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See ``SERO.forward``."""
        query = self.query(attended_mean(h, valid.unsqueeze(1)))
        score = promoted((self.key(h) * query.unsqueeze(-2)).sum(-1))
        scale = h.shape[-1] ** -0.5
        attention = torch.sigmoid(score) * scale if self.outer_scale else torch.sigmoid(score * scale)
        counted = functional.dropout(attention, self.dropout, self.training)
        return attended_mean(h, valid.unsqueeze(1), counted), attention


class MeanReadout(nn.Module):
    """All nodes count the same."""

    def forward(self, h: Tensor, valid: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See ``SERO.forward``."""
        return attended_mean(h, valid.unsqueeze(1)), valid.unsqueeze(1).expand(h.shape[:3]).float()


class WindowTransformer(nn.Module):
    """One block of attention over windows, without a skip around the attention (Kim et al., *STAGIN*, NeurIPS 2021).

    Args:
        width: D.
        dropout: after attention, and inside and after the perceptron.
    """

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Let windows attend to each other.

        Args:
            h: (B, K, D).
            kept: (B, K) windows that are attended to; None: all.

        Returns:
            (B, K, D), and the attention (B, K, K), rows of sum 1.
        """
        q, k, v = self.qkv(h).chunk(3, -1)
        score = promoted(q @ k.mT) * h.shape[-1] ** -0.5
        if kept is not None:  # where no window is kept they all are, so that nothing is divided by 0
            seen = kept | ~kept.any(-1, keepdim=True)
            score = score.masked_fill(~seen.unsqueeze(-2), -torch.inf)
        attention = torch.softmax(score, -1)
        h = self.norm1(self.dropout(self.out(attention.to(v.dtype) @ v)))
        onward = self.linear2(self.dropout(functional.relu(self.linear1(h))))
        return self.norm2(h + self.dropout(onward)), attention


class SpatioTemporalGraph(Encoder):
    """STAGIN's encoder (Kim et al., NeurIPS 2021), built from its description.

    Sliding windows of the series, the strongest correlations of each as a graph, GIN layers; after each layer a readout
    over regions and a transformer over windows. Pooled: what the transformers of all layers say, the mean over windows.
    One map (B, out_dim, ceil(T / stride)): at each place the window whose middle is nearest.

    Args:
        in_channels: regions N.
        window: volumes of a window (published: 50 at TR 0.72 s, which is 36 s).
        stride: volumes from one window to the next (published: 3; in pre-training of ST-JEMA 16).
        width: D.
        depth: GIN layers.
        density: share of the pairs that are edges, see ``top_edges``.
        readout: over regions.
        time_encoding: what a node knows of time: ``sincos`` of the window's number; ``gru``, the state of a recurrent
            network over the series up to the window's end, as published, which has seen other windows; or ``none``.
        windows_pool: ``mean``; or the published ``sum``, which grows with the length of the run.
        exclusive: leave out the last window where it ends with the run, as the published code does.
        dropout: of the readout's attention and in the transformer.
        outer_scale: of GARO, see there.

    Raises:
        ConfigError: numbers that do not fit each other.
    """

    def __init__(
        self,
        in_channels: int = 100,
        window: int = 50,
        *,
        stride: int = 16,
        width: int = 128,
        depth: int = 4,
        density: float = 0.3,
        readout: Readout = "sero",
        time_encoding: TimeEncoding = "sincos",
        windows_pool: Literal["mean", "sum"] = "mean",
        exclusive: bool = False,
        dropout: float = 0.1,
        outer_scale: bool = False,
    ) -> None:
        super().__init__()
        if in_channels < 2 or window < 3 or min(stride, width, depth) < 1 or not 0 < density <= 1:
            raise ConfigError(
                "SpatioTemporalGraph needs 2 regions, a window of 3 volumes, a stride, width and depth of 1 and a "
                f"density above 0 and at most 1, not {in_channels}, {window}, {stride}, {width}, {depth} and {density}"
            )
        if readout not in ("sero", "garo", "mean") or time_encoding not in ("sincos", "gru", "none"):
            raise ConfigError(
                f"the readout is sero, garo or mean, and the time encoding sincos, gru or none, not '{readout}' and "
                f"'{time_encoding}'"
            )
        if windows_pool not in ("mean", "sum"):
            raise ConfigError(f"windows are pooled by mean or sum, not '{windows_pool}'")
        self.in_channels, self.dims, self.depth, self.width = in_channels, 1, depth, width
        self.window, self.stride, self.density, self.exclusive = window, stride, density, exclusive
        self.time_encoding, self.windows_pool = time_encoding, windows_pool
        self.out_dim, self.channels = depth * width, (depth * width,)
        self.strides, self.divisor, self.minimum = ((stride,),), (1,), (window + exclusive,)
        self.exports_any_size = time_encoding != "gru"  # torch unrolls it
        self.time = nn.GRU(in_channels, width, batch_first=True) if time_encoding == "gru" else None
        self.embedding = nn.Linear(in_channels + (0 if time_encoding == "none" else width), width)
        self.stages = nn.ModuleList(
            GINLayer(width, width, activation="relu", centre=0.0, learnt=True) for _ in range(depth)
        )
        self.readouts = nn.ModuleList(
            SERO(in_channels, width, dropout=dropout)
            if readout == "sero"
            else GARO(width, dropout=dropout, outer_scale=outer_scale)
            if readout == "garo"
            else MeanReadout()
            for _ in range(depth)
        )
        self.transformers = nn.ModuleList(WindowTransformer(width, dropout=dropout) for _ in range(depth))

    def windows(self, x: Tensor) -> BrainWindows:
        """The graphs of each run: (B, N, T) → see ``BrainWindows``."""
        weights = volume_weights(x)
        pieces, of_pieces = sliding_windows(x, self.window, self.stride, exclusive=self.exclusive, weights=weights)
        r, there = correlation_and_valid(pieces, of_pieces)
        valid = valid_regions(x, weights)
        there = there & valid.unsqueeze(1)
        ends = torch.arange(pieces.shape[1], device=x.device) * self.stride + self.window - 1
        kept = of_pieces.sum(-1) >= KEPT * self.window
        return BrainWindows(r, top_edges(r, self.density, there), valid, ends, kept)

    def times(self, x: Tensor, windows: BrainWindows) -> Tensor | None:
        """What all nodes of a window know of time: (B, K, D), or None."""
        if self.time_encoding == "none":
            return None
        if self.time is None:
            codes = interleaved_sines(windows.ends.shape[0], self.width).to(x.device)
            return codes.expand(x.shape[0], -1, -1)
        states: Tensor = self.time(_standardised(x, windows.valid).mT)[0]
        return states[:, windows.ends]

    def nodes(self, x: Tensor, windows: BrainWindows) -> Tensor:
        """Input features: a linear map of the region (one-hot) beside the time, (B, N, T) → (B, K, N, D)."""
        region = self.embedding.weight[:, : self.in_channels].T
        time = self.times(x, windows)
        if time is None:
            of_window = self.embedding.bias.expand(*windows.kept.shape, -1)
        else:
            of_window = functional.linear(time, self.embedding.weight[:, self.in_channels :], self.embedding.bias)
        return region + of_window.unsqueeze(2)

    def encode(self, nodes: Tensor, adjacency: Tensor, valid: Tensor) -> list[Tensor]:
        """What each layer says of each node.

        Args:
            nodes: (B, K, N, D).
            adjacency: (B, K, N, N).
            valid: (B, N).

        Returns:
            One (B, K, N, D) a layer.
        """
        found, h, adjacency = [], nodes, adjacency.to(nodes.dtype)  # once for all layers
        for stage in self.stages:
            h = stage(h, adjacency, valid.unsqueeze(1))
            found.append(h)
        return found

    def over_windows(self, layers: list[Tensor], valid: Tensor, kept: Tensor | None = None) -> Tensor:
        """What the transformers say of each window, layers one behind the other.

        Args:
            layers: of ``encode``.
            valid: (B, N).
            kept: (B, K) windows that count; None: all.

        Returns:
            (B, K, out_dim), at least float32.
        """
        parts = zip(layers, self.readouts, self.transformers, strict=True)
        found = [transformer(readout(h, valid, kept)[0], kept)[0] for h, readout, transformer in parts]
        return promoted(torch.cat(found, -1))

    def read(self, layers: list[Tensor], valid: Tensor, kept: Tensor | None = None) -> Tensor:
        """``over_windows``, pooled over the windows that count: (B, out_dim)."""
        return self._pooled(self.over_windows(layers, valid, kept), kept)

    def forward(self, x: Tensor) -> Features:
        """(B, N regions, T volumes), T at least a window → one map and the vector of the run."""
        windows = self.windows(x)
        layers = self.encode(self.nodes(x, windows), windows.adjacency, windows.valid)
        found = self.over_windows(layers, windows.valid, windows.kept)
        places = self._nearest_windows(x.shape[-1], found.shape[1]).to(found.device)
        return Features(self._pooled(found, windows.kept), [found.index_select(1, places).transpose(1, 2)])

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Embedding with time, one group a GIN layer, then all readouts and transformers."""
        stages = [(f"stages.{i}.",) for i in range(self.depth)]
        return parameters_by_prefix(self, [("time.", "embedding."), *stages, ("readouts.", "transformers.")])

    def _pooled(self, found: Tensor, kept: Tensor | None) -> Tensor:
        """(B, K, D) → (B, D)."""
        kept = torch.ones(found.shape[:2], dtype=torch.bool, device=found.device) if kept is None else kept
        mean = masked_mean(found, kept)
        return mean if self.windows_pool == "mean" else mean * kept.sum(-1, keepdim=True)

    def _nearest_windows(self, length: int, count: int) -> Tensor:
        """For each of ceil(length / stride) places the window whose middle is nearest to the place's."""
        places = torch.arange((length + self.stride - 1) // self.stride)
        behind = (self.stride - self.window) / (2 * self.stride)  # the first window's middle lies so many places later
        return (places + behind).round().long().clamp(0, count - 1)


def _standardised(x: Tensor, valid: Tensor) -> Tensor:
    """Series of mean 0 and deviation 1 over the volumes that count, 0 elsewhere and in invalid regions."""
    weights = volume_weights(x).unsqueeze(1)
    volumes = weights.sum(-1, keepdim=True).clamp_min(1.0)
    x = torch.where(valid.unsqueeze(-1), promoted(x), 0.0)
    centred = (x - (x * weights).sum(-1, keepdim=True) / volumes) * weights
    return centred / ((centred.square().sum(-1, keepdim=True) / volumes).sqrt() + 1e-9)
