"""Settings are plain data and back, and wrong ones are refused before anything starts."""

from __future__ import annotations

import pytest

from medssl.configurable import spec
from medssl.errors import ConfigError
from medssl.optim import Optim
from medssl.training.settings import FinetuneSettings, TrainSettings, from_plain


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(max_steps=3, optim=Optim(lr=0.5), loggers=("csv", "tensorboard"), devices=2),
        TrainSettings(quality_every=250, quality_rows=64, fail_on_collapse=True),
        FinetuneSettings(size=(8, 8, 8), optim=Optim(betas=(0.8, 0.9)), channels_last=True),
    ],
)
def test_settings_survive_being_written(settings: TrainSettings | FinetuneSettings) -> None:
    assert from_plain(type(settings), spec(settings)) == settings


def test_wrong_values_and_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_steps must be at least 1"):
        TrainSettings(max_steps=0)
    with pytest.raises(ConfigError, match="quality_every must not be negative"):
        TrainSettings(quality_every=-1)
    with pytest.raises(ConfigError, match="quality_rows must be at least 8"):
        TrainSettings(quality_rows=2)
    with pytest.raises(ConfigError, match="foreground must lie between 0 and 1"):
        FinetuneSettings(foreground=2.0)
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        from_plain(TrainSettings, {"max_step": 3})
