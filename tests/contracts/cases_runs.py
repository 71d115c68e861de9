"""Cases of masked autoencoding of functional connectivity, and of contrasting crops of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fmri_toys import RunsCase
from toys import METHODS

from medssl.encoders.base import Encoder
from medssl.encoders.brain_graph import BrainGraph
from medssl.encoders.connectivity_mlp import ConnectivityMLP
from medssl.encoders.spatio_temporal_graph import SpatioTemporalGraph
from medssl.methods.base import Method
from medssl.methods.connectivity_mae import ConnectivityMAE
from medssl.methods.contrastive import Contrastive
from medssl.methods.graph_mae import GraphMAE
from medssl.optim import Optim
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import UNCHANGED, SignalAugmentation

REGIONS = 12
NOISY = dataclasses.replace(UNCHANGED, jitter=0.5, drop_channel=0.1)


def runs(
    method: type[Any],
    encoder: Callable[[], Encoder],
    *,
    size: int = 80,
    count: int = 1,
    augmentation: SignalAugmentation = UNCHANGED,
    **options: Any,
) -> RunsCase:
    def make() -> Method:
        views = SignalViews((size,), count=count, gap_s=None, augmentation=augmentation)
        made: Method = method(encoder(), views, optim=Optim(lr=1e-2), **options)
        made.prepare(SimpleNamespace(places=range(64), cohorts=[], manifest=None), batch=6)  # type: ignore[arg-type]
        return made

    return RunsCase(make, "signal", REGIONS)


def windows(**options: Any) -> SpatioTemporalGraph:
    return SpatioTemporalGraph(
        REGIONS, **{"window": 20, "stride": 10, "width": 8, "depth": 2, "dropout": 0.0, **options}
    )


def graph(**options: Any) -> BrainGraph:
    return BrainGraph(REGIONS, 8, **{"depth": 2, "dropout": 0.0, **options})


METHODS["ConnectivityMAE"] = {
    "rows": runs(ConnectivityMAE, windows),
    "random_regions": runs(ConnectivityMAE, windows, mask="random", hide_node_edges=True, count=2),
    "embeddings": runs(ConnectivityMAE, windows, node_target="embedding", node_loss="mse"),
    "slow_copy": runs(ConnectivityMAE, lambda: windows(time_encoding="none", readout="mean"), node_target="ema"),
    "space_alone": runs(ConnectivityMAE, windows, spatial=1.0, size=50),
}
METHODS["GraphMAE"] = {
    "isomorphism": runs(GraphMAE, graph),
    "convolutions": runs(GraphMAE, lambda: graph(layer="gcn", norm="none", fisher=True), hide_edges=True),
    "attention": runs(GraphMAE, lambda: graph(layer="gat", norm="layer"), drop_edges=0.3, concatenate=True, count=2),
}
METHODS["Contrastive"] |= {
    "runs": runs(
        Contrastive,
        lambda: ConnectivityMLP(REGIONS, widths=(16, 8), dropout=0.0),
        count=2,
        augmentation=NOISY,
        projector=(16, 8),
    ),
    "graphs_of_runs": runs(Contrastive, graph, count=2, augmentation=NOISY, projector=(16, 8)),
}
