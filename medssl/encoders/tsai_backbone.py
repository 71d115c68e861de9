"""Backbones taken from tsai's model zoo, one module imported at a time and only when it is built."""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.errors import ConfigError

__all__ = ["TsaiEncoder", "tsai_model"]


def tsai_model(module: str, name: str = "") -> Any:
    """A class of one of tsai's model modules; by default the one with the name of the module.

    Raises:
        ConfigError: tsai is missing, or this version of it cannot be imported here.
    """
    # tsai.all does not import in today's releases, and importing any of it changes the process's warning filters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(importlib.import_module(f"tsai.models.{module}"), name or module)
    except Exception as error:  # a broken dependency of tsai can fail with anything
        raise ConfigError(
            f"the encoder needs tsai's {name or module}, which cannot be imported ({type(error).__name__}: {error}); "
            "install a working 'tsai', or use TS2Vec or ResNet1d, which need nothing else"
        ) from error


class TsaiEncoder(Encoder):
    """Base of the encoders that wrap a tsai backbone: one map (B, D, T'), pooled by its mean over time."""

    backbone: nn.Module

    def forward(self, x: Tensor) -> Features:
        """(B, C, T) → one map and its mean over time."""
        y: Tensor = self.backbone(x)
        return Features(mean_pool(y), [y])

    @abstractmethod
    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """See ``Encoder.layers``."""
