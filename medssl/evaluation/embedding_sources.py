"""What can embed recordings: the encoder of a run, the same with random weights, or the pixels themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.errors import ConfigError

if TYPE_CHECKING:
    from medssl.encoders.base import Encoder, InputSpec

__all__ = ["PIXELS", "UNTRAINED", "Source", "is_file", "open_source", "untrained"]

PIXELS, UNTRAINED = "pixels", "untrained"


@dataclass(frozen=True)
class Source:
    """What embeds.

    Attributes:
        kind: of the three.
        name: for people.
        encoder: None for pixels.
        inputs: what the encoder was trained on, with what it says of channels, voxel size and rate.
        sha256: of the weights.
        architecture: class and arguments of the encoder.
        provenance: of the weights; empty for what has not learnt.
    """

    kind: Literal["run", "untrained", "pixels"]
    name: str
    encoder: Encoder | None = None
    inputs: InputSpec | None = None
    sha256: str = ""
    architecture: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Plain data for the file of embeddings."""
        return {
            "kind": self.kind, "name": self.name, "sha256": self.sha256,
            "architecture": None if self.architecture is None else dict(self.architecture),
        }  # fmt: skip


def is_file(encoder: str) -> bool:
    """Whether a file of embeddings is meant, not what makes one."""
    return encoder.endswith(".parquet")


def open_source(encoder: str) -> Source:
    """The source that is meant.

    Args:
        encoder: a run (or the folder of an exported encoder), ``untrained:RUN`` for its architecture with random
            weights, or ``pixels``.

    Raises:
        CheckpointError: there is no encoder.
        ConfigError: ``untrained`` without a run.
    """
    from medssl.configurable import spec
    from medssl.encoders.base import encoder_folder, load_encoder, provenance_of

    kind, _, run = encoder.partition(":")
    if encoder == PIXELS:
        return Source("pixels", PIXELS)
    if encoder == UNTRAINED or (kind == UNTRAINED and not run):
        raise ConfigError("'untrained' needs an architecture; say untrained:RUN for that of a run")
    if kind == UNTRAINED:
        network, inputs = load_encoder(run)
        return untrained(spec(network), inputs, f"{UNTRAINED}:{Path(run).name}")
    network, inputs = load_encoder(encoder)
    weights = encoder_folder(encoder) / "encoder.safetensors"
    with weights.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    name = Path(encoder).resolve().name
    return Source("run", name, network, inputs, digest, spec(network), provenance_of(encoder))


def untrained(architecture: Mapping[str, Any], inputs: InputSpec | None, name: str = UNTRAINED) -> Source:
    """An encoder with random weights that follow from seed 0; the state of the global generators is left alone."""
    import torch

    from medssl.configurable import build, discover
    from medssl.encoders.base import Encoder

    discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(architecture, Encoder)  # type: ignore[type-abstract]
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return Source("untrained", name, network, inputs, digest.hexdigest(), architecture)
