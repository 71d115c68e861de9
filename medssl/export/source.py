"""What is exported: the encoder of a pre-training run, or the whole model of a fine-tuning run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.errors import CheckpointError

if TYPE_CHECKING:
    from medssl.encoders.base import Encoder, InputSpec
    from medssl.heads.base import Head

__all__ = ["Part", "Source", "cell_of", "open_run"]

Part = Literal["auto", "encoder", "model"]
"""The encoder alone, the whole fine-tuned model, or (``auto``) the model where the run has one."""


@dataclass(frozen=True)
class Source:
    """What a run left behind, loaded.

    Attributes:
        run: the folder as given.
        network: in evaluation mode, on the CPU: a ``Head`` of a whole model, else an ``Encoder``.
        inputs: what it takes.
        weights: the file that its weights come from.
        target: what it predicts; empty for an encoder.
        testing: how it is applied; empty for an encoder.
        provenance: as stored beside the weights.
    """

    run: Path
    network: Head | Encoder
    inputs: InputSpec
    weights: Path
    target: Mapping[str, Any] = field(default_factory=dict)
    testing: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> Literal["encoder", "model"]:
        """Which of the two it is. An encoder out of a fine-tuned model counts as an encoder."""
        return "model" if self.target else "encoder"

    @property
    def encoder(self) -> Encoder:
        """The encoder, alone or of the model."""
        from medssl.heads.base import Head

        return self.network.encoder if isinstance(self.network, Head) else self.network

    @property
    def name(self) -> str:
        """Of the run, without the folders above it; of a cell STUDY/ENCODER/BUDGET/REPEAT."""
        cell = cell_of(self.run)
        return self.run.resolve().name if cell is None else "/".join((cell[0].name, *cell[1]))

    def sha256(self) -> str:
        """Of the file of weights."""
        with self.weights.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()


def open_run(run: Path, part: Part = "auto") -> Source:
    """Load what is to be exported. Never unpickles.

    Args:
        run: of `medssl pretrain` or `medssl finetune` (one cell of a study is such a run), or a folder with
            encoder.json or model.json.
        part: see ``Part``.

    Raises:
        CheckpointError: no run, an unfinished one, without the part asked for, or a damaged file.
    """
    if not run.is_dir():
        raise CheckpointError(f"'{run}' is no folder; give the --out of `medssl pretrain` or `medssl finetune`")
    _refuse_unfinished(run)
    has_model = any((folder / "model.json").is_file() for folder in (run / "model", run))
    if part == "model" and not has_model:
        raise CheckpointError(f"'{run}' holds no fine-tuned model; export its encoder, or give a `medssl finetune` run")
    if not has_model:
        if not any((folder / "encoder.json").is_file() for folder in (run / "encoder", run)):
            raise CheckpointError(
                f"'{run}' holds neither an encoder nor a model; give a finished run of `medssl pretrain` or `medssl "
                "finetune` (probes of a study leave no network)"
            )
        return _encoder(run)
    return _model(run, part)


def cell_of(run: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Study and place (encoder, budget, repeat, and fold where there are any) of a run that is a cell of one.

    >>> cell_of(Path("/s/cells/ours/8/0")) == (Path("/s"), ("ours", "8", "0"))
    True
    """
    run = run.resolve()
    for depth in (3, 4):
        if len(run.parents) > depth and run.parents[depth - 1].name == "cells":
            return run.parents[depth], run.parts[-depth:]
    return None


def _encoder(run: Path) -> Source:
    from medssl.encoders.base import encoder_folder, load_encoder, provenance_of

    encoder, inputs = load_encoder(run)
    weights = encoder_folder(run) / "encoder.safetensors"
    return Source(run, encoder.eval(), inputs, weights, provenance=provenance_of(run))


def _model(run: Path, part: Part) -> Source:
    from medssl.training.models import load_model

    model = load_model(run)
    weights = (run / "model" if (run / "model").is_dir() else run) / "model.safetensors"
    if part == "encoder":
        return Source(run, model.head.encoder, model.inputs, weights, provenance=model.provenance)
    return Source(run, model.head, model.inputs, weights, model.target, model.testing, model.provenance)


def _refuse_unfinished(run: Path) -> None:
    """A folder of nothing but an encoder or model (imported, copied) has no summary and no configuration: it passes."""
    from medssl.training.run import read_summary

    try:
        status = read_summary(run).get("status")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"'{run / 'summary.json'}' is damaged ({error}); run the command again") from error
    if status == "finished" or (status is None and not (run / "config.yaml").exists()):
        return
    again = f"continue it with `medssl resume {run}`" if (run / "checkpoints").is_dir() else "run its command again"
    raise CheckpointError(f"'{run}' is not finished ({status or 'no summary.json'}); {again}")
