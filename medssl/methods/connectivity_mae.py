"""Masked autoencoding of dynamic functional connectivity: hidden regions and edges, told in space and in time."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.spatio_temporal_graph import BrainWindows, SpatioTemporalGraph
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.of_views import OfViews, refuse_other_views
from medssl.methods.region_mixer import RegionMixer
from medssl.methods.teacher import ema_update, frozen, momentum_at
from medssl.objectives.auroc import auroc
from medssl.objectives.connectivity_mae import (
    HiddenRegions,
    NodeLoss,
    RegionMask,
    WindowPairs,
    edge_loss,
    edge_scores,
    hidden_regions,
    neighbouring_windows,
    node_loss,
    of_places,
    pairs_between,
    temporal_edge_loss,
    temporal_gap,
)
from medssl.objectives.graph_mae import hide_edges_between
from medssl.optim import Optim
from medssl.views.base import Batch, Views, to_input

__all__ = ["MASK_RATIOS", "ConnectivityMAE", "NodeTarget"]

NodeTarget = Literal["fc_row", "embedding", "ema"]
"""What is told of a hidden region: its correlations in the window; its input features; what a slow copy of the encoder
makes of it in the whole graph."""

MASK_RATIOS: dict[RegionMask, float] = {"block": 0.15, "random": 0.3}
"""Share of hidden regions by kind of mask, where none is given."""


class Graphs(NamedTuple):
    """What a step works on; R runs of K windows of N regions.

    Attributes:
        runs: (R, N, T) series.
        windows: of the runs.
        nodes: (R, K, N, D) input features.
        masks: hidden regions; none in windows of padding.
    """

    runs: Tensor
    windows: BrainWindows
    nodes: Tensor
    masks: HiddenRegions


class ConnectivityMAE(OfViews):
    """Masked autoencoding in space and time (ST-MAE: Choi et al., 2023; ST-JEMA, 2024) of functional connectivity.

    Every window of a run is a graph of regions. A few regions of each window and the edges between them are hidden;
    two decoders, which are dropped afterwards, tell the hidden regions' features and edges from the window itself
    (space), and from one window before and one after it that do not overlap (time). Nothing is augmented but the crop:
    what perturbs a graph changes what it means.

    Runs with too few windows for the temporal terms have none of them; ``temporal`` is the share of runs that have.

    Shapes: runs (R, N, T) → windows (R, K, N, N) → codes (R, K, N, D) → features (R, K, N, F) and edges of the M hidden
    regions (R, K, M, M).

    Args:
        encoder: a SpatioTemporalGraph; a time encoding of ``gru`` is refused, since it tells what is hidden.
        views: how runs are cropped (``SignalViews``, a count of 1 serves); their augmentation is not applied.
        mask: ``block``: regions that follow each other in the atlas, which are near each other; or ``random`` ones.
        mask_ratio: share of hidden regions; ``auto``: 0.15 in blocks, 0.3 at random.
        hide_node_edges: hide edges of which one end is hidden, too.
        node_target: see ``NodeTarget``. ``embedding`` and ``ema`` tell of the region more than of the window.
        node_loss: scaled cosine error (``cosine``) or ``mse``.
        gamma: exponent of the cosine error.
        spatial: share of the spatial terms in the loss, from 0 to 1; the rest is temporal.
        node_weight: multiplier of the errors of regions.
        edge_weight: multiplier of the errors of edges (means over pairs; ST-JEMA has sums and 1e-3 to 1e-6).
        gap: windows between a window and those it is told from; None: the fewest that keep them apart.
        momentum: of the slow copy of ``ema`` at the start, rising to 1 along a cosine.
        optim: optimiser settings (ST-JEMA: 10,000 steps of 16 runs).

    Raises:
        ConfigError: another encoder, views that are not of signals, or numbers that do not fit each other.
    """

    encoder: SpatioTemporalGraph

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        mask: RegionMask = "block",
        mask_ratio: float | Literal["auto"] = "auto",
        hide_node_edges: bool = False,
        node_target: NodeTarget = "fc_row",
        node_loss: NodeLoss = "cosine",
        gamma: float = 2.0,
        spatial: float = 0.5,
        node_weight: float = 1.0,
        edge_weight: float = 1.0,
        gap: int | None = None,
        momentum: float = 0.996,
        optim: Optim | None = None,
    ) -> None:
        graphs = _suitable(encoder, views)
        super().__init__(graphs, optim or Optim(lr=5e-4, weight_decay=1e-4))
        _refuse_choice("mask", mask, RegionMask)
        _refuse_choice("node_target", node_target, NodeTarget)
        _refuse_choice("node_loss", node_loss, NodeLoss)
        ratio = MASK_RATIOS[mask] if mask_ratio == "auto" else float(mask_ratio)
        if not 0 < ratio < 1 or gamma < 1 or not 0 <= spatial <= 1 or not 0 <= momentum <= 1:
            raise ConfigError(
                "ConnectivityMAE takes a mask_ratio between 0 and 1, a gamma of at least 1, and a spatial share and a "
                f"momentum from 0 to 1, not {ratio}, {gamma}, {spatial} and {momentum}"
            )
        if min(node_weight, edge_weight) < 0 or max(node_weight, edge_weight) == 0:
            raise ConfigError(
                f"ConnectivityMAE takes a node_weight and an edge_weight of 0 or more, not both 0: {node_weight} and "
                f"{edge_weight} given"
            )
        apart = temporal_gap(graphs.window, graphs.stride)
        if gap is not None and gap < apart:
            raise ConfigError(
                f"windows of {graphs.window} volumes every {graphs.stride} overlap unless they are {apart} windows "
                f"apart; set gap to that or more, not {gap}"
            )
        self.views, self.mask, self.mask_ratio, self.hide_node_edges = views, mask, ratio, hide_node_edges
        self.node_target, self.node_loss, self.gamma = node_target, node_loss, gamma
        self.spatial, self.node_weight, self.edge_weight = spatial, node_weight, edge_weight
        self.gap, self.momentum = gap or apart, momentum
        for untrained in (graphs.readouts, graphs.transformers):  # what comes after the codes is for fine-tuning
            untrained.requires_grad_(False)
        self._refuse_few_windows()
        self._make_decoders()

    def _make_decoders(self) -> None:
        regions, width = self.encoder.in_channels, self.encoder.width
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.node_decoder = self.edge_decoder = self.merge = None
        self.teacher: SpatioTemporalGraph | None = None
        if self.node_weight:
            self.decoder_token = nn.Parameter(0.02 * torch.randn(width))
            self.node_decoder = RegionMixer(regions, width, regions if self.node_target == "fc_row" else width)
            self.merge = nn.Linear(2 * width, width) if self.spatial < 1 else None
        if self.edge_weight:
            self.edge_decoder = RegionMixer(regions, width, width)
        if self.node_target == "ema":
            self.teacher = copy.deepcopy(self.encoder).eval()
            frozen(self.teacher)

    def train(self, mode: bool = True) -> ConnectivityMAE:
        """See ``nn.Module.train``; the slow copy is never in training mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """See ``Method.training_step``; the slow copy moves once an optimiser step."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.follow()
        return super().training_step(batch, batch_idx)

    def follow(self) -> None:
        """Move the slow copy, where there is one, towards the encoder; before a step, which equals after the last."""
        if self.teacher is not None:
            ema_update(self.teacher, self.encoder, momentum_at(self.progress, self.momentum), buffers="copy")

    def loss(self, batch: Batch) -> Losses:
        """See ``compare``, of runs as they were cropped."""
        return self.compare(to_input(batch["x"], batch).flatten(0, 1))

    def compare(self, runs: Tensor) -> Losses:
        """Hide, encode, and tell what was hidden in space and in time.

        Args:
            runs: (R, N, T).
        """
        graphs = self.graphs(runs)
        codes = self.encode(graphs)
        pairs = neighbouring_windows(graphs.windows.kept, self.gap, self.generator)
        nodes, (edges, diagnostics) = self._nodes(graphs, codes, pairs), self._edges(graphs, codes, pairs)
        total = codes.new_zeros((), dtype=torch.float32)
        for losses, weight in ((nodes, self.node_weight), (edges, self.edge_weight)):
            for name, value in losses.items():
                total = total + weight * (self.spatial if "spatial" in name else 1 - self.spatial) * value
        terms = {name: value.detach() for name, value in {**nodes, **edges, **diagnostics}.items()}
        terms["windows"] = graphs.windows.kept.sum(1).float().mean()
        terms["temporal_runs"] = pairs.counted.any(1).float().mean()
        seen = (graphs.windows.kept.unsqueeze(-1) & graphs.windows.valid.unsqueeze(1)).unsqueeze(-1)
        described = (codes.detach().float() * seen).sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)
        return Losses(total, terms, described)

    def graphs(self, runs: Tensor) -> Graphs:
        """Windows of runs as graphs, and what is hidden of them: (R, N, T) → ``Graphs``."""
        windows = self.encoder.windows(runs)
        masks = hidden_regions(windows.valid, windows.kept.shape[1], self.mask_ratio, self.generator, kind=self.mask)
        kept = windows.kept.unsqueeze(-1)
        masks = HiddenRegions(masks.hidden & kept, masks.places, masks.counted & kept)
        return Graphs(runs, windows, self.encoder.nodes(runs, windows), masks)

    def encode(self, graphs: Graphs) -> Tensor:
        """Codes of regions (R, K, N, D), of graphs whose hidden regions and edges are hidden."""
        hidden = graphs.masks.hidden
        nodes = torch.where(hidden.unsqueeze(-1), self.mask_token.to(graphs.nodes.dtype), graphs.nodes)
        edges = hide_edges_between(graphs.windows.adjacency, hidden, one_end=self.hide_node_edges)
        return self.encoder.encode(nodes, edges, graphs.windows.valid)[-1]

    @torch.no_grad()
    def targets(self, graphs: Graphs) -> Tensor:
        """What is to be told of every region: (R, K, N, F)."""
        windows = graphs.windows
        if self.node_target == "embedding":
            return graphs.nodes.detach()
        if self.teacher is not None:
            return self.teacher.encode(self.teacher.nodes(graphs.runs, windows), windows.adjacency, windows.valid)[-1]
        own = torch.eye(windows.correlation.shape[-1], dtype=torch.bool, device=windows.correlation.device)
        return windows.correlation.masked_fill(own, 0.0)

    def _nodes(self, graphs: Graphs, codes: Tensor, pairs: WindowPairs) -> dict[str, Tensor]:
        """Errors of hidden regions."""
        if self.node_decoder is None:
            return {}
        hidden, target = graphs.masks.hidden, self.targets(graphs)
        losses = {"node_spatial": self._node_error(codes, graphs, target, hidden)}
        if self.merge is not None:
            both = (_of_windows(codes, which) for which in (pairs.before, pairs.after))
            merged = self.merge(torch.cat(tuple(both), -1))
            counted = hidden & pairs.counted.unsqueeze(-1)
            losses["node_temporal"] = self._node_error(merged, graphs, target, counted)
        return losses

    def _node_error(self, codes: Tensor, graphs: Graphs, target: Tensor, counted: Tensor) -> Tensor:
        """Of what the decoder tells where it sees its token at hidden regions."""
        assert self.node_decoder is not None
        valid, hidden = graphs.windows.valid.unsqueeze(1), graphs.masks.hidden.unsqueeze(-1)
        told = self.node_decoder(torch.where(hidden, self.decoder_token.to(codes.dtype), codes), valid)
        if self.node_target == "fc_row":
            told = told * valid.unsqueeze(2)  # nothing is known of correlations with invalid regions
        return node_loss(told, target, counted, kind=self.node_loss, gamma=self.gamma)

    def _edges(self, graphs: Graphs, codes: Tensor, pairs: WindowPairs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Errors of hidden edges, and areas under the curve."""
        if self.edge_decoder is None:
            return {}, {}
        places, counted = graphs.masks.places, pairs_between(graphs.masks.counted)
        z = self.edge_decoder(codes, graphs.windows.valid.unsqueeze(1))
        edges = of_places(of_places(graphs.windows.adjacency, places).mT, places)
        own = of_places(z, places)
        scores = edge_scores(own, own)
        losses = {"edge_spatial": edge_loss(scores, edges, counted)}
        areas = {"edge_auroc_spatial": auroc(scores, edges, counted)}
        if self.spatial < 1:
            before, after = (of_places(_of_windows(z, which), places) for which in (pairs.before, pairs.after))
            told = counted & pairs.counted[..., None, None]
            losses["edge_temporal"], scores = temporal_edge_loss(before, after, edges, told)
            areas["edge_auroc_temporal"] = auroc(scores, edges, told)
        return losses, areas

    def _refuse_few_windows(self) -> None:
        (length,), window, stride = self.views.size, self.encoder.window, self.encoder.stride
        needed = window + (2 * self.gap * stride if self.spatial < 1 else 0)
        if length < needed:
            raise ConfigError(
                f"runs of {length} volumes have too few windows of {window} volumes every {stride}; set the views' "
                f"size to {needed} or more" + (", or spatial to 1 for no temporal terms" if self.spatial < 1 else "")
            )


def _of_windows(x: Tensor, which: Tensor) -> Tensor:
    """Other windows of the same run: (R, K, N, D) and (R, K) → (R, K, N, D)."""
    return x.gather(1, which[..., None, None].expand_as(x))


def _suitable(encoder: Encoder, views: Views) -> SpatioTemporalGraph:
    if not isinstance(encoder, SpatioTemporalGraph):
        raise ConfigError(
            f"ConnectivityMAE hides regions and edges of graphs of windows, which {type(encoder).__name__} has none "
            "of; choose the encoder SpatioTemporalGraph, or the method GraphMAE for BrainGraph"
        )
    refuse_other_views(views, "signal", method="ConnectivityMAE", learns_from="series of regions", choose="SignalViews")
    if encoder.time_encoding == "gru":
        raise ConfigError(
            "a time encoding of gru sees the series, and with it the connectivity that ConnectivityMAE hides; set "
            "time_encoding of the encoder to sincos or none"
        )
    return encoder


def _refuse_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ConfigError(f"{name} of ConnectivityMAE is one of {', '.join(get_args(choices))}, not '{value}'")
