"""The network as it is traced: plain tensors in and out, and the sizes it is tried with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.mamba import Mamba
from medssl.errors import ConfigError
from medssl.heads.base import Head
from medssl.heads.regression import RegressionHead
from medssl.heads.sequence import SequenceHead
from medssl.heads.windows import WindowsHead

if TYPE_CHECKING:
    from medssl.export.source import Source

__all__ = ["Dynamic", "Exportable", "Tensors", "exportable"]

Tensors = tuple[Tensor, ...]
Dynamic = Literal["auto", "batch", "none"]
"""Axes of any length: all that the network allows, the batch alone, or none (then the batch is one)."""

_SPATIAL = {1: ("time",), 2: ("y", "x"), 3: ("z", "y", "x")}


class EncoderNetwork(nn.Module):
    """(B, C, *spatial) → pooled (B, D) and every map, fine to coarse."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensors:
        """See the class."""
        features = self.encoder(x)
        return (features.pooled, *features.maps)


class ModelNetwork(nn.Module):
    """Network input → logits and probabilities, or the value alone for regression."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensors:
        """See the class."""
        answer: Tensor = self.logits(x)
        return (answer,) if isinstance(self.head, RegressionHead) else (answer, self.head.probabilities(answer))

    def logits(self, x: Tensor) -> Tensor:
        """What the head says."""
        answer: Tensor = self.head(x)
        return answer.float()


class SequenceNetwork(ModelNetwork):
    """A whole sequence (B, S, C, T), all steps there: without the search for equal lengths, which cannot be traced."""

    def logits(self, x: Tensor) -> Tensor:
        """(B, S, C, T) → (B, S, K)."""
        head = self.head
        assert isinstance(head, SequenceHead)
        rows = head.per_window(x.flatten(0, 1))
        rows = head.onward(nn.functional.elu(head.norm(head.into(rows))))
        answers: Tensor = head.output(head.context(rows.unflatten(0, x.shape[:2])))
        return answers.float()


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A network with all that tracing and comparing need.

    Attributes:
        network: what is traced; weights in evaluation mode.
        reference: what medssl itself computes, by its own way.
        axes: names of the input's axes, e.g. ``("batch", "channel", "z", "y", "x")``.
        shape: of an example of the size it was trained with, batch 1.
        outputs: names.
        encoder: which sizes it takes.
        layouts: sets of axes of any length to try, the largest first; the last has none.
    """

    network: nn.Module
    reference: Callable[[Tensor], Tensors]
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    encoder: Encoder
    layouts: tuple[tuple[str, ...], ...]

    def example(self, free: tuple[str, ...]) -> Tensor:
        """What is traced: two samples where the batch may vary, since tracing takes a single one for a constant."""
        return _random((2, *self.shape[1:]) if "batch" in free else self.shape, seed=0)

    def trials(self, free: tuple[str, ...]) -> list[Tensor]:
        """Random inputs to compare on: batch 1 and another batch, then other lengths of every free axis."""
        batch = 3 if "batch" in free else 1
        shapes = [self.shape, (batch, *self.shape[1:])]
        if len(free) > 1:
            shapes += [(min(batch, 2), *rest) for rest in _others(self, free)]
        return [_random(shape, seed) for seed, shape in enumerate(shapes, start=1)]


def exportable(source: Source, dynamic: Dynamic = "auto") -> Exportable:
    """The network of a source.

    Args:
        source: of ``open_run``.
        dynamic: see ``Dynamic``.
    """
    encoder, head = source.encoder, source.network
    size = tuple(source.inputs.size)[-encoder.dims :]
    axes = ("channel", *_SPATIAL[encoder.dims])
    shape = (len(source.inputs.channels), *size)
    several = isinstance(head, WindowsHead)
    if several:
        count = source.testing.get("sequence") or source.testing["windows"]
        axes, shape = ("step", *axes), (max(2, int(count)), *shape)
    found = Exportable(
        _traced(head), reference_of(head), ("batch", *axes), (1, *shape), _outputs(head), encoder, ((),)
    )  # fmt: skip
    wanted = _layouts(found, several=several) if dynamic == "auto" else [("batch",)] if dynamic == "batch" else []
    return dataclasses.replace(found, layouts=(*wanted, ()))


def reference_of(network: nn.Module) -> Callable[[Tensor], Tensors]:
    """What medssl itself computes of an input, without gradients."""

    def answer(x: Tensor) -> Tensors:
        with torch.no_grad():
            if isinstance(network, Head):
                found: Tensors = ModelNetwork(network)(x)
                return found
            features = network(x)
            return (features.pooled, *features.maps)

    return answer


def _traced(network: nn.Module) -> nn.Module:
    """A copy to trace, so that nothing done to it can change the reference."""
    own = copy.deepcopy(network).eval().requires_grad_(False)
    for part in own.modules():
        if isinstance(part, Mamba):
            part.scan = "loop"  # the scan in chunks works in place on buffers
    if isinstance(own, SequenceHead):
        return SequenceNetwork(own).eval()
    return ModelNetwork(own).eval() if isinstance(own, Head) else EncoderNetwork(own).eval()  # type: ignore[arg-type]


def _outputs(network: nn.Module) -> tuple[str, ...]:
    if isinstance(network, Encoder):
        return ("pooled", *(f"map_{i}" for i in range(len(network.channels))))
    return ("value",) if isinstance(network, RegressionHead) else ("logits", "probabilities")


def _layouts(found: Exportable, *, several: bool) -> list[tuple[str, ...]]:
    """From the most that may vary to the batch alone; a size varies only where the encoder says that it may."""
    layouts: list[tuple[str, ...]] = [("batch",)]
    if several:
        return [("batch", "step"), *layouts]
    parts = [m for m in found.encoder.modules() if isinstance(m, Encoder)]
    sized = ("batch", *found.axes[2:])
    if all(part.exports_any_size for part in parts) and _others(found, sized):
        layouts.insert(0, sized)
        if found.encoder.any_channels:
            layouts.insert(0, ("batch", "channel", *found.axes[2:]))
    return layouts


def _others(found: Exportable, free: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Shapes without the batch, larger and smaller along every free axis, that the encoder takes."""
    larger, smaller = list(found.shape[1:]), list(found.shape[1:])
    first = len(found.shape) - found.encoder.dims
    for place, (name, length) in enumerate(zip(found.axes, found.shape, strict=True)):
        if name not in free or name == "batch":
            continue
        step = found.encoder.divisor[place - first] if place >= first else 1
        least = found.encoder.minimum[place - first] if place >= first else 1
        larger[place - 1] = length + step * (1 + place % 2)  # neighbours grow by different amounts
        smaller[place - 1] = min(length, max(-(-least // step) * step, length // 2 // step * step, 2 * step))
    shapes = dict.fromkeys((tuple(larger), tuple(smaller)))
    return [shape for shape in shapes if shape != found.shape[1:] and _takes(found, shape)]


def _takes(found: Exportable, shape: tuple[int, ...]) -> bool:
    dims = found.encoder.dims
    try:
        found.encoder.check_input(shape[-dims - 1], shape[-dims:])
    except ConfigError:
        return False
    return True


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
