"""Fine-tuning schedules of nnU-Net and nnssl as pure functions of the step.

After "An OpenMind for 3D medical vision self-supervised learning" (ICCV 2025) and its official trainers, which count
epochs of 250 steps and set the learning rate at an epoch's start; here it is set at every step, so that a length is a
share of the whole training and short ones have the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medssl.errors import ConfigError

__all__ = ["Recipe", "Schedule", "poly", "sawtooth", "steps_of", "valley", "warmup_poly"]

EXPONENT = 0.9

Recipe = Literal["default", "warmup", "sawtooth", "valley", "frozen"]


def poly(step: int, steps: int, *, lr: float) -> float:
    """``lr (1 - s/N)^0.9``: nnU-Net from scratch (lr 1e-2), or plain fine-tuning (1e-3).

    >>> poly(0, 1000, lr=1e-2)
    0.01
    """
    return float(lr * (1.0 - min(step, steps) / steps) ** EXPONENT)


def warmup_poly(step: int, steps: int, *, lr: float, warmup: int) -> float:
    """``lr (s+1)/w`` in the first w steps, then the poly decay over the other N - w.

    >>> [round(warmup_poly(s, 10, lr=1.0, warmup=2), 3) for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.154]
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    return poly(step - warmup, steps - warmup, lr=lr)


def sawtooth(step: int, steps: int, *, lr: float, decoder: int, warmup: int, decoder_factor: float = 1.0) -> float:
    """Decoder alone first, up and down; then everything, up and down (with a new optimiser).

    Args:
        step: 0-based.
        steps: N, of the whole training.
        lr: peak learning rate of the whole network.
        decoder: steps in which only the decoder is trained; its warm-up takes the first half (rounded down).
        warmup: warm-up steps of the whole network after that.
        decoder_factor: peak of the decoder phase relative to ``lr`` (1 for the CNN; 0.01 or 0.1 for Primus).
    """
    if step >= decoder:
        return warmup_poly(step - decoder, steps - decoder, lr=lr, warmup=warmup)
    return warmup_poly(step, decoder, lr=lr * decoder_factor, warmup=decoder // 2)


def valley(step: int, steps: int, *, lr: float, decoder: int, warmup: int, decoder_factor: float = 1.0) -> float:
    """Decoder alone first, only down; then everything, up and down (with a new optimiser). Arguments as ``sawtooth``.

    >>> [round(valley(s, 10, lr=1.0, decoder=2, warmup=2), 3) for s in (0, 1, 2, 3, 4)]
    [1.0, 0.536, 0.5, 1.0, 1.0]
    """
    if step >= decoder:
        return warmup_poly(step - decoder, steps - decoder, lr=lr, warmup=warmup)
    return poly(step, decoder, lr=lr * decoder_factor)


def steps_of(length: float, total: int) -> int:
    """Steps of a phase: as they are, or below 1 a share of all.

    >>> steps_of(0.1, 150), steps_of(15, 150)
    (15, 15)
    """
    return round(length * total) if length < 1 else int(length)


@dataclass(frozen=True)
class Schedule:
    """A published schedule of one training.

    Attributes:
        recipe: see ``FinetuneSettings.schedule``.
        decoder: steps of the decoder (or other head) alone, of ``sawtooth`` and ``valley``.
        warmup: steps of warm-up of the whole network.
        decoder_factor: peak learning rate of the decoder's phase relative to that of the whole network.
    """

    recipe: Recipe
    decoder: int = 0
    warmup: int = 0
    decoder_factor: float = 1.0

    @property
    def alone(self) -> int:
        """Steps at the start in which only the head learns; then begins a new optimiser."""
        return self.decoder if self.recipe in ("sawtooth", "valley") else 0

    def check(self, total: int) -> None:
        """Refuse phases that leave no step.

        Raises:
            ConfigError: with their lengths.
        """
        phases = self.alone + (self.warmup if self.recipe != "frozen" else 0)
        if phases >= total:
            raise ConfigError(
                f"the {self.recipe} schedule takes {self.alone} steps for the decoder and {self.warmup} for the "
                f"warm-up, which leaves nothing of {total}; raise max_steps, or lower decoder_phase and optim.warmup"
            )

    def factor(self, step: int, total: int) -> float:
        """Learning rate at a step as a share of its peak."""
        if self.recipe in ("sawtooth", "valley"):
            law = sawtooth if self.recipe == "sawtooth" else valley
            return law(
                step, total, lr=1.0, decoder=self.decoder, warmup=self.warmup, decoder_factor=self.decoder_factor
            )
        return warmup_poly(step, total, lr=1.0, warmup=0 if self.recipe == "frozen" else self.warmup)
