"""A traced network as an ``.onnx`` file, for runtimes without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medssl.errors import ConfigError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from medssl.export.network import Exportable

__all__ = ["METADATA", "load_onnx", "opset_of", "require_onnx", "save_onnx"]

METADATA = "medssl"
"""Key of the metadata in the model's ``metadata_props``."""
LARGEST = 2**31 - 2**20
"""Bytes of weights that one file can hold: a protocol buffer ends at 2 GiB."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Refuse before anything is loaded.

    Raises:
        ConfigError: a package of the extra is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}; install the extra with `pip install 'medssl[onnx]'`, or export to .pt2"
        )


def save_onnx(program: ExportedProgram, found: Exportable, free: tuple[str, ...], file: Path, metadata: str) -> None:
    """Write ``file``, weights inside; ``metadata`` is JSON.

    Raises:
        ConfigError: weights of more than 2 GiB.
        Exception: whatever torch raises where an operation has no ONNX form.
    """
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size > LARGEST:
        raise ConfigError(f"the weights take {size / 2**30:.1f} GiB and an ONNX file holds 2 GiB; export to .pt2")
    names: Any = {place: name for place, name in enumerate(found.axes) if name in free}
    converted = torch.onnx.export(
        program, (found.example(free),), dynamo=True, verbose=False, input_names=["x"],
        output_names=list(found.outputs), dynamic_shapes={"x": names} if names else None,
    )  # fmt: skip
    assert converted is not None
    converted.model.metadata_props[METADATA] = metadata
    converted.model.doc_string = "medssl; the metadata property 'medssl' says what goes in and what comes out"
    converted.save(file, external_data=False)


def load_onnx(file: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """The file in ONNX Runtime on the CPU, as a function of the input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # it prints what it also raises
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def answer(x: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(a) for a in session.run(None, {"x": x.numpy()})]

    return answer


def opset_of(file: Path) -> int:
    """Version of the operators that a runtime must know."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
