"""A traced network as a ``.pt2`` file: a program that torch runs without medssl."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from medssl.export.network import Exportable

__all__ = ["METADATA", "load_program", "quiet", "save_program", "trace"]

METADATA = "medssl.json"
"""Name of the metadata within the file (``extra_files`` of ``torch.export.load``)."""


def trace(found: Exportable, free: tuple[str, ...]) -> ExportedProgram:
    """The network as a graph.

    Args:
        found: of ``exportable``.
        free: names of the axes that may have any length.

    Raises:
        Exception: whatever torch raises where the network cannot be traced so.
    """
    x = found.example(free)
    shapes = {place: torch.export.Dim.DYNAMIC for place, name in enumerate(found.axes) if name in free}
    found.reference(x)  # constants that are made once and kept must be real ones before they are traced
    with torch.no_grad():
        return torch.export.export(found.network, (x,), dynamic_shapes={"x": shapes})


def save_program(program: ExportedProgram, file: Path, metadata: str) -> None:
    """Write ``file``; ``metadata`` is JSON."""
    torch.export.save(program, file, extra_files={METADATA: metadata})


def load_program(file: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """The program in a file, as a function of the input. For files of one's own: loading may unpickle."""
    module = torch.export.load(file).module()

    def answer(x: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            found: Sequence[Tensor] = module(x)
        return found

    return answer


@contextmanager
def quiet() -> Iterator[None]:
    """No remarks of the tracing machinery about itself; what is wrong is an exception."""
    names = ("torch.export", "torch.onnx", "torch.fx", "torch._dynamo", "torch._export", "onnxscript", "onnx_ir")
    before: Mapping[str, int] = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield  # a tracer that fails prints the whole graph
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
