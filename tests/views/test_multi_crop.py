"""MultiCrop: large and small views of one recording, each with its own family's draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import collate, info, signal, video

from medssl.errors import ConfigError
from medssl.views.clip import ClipViews
from medssl.views.multi_crop import MultiCrop
from medssl.views.signal import SignalViews

LARGE, SMALL = ClipViews((4, 16, 16), crop="resized"), ClipViews((2, 8, 8), count=5, crop="resized", scale=(0.1, 0.3))


def test_large_views_are_those_of_their_family_alone() -> None:
    both = MultiCrop(LARGE, SMALL)
    drawn, alone = (v.draw(video(0), np.random.default_rng(3)) for v in (both, LARGE))  # type: ignore[attr-defined]
    assert all(np.array_equal(drawn[k], alone[k]) for k in alone)
    batch = collate([drawn, drawn], seed=0)
    large, small = both.crops(batch, torch.Generator().manual_seed(0))
    assert torch.equal(large, LARGE(collate([alone, alone], seed=0), torch.Generator().manual_seed(0)))
    assert torch.equal(large, both(batch, torch.Generator().manual_seed(0)))
    assert small.shape == (5, 2, 1, 2, 8, 8) and both.count == 2 and both.sizes == ((4, 16, 16), (2, 8, 8))


def test_small_views_show_less() -> None:
    drawn = MultiCrop(LARGE, SMALL).draw(video(0), np.random.default_rng(3))  # type: ignore[arg-type]
    area = [drawn[key][:, 2:].prod(1) for key in ("boxes", "small.boxes")]
    assert area[1].max() < area[0].min()


def test_one_family_serves_signals_too() -> None:
    both = MultiCrop(SignalViews((128,)), SignalViews((32,), count=3))
    batch = collate([both.draw(signal(i), np.random.default_rng(i)) for i in range(2)], seed=0)  # type: ignore[arg-type]
    assert [tuple(x.shape) for x in both.crops(batch, torch.Generator())] == [(2, 2, 2, 128), (3, 2, 2, 32)]


def test_a_cohort_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuts videos"):
        MultiCrop(LARGE, SMALL).check(info("volume", 1))
