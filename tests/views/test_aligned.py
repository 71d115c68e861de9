"""Aligned views: intensities on one of the two, places alike on both, cell by cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toys import collate, signal, volume

from medssl.errors import ConfigError
from medssl.views.base import Sample, Views
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation, apply_intensity, apply_times
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation

QUIET_SIGNAL = SignalAugmentation(
    band_stop=0.0, scale=0.0, gain=0.0, wander=0.0, jitter=0.0, mask=0.0, drop_channel=0.0, shift=1.0, permute=1.0
)
QUIET_VOLUME = VolumeAugmentation(blur=0.0, coarse=0.0, noise=0.0, brightness=0.0, contrast=0.0, gamma=0.0, affine=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_signals_are_moved_in_both_and_changed_in_one() -> None:
    """Values of a ramp are its times: what stands where is seen from them, up to one factor a row."""
    ramp = 1 + torch.arange(200.0).expand(20, 2, 200)
    views = SignalViews((200,), augmentation=replace(QUIET_SIGNAL, scale=1.0))
    augmented, clean = views.augment_aligned(ramp, generator())
    assert not torch.equal(clean, ramp) and not torch.equal(augmented, clean)
    factor = augmented / clean
    torch.testing.assert_close(factor, factor[:, :1, :1].expand_as(factor))
    assert set(clean.unique().tolist()) <= set(ramp[0, 0].tolist()), "samples of the window and nothing else"


def test_volumes_are_moved_in_both_and_changed_in_one() -> None:
    x = torch.randn(20, 1, 4, 6, 6, generator=generator(1))
    views = VolumeViews((4, 6, 6), augmentation=replace(QUIET_VOLUME, brightness=1.0, flip=(1.0, 0.0, 0.0)))
    augmented, clean = views.augment_aligned(x, generator())
    assert torch.equal(clean, x.flip(2))
    factor = augmented / clean
    torch.testing.assert_close(factor, factor.mean((1, 2, 3, 4), keepdim=True).expand_as(factor), rtol=1e-4, atol=1e-4)
    assert factor.std() > 0.05


def test_times_and_intensities_together_are_the_whole_augmentation() -> None:
    views = SignalViews((200,))
    x = torch.randn(10, 3, 200, generator=generator(1))
    parameters = views.draw_parameters((10, 3, 200), generator())
    assert torch.equal(apply_intensity(apply_times(x, parameters), parameters), views.apply(x, parameters))


@pytest.mark.parametrize(
    ("views", "read"),
    [(SignalViews((128,), count=3, gap_s=1.0), signal), (VolumeViews((8, 8, 8), count=3), volume)],
    ids=["signals", "volumes"],
)
def test_each_view_of_each_recording_is_aligned_with_its_own(views: Any, read: Any) -> None:
    batch = collate([views.draw(read(i), np.random.default_rng(i)) for i in range(4)], seed=0)
    augmented, clean = views.aligned(batch, generator(3))
    assert augmented.shape == clean.shape == (3, 4, *clean.shape[2:])
    rows, others = (x.flatten(2).flatten(0, 1) for x in (augmented, clean))
    rows, others = (torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (rows, others))
    likeness = rows @ others.T
    own = likeness.diagonal()
    assert (own > 0.5).float().mean() > 0.7 and own.mean() > likeness.mean() + 0.2


def test_a_family_that_cannot_tell_places_from_values_says_so() -> None:
    class Whole(Views):
        """Knows one augmentation only."""

        kind, size, count = "signal", (8,), 1

        def draw(self, reader: Any, rng: np.random.Generator) -> Sample:
            return {}

        def augment(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return x

    with pytest.raises(ConfigError, match="Whole cannot show"):
        Whole().augment_aligned(torch.zeros(1, 1, 8), generator())
