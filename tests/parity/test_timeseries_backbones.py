"""The TS2Vec encoder against the official code, with and without missing values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from medssl.encoders.importing import load_weights
from medssl.encoders.ts2vec import TS2Vec

Golden = Callable[[str], Mapping[str, np.ndarray]]


@pytest.mark.parametrize("suffix", ["", "_nan"])
def test_ts2vec_equals_the_official_encoder(golden: Golden, suffix: str) -> None:
    data = golden("timeseries_backbones")
    c_in, c_out, width, depth = (int(v) for v in data["enc_cfg"])
    encoder = TS2Vec(c_in, width, out_dim=c_out, depth=depth).double().eval()
    prefix = "enc_param/"
    official = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in data.items() if k.startswith(prefix)}
    report = load_weights(encoder, official, minimum=1.0)
    assert not report.unexpected and not report.skipped and not report.adapted

    x = torch.from_numpy(data[f"enc_x{suffix}"]).transpose(1, 2)  # official layout is (B, T, C)
    with torch.no_grad():
        features = encoder(x)

    expected = data[f"enc_y{suffix}"]
    np.testing.assert_allclose(features.maps[0].transpose(1, 2).numpy(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(features.pooled.numpy(), expected.max(1), rtol=1e-10, atol=1e-12)
