"""Weights of other programs as an encoder that every verb takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, InputSpec, with_channels
from medssl.encoders.importing import LoadReport, load_weights
from medssl.errors import CheckpointError, ConfigError
from medssl.training.export import export_encoder

__all__ = ["import_encoder"]

_KINDS = {1: "signal", 3: "volume"}
_NAMED = 5  # tensors of each kind that are printed


def import_encoder(
    *,
    weights: Path,
    architecture: Encoder,
    out: Path,
    channels: list[str] | None = None,
    spacing_mm: list[float] | None = None,
    rate_hz: float | None = None,
    kind: Literal["signal", "volume", "video"] | None = None,
    branch: Literal["student", "teacher"] = "student",
    minimum: float = 0.5,
) -> Path:
    """Make an encoder that `finetune`, `evaluate` and `pretrain --init-from` take, from weights of another program.

    Known layouts: VoCo and VoComni, MONAI's SwinUNETR and Swin SSL, nnU-Net and nnssl's ResEnc, for VideoViT those of
    VideoMAE and of timm's ViT (also as transformers names them), and all in the usual wrappers. Nothing is unpickled.
    Decoders are not taken. Which patients such weights have seen is not known to medssl, so that test patients among
    them cannot be found: look up what they were trained on.

    Args:
        weights: a .safetensors, .pt, .pth or .ckpt file.
        architecture: the encoder that the weights are of.
        out: folder of the encoder.
        channels: names of the input's channels, in order; "image" for volumes of one channel when not given. Weights
            made for another number of channels are adapted.
        spacing_mm: voxel size (z, y, x) that the weights were trained at; cohorts are then held against it.
        rate_hz: sampling rate that the weights were trained at; signals are then held against it, videos' frame rate
            too.
        kind: of the recordings that the encoder is for; signals for encoders of one axis and volumes for those of three
            when not given.
        branch: which one is taken where the file holds a student and a teacher.
        minimum: share of the encoder's tensors that must be filled.

    Returns:
        The folder.

    Raises:
        MedSSLError: the file cannot be read or does not fit, the folder holds an encoder, or channels are not named.
    """
    if (out / "encoder.json").exists() or (out / "encoder").exists():
        raise CheckpointError(f"'{out}' holds an encoder already; choose another --out")
    taken = _KINDS.get(architecture.dims)
    if taken is None:
        raise ConfigError(f"cohorts hold volumes and signals; {type(architecture).__name__} here takes neither")
    if kind is not None and (kind == "signal") != (taken == "signal"):
        raise ConfigError(f"{type(architecture).__name__} has {architecture.dims} axes, which {kind}s have not")
    names = _channels(channels, architecture)
    encoder: Encoder = build(with_channels(spec(architecture), len(names)), Encoder)  # type: ignore[type-abstract]
    report = load_weights(encoder, weights, minimum=minimum, branch=branch)
    inputs = InputSpec(
        kind=kind or taken,
        channels=names,
        size=(),
        spacing_mm=tuple(spacing_mm) if spacing_mm else None,
        rate_hz=rate_hz,
    )
    export_encoder(encoder, out, inputs, _provenance(weights, report, branch))
    print(f"{weights.name}: {report}")
    for what, found in (("missing", report.missing), ("unexpected", report.unexpected), ("skipped", report.skipped)):
        if found:
            rest = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            print(f"  {what}: {', '.join(found[:_NAMED])}{rest}")
    return out


def _channels(names: list[str] | None, architecture: Encoder) -> tuple[str, ...]:
    if names:
        return tuple(names)
    if architecture.in_channels == 1 and architecture.dims == 3:
        return ("image",)
    raise ConfigError(
        "name the channels that the encoder takes, in order, as they are called in your cohort: --channels t1 t2 flair"
    )


def _provenance(weights: Path, report: LoadReport, branch: str) -> dict[str, Any]:
    """Where the weights come from. Their file is named without its folder, which is nobody's business."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "imported_from": weights.name, "sha256": digest, "branch": branch, "filled": report.share,
        "adapted": dict(report.adapted), "missing": list(report.missing), "unexpected": list(report.unexpected),
    }  # fmt: skip
