"""Batch Styles Standardization against stored reference values (float64, from the paper's equation)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from medssl.views.batch_style import BatchStyle, SignalStyle, VolumeStyle
from medssl.views.spectral_style import low_frequency_box, swap_amplitude

Golden = Callable[[str], Mapping[str, np.ndarray]]
NAMES = ("sig", "img", "vol")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("domain_invariance")


def cases(vectors: Mapping[str, np.ndarray], name: str) -> list[tuple[str, float, float, int]]:
    """Key, share of the spectrum, strength and reference of every case of an input."""
    found = [(k, m) for k in vectors if (m := re.fullmatch(rf"{name}_bss_r([\d.]+)(?:_lam([\d.]+))?", k))]
    assert found, f"no case of {name} in the file"
    return [(k, float(m[1]), float(m[2] or 1), 1 if m[2] else 2) for k, m in found]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", NAMES)
def test_swapped_amplitudes(vectors: Mapping[str, np.ndarray], name: str, dtype: torch.dtype) -> None:
    x = torch.from_numpy(vectors[f"{name}_x"]).to(dtype)
    for key, share, strength, reference in cases(vectors, name):
        low = low_frequency_box(x.shape[2:], share)
        got = swap_amplitude(x, x[reference], low, strength=strength)
        assert got.dtype == dtype
        np.testing.assert_allclose(got.numpy(), vectors[key], rtol=0, atol=TOLERANCE[dtype], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_low_frequency_boxes(vectors: Mapping[str, np.ndarray], name: str) -> None:
    masks = [(k, float(m[1])) for k in vectors if (m := re.fullmatch(rf"{name}_mask_r([\d.]+)", k))]
    assert masks
    for key, share in masks:
        whole = low_frequency_box(vectors[f"{name}_x"].shape[2:], share, half=False)[0]
        np.testing.assert_array_equal(torch.fft.fftshift(whole).numpy(), vectors[key], err_msg=key)


@pytest.mark.parametrize(
    ("name", "style"), [("sig", SignalStyle(mode="swap", content_hz=None)), ("vol", VolumeStyle(mode="swap"))]
)
def test_what_training_runs(vectors: Mapping[str, np.ndarray], name: str, style: BatchStyle) -> None:
    """Through the settings, where values within the batch's range are the reference's and the darkest voxel stays."""
    x = torch.from_numpy(vectors[f"{name}_x"])
    for key, share, strength, reference in cases(vectors, name):
        chosen = type(style)(**{**style.__dict__, "strength": strength})
        parameters = {
            "applied": torch.tensor(1.0),
            "reference": torch.tensor([reference]),
            "share": torch.tensor([share]),
        }
        batch = {"rate_hz": torch.full((len(x), 1), 100.0)} if name == "sig" else {}
        got = chosen.apply(x.unsqueeze(1), parameters, batch)[:, 0].numpy()
        wanted = vectors[key]
        if name == "vol":
            low, high = np.quantile(x.numpy(), (0.001, 0.999))
            wanted = np.clip(wanted, low, high)
            kept = x.numpy() == x.amin((1, 2, 3, 4), keepdim=True).numpy()
            wanted = np.where(kept, x.numpy(), wanted)
        # a share drawn in float32 may be off by a hair, which moves no side of these boxes
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9, err_msg=key)
