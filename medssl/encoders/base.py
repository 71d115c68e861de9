"""The one contract of every encoder, and its exported form."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medssl.configurable import Configurable, build, spec
from medssl.errors import CheckpointError, ConfigError

__all__ = [
    "Encoder",
    "Features",
    "InputSpec",
    "encoder_folder",
    "load_encoder",
    "mean_pool",
    "provenance_of",
    "save_encoder",
    "with_channels",
]

FORMAT_VERSION = 1


class Features(NamedTuple):
    """What an encoder returns.

    Attributes:
        pooled: (B, D), one vector a sample.
        maps: feature maps from fine to coarse, each (B, C_i, *spatial_i); one map for token and signal encoders.
    """

    pooled: Tensor
    maps: list[Tensor]


class Encoder(nn.Module, Configurable, ABC):
    """Maps (B, C, *spatial) to ``Features``. Subclasses set the attributes below in ``__init__``.

    Attributes:
        in_channels: C of the input.
        dims: number of spatial (or time) axes: 1 signals, 2 images, 3 volumes.
        out_dim: D of ``Features.pooled``.
        channels: channels of each map, fine to coarse.
        strides: stride of each map relative to the input, a tuple of ``dims`` integers each.
        divisor: every input size must be a multiple of it, a tuple of ``dims`` integers.
        minimum: smallest input size an axis (deepest normalised map must keep more than one voxel).
        any_channels: takes inputs of any number of channels, in any order; ``in_channels`` is but an example.
        exports_any_size: a graph traced at one size (`medssl export`) answers rightly at others. False where sizes are
            turned into numbers on the way; such encoders are exported for the size they were trained with.
    """

    in_channels: int
    dims: int
    out_dim: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    divisor: tuple[int, ...]
    minimum: tuple[int, ...]
    any_channels: bool = False
    exports_any_size: bool = False

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Encode a batch.

        Args:
            x: (B, C, *spatial), float.
        """

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """Refuse an input this encoder cannot take, before any training.

        Raises:
            ConfigError: wrong number of channels or axes, or a size that is no multiple of ``divisor`` or too small.
        """
        name = type(self).__name__
        if channels != self.in_channels and not self.any_channels:
            raise ConfigError(f"{name} was built for {self.in_channels} channels but the data have {channels}")
        if len(size) != self.dims:
            raise ConfigError(f"{name} takes {self.dims} spatial axes but the views give {len(size)} ({size})")
        bad = [s for s, d, m in zip(size, self.divisor, self.minimum, strict=True) if s % d or s < m]
        if bad:
            raise ConfigError(
                f"{name} cannot take a size of {size}: each axis must be a multiple of {self.divisor} and at least "
                f"{self.minimum}; change the crop or window"
            )

    @classmethod
    def members(cls) -> dict[str, str]:
        """Networks that this class builds by name, as its argument ``model``, with a line on each. Default: none."""
        return {}

    @property
    def described_by(self) -> tuple[int, ...]:
        """Places of the maps whose averages together describe an input at all scales. Default: all."""
        return tuple(range(len(self.channels)))

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Named parameters in groups from input to output, for layer-wise learning rates. Default: one group."""
        return [list(self.named_parameters())]


@dataclass(frozen=True)
class InputSpec:
    """What an encoder was trained on; fine-tuning and prediction re-apply it.

    Attributes:
        kind: ``"volume"``, ``"signal"`` or ``"video"``.
        channels: channel names in order.
        size: crop (z, y, x) or window (samples) used in training.
        spacing_mm: voxel size (z, y, x) of the prepared volumes.
        rate_hz: rate of the prepared signals.
        preparation: full preparation settings of the cohort (``cohort.json["preparation"]``).
        others: of further cohorts, of other kinds or voxel sizes, that one encoder was trained on together.
    """

    kind: str
    channels: tuple[str, ...]
    size: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
    rate_hz: float | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[InputSpec, ...] = ()

    @classmethod
    def of_plain(cls, fields: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> InputSpec:
        """From what JSON holds; unknown fields are refused."""
        values = dict(fields)
        for key in ("channels", "size", "spacing_mm"):
            values[key] = tuple(values[key]) if values.get(key) is not None else None
        return cls(**values, others=tuple(cls.of_plain(other) for other in others))

    def plain(self) -> dict[str, Any]:
        """For JSON, without ``others``."""
        return {key: value for key, value in asdict(self).items() if key != "others"}


def save_encoder(encoder: Encoder, folder: Path, inputs: InputSpec, provenance: Mapping[str, Any]) -> None:
    """Write ``encoder.safetensors`` and ``encoder.json`` into ``folder`` (created)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in encoder.state_dict().items()}
    save_file(weights, folder / "encoder.safetensors")
    about = {
        "format_version": FORMAT_VERSION,
        "encoder": spec(encoder),
        "input": inputs.plain(),
        "provenance": dict(provenance),
    }
    if inputs.others:
        about["further_inputs"] = [other.plain() for other in inputs.others]
    (folder / "encoder.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def encoder_folder(source: str | Path) -> Path:
    """The folder of an exported encoder: that of a run, or the folder itself."""
    folder = Path(source)
    return folder / "encoder" if (folder / "encoder").is_dir() else folder


def provenance_of(source: str | Path) -> dict[str, Any]:
    """Where an exported encoder comes from; empty where there is none (``load_encoder`` says what is wrong)."""
    file = encoder_folder(source) / "encoder.json"
    if not file.is_file():
        return {}
    provenance: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")).get("provenance", {})
    return provenance


def load_encoder(source: str | Path) -> tuple[Encoder, InputSpec]:
    """The exported encoder of a run.

    Args:
        source: a run directory, or the folder that holds ``encoder.json``.

    Raises:
        CheckpointError: missing, of a newer format, or with weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = encoder_folder(source)
    about_file = folder / "encoder.json"
    if not about_file.is_file():
        raise CheckpointError(f"no exported encoder in '{source}'; give a run directory that finished pre-training")
    try:
        about = json.loads(about_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"'{about_file}' is damaged ({error}); export or copy the encoder again") from error
    if about["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"'{about_file}' was written by a newer medssl; update medssl to read it")
    _import_encoders()
    encoder = build(about["encoder"], Encoder)  # type: ignore[type-abstract]
    try:
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"), strict=True)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"the weights in '{folder}' do not fit their encoder: {error}") from error
    return encoder, InputSpec.of_plain(about["input"], about.get("further_inputs", ()))


def with_channels(specification: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """An encoder's specification for another number of input channels; also of encoders inside it.

    >>> with_channels({"class_path": "A", "init_args": {"in_channels": 1, "size": "tiny"}}, 3)["init_args"]
    {'in_channels': 3, 'size': 'tiny'}
    """

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: channels if k == "in_channels" else changed(v) for k, v in value.items()}
        return [changed(v) for v in value] if isinstance(value, (list, tuple)) else value

    new: dict[str, Any] = changed(specification)
    return new


def _import_encoders() -> None:
    from medssl.configurable import discover

    discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]


def mean_pool(x: Tensor) -> Tensor:
    """Global average over all spatial axes: (B, C, *spatial) → (B, C), in float32 whatever the autocast."""
    return torch.flatten(x, 2).float().mean(-1)
