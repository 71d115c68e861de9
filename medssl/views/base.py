"""The contract of a view family: what is read on the worker, what is made of it on the device.

A view family draws *where to read* with a NumPy generator on the worker and *how to augment* with a torch generator
on the device, so any view can be replayed from (seed, position of the sample).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medssl.configurable import Configurable

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["Batch", "Sample", "Views", "to_input"]

Sample = dict[str, Any]
"""One worker-side draw: arrays and scalars by name. Stored-integer arrays come with ``input_scale``, ``input_offset``
(C,) and ``input_range`` (2,), see ``to_input``."""

Batch = Mapping[str, Any]
"""A collated list of samples: tensors with a leading B, plus ``seed`` (int) for the device-side generator."""


def to_input(stored: Tensor, batch: Batch) -> Tensor:
    """Stored integers to network input, on the device: ``clamp(stored * scale + offset, low, high)`` in float32.

    Args:
        stored: (B, V, C, *spatial) integers as read from the cohort.
        batch: holds ``input_scale`` (B, C), ``input_offset`` (B, C), ``input_range`` (B, 2).
    """
    tail = (1,) * (stored.ndim - 3)
    lead = (stored.shape[0], 1, -1, *tail)
    scale, offset = batch["input_scale"].float().view(lead), batch["input_offset"].float().view(lead)
    low, high = (batch["input_range"][:, i].float().view(-1, 1, 1, *tail) for i in (0, 1))
    return torch.clamp(torch.addcmul(offset, stored.float(), scale), low, high)


class Views(Configurable, ABC):
    """A view family: draws on the worker, augments on the device.

    Attributes:
        size: crop (z, y, x) or window (samples,) that the encoder sees.
        count: number of views V of a recording.
        kind: ``"volume"`` or ``"signal"``: the kind of cohort it reads.
    """

    size: tuple[int, ...]
    count: int
    kind: str

    @abstractmethod
    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Read what the views of one recording need. Returns ``x`` (V, C, *size) stored integers and input fields."""

    @abstractmethod
    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment network input independently for every row: (N, C, *size) → (N, C, *size)."""

    def __call__(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Views of a batch: (V, B, C, *size), float32, augmented."""
        x = to_input(batch["x"], batch)
        b, v = x.shape[:2]
        views = self.augment(x.flatten(0, 1), generator)
        return views.reshape(b, v, *views.shape[1:]).transpose(0, 1)
