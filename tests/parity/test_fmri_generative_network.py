"""Windows, graphs and the spatio-temporal network against stored values of STAGIN's released modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.encoders.spatio_temporal_graph import GARO, BrainWindows, SpatioTemporalGraph
from medssl.objectives.node_orthogonality import node_orthogonality
from medssl.views.connectivity import dynamic_correlation, window_count
from medssl.views.connectivity_edges import edge_threshold, top_edges

Golden = Callable[[str], Mapping[str, np.ndarray]]
ROUNDING = 1e-15  # of correlations in double precision
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

KEYS = {
    "timestamp_encoder.rnn": "time", "initial_linear": "embedding", "gnn_layers": "stages",
    "mlp.0": "linear1", "mlp.1": "norm1", "mlp.3": "linear2", "mlp.4": "norm2", "epsilon": "centre",
    "readout_modules": "readouts", "embed.0": "squeeze", "embed.1": "norm", "attend": "excite",
    "transformer_modules": "transformers", "multihead_attn.in_proj_": "qkv.", "multihead_attn.out_proj": "out",
    "layer_norm": "norm",
}  # fmt: skip


class Reference:
    """The stored run, and our network with its weights."""

    def __init__(self, vectors: Mapping[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.x = self["timeseries"].mT
        self.window, self.stride = int(vectors["window"]), int(vectors["stride"])
        self.density = int(vectors["sparsity_percent"]) / 100
        self.network = self.make().eval()
        self.windows = self.network.windows(self.x)._replace(adjacency=self["adjacency"])

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.vectors[name])

    def make(self) -> SpatioTemporalGraph:
        made = SpatioTemporalGraph(
            self.x.shape[1], self.window, stride=self.stride, width=6, depth=2, density=self.density,
            time_encoding="gru", windows_pool="sum", exclusive=True,
        ).double()  # fmt: skip
        weights = {
            self.renamed(k[2:]): self[k] for k in self.vectors if k.startswith("w.") and "linear_layers" not in k
        }
        weights |= {k: v.reshape(()) for k, v in weights.items() if k.endswith("centre")}
        made.load_state_dict(weights, strict=True)
        return made

    def renamed(self, key: str) -> str:
        if key.startswith("transformer"):
            key = key.replace("mlp.0", "linear1").replace("mlp.3", "linear2")
        for old, new in KEYS.items():
            key = key.replace(old, new)
        return key

    def layers(self) -> list[Tensor]:
        return self.network.encode(self["x0"], self.windows.adjacency, self.windows.valid)


@pytest.fixture
def stored(golden: Golden) -> Reference:
    return Reference(golden("fmri_generative"))


def test_number_and_places_of_windows(golden: Golden, stored: Reference) -> None:
    cases = ("win_cases", "win_count_exclusive", "win_count_inclusive")
    for (length, window, stride), exclusive, inclusive in zip(
        *(golden("fmri_generative")[k] for k in cases), strict=True
    ):
        assert window_count(length, window, stride) == inclusive
        if exclusive:
            assert window_count(length, window, stride, exclusive=True) == exclusive
    ends = stored.vectors["starts"] + stored.window - 1
    np.testing.assert_array_equal(stored.windows.ends, ends)


def test_correlation_inside_each_window(stored: Reference) -> None:
    found = dynamic_correlation(stored.x, stored.window, stored.stride, exclusive=True)
    torch.testing.assert_close(found, stored["dyn_fc"], **CLOSE)
    without_self = found[:, 0] - torch.eye(found.shape[-1], dtype=found.dtype)
    torch.testing.assert_close(without_self, stored["dyn_fc_noself_first"], **CLOSE)


def test_thresholds_and_adjacency(stored: Reference) -> None:
    """Bit for bit, but where the two entries of a pair differ by rounding: the threshold may be either of them."""
    r, thresholds = stored["dyn_fc"], stored["thresholds"]
    torch.testing.assert_close(edge_threshold(r, stored.density), thresholds, rtol=0, atol=ROUNDING)
    assert_equal_off_threshold(top_edges(r, stored.density), stored)


def test_from_the_series_on_the_two_ends_of_a_pair_are_treated_alike(stored: Reference) -> None:
    """The stored correlations are symmetric up to rounding only, which may split a pair at the threshold itself."""
    ours = stored.network.windows(stored.x).adjacency
    assert torch.equal(ours, ours.mT)
    assert_equal_off_threshold(ours, stored)


def assert_equal_off_threshold(adjacency: Tensor, stored: Reference) -> None:
    """Equal to the stored one, except in the single pair of a graph whose correlation is the threshold."""
    other = adjacency != stored["adjacency"]
    distance = (stored["dyn_fc"] - stored["thresholds"][..., None, None]).abs()
    assert (distance[other] <= ROUNDING).all() and other.flatten(-2).sum(-1).max() <= 2


def test_time_encoding_and_node_features(stored: Reference) -> None:
    recurrent = stored.network.time
    assert recurrent is not None
    states = recurrent(stored.x.mT)[0][:, stored.windows.ends]
    torch.testing.assert_close(states.transpose(0, 1), stored["time_encoding"], **CLOSE)
    # the series are standardised once more, with the same 1e-9 beside their deviation
    found = stored.network.nodes(stored.x, stored.windows)
    torch.testing.assert_close(found, stored["x0"], rtol=1e-7, atol=1e-8)


def test_graph_isomorphism_layer(stored: Reference) -> None:
    torch.testing.assert_close(stored.layers()[0], stored["gin1_out"], **CLOSE)


def test_squeeze_excitation_readout_and_transformer_over_windows(stored: Reference) -> None:
    read, attention = stored.network.readouts[0](stored["gin1_out"], stored.windows.valid)
    torch.testing.assert_close(read.transpose(0, 1), stored["sero_out"], **CLOSE)
    torch.testing.assert_close(attention, stored["sero_attention"], **CLOSE)
    onward, attention = stored.network.transformers[0](read)
    torch.testing.assert_close(onward.transpose(0, 1), stored["transformer_out"], **CLOSE)
    torch.testing.assert_close(attention, stored["time_attention"], **CLOSE)


def test_graph_attention_readout(stored: Reference) -> None:
    readout = GARO(6).double().eval()
    names = {"query": "embed_query", "key": "embed_key"}
    readout.load_state_dict(
        {f"{k}.{w}": stored[f"garo.w.{v}.{w}"] for k, v in names.items() for w in ("weight", "bias")}
    )
    read, inside = readout(stored["gin1_out"], stored.windows.valid)
    torch.testing.assert_close(read.transpose(0, 1), stored["garo_out"], **CLOSE)
    readout.outer_scale = True
    outside = readout(stored["gin1_out"], stored.windows.valid)[1]
    torch.testing.assert_close(outside * 6**0.5, torch.sigmoid(torch.logit(inside) * 6**0.5), **CLOSE)


def test_whole_network_and_its_regulariser(stored: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: BrainWindows = stored.windows
    monkeypatch.setattr(stored.network, "windows", lambda x: windows)  # their halves of pairs, see above
    exact = stored.network.read(stored.layers(), windows.valid, windows.kept).unflatten(1, (2, 6))
    torch.testing.assert_close(exact, stored["latent"], **CLOSE)
    pooled = stored.network(stored.x).pooled.unflatten(1, (2, 6))
    torch.testing.assert_close(pooled, stored["latent"], rtol=1e-7, atol=1e-8)
    logits = sum(
        functional.linear(exact[:, i], stored[f"w.linear_layers.{i}.weight"], stored[f"w.linear_layers.{i}.bias"])
        for i in range(2)
    )
    torch.testing.assert_close(logits, stored["logits"], **CLOSE)
    apart = sum(node_orthogonality(h).mean() for h in stored.layers())
    torch.testing.assert_close(apart, stored["reg_ortho"], **CLOSE)
