"""A configuration by name, for programs: what ``medssl pretrain --config NAME --cohort COHORT`` would train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medssl import resources
from medssl.cohort.info import CohortInfo
from medssl.configurable import Configurable, build, discover, spec
from medssl.encoders.base import with_channels
from medssl.errors import ConfigError
from medssl.methods.base import Method
from medssl.training.settings import TrainSettings, from_plain

__all__ = ["Recipe", "pretraining_of"]


@dataclass(frozen=True)
class Recipe:
    """How to pre-train.

    Attributes:
        method: its specification, with as many input channels as the cohort has.
        trainer: settings of the training.
    """

    method: dict[str, Any]
    trainer: TrainSettings

    @property
    def encoder(self) -> dict[str, Any]:
        """Specification of the encoder."""
        found: dict[str, Any] = self.method["init_args"]["encoder"]
        return found

    def with_encoder(self, encoder: Mapping[str, Any]) -> Recipe:
        """The same with another encoder."""
        arguments = {**self.method["init_args"], "encoder": dict(encoder)}
        return Recipe({**self.method, "init_args": arguments}, self.trainer)

    def build(self) -> Method:
        """The method, with fresh weights."""
        return build(self.method, Method)  # type: ignore[type-abstract]


def pretraining_of(config: str, cohort: Path) -> Recipe:
    """Read a configuration of pre-training.

    Args:
        config: name from ``medssl list configs``, or a YAML file.
        cohort: whose channels the encoder takes.

    Raises:
        MedSSLError: no such configuration, one of another verb, or no cohort.
    """
    for package in ("encoders", "views", "objectives", "methods"):
        discover(f"medssl.{package}", Configurable)
    content = yaml.safe_load(resources.find("configs", config).read_text(encoding="utf-8"))
    if not isinstance(content, Mapping) or "method" not in content:
        raise ConfigError(f"'{config}' says nothing about a method; give a configuration of `medssl pretrain`")
    channels = len(CohortInfo.read(Path(cohort) / "cohort.json").channels)
    whole = spec(build(content["method"], Method))  # type: ignore[type-abstract]
    return Recipe(with_channels(whole, channels), from_plain(TrainSettings, content.get("trainer") or {}))
