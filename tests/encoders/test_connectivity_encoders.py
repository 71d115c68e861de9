"""Encoders of functional connectivity: what they look at, and what must not change their answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.encoders.base import Encoder
from medssl.encoders.brain_graph import BrainGraph
from medssl.encoders.brain_net_cnn import BrainNetCNN
from medssl.encoders.connectivity_mlp import ConnectivityMLP
from medssl.encoders.spatio_temporal_graph import SpatioTemporalGraph
from medssl.errors import ConfigError

REGIONS, WINDOW, STRIDE = 8, 20, 6
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "mlp": lambda: ConnectivityMLP(REGIONS, (16, 8)),
    "partial mlp": lambda: ConnectivityMLP(REGIONS, (16, 8), connectivity="partial"),
    "cnn": lambda: BrainNetCNN(REGIONS, (4,), node=6, graph=8, out_dim=5),
    **{
        f"graph {kind}": lambda kind=kind: BrainGraph(REGIONS, 8, depth=2, layer=kind) for kind in ("gin", "gcn", "gat")
    },
    **{
        f"windows {readout} {time}": lambda readout=readout, time=time: SpatioTemporalGraph(
            REGIONS, WINDOW, stride=STRIDE, width=8, depth=2, readout=readout, time_encoding=time
        )
        for readout, time in (("sero", "sincos"), ("garo", "gru"), ("mean", "none"))
    },
}  # fmt: skip
every = pytest.mark.parametrize("name", ENCODERS)


def make(name: str) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[name]()


def runs(volumes: int = 62, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, REGIONS, volumes, generator=generator)
    return x + x.mean(1, keepdim=True)


@every
def test_gain_and_offset_of_regions_do_not_count(name: str) -> None:
    encoder, x = make(name).eval(), runs()
    if name == "partial mlp":  # shrinkage is towards equal variances: it is for standardised series
        x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    gain = torch.tensor(3.0) if name == "partial mlp" else 0.2 + torch.rand(3, REGIONS, 1)
    torch.testing.assert_close(encoder(gain * x + 2).pooled, encoder(x).pooled, rtol=1e-3, atol=1e-3)


@every
def test_padding_after_a_run_does_not_count(name: str) -> None:
    encoder, x = make(name).eval(), runs()
    padded = functional.pad(x, (0, 2 * STRIDE))
    if name.startswith("windows"):  # two more windows begin, the first of which holds enough of the run
        padded = functional.pad(x, (0, 3))
    torch.testing.assert_close(encoder(padded).pooled, encoder(x).pooled, rtol=1e-4, atol=1e-4)


@every
@pytest.mark.parametrize("value", [0.0, 7.0, float("nan")])
def test_what_an_unusable_region_holds_does_not_count(name: str, value: float) -> None:
    encoder, x = make(name).train(), runs()
    x[:, 3] = 0.0
    torch.manual_seed(1)
    expected = encoder(x).pooled
    x[:, 3] = value
    torch.manual_seed(1)
    again = encoder(x).pooled
    assert again.isfinite().all()
    torch.testing.assert_close(again, expected)
    again.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@every
def test_runs_differ_by_their_connectivity(name: str) -> None:
    encoder = make(name).eval()
    assert (encoder(runs(seed=0)).pooled - encoder(runs(seed=1)).pooled).abs().max() > 1e-4


@pytest.mark.parametrize("name", [n for n in ENCODERS if not n.startswith("windows")])
def test_static_encoders_take_a_run_as_a_whole(name: str) -> None:
    encoder, x = make(name).eval(), runs()
    order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(0))
    features = encoder(x)
    torch.testing.assert_close(encoder(x[..., order]).pooled, features.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.maps[0], features.pooled.unsqueeze(-1))
    with pytest.raises(ConfigError, match="at most 4096 volumes, not 5000"):
        encoder.check_input(REGIONS, (5000,))


def test_edges_of_the_perceptron_and_their_kinds() -> None:
    plain, partial = (make(name) for name in ("mlp", "partial mlp"))
    assert isinstance(plain, ConnectivityMLP) and isinstance(partial, ConnectivityMLP)
    x = runs()
    first = torch.corrcoef(x[0])
    torch.testing.assert_close(plain.edges(x)[0, :3], torch.atanh(first[[1, 2, 2], [0, 0, 1]]), rtol=1e-4, atol=1e-5)
    assert (plain.edges(x) - partial.edges(x)).abs().max() > 0.1, "the shared part is taken out of partial correlations"


def test_graphs_of_a_run() -> None:
    encoder = BrainGraph(REGIONS, 8, density=0.3)
    x = runs()
    x[1, 2] = 1.0
    features, adjacency, valid = encoder.graph(x)
    assert (features.diagonal(dim1=1, dim2=2) == 0).all() and adjacency.diagonal(dim1=1, dim2=2).all()
    assert valid.sum().item() == 3 * REGIONS - 1 and not valid[1, 2]
    assert adjacency[1, 2].sum() == 1 and (features[1, 2] == 0).all()
    opposite = x.clone()
    opposite[:, 0] *= -1
    assert not torch.equal(encoder.graph(opposite).adjacency, adjacency)
    absolute = BrainGraph(REGIONS, 8, density=0.3, absolute=True)
    assert torch.equal(absolute.graph(opposite).adjacency, absolute.graph(x).adjacency)
    torch.testing.assert_close(BrainGraph(REGIONS, 8, fisher=True).graph(x).features, torch.atanh(features))


def test_pooled_graphs_are_mean_and_maximum_of_all_layers() -> None:
    encoder, x = make("graph gin").eval(), runs()
    assert isinstance(encoder, BrainGraph)
    layers = encoder.encode(*encoder.graph(x))
    assert [h.shape for h in layers] == [(3, REGIONS, 8)] * 2
    joined = torch.cat(layers, -1)
    torch.testing.assert_close(encoder(x).pooled, torch.cat([joined.mean(1), joined.amax(1)], 1))


def test_the_order_of_regions_does_not_count_for_graph_layers() -> None:
    """The features are rows of the connectivity, so the first layer's weights move along."""
    encoder, x = make("graph gin").eval(), runs()
    assert isinstance(encoder, BrainGraph)
    order = torch.randperm(REGIONS, generator=torch.Generator().manual_seed(0))
    expected = encoder(x).pooled
    first = encoder.stages[0].linear1
    with torch.no_grad():
        first.weight.copy_(first.weight[:, order].clone())
    torch.testing.assert_close(encoder(x[:, order]).pooled, expected, rtol=1e-4, atol=1e-4)


def windows_of(**options: object) -> SpatioTemporalGraph:
    torch.manual_seed(0)
    return SpatioTemporalGraph(REGIONS, WINDOW, stride=STRIDE, width=8, depth=2, **options)


def test_windows_of_a_run() -> None:
    encoder, x = windows_of(), runs()
    x[0, 1] = 4.0
    windows = encoder.windows(x)
    count = (62 - WINDOW) // STRIDE + 1
    assert windows.correlation.shape == windows.adjacency.shape == (3, count, REGIONS, REGIONS)
    assert windows.ends.tolist() == [WINDOW - 1 + STRIDE * k for k in range(count)]
    assert windows.kept.all() and not windows.valid[0, 1]
    torch.testing.assert_close(windows.correlation[1, 2], torch.corrcoef(x[1, :, 12:32]), rtol=1e-4, atol=1e-5)
    assert encoder.nodes(x, windows).shape == (3, count, REGIONS, 8)


def test_windows_of_mostly_padding_are_left_out() -> None:
    encoder = windows_of(exclusive=True).eval()
    x = runs(volumes=50)
    longer = torch.cat([functional.pad(x[:1], (0, 12)), runs(seed=3)[1:]])
    windows = encoder.windows(longer)
    assert windows.kept[0].tolist() == [True] * 7 and windows.kept[1:].all()  # the last holds 14 of 20 volumes
    much_longer = functional.pad(x, (0, 30))
    kept = encoder.windows(much_longer).kept[0]
    assert kept.tolist() == [True] * 7 + [False] * 3
    pooled = encoder(much_longer).pooled
    torch.testing.assert_close(pooled, encoder(much_longer[..., :57]).pooled, rtol=1e-4, atol=1e-4)


def test_a_map_over_time_lines_up_with_its_windows() -> None:
    encoder, x = windows_of(readout="mean", time_encoding="none").eval(), runs()
    windows = encoder.windows(x)
    layers = encoder.encode(encoder.nodes(x, windows), windows.adjacency, windows.valid)
    over = encoder.over_windows(layers, windows.valid, windows.kept)
    (found,) = encoder(x).maps
    middles = [STRIDE * k + WINDOW / 2 for k in range(over.shape[1])]
    for place in range(found.shape[-1]):
        nearest = min(range(len(middles)), key=lambda k: abs(middles[k] - STRIDE * (place + 0.5)))
        at_most = abs(middles[nearest] - STRIDE * (place + 0.5))
        chosen = next(k for k in range(len(middles)) if torch.equal(found[:, :, place], over[:, k]))
        assert abs(middles[chosen] - STRIDE * (place + 0.5)) == at_most


def test_length_of_a_run_counts_for_the_sum_over_windows_only() -> None:
    x = runs()[..., :60].repeat(1, 1, 3)  # windows repeat after 10 strides
    short, long = x[..., :76], x[..., : 76 + 60]
    options = {"readout": "mean", "time_encoding": "none", "exclusive": True}
    encoder, summed = windows_of(**options).eval(), windows_of(windows_pool="sum", **options).eval()
    assert encoder.windows(short).kept.shape[1] == 10 and encoder.windows(long).kept.shape[1] == 20
    torch.testing.assert_close(encoder(long).pooled, encoder(short).pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(summed(short).pooled, 10 * encoder(short).pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(summed(long).pooled, 2 * summed(short).pooled, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("encoding", ["gru", "sincos", "none"])
def test_what_a_node_knows_of_time(encoding: str) -> None:
    """The recurrent encoding has seen all that comes before a window's end, and nothing after it."""
    encoder, x = windows_of(time_encoding=encoding).eval(), runs()
    later = x.clone()
    later[..., 26:] = x[..., 26:].flip(-1)  # mean and deviation of the run stay
    windows = encoder.windows(x)  # window 1 ends with volume 25
    one, other = encoder.nodes(x, windows), encoder.nodes(later, windows)
    torch.testing.assert_close(one[:, :2], other[:, :2], rtol=1e-5, atol=1e-5)
    assert ((one[:, 2:] - other[:, 2:]).abs().amax((0, 2, 3)) > 1e-3).all() == (encoding == "gru")
    assert ((one[:, 0] - one[:, 1]).abs().max() > 1e-3) == (encoding != "none")


def test_gradient_reaches_the_recurrent_encoding() -> None:
    encoder = windows_of(time_encoding="gru", readout="garo")
    encoder(runs()).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_changing_correlations_at_the_same_graph_does_not_change_what_is_encoded() -> None:
    """Without a recurrent encoding all information enters through the adjacency, so hiding edges hides it."""
    encoder, x = windows_of().eval(), runs()
    windows = encoder.windows(x)
    other = windows._replace(correlation=torch.rand_like(windows.correlation))
    one = encoder.encode(encoder.nodes(x, windows), windows.adjacency, windows.valid)
    again = encoder.encode(encoder.nodes(x, other), other.adjacency, other.valid)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_a_single_window_cannot_train_the_squeeze_excitation_readout() -> None:
    encoder = windows_of()
    with pytest.raises(ConfigError, match="single window"):
        encoder(runs()[:1, :, :WINDOW])
    assert windows_of(readout="garo")(runs()[:1, :, :WINDOW]).pooled.isfinite().all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ConnectivityMLP(1), "2 regions"),
        (lambda: ConnectivityMLP(8, connectivity="tangent"), "correlation or partial, not 'tangent'"),
        (lambda: BrainNetCNN(8, node=0), "filters in every layer"),
        (lambda: BrainGraph(8, density=1.5), "density above 0"),
        (lambda: BrainGraph(8, layer="sage"), "gin, gcn or gat"),
        (lambda: SpatioTemporalGraph(8, window=2), "window of 3 volumes"),
        (lambda: SpatioTemporalGraph(8, readout="max"), "sero, garo or mean"),
        (lambda: SpatioTemporalGraph(8, windows_pool="max"), "mean or sum, not 'max'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(made: Callable[[], Encoder], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made()


def test_a_run_shorter_than_a_window_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="at least"):
        windows_of().check_input(REGIONS, (WINDOW - 1,))
