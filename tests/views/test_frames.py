"""Frames of a window: laws of both transforms, the direct convolution, gaps, precision, what is refused."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views import frames as module
from medssl.views.frames import (
    CWT,
    Frames,
    centre_frequencies,
    fourier_frame,
    geometric_scales,
    pywt_taps,
    wavelet_coefficients,
    wavelet_frame,
)

BOTH: tuple[CWT, ...] = ("pywt_compatible", "analytic")
SCALES = geometric_scales(6, 2.0, 64.0)


@pytest.fixture(scope="module")
def loops() -> ModuleType:
    """The loops that the benchmark compares with."""
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "_frame_loops.py"
    found = importlib.util.spec_from_file_location("frame_loops", file)
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


def windows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [2, 9, 64, 101])
def test_parseval(length: int) -> None:
    x = windows(3, 2, length)
    power = fourier_frame(x).magnitude.square()
    twice = torch.full((length // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if length % 2 == 0:
        twice[-1] = 1  # Nyquist stands once
    torch.testing.assert_close((power * twice).sum(-1), x.square().sum(-1))


def test_magnitude_and_angle_give_the_window_back() -> None:
    x = windows(2, 3, 50)
    magnitude, angle = fourier_frame(x)
    torch.testing.assert_close(torch.fft.irfft(torch.polar(magnitude, angle), n=50, norm="ortho"), x)
    real, imaginary = fourier_frame(x, phase="cos_sin").phase.chunk(2, dim=1)
    torch.testing.assert_close(torch.complex(real, imaginary), torch.polar(magnitude, angle))


def test_angles_of_real_coefficients_are_zero_or_pi_and_nothing_has_none() -> None:
    x = torch.cat([-windows(8, 1, 30).abs(), torch.zeros(1, 1, 30), -torch.zeros(1, 1, 30)])
    magnitude, angle = fourier_frame(x)
    torch.testing.assert_close(angle[:8, 0, 0], torch.full((8,), math.pi, dtype=torch.float64))
    assert magnitude[8:].eq(0).all() and angle[8:].eq(0).all()


def test_compression_keeps_the_direction() -> None:
    x = 100 * windows(2, 2, 40)
    plain, packed = (fourier_frame(x, phase="cos_sin", log1p=on) for on in (False, True))
    torch.testing.assert_close(packed.magnitude, plain.magnitude.log1p())
    cos, sin = packed.phase.chunk(2, dim=1)
    torch.testing.assert_close(cos.hypot(sin), packed.magnitude)
    torch.testing.assert_close(torch.atan2(sin, cos), fourier_frame(x).phase)
    torch.testing.assert_close(wavelet_frame(x, SCALES, log1p=True), wavelet_frame(x, SCALES).log1p())
    silent = fourier_frame(torch.zeros(1, 8), phase="cos_sin", log1p=True)
    assert silent.phase.eq(0).all()


@pytest.mark.parametrize("length", [7, 150, 700])
def test_it_equals_the_direct_convolution_for_windows_shorter_and_longer_than_the_kernels(
    loops: ModuleType, length: int
) -> None:
    """Kernels have 17 to 513 taps here."""
    x, scales = windows(2, length), geometric_scales(7, 1.0, 32.0)
    wanted = np.stack([loops.coefficients(row, scales) for row in x.numpy()])
    np.testing.assert_allclose(wavelet_coefficients(x, scales).numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(wavelet_frame(x.float(), scales).numpy(), np.abs(wanted), atol=3e-6)
    magnitude, angle = loops.fourier(x.numpy()[None])
    np.testing.assert_allclose(fourier_frame(x[None]).magnitude.numpy(), magnitude, atol=1e-12)
    np.testing.assert_allclose(np.exp(1j * fourier_frame(x[None]).phase.numpy()), np.exp(1j * angle), atol=1e-9)


def test_the_analytic_transform_is_the_sum_that_defines_it() -> None:
    x, time = windows(40), np.arange(40)
    for scale in (2.0, 5.5, 30.0):
        u = (time[:, None] - time) / scale
        kernel = np.exp(-(u**2) - 2j * np.pi * u) / np.sqrt(np.pi * scale)
        found = wavelet_coefficients(x[None], (scale,), cwt="analytic")[0, 0]
        np.testing.assert_allclose(found.numpy(), kernel.T @ x.numpy(), atol=1e-12)


def test_the_sampled_kernel_nears_the_analytic_one_at_large_scales() -> None:
    """Up to half a sample's lag, which the published transform has."""

    def apart(scale: float) -> float:
        taps = -math.sqrt(scale) * np.diff(pywt_taps(scale)[1])
        place = np.arange(len(taps)) - (len(taps) - 1) / 2
        exact = np.exp(-((place / scale) ** 2) + 2j * np.pi * place / scale) / np.sqrt(np.pi * scale)
        return float(np.linalg.norm(taps - exact) / np.linalg.norm(exact))

    assert apart(128.0) < 2e-3 < 0.3 < apart(2.0)


@pytest.mark.parametrize("cwt", BOTH)
def test_it_is_linear_moves_with_the_signal_and_scales_with_it(cwt: CWT) -> None:
    x, y = windows(2, 60), windows(2, 60, seed=1)

    def transform(z: Tensor) -> Tensor:
        return wavelet_coefficients(z, SCALES, cwt=cwt)

    torch.testing.assert_close(transform(2 * x - 3 * y), 2 * transform(x) - 3 * transform(y))
    torch.testing.assert_close(wavelet_frame(-3 * x, SCALES, cwt=cwt), 3 * wavelet_frame(x, SCALES, cwt=cwt))
    impulse = torch.zeros(1, 60, dtype=torch.float64)
    impulse[0, 20] = 1
    here, later = transform(impulse), transform(impulse.roll(7, -1))
    torch.testing.assert_close(later[..., 7:], here[..., :-7])


@pytest.mark.parametrize("cwt", BOTH)
def test_a_sine_answers_at_its_own_scale(cwt: CWT) -> None:
    rate, scales = 100.0, geometric_scales(121, 8.0, 64.0)
    time = torch.arange(1000, dtype=torch.float64) / rate
    for hertz in (2.5, 5.0, 8.0):
        middle = wavelet_frame(torch.sin(2 * math.pi * hertz * time)[None], scales, cwt=cwt)[0, :, 500]
        # the scale's own factor √s moves the peak up by a fraction of the wavelet's relative bandwidth
        found = centre_frequencies(scales, rate)[int((middle / torch.tensor(scales).sqrt()).argmax())]
        assert found == pytest.approx(hertz, rel=0.03)


def test_missing_samples_count_as_zero() -> None:
    x = windows(2, 2, 50)
    x[0, 0, 10:20] = torch.nan
    x[1, 1] = torch.nan
    filled = x.nan_to_num(0.0)
    assert torch.equal(wavelet_frame(x, SCALES), wavelet_frame(filled, SCALES))
    for found, wanted in zip(fourier_frame(x), fourier_frame(filled), strict=True):
        assert torch.equal(found, wanted)
    assert wavelet_frame(x, SCALES)[1, 1].eq(0).all()


def test_autocast_and_half_precision_are_computed_in_single_precision() -> None:
    x = windows(2, 2, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = [*fourier_frame(x), wavelet_frame(x, SCALES)]
    wanted = [*fourier_frame(x.float()), wavelet_frame(x.float(), SCALES)]
    assert all(f.dtype == torch.float32 and torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


def test_rows_are_independent_of_their_batch_and_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = windows(3, 5, 2, 40)
    whole = wavelet_frame(x, SCALES)
    assert whole.shape == (3, 5, 2, 6, 40)
    torch.testing.assert_close(wavelet_frame(x[1, 2], SCALES), whole[1, 2], rtol=0, atol=1e-14)
    monkeypatch.setitem(module.ELEMENTS, "cpu", 1)
    torch.testing.assert_close(wavelet_frame(x, SCALES), whole, rtol=0, atol=1e-14)
    assert wavelet_coefficients(x[:0], SCALES).shape == (0, 5, 2, 6, 40)


def test_gradients_reach_the_window() -> None:
    x = windows(1, 1, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: wavelet_frame(z, (2.0, 5.0)), (x,))
    assert torch.autograd.gradcheck(lambda z: tuple(fourier_frame(z, phase="cos_sin")), (x,))


def test_kernels_that_were_made_for_inference_serve_training() -> None:
    module._spectra.cache_clear()
    with torch.inference_mode():
        wavelet_frame(torch.randn(1, 20), SCALES)
    x = torch.randn(1, 20, requires_grad=True)
    wavelet_frame(x, SCALES).sum().backward()
    assert x.grad is not None
    assert module._spectra.cache_info().currsize == 1


def test_settings() -> None:
    assert Frames().scale_values == geometric_scales(48, 1.0, 128.0)
    assert Frames(cwt="analytic").scale_values[0] == 2.0
    for wrong, words in (
        ({"phase": "sine"}, "angle or cos_sin"),
        ({"cwt": "other"}, "pywt_compatible or analytic"),
        ({"scales": 1}, "at least 2 scales"),
        ({"smallest": 200.0}, "to a larger one"),
        ({"cwt": "analytic", "smallest": 1.0}, "starts at scale 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            Frames(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scales above 0"):
        wavelet_frame(torch.zeros(1, 8), ())
