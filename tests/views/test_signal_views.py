"""Windows of signals: what is read, and each transform by itself."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import signal

from medssl.errors import CohortError, ConfigError
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation, apply_parameters, draw_parameters

NOTHING = SignalAugmentation(
    shift=0.0, permute=0.0, band_stop=0.0, scale=0.0, gain=0.0, polarity=0.0, wander=0.0, jitter=0.0, mask=0.0,
    drop_channel=0.0,
)  # fmt: skip
ALONE: dict[str, dict[str, Any]] = {
    "shift": {"shift": 1.0},
    "permute": {"permute": 1.0},
    "band_stop": {"band_stop": 1.0, "band_width": 0.3},
    "scale": {"scale": 1.0},
    "gain": {"gain": 1.0},
    "polarity": {"polarity": 1.0},
    "wander": {"wander": 1.0},
    "jitter": {"jitter": 1.0},
    "mask": {"mask": 1.0, "mask_share": 0.5},
    "drop_channel": {"drop_channel": 1.0},
}
STRENGTHS: dict[str, tuple[str, Any]] = {
    "shift.shift_share": ("shift_share", 0.9),
    "permute.segments": ("segments", 20),
    "band_stop.band_width": ("band_width", 0.9),
    "scale.scale_sd": ("scale_sd", 2.0),
    "gain.gain_sd": ("gain_sd", 2.0),
    "wander.wander_sd": ("wander_sd", 4.0),
    "wander.wander_cycles": ("wander_cycles", (9.0, 10.0)),
    "jitter.jitter_sd": ("jitter_sd", 2.0),
    "jitter.jitter_least": ("jitter_least", 0.09),
    "mask.mask_share": ("mask_share", 0.9),
    "mask.mask_spans": ("mask_spans", 5),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(x: Tensor, settings: SignalAugmentation, seed: int = 0) -> Tensor:
    return SignalViews((200,), augmentation=settings).augment(x, generator(seed))


def windows(n: int = 5) -> Tensor:
    return torch.randn(n, 3, 200, generator=generator(9))


def test_nothing_switched_on_changes_nothing() -> None:
    assert torch.equal(augmented(windows(), NOTHING), windows())


@pytest.mark.parametrize("name", sorted(ALONE))
def test_each_transform_acts_on_every_row(name: str) -> None:
    found = augmented(windows(), replace(NOTHING, **ALONE[name]))
    assert found.shape == windows().shape and torch.isfinite(found).all()
    changed = (found != windows()).flatten(1).any(1)
    assert changed.float().mean() > 0.5, "a drawn strength may be next to nothing, but not in most rows"


@pytest.mark.parametrize("name", sorted(STRENGTHS))
def test_each_strength_changes_the_result(name: str) -> None:
    settings = replace(NOTHING, **ALONE[name.split(".")[0]])
    option, value = STRENGTHS[name]
    assert not torch.equal(augmented(windows(), settings), augmented(windows(), replace(settings, **{option: value})))


def test_every_setting_is_tried_above() -> None:
    tried = set(ALONE) | {option for option, _ in STRENGTHS.values()}
    assert {f.name for f in fields(SignalAugmentation)} == tried


def test_permutation_moves_whole_segments_alike_in_all_channels() -> None:
    ramp = torch.arange(200.0).expand(40, 3, 200)
    found = augmented(ramp, replace(NOTHING, permute=1.0, segments=4))
    assert torch.equal(found.sort(-1).values, ramp)
    assert torch.equal(found[:, 0], found[:, 2])
    jumps = (found[:, 0].diff() != 1).sum(-1)
    assert jumps.max() <= 3 and jumps.float().mean() > 0.5


def test_shift_repeats_the_edge() -> None:
    ramp = torch.arange(200.0).expand(50, 1, 200)
    parameters = draw_parameters((50, 1, 200), replace(NOTHING, shift=1.0), generator())
    found = apply_parameters(ramp, parameters)[:, 0]
    for row, shift in zip(found, parameters["shift"].tolist(), strict=True):
        assert abs(shift) <= 20
        assert torch.equal(row, (torch.arange(200.0) - shift).clamp(0, 199))


def test_band_stop_removes_its_band_and_nothing_else() -> None:
    time = torch.arange(200) / 200
    low, high = torch.sin(2 * torch.pi * 10 * time), torch.sin(2 * torch.pi * 50 * time)
    x = (low + high).expand(1, 1, 200)
    parameters = draw_parameters((1, 1, 200), NOTHING, generator())
    parameters["band"] = torch.tensor([[0.4, 0.6]])  # 40 to 60 of 100 cycles
    torch.testing.assert_close(apply_parameters(x, parameters)[0, 0], low, atol=1e-4, rtol=0)


def test_masked_spans_hold_the_mean_of_their_channel() -> None:
    x = windows() + torch.tensor([1.0, -2.0, 5.0]).view(1, 3, 1)
    found = augmented(x, replace(NOTHING, mask=1.0, mask_spans=1, mask_share=0.5))
    changed = found != x
    means = x.mean(-1, keepdim=True).expand_as(x)
    torch.testing.assert_close(found[changed], means[changed])
    assert (changed.float().mean(-1) <= 0.5).all()
    spans = torch.nn.functional.pad(changed[:, 0].int(), (1, 1)).diff().clamp_min(0).sum(-1)
    assert (spans <= 1).all()


def test_one_channel_always_stays() -> None:
    found = augmented(windows(50), replace(NOTHING, drop_channel=1.0))
    kept = found.abs().sum(-1) > 0
    assert (kept.sum(1) == 1).all() and kept.any(0).all()


def test_strengths_follow_the_size_of_each_channel() -> None:
    x = windows(200) * torch.tensor([1.0, 100.0, 0.01]).view(1, 3, 1)
    for name in ("jitter", "wander"):
        added = augmented(x, replace(NOTHING, **ALONE[name])) - x
        relative = (added.std(-1) / x.std(-1)).mean(0)
        assert relative.max() / relative.min() < 1.5


def test_gain_is_by_channel_scale_and_polarity_by_row() -> None:
    def ratio(name: str) -> Tensor:
        return (augmented(windows(), replace(NOTHING, **ALONE[name])) / windows())[:, :, 0]

    assert torch.equal(ratio("polarity"), -torch.ones(5, 3))
    scale = ratio("scale")
    torch.testing.assert_close(scale, scale[:, :1].expand(-1, 3))
    assert len(scale[:, 0].unique()) == 5
    assert (ratio("gain").std(1) > 0).all()


def test_a_flat_channel_stays_finite() -> None:
    x = windows()
    x[:, 1] = 0
    assert torch.isfinite(augmented(x, SignalAugmentation())).all()


@pytest.mark.parametrize(("gap_s", "farthest"), [(0.0, 0), (0.5, 50), (None, 272)])
def test_how_far_the_windows_of_a_recording_lie_apart(gap_s: float | None, farthest: int) -> None:
    views = SignalViews((128,), count=3, gap_s=gap_s)
    starts = np.stack([views.draw(signal(0), np.random.default_rng(i))["starts"][:, 0] for i in range(300)])  # type: ignore[arg-type]
    apart = np.abs(starts - starts[:, :1]).max()
    assert 0.9 * farthest <= apart <= farthest
    assert starts.min() >= 0 and starts.max() <= 400 - 128


def test_adjacent_windows_lie_side_by_side_anywhere_in_the_recording() -> None:
    views = SignalViews((128,), count=3, adjacent=True)
    starts = np.stack([views.draw(signal(0), np.random.default_rng(i))["starts"][:, 0] for i in range(100)])  # type: ignore[arg-type]
    assert (np.diff(starts, axis=1) == 128).all()
    assert starts[:, 0].min() == 0 and starts[:, 0].max() == 400 - 3 * 128
    short = signal(0, 156)
    sample = SignalViews((128,), adjacent=True).draw(short, np.random.default_rng(0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate(list(sample["x"]), -1)[:, 50:206], short.data)


def test_the_first_view_and_the_others_can_be_augmented_differently() -> None:
    weak = replace(NOTHING, gain=1.0)
    strong = replace(NOTHING, permute=1.0, segments=9, mask=1.0, mask_spans=5)
    x = windows(30) + 10
    for first, second in ((weak, strong), (strong, weak)):
        views = SignalViews((200,), count=3, augmentation=first, second=second)
        found = views.augment(x, generator())
        is_weak = (found / x).std(-1).amax(1) < 1e-5
        place = torch.arange(30) % 3
        assert torch.equal(is_weak, (place == 0) if first is weak else (place != 0))
        # what each view gets is what its settings alone would do
        alone = draw_parameters((30, 3, 200), first, generator())
        torch.testing.assert_close(found[place == 0], apply_parameters(x, alone)[place == 0])


def test_a_recording_shorter_than_the_window_is_padded_on_both_sides() -> None:
    reader = signal(0, 50)
    sample = SignalViews((128,), gap_s=None).draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
    for window in sample["x"]:
        np.testing.assert_array_equal(window[:, 39:89], reader.data)
        assert not window[:, :39].any() and not window[:, 89:].any()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="one positive size"):
        SignalViews((8, 8))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gap_s"):
        SignalViews((8,), gap_s=-1)
    with pytest.raises(ConfigError, match="adjacent"):
        SignalViews((8,), gap_s=1, adjacent=True)
    with pytest.raises(ConfigError, match="second"):
        SignalViews((8,), count=1, second=NOTHING)
    reader = signal(0)
    reader.rate_hz = None
    with pytest.raises(CohortError, match="no rate"):
        SignalViews((8,), gap_s=1).draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
