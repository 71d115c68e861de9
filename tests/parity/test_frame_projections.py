"""Frame projections against stored values of the published code and of PyWavelets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.frame_projected import FrameMapping
from medssl.encoders.frame_resnet import FrameResNet
from medssl.encoders.frames import FourierEncoder, WaveletEncoder
from medssl.objectives.frame_projection import frame_contrast, mapping_error
from medssl.views.frames import (
    centre_frequencies,
    fourier_frame,
    geometric_scales,
    pywt_taps,
    wavelet_coefficients,
    wavelet_frame,
)

Golden = Callable[[str], Mapping[str, np.ndarray]]
Renames = Sequence[tuple[str, str]]
EXACT = 1e-9
SINGLE = 1e-5


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("frame_projections")


def cases(vectors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    found = sorted({m.group(1) for key in vectors if (m := re.fullmatch(pattern, key))})
    assert found, f"no case of {pattern} in the file"
    return found


def close(got: Tensor | None, wanted: np.ndarray, tolerance: float) -> None:
    assert got is not None
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)


def official(vectors: Mapping[str, np.ndarray], prefix: str, renames: Renames) -> dict[str, Tensor]:
    """Published weights under our names."""
    found = {}
    for key, value in vectors.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for old, new in renames:
                name = name.replace(old, new)
            found[name] = torch.from_numpy(value)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)])
def test_transforms(vectors: Mapping[str, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    lengths = set()
    for case in cases(vectors, r"(tr\d+)_x"):
        x = torch.from_numpy(vectors[f"{case}_x"]).transpose(1, 2).to(dtype)
        lengths.add(x.shape[-1])
        scales = geometric_scales()
        np.testing.assert_allclose(scales, vectors[f"{case}_scales"], rtol=EXACT)
        frequencies = centre_frequencies(scales, float(vectors[f"{case}_fs"]))
        np.testing.assert_allclose(frequencies, vectors[f"{case}_freqs"], rtol=EXACT)
        # stored in single precision
        close(wavelet_frame(x, scales), vectors[f"{case}_cwt_abs"], 3e-7 if dtype == torch.float64 else SINGLE)

        magnitude, angle = fourier_frame(x)
        close(magnitude, vectors[f"{case}_rfft_abs"], tolerance)
        if dtype == torch.float64:  # angles of coefficients near 0 mean nothing in single precision
            close(angle, vectors[f"{case}_rfft_angle"], tolerance)
        real, imaginary = fourier_frame(x, phase="cos_sin").phase.chunk(2, dim=1)
        close(real, vectors[f"{case}_rfft_re"], tolerance)
        close(imaginary, vectors[f"{case}_rfft_im"], tolerance)
    assert len(lengths) >= 3


def test_kernels(vectors: Mapping[str, np.ndarray]) -> None:
    for scale in cases(vectors, r"kern_idx_(.+)"):
        places, taps = pywt_taps(float(scale))
        np.testing.assert_array_equal(places, vectors[f"kern_idx_{scale}"])
        np.testing.assert_allclose(taps.real, vectors[f"kern_re_{scale}"], atol=EXACT)
        np.testing.assert_allclose(taps.imag, vectors[f"kern_im_{scale}"], atol=EXACT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)])
def test_response_to_an_impulse(vectors: Mapping[str, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    impulse = torch.zeros(1, vectors["imp_re"].shape[1], dtype=dtype)
    impulse[0, 20] = 1
    found = wavelet_coefficients(impulse, (2.0, 4.0, 8.0))[0]
    close(found.real, vectors["imp_re"], tolerance)
    close(found.imag, vectors["imp_im"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)])
def test_losses_and_gradients(vectors: Mapping[str, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    for case in cases(vectors, r"(loss\d+)_total"):
        leaves = {
            name: torch.from_numpy(vectors[f"{case}_{name}"]).to(dtype).requires_grad_()
            for name in ("time", "ft", "cwt")
        }
        time, *others = (functional.normalize(x, dim=1) for x in leaves.values())
        contrast = frame_contrast(torch.stack([time, *others]), temperature=0.15)
        for pair, name in zip(contrast.pairs, ("time_ft", "time_cwt", "cwt_ft"), strict=True):
            close(pair, vectors[f"{case}_nt_{name}"], tolerance)
        total = contrast.pairs.sum()
        for name, other in zip(("ft", "cwt"), others, strict=True):
            mapping = FrameMapping(64).to(dtype)
            weights = official(vectors, f"{case}_map_{name}_param/", [("conv1.", "down."), ("deconv.", "up.")])
            mapping.load_state_dict(weights)
            mapped = mapping(time)
            close(mapped, vectors[f"{case}_map_{name}_out"], tolerance)
            close(mapping_error(mapped, other), vectors[f"{case}_l1mean_{name}"], tolerance)
            total = total + mapping_error(mapped, other, reduction="code")
        close(total, vectors[f"{case}_total"], tolerance)
        total.backward()
        for name, leaf in leaves.items():
            close(leaf.grad, vectors[f"{case}_g_{name}"], tolerance)


def in_both_precisions(module: nn.Module, inputs: np.ndarray, wanted: np.ndarray, run: str = "forward") -> None:
    """Output in float64 (as exact as the stored one) and in float32."""
    exact = EXACT if wanted.dtype == np.float64 else SINGLE
    for dtype, tolerance in ((torch.float64, exact), (torch.float32, SINGLE)):
        module.to(dtype).eval()
        found = getattr(module, run)(torch.from_numpy(inputs).to(dtype))
        close(found if isinstance(found, Tensor) else found.pooled, wanted, tolerance)


def test_time_encoder(vectors: Mapping[str, np.ndarray]) -> None:
    renames = [
        ("first_block_conv.conv.", "stem.0."), ("first_block_bn.", "stem.1."), ("basicblock_list.", "blocks."),
        (".bn1.", ".before.0."), (".bn2.", ".between.0."), (".conv.", "."), ("final_bn.", "norm.0."),
        ("dense2.", "output."),
    ]  # fmt: skip
    encoder = FrameResNet(vectors["enc_x"].shape[1], 4, out_dim=6).double()
    weights = official(vectors, "time_enc_param/", renames)
    unused = [name for name in weights if name.startswith("blocks.0.before.")]  # of the first block, never run
    assert len(unused) == 4
    encoder.load_state_dict({name: w for name, w in weights.items() if name not in unused}, strict=False)
    assert set(weights) - set(unused) == {n for n in encoder.state_dict() if not n.endswith("num_batches_tracked")}
    in_both_precisions(encoder, vectors["enc_x"], vectors["time_enc_out"])


def test_fourier_encoder(vectors: Mapping[str, np.ndarray]) -> None:
    renames = [
        ("fc_angle.", "direction.4."), ("fc_abs.", "magnitude.4."), (".conv.", "."), ("abs_", "magnitude."),
        ("ang_", "direction."), (".conv.", ".0."), (".block1.", ".2."), (".block2.", ".3."),
    ]  # fmt: skip
    x = vectors["enc_x"]
    encoder = FourierEncoder(x.shape[1], x.shape[2])
    encoder.load_state_dict(official(vectors, "ft_enc_param/", renames))
    in_both_precisions(encoder, x, vectors["ft_enc_out"])


def test_wavelet_encoder(vectors: Mapping[str, np.ndarray]) -> None:
    renames = [(f"layer{i + 1}.0.", f"layers.{i}.") for i in range(4)] + [
        ("fc2.", "over_scale."),
        ("fc.", "over_time."),
    ]
    x = vectors["wt_enc_x"]
    encoder = WaveletEncoder(x.shape[1], x.shape[3], (3, 6, 9, 12), scales=geometric_scales(x.shape[2])).double()
    weights = official(vectors, "wt_enc_param/", renames)
    encoder.load_state_dict(weights, strict=False)
    assert set(weights) == {n for n in encoder.state_dict() if not n.endswith("num_batches_tracked")}
    in_both_precisions(encoder, x, vectors["wt_enc_out"], run="encode")
