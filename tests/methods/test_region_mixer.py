"""The mixer of regions and features: its equations, and what invalid regions must not do."""

from __future__ import annotations

import torch
from torch.nn.functional import gelu, layer_norm

from medssl.methods.region_mixer import RegionMixer


def mixer() -> RegionMixer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RegionMixer(6, 4, 3).double()


def test_regions_are_mixed_and_then_features() -> None:
    one, z = mixer(), torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (w1, b1), (w2, b2) = ((part.weight, part.bias) for part in (one.of_regions[0], one.of_regions[2]))
    (w3, b3), (w4, b4) = ((part.weight, part.bias) for part in (one.of_features[0], one.of_features[2]))
    assert w1.shape == (3, 6) and w3.shape == (8, 4)
    graph = z[1, 2]
    graph = graph + (w2 @ gelu(w1 @ layer_norm(graph, (4,)) + b1[:, None]) + b2[:, None])
    graph = graph + gelu(layer_norm(graph, (4,)) @ w3.T + b3) @ w4.T + b4
    told = one(z, torch.ones(2, 1, 6, dtype=torch.bool))
    assert told.shape == (2, 5, 6, 3)
    torch.testing.assert_close(told[1, 2], one.leave(graph))


def test_invalid_regions_tell_the_others_nothing() -> None:
    one, z = mixer(), torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    valid = torch.tensor([True, True, False, True, True, True])
    other = torch.where(valid.unsqueeze(-1), z, 9.0)
    assert torch.equal(one(z, valid)[valid], one(other, valid)[valid])
    assert not torch.equal(one(z, valid), one(other, valid))
