"""A fine-tuned model on disk: everything ``predict`` needs, and nothing that could run code.

RUN/model/model.safetensors   weights of encoder and head
RUN/model/model.json          the head with its encoder, what it was trained on, what it predicts, how it is applied
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.configurable import Configurable, build, discover, spec
from medssl.encoders.base import InputSpec
from medssl.errors import CheckpointError
from medssl.heads.base import Head
from medssl.training.run import write_json

__all__ = ["FORMAT_VERSION", "Model", "load_model", "save_model"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Model:
    """A fine-tuned model.

    Attributes:
        head: in evaluation mode, on the CPU.
        inputs: what it takes.
        target: what it predicts, see ``Target.describe``.
        testing: how it is applied: ``size``, ``overlap``, ``windows``, ``batch``.
        provenance: where it comes from.
    """

    head: Head
    inputs: InputSpec
    target: Mapping[str, Any]
    testing: Mapping[str, Any]
    provenance: Mapping[str, Any]


def save_model(run: Path, model: Model) -> None:
    """Write ``RUN/model``; the description last, so that one that is there is complete."""
    from safetensors.torch import save_file

    folder = run / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.head.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    about = {
        "format_version": FORMAT_VERSION,
        "head": spec(model.head),
        "input": model.inputs.plain(),
        "target": model.target,
        "testing": model.testing,
        "provenance": model.provenance,
    }
    write_json(folder / "model.json", about)


def load_model(run: str | Path) -> Model:
    """The model of a fine-tuning run (or of a folder that holds ``model.json``). Never unpickles.

    Raises:
        CheckpointError: none there, of a newer format, or with weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(run)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / "model.json").is_file():
        raise CheckpointError(f"no model in '{run}'; give the --out of a `medssl finetune` that finished")
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"'{folder}/model.json' is damaged ({error}); copy or train the model again") from error
    if about["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"'{folder}/model.json' was written by a newer medssl; update medssl to read it")
    for package in ("medssl.encoders", "medssl.views", "medssl.heads"):
        discover(package, Configurable)
    head = build(about["head"], Head)  # type: ignore[type-abstract]
    try:
        head.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"the weights in '{folder}' do not fit their model: {str(error)[:300]}") from error
    inputs = InputSpec.of_plain(about["input"])
    return Model(head.eval(), inputs, about["target"], about["testing"], about["provenance"])
