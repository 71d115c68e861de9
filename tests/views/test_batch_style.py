"""Batch styles: what the spectra become, which recording is the reference, and what views do with it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_predict
from torch import Tensor
from toys import collate, signal, volume

from medssl.configurable import build, spec
from medssl.errors import CohortError, ConfigError
from medssl.views.base import Views
from medssl.views.batch_style import BatchStyle, SignalStyle, VolumeStyle
from medssl.views.signal import SignalViews
from medssl.views.spectral_style import (
    low_frequency_box,
    radial_ratio,
    swap_amplitude,
    welch_amplitude,
    welch_ratio,
)
from medssl.views.volume import VolumeViews

SIZES = [(16,), (15,), (7, 8), (4, 6, 5), (5, 6, 4)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(size: tuple[int, ...], n: int = 3, channels: int = 2, seed: int = 1) -> Tensor:
    return torch.rand(n, channels, *size, generator=generator(seed), dtype=torch.float64)


def whole(x: Tensor) -> Tensor:
    return torch.fft.fftn(x, dim=tuple(range(2, x.ndim)))


def swapped(x: Tensor, k: int, share: float, **options: Any) -> Tensor:
    return swap_amplitude(x, x[k], low_frequency_box(x.shape[2:], share), **options)


def slow_swap(x: np.ndarray, k: int, share: float, strength: float) -> np.ndarray:
    """Equation by equation, over the whole spectrum, a recording and channel at a time."""
    axes = x.shape[2:]
    box = np.zeros(axes, bool)
    side = share ** (1 / len(axes))
    if share > 0:
        reach = [math.floor(side * n / 2) for n in axes]
        box[tuple(slice(max(0, n // 2 - h), n // 2 + h + 1) for n, h in zip(axes, reach, strict=True))] = True
    out = np.empty_like(x)
    for n in range(len(x)):
        for c in range(x.shape[1]):
            own, other = (np.fft.fftshift(np.fft.fftn(a[c])) for a in (x[n], x[k]))
            amplitude = np.where(box, (1 - strength) * abs(own) + strength * abs(other), abs(own))
            out[n, c] = np.fft.ifftn(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(own)))).real
    return out


def slow_radial(x: np.ndarray, k: int) -> np.ndarray:
    """The radial ratio over the whole spectrum, bin by bin."""
    axes = x.shape[2:]
    frequency = np.meshgrid(*(np.fft.fftfreq(n) for n in axes), indexing="ij")
    bins = np.rint(np.sqrt(sum(f**2 for f in frequency)) * max(axes)).astype(int)
    count = bins.max() + 1
    out = np.empty_like(x)

    def profile(amplitude: np.ndarray) -> np.ndarray:
        mean = np.array([amplitude[bins == b].mean() if (bins == b).any() else np.nan for b in range(count)])
        smooth = [np.nanmean(mean[max(1, b - 2) : b + 3]) for b in range(1, count)]
        return np.array([mean[0], *smooth])

    for n in range(len(x)):
        for c in range(x.shape[1]):
            own, other = np.fft.fftn(x[n, c]), np.fft.fftn(x[k, c])
            gain = np.clip(profile(abs(other)) / profile(abs(own)), 0.2, 5)
            out[n, c] = np.fft.ifftn(own * gain[bins]).real
    return out


@sizes
@pytest.mark.parametrize(("share", "strength"), [(0.1, 1.0), (0.4, 0.3), (1.0, 1.0)])
def test_half_spectra_equal_whole_ones(size: tuple[int, ...], share: float, strength: float) -> None:
    x = data(size)
    wanted = slow_swap(x.numpy(), 1, share, strength)
    np.testing.assert_allclose(swapped(x, 1, share, strength=strength).numpy(), wanted, atol=1e-12)


@sizes
def test_radial_ratio_equals_the_slow_one(size: tuple[int, ...]) -> None:
    x = data(size)
    np.testing.assert_allclose(radial_ratio(x, x[2]).numpy(), slow_radial(x.numpy(), 2), atol=1e-6)


@sizes
def test_nothing_swapped_and_the_reference_itself_stay(size: tuple[int, ...]) -> None:
    x = data(size)
    torch.testing.assert_close(swapped(x, 1, 0.0), x)
    torch.testing.assert_close(swapped(x, 1, 0.5)[1], x[1])
    torch.testing.assert_close(radial_ratio(x, x[1])[1], x[1])
    torch.testing.assert_close(radial_ratio(x, x[1], strength=0.0), x)


@sizes
def test_everything_swapped_has_the_amplitudes_of_the_reference_and_its_own_phases(size: tuple[int, ...]) -> None:
    x = data(size)
    before, after = whole(x), whole(swapped(x, 0, 1.0))
    torch.testing.assert_close(after.abs(), before.abs()[:1].expand_as(after), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(after / after.abs(), before / before.abs(), rtol=0, atol=1e-6)


@sizes
def test_the_mean_is_the_reference_s_with_its_own_sign(size: tuple[int, ...]) -> None:
    x = data(size) - 0.5
    axes = tuple(range(2, x.ndim))
    wanted = x[1].mean(tuple(a - 1 for a in axes)).abs() * x.mean(axes).sign()
    torch.testing.assert_close(swapped(x, 1, 1e-9).mean(axes), wanted)
    torch.testing.assert_close(swapped(x, 1, 0.6, keep_mean=True).mean(axes), x.mean(axes))
    torch.testing.assert_close(radial_ratio(x, x[1], keep_mean=True).mean(axes), x.mean(axes))


@sizes
def test_linear_in_the_strength_idempotent_and_equivariant(size: tuple[int, ...]) -> None:
    x = data(size, n=4)
    for change in (lambda v, s: swapped(v, 2, 0.3, strength=s), lambda v, s: radial_ratio(v, v[2], strength=s)):
        full, part = change(x, 1.0), change(x, 0.25)
        torch.testing.assert_close(part, x + 0.25 * (full - x))
        order = torch.tensor([3, 1, 2, 0])  # the reference stays where it is
        torch.testing.assert_close(change(x[order], 1.0), full[order])
    once = swapped(x, 2, 0.3)
    torch.testing.assert_close(swap_amplitude(once, x[2], low_frequency_box(size, 0.3)), once)


def test_radial_ratio_undoes_a_gain_and_leaves_other_bands_alone() -> None:
    x = data((8, 8, 8), n=1)
    both = torch.cat([x, 3 * x])
    torch.testing.assert_close(radial_ratio(both, both[0])[1], x[0])
    torch.testing.assert_close(radial_ratio(both, both[0], band=(2.0, 3.0)), both)
    kept = whole(radial_ratio(both, both[0], band=(0.2, 1.0)))[1, :, 0, 0, 1]  # 1/8 cycle a voxel
    torch.testing.assert_close(kept, whole(both)[1, :, 0, 0, 1])


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 1.0), (1.0, 0.5, 2.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_the_box_is_a_cube_in_physical_frequency(spacing: tuple[float, ...], share: float) -> None:
    size = (120, 160, 200)
    low = low_frequency_box(size, share, torch.tensor([spacing]), half=False)[0]
    assert float(low.double().mean()) == pytest.approx(share, rel=0.08)
    reach = [float(low.any(tuple(b for b in range(3) if b != a)).sum()) / 2 / n / s
             for a, (n, s) in enumerate(zip(size, spacing, strict=True))]  # fmt: skip
    free = [r for r, s in zip(reach, spacing, strict=True) if r < 0.99 * 0.5 / s]
    assert len(free) < 2 or max(free) / min(free) < 1.1  # axes that are not full reach the same frequency
    full = [0.5 / s for r, s in zip(reach, spacing, strict=True) if r >= 0.99 * 0.5 / s]
    assert not free or not full or max(full) <= 1.05 * max(free)


def test_a_wave_above_the_cut_off_is_untouched_in_thick_slices() -> None:
    size, spacing = (8, 40, 40), torch.tensor([[5.0, 1.0, 1.0]])
    wave = torch.cos(2 * math.pi * 12 / 40 * torch.arange(40.0)).expand(1, 1, *size)  # 0.3 cycles/mm along x
    reference = torch.rand(1, *size, generator=generator())
    share = 0.05  # 2 · f · (5, 1, 1) with the first full: f = sqrt(0.05) / 2 = 0.11 cycles/mm
    styled = swap_amplitude(wave, reference, low_frequency_box(size, share, spacing))
    change = torch.fft.fftn(styled - wave)[0, 0].abs()
    assert float(change[0, 0, 12]) < 1e-3 < float(change[:, :3, :3].max())
    assert bool(low_frequency_box(size, share, spacing)[0, :, 0, 0].all()), "all of the coarse axis is low"


def test_radial_bins_are_physical() -> None:
    """One anatomy at two voxel sizes is one style: the finer recording keeps what the coarser one cannot hold."""
    fine = torch.rand(1, 1, 16, 16, 16, generator=generator()).double()
    same = radial_ratio(fine, fine[0], spacing=torch.ones(1, 3), reference_spacing=torch.ones(3))
    torch.testing.assert_close(same, fine)
    coarse = radial_ratio(fine, fine[0], spacing=torch.ones(1, 3), reference_spacing=torch.full((3,), 2.0))
    high = torch.fft.fftfreq(16).abs() > 0.45
    torch.testing.assert_close(whole(coarse)[..., high, high, high], whole(fine)[..., high, high, high])
    assert not torch.allclose(coarse, fine)


def test_welch_amplitude_equals_scipy() -> None:
    from scipy.signal import welch

    x = np.random.default_rng(0).normal(size=(2, 1000))
    window = np.hanning(201)[:-1]
    for length in (200,):
        _, power = welch(x, fs=1.0, window=window, nperseg=length, scaling="spectrum", return_onesided=False)
        wanted = np.sqrt(power) * window.sum()
        got = welch_amplitude(torch.from_numpy(x), length).numpy()
        np.testing.assert_allclose(got, wanted[:, : length // 2 + 1], rtol=1e-6)


def amplitude_at(x: Tensor, hz: float, rate: float) -> float:
    return float(torch.fft.rfft(x)[..., round(hz * x.shape[-1] / rate)].abs())


def test_signals_take_drift_and_mains_but_keep_their_rhythm() -> None:
    rate, time = 200.0, torch.arange(2000) / 200.0
    noise = 0.02 * torch.randn(2, 1, 2000, generator=generator())
    rhythm = torch.sin(2 * math.pi * 5 * time)
    x = noise + torch.stack([rhythm, torch.sin(2 * math.pi * 8 * time)]).unsqueeze(1)
    x[1] = x[1] + 0.5 * torch.sin(2 * math.pi * 50 * time)
    x[0] = x[0] + 0.05 * torch.sin(2 * math.pi * 50 * time)
    options: dict[str, Any] = {"rate_hz": rate, "content_hz": (0.5, 40.0), "line_hz": (50.0,)}
    styled = welch_ratio(x, x[1], **options)[0, 0]
    assert amplitude_at(styled, 50, rate) > 4 * amplitude_at(x[0, 0], 50, rate), "as much mains as in the reference"
    assert amplitude_at(styled, 5, rate) == pytest.approx(amplitude_at(x[0, 0], 5, rate), rel=0.1)
    assert amplitude_at(styled, 8, rate) < 0.1 * amplitude_at(x[1, 0], 8, rate), "no rhythm of the reference"
    louder = torch.cat([x[:1], 3 * x[:1]])
    torch.testing.assert_close(welch_ratio(louder, louder[1], **options)[0], louder[1], rtol=1e-4, atol=1e-4)
    still = welch_ratio(louder, louder[1], scale=False, **options)
    assert amplitude_at(still[0, 0], 5, rate) == pytest.approx(amplitude_at(x[0, 0], 5, rate), rel=1e-4)
    inside = {**options, "content_hz": (0.5, 90.0)}
    assert amplitude_at(welch_ratio(x, x[1], **inside)[0, 0], 50, rate) > 4 * amplitude_at(x[0, 0], 50, rate)


# --- the settings -----------------------------------------------------------------------------------------------------

STYLES: dict[str, tuple[BatchStyle, tuple[int, ...]]] = {
    "volume radial": (VolumeStyle(probability=1.0), (6, 8, 8)),
    "volume swap": (VolumeStyle(probability=1.0, mode="swap"), (6, 8, 8)),
    "signal radial": (SignalStyle(probability=1.0), (200,)),
    "signal swap": (SignalStyle(probability=1.0, mode="swap", content_hz=None), (200,)),
}
styles = pytest.mark.parametrize(("style", "size"), STYLES.values(), ids=list(STYLES))


def units(style: BatchStyle, n: int) -> dict[str, Tensor]:
    return (
        {"rate_hz": torch.full((n, 1), 100.0)} if isinstance(style, SignalStyle) else {"spacing_mm": torch.ones(n, 3)}
    )


def batch_of(size: tuple[int, ...], n: int = 4, views: int = 2) -> Tensor:
    x = torch.rand(n, views, 2, *size, generator=generator(3))
    return x * torch.linspace(0.4, 1.0, n).view(-1, *(1,) * (x.ndim - 1))


@styles
def test_one_reference_a_view_which_stays_as_it_is(style: BatchStyle, size: tuple[int, ...]) -> None:
    x = batch_of(size)
    drawn = style.draw_parameters(4, 2, generator())
    assert len(set(drawn["reference"].tolist())) == 2, "another view, another style"
    styled = style.apply(x, drawn, units(style, 4))
    for view, k in enumerate(drawn["reference"].tolist()):
        low, high = torch.quantile(x[:, view], 0.001), torch.quantile(x[:, view], 0.999)
        wanted = x[k, view].clamp(low, high) if isinstance(style, VolumeStyle) else x[k, view]
        torch.testing.assert_close(styled[k, view], wanted, atol=2e-2, rtol=0)
        others = [n for n in range(4) if n != k]
        assert all(not torch.allclose(styled[n, view], x[n, view], atol=1e-2) for n in others)
        if style.mode == "radial":
            own, gains = (v[:, view].diff(dim=-1).flatten(1).std(1) for v in (x, styled))
            assert float(gains.std()) < 0.4 * float(own.std()), "one gain for all"


@styles
def test_same_seed_same_style_and_type_and_input_are_kept(style: BatchStyle, size: tuple[int, ...]) -> None:
    x = batch_of(size)
    before = x.clone()
    first, again, other = (style(x, units(style, 4), generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(x, before)
    assert style(x.bfloat16(), units(style, 4), generator(1)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(style(x, units(style, 4), generator(1)), first)
    assert torch.isfinite(style(torch.zeros_like(x), units(style, 4), generator())).all()


@styles
def test_a_single_recording_and_improbable_batches_stay(style: BatchStyle, size: tuple[int, ...]) -> None:
    x = batch_of(size)
    assert style(x[:1], units(style, 1), generator()) is not None
    assert torch.equal(style(x[:1], units(style, 1), generator()), x[:1])
    assert torch.equal(replace(style, probability=0.0)(x, units(style, 4), generator()), x)
    half = replace(style, probability=0.5)
    applied = [bool(half.draw_parameters(4, 2, generator(s))["applied"]) for s in range(200)]
    assert 70 < sum(applied) < 130


def test_air_and_padding_stay() -> None:
    x = batch_of((6, 8, 8)) + 0.2
    x[..., :3] = 0.0
    assert (VolumeStyle(probability=1.0)(x, units(VolumeStyle(), 4), generator())[..., :3] == 0).all()
    signals = batch_of((200,))
    signals[0, :, :, :30], signals[1, :, :, 150:] = 0.0, 0.25
    styled = SignalStyle(probability=1.0)(signals, units(SignalStyle(), 4), generator())
    assert (styled[0, :, :, :30] == 0).all() and (styled[1, :, :, 150:] == 0.25).all()
    assert not torch.allclose(styled[0, :, :, 30:], signals[0, :, :, 30:])


def test_shares_are_drawn_between_the_bounds() -> None:
    shares = torch.stack(
        [VolumeStyle(share=(0.1, 0.3)).draw_parameters(4, 2, generator(s))["share"] for s in range(50)]
    )
    assert 0.1 <= float(shares.min()) < 0.13 and 0.27 < float(shares.max()) <= 0.3
    assert len({round(float(v), 6) for v in shares.flatten()}) > 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "from 0 to 1"),
        ({"strength": -0.1}, "from 0 to 1"),
        ({"share": (0.5, 0.1)}, "two rising numbers"),
        ({"mode": "fourier"}, "radial and swap"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VolumeStyle(**options)


def test_recordings_without_their_units_are_refused() -> None:
    with pytest.raises(CohortError, match="no voxel size"):
        reader: Any = replace(volume(0), spacing_mm=None)
        VolumeViews((4, 4, 4), batch_style=VolumeStyle(band_per_mm=(0.0, 0.1))).draw(reader, np.random.default_rng(0))
    with pytest.raises(CohortError, match="no sampling rate"):
        reader = replace(signal(0), rate_hz=None)
        SignalViews((64,), gap_s=None, batch_style=SignalStyle()).draw(reader, np.random.default_rng(0))
    x = batch_of((64,))
    with pytest.raises(ConfigError, match="one sampling rate"):
        rates = torch.tensor([[100.0], [250.0], [100.0], [100.0]])
        SignalStyle(probability=1.0)(x, {"rate_hz": rates}, generator())


# --- in the views -----------------------------------------------------------------------------------------------------

VIEWS: dict[str, tuple[Views, Any]] = {
    "volumes": (VolumeViews((8, 8, 8), count=2, batch_style=VolumeStyle(probability=1.0)), volume),
    "signals": (SignalViews((128,), count=2, gap_s=1.0, batch_style=SignalStyle(probability=1.0)), signal),
}
families = pytest.mark.parametrize(("views", "make"), VIEWS.values(), ids=list(VIEWS))


def drawn(views: Views, make: Any, n: int = 4) -> dict[str, Any]:
    return collate([views.draw(make(i), np.random.default_rng(i)) for i in range(n)], seed=0)


@families
def test_views_are_restyled_and_clean_ones_are_not(views: Any, make: Any) -> None:
    batch = drawn(views, make)
    plain = type(views)(**{**views.init_args, "batch_style": None})
    assert not torch.equal(views(batch, generator()), plain(batch, generator()))
    augmented, clean = views.aligned(batch, generator(1))
    assert torch.equal(augmented, views(batch, generator(1)))
    assert torch.equal(views.aligned(batch, generator(1))[1], clean)
    still = type(views)(**{**views.init_args, "batch_style": replace(views.batch_style, probability=0.0)})
    _, wanted = still.aligned(batch, generator(1))
    assert torch.equal(clean, wanted), "the same places, in their own style"


@families
def test_jitter_is_the_same_for_all_recordings_of_a_view(views: Any, make: Any) -> None:
    from medssl.views import signal_augment, volume_augment

    names = (volume_augment if views.kind == "volume" else signal_augment).STYLE
    shape = (2 * 4, 2, *views.size)
    differ = 0
    for seed in range(8):
        parameters = views.draw_parameters(shape, generator(seed))
        for name in names:
            by_view = parameters[name].unflatten(0, (4, 2))
            assert (by_view == by_view[:1]).all(), name
            differ += not torch.equal(by_view[0, 0], by_view[0, 1])
    assert differ, "views have their own"
    apart = type(views)(**{**views.init_args, "batch_style": replace(views.batch_style, same_jitter=False)})
    drawn = [apart.draw_parameters(shape, generator(s)) for s in range(8)]
    assert any(len(set(d[name].flatten().tolist())) > 4 for d in drawn for name in names)


@families
def test_specification_round_trip(views: Any, make: Any) -> None:
    again = build(spec(views), Views)  # type: ignore[type-abstract]
    assert spec(again) == spec(views) and again.batch_style == views.batch_style


def test_spacing_of_resized_crops_is_that_of_their_own_voxels() -> None:
    views = VolumeViews((8, 8, 8), size_mm=(16.0, 16.0, 16.0), batch_style=VolumeStyle())
    reader: Any = replace(volume(0), spacing_mm=(4.0, 1.0, 2.0))
    np.testing.assert_allclose(views.draw(reader, np.random.default_rng(0))["spacing_mm"], (2.0, 2.0, 2.0))


def test_two_processes_share_one_style(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("batch_style_worker.py")
    commands = [[sys.executable, str(worker), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    own, styled = (torch.cat([first[name], second[name]]) for name in ("before", "after"))
    assert float(own.max() / own.min()) > 2.5
    torch.testing.assert_close(styled, styled[:1].expand_as(styled), rtol=2e-2, atol=0)
    assert float((styled[:1] - first["before"]).abs().amin(0).max()) < 0.02, "that of a recording of the first"
    assert torch.equal(first["jitter"], second["jitter"])
    assert torch.isfinite(first["alone"]).all(), "a look by one process does not wait for the other"


def test_sites_can_no_longer_be_told_apart_but_contents_can() -> None:
    """Three sites (gain, offset, blur), two contents; a linear model on amplitudes, across batches."""
    rng = np.random.default_rng(0)
    sites, contents = rng.integers(3, size=240), rng.integers(2, size=240)
    x = torch.from_numpy(rng.normal(size=(240, 1, 12, 12, 12)).astype(np.float32))
    x[contents == 1, :, 2:5, 2:5, 2:5] += 2.0
    x[contents == 0, :, 7:10, 7:10, 7:10] += 2.0
    soft = torch.nn.functional.avg_pool3d(x, 3, 1, 1)
    mix = torch.tensor([0.0, 0.4, 0.8])[sites].view(-1, 1, 1, 1, 1)
    x = ((1 - mix) * x + mix * soft) * torch.tensor([1.0, 1.5, 0.6])[sites].view(-1, 1, 1, 1, 1)
    x = x + torch.tensor([3.0, 4.0, 2.0])[sites].view(-1, 1, 1, 1, 1)

    def told(values: Tensor, y: np.ndarray) -> float:
        features = values.flatten(1).numpy()
        return float((cross_val_predict(RidgeClassifier(100.0), features, y, cv=4) == y).mean())

    def amplitudes(values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, dim=(2, 3, 4)).abs()[:, :, :4, :4, :4].log()

    style, g = VolumeStyle(probability=1.0, mode="swap", share=(0.7, 0.9)), generator()
    styled = torch.cat([style(x[i : i + 24].unsqueeze(1), {}, g)[:, 0] for i in range(0, 240, 24)])
    assert told(amplitudes(x), sites) > 0.8
    assert told(amplitudes(styled), sites) < 0.5
    assert told(torch.nn.functional.avg_pool3d(styled, 3), contents) > 0.9
