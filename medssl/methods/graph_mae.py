"""GraphMAE: hidden rows of the connectivity graph of a run are told by a graph network from the others."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Encoder
from medssl.encoders.brain_graph import BrainGraph, BrainGraphInput
from medssl.encoders.graph_layers import graph_layer
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.of_views import OfViews, refuse_other_views
from medssl.methods.projectors import dropout
from medssl.objectives.auroc import auroc
from medssl.objectives.connectivity_mae import of_places
from medssl.objectives.graph_mae import (
    MaskMode,
    NodeMasks,
    drop_edges,
    hide_edges_between,
    masked_features,
    node_masks,
    scaled_cosine_error,
    transposed_error,
)
from medssl.optim import Optim
from medssl.views.base import Batch, Views, to_input

__all__ = ["GraphMAE"]


class GraphMAE(OfViews):
    """GraphMAE (Hou et al., KDD 2022) on static connectivity: hidden rows of a graph are told from the other nodes.

    Nodes are regions, edges strong correlations, features of a node its row of the connectivity. Hidden nodes show a
    learned token, or the row of another node. After the encoder their codes are hidden once more, and one graph layer,
    which is dropped afterwards, tells their rows; the error is the scaled cosine error. Nothing is augmented but the
    crop.

    Connectivity is symmetric, so that a hidden row stands in the columns of the others: ``hide_symmetric`` hides these
    columns. ``transposed_error`` is the error of copying them: 1 where nothing can be copied, near 0 where all can.

    Shapes: runs (R, N, T) → features and edges (R, N, N) → codes (R, N, D) → rows (R, N, N).

    Args:
        encoder: a BrainGraph.
        views: how runs are cropped (``SignalViews``, a count of 1 serves); their augmentation is not applied.
        mask_ratio: share of hidden nodes.
        replace: share of the hidden nodes that show the row of another node instead of the token.
        mask_mode: see ``MaskMode``.
        hide_symmetric: hide the columns of hidden nodes, too.
        hide_edges: hide edges between hidden nodes from encoder and decoder.
        drop_edges: probability that a directed edge is hidden from the encoder.
        gamma: exponent of the error, from 1.
        concatenate: decode the codes of all layers, not of the last one.
        decoder_dropout: of what the decoder sees.
        optim: optimiser settings.

    Raises:
        ConfigError: another encoder, views that are not of signals, or numbers that do not fit each other.
    """

    encoder: BrainGraph

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        mask_ratio: float = 0.5,
        replace: float = 0.1,
        mask_mode: MaskMode = "exact",
        hide_symmetric: bool = True,
        hide_edges: bool = False,
        drop_edges: float = 0.0,
        gamma: float = 2.0,
        concatenate: bool = False,
        decoder_dropout: float = 0.2,
        optim: Optim | None = None,
    ) -> None:
        graphs = _suitable(encoder, views)
        super().__init__(graphs, optim or Optim(lr=1e-3, weight_decay=1e-4))
        regions, width = graphs.in_channels, graphs.width
        if not 0 < mask_ratio < 1 or int(mask_ratio * regions) < 1 or not 0 <= replace <= 1 or gamma < 1:
            raise ConfigError(
                "GraphMAE takes a mask_ratio between 0 and 1 that hides a region at least, a replace from 0 to 1 and a "
                f"gamma of at least 1, not {mask_ratio} of {regions} regions, {replace} and {gamma}"
            )
        if not 0 <= drop_edges < 1 or not 0 <= decoder_dropout < 1 or mask_mode not in get_args(MaskMode):
            raise ConfigError(
                f"GraphMAE takes a drop_edges and a decoder_dropout from 0 to below 1 and a mask_mode of "
                f"{' or '.join(get_args(MaskMode))}, not {drop_edges}, {decoder_dropout} and '{mask_mode}'"
            )
        self.views, self.mask_ratio, self.replace, self.mask_mode = views, mask_ratio, replace, mask_mode
        self.hide_symmetric, self.hide_edges, self.drop_edges = hide_symmetric, hide_edges, drop_edges
        self.gamma, self.concatenate, self.decoder_dropout = gamma, concatenate, decoder_dropout
        self.token = nn.Parameter(torch.zeros(1, regions))
        layers = len(graphs.stages) if concatenate else 1
        self.between = nn.Linear(layers * width, width, bias=False)
        settings = graphs.init_args
        self.decoder = graph_layer(
            settings["layer"], width, regions, hidden=width, norm=settings["norm"], activation=settings["activation"],
            last=True,
        )  # fmt: skip

    def loss(self, batch: Batch) -> Losses:
        """See ``reconstruct``, of runs as they were cropped."""
        return self.reconstruct(self.encoder.graph(to_input(batch["x"], batch).flatten(0, 1)))

    def reconstruct(self, graph: BrainGraphInput, masks: NodeMasks | None = None) -> Losses:
        """Hide nodes, encode, hide their codes, decode, and compare.

        Args:
            graph: of R runs.
            masks: of its nodes; None draws them.
        """
        features, adjacency, valid = graph
        if masks is None:
            masks = node_masks(valid, self.mask_ratio, self.generator, replace=self.replace, mode=self.mask_mode)
        shown = masked_features(features, masks, self.token, hide_symmetric=self.hide_symmetric)
        edges = hide_edges_between(adjacency, masks.hidden) if self.hide_edges else adjacency
        heard = drop_edges(edges, self.drop_edges if self.training else 0.0, self.generator)
        layers = self.encoder.encode(shown, heard, valid)
        told = self.decode(layers, edges, masks.hidden, valid)
        total = scaled_cosine_error(told, features, masks.hidden, gamma=self.gamma)
        terms = {"node_error": total.detach()}
        if features.shape[-1] == features.shape[-2]:
            terms |= {
                "edge_auroc": self._edge_auroc(told, adjacency, masks.hidden, valid),
                "transposed_error": transposed_error(features, shown, masks, self.gamma),
            }
        return Losses(total, terms, self.encoder.pool([h.detach() for h in layers], valid).float())

    def decode(self, layers: list[Tensor], adjacency: Tensor, hidden: Tensor, valid: Tensor) -> Tensor:
        """Rows of all nodes, told without the codes of hidden ones: (R, N, N).

        Args:
            layers: of ``BrainGraph.encode``.
            adjacency: (R, N, N).
            hidden: (R, N).
            valid: (R, N).
        """
        codes = self.between(torch.cat(layers, -1) if self.concatenate else layers[-1])
        codes = codes.masked_fill(hidden.unsqueeze(-1), 0.0)
        if self.training:
            codes = dropout(codes, self.decoder_dropout, self.generator)
        told: Tensor = self.decoder(codes, adjacency, valid)
        return told

    @torch.no_grad()
    def _edge_auroc(self, told: Tensor, adjacency: Tensor, hidden: Tensor, valid: Tensor) -> Tensor:
        """How well told rows of hidden nodes, each of length 1, tell edges from other pairs."""
        most = max(1, int(self.mask_ratio * hidden.shape[1]))
        places = (~hidden).to(torch.uint8).argsort(dim=-1, stable=True)[:, :most]
        own = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        counted = of_places(hidden.unsqueeze(-1) & valid.unsqueeze(1) & ~own, places)
        rows = functional.normalize(of_places(told, places).float(), dim=-1)
        return auroc(rows, of_places(adjacency, places), counted)


def _suitable(encoder: Encoder, views: Views) -> BrainGraph:
    if not isinstance(encoder, BrainGraph):
        raise ConfigError(
            f"GraphMAE hides nodes of the graph of a run, which {type(encoder).__name__} has none of; choose the "
            "encoder BrainGraph, or the method ConnectivityMAE for SpatioTemporalGraph"
        )
    refuse_other_views(views, "signal", method="GraphMAE", learns_from="series of regions", choose="SignalViews")
    return encoder
