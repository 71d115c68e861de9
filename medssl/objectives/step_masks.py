"""Which time steps of a sequence are hidden from an encoder (TS2Vec, COMET)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from medssl.errors import ConfigError

__all__ = ["StepMask", "check_mask", "segments_kept", "step_mask"]

StepMask = Literal["none", "continuous", "binomial", "last"]
"""``none``; ``continuous``: five segments of a tenth of the steps, which may overlap; ``binomial``: every step with a
chance of one half; ``last``: the last step."""

SEGMENTS = 5
SHARE = 0.1
CHANCE = 0.5


def check_mask(name: str, kind: str) -> None:
    """Refuse a name that ``step_mask`` does not know.

    Raises:
        ConfigError: with the known ones.
    """
    if kind not in get_args(StepMask):
        raise ConfigError(f"{name} is one of {', '.join(get_args(StepMask))}, not '{kind}'")


def step_mask(kind: StepMask, n: int, steps: int, generator: torch.Generator) -> Tensor | None:
    """(n, steps) booleans, True where a step is kept; None where nothing is hidden.

    Args:
        kind: see ``StepMask``.
        n: sequences, each masked for itself.
        steps: of a sequence.
        generator: of all draws; the mask is made on its device.

    >>> step_mask("last", 1, 4, torch.Generator())
    tensor([[ True,  True,  True, False]])
    """
    if kind == "none":
        return None
    if kind == "binomial":
        return torch.rand(n, steps, generator=generator, device=generator.device) >= CHANCE
    if kind == "last":
        return (torch.arange(steps, device=generator.device) < steps - 1).expand(n, steps)
    count, length = max(1, min(SEGMENTS, steps // 2)), max(1, int(SHARE * steps))
    starts = torch.randint(steps - length + 1, (n, count), generator=generator, device=generator.device)
    return segments_kept(starts, length, steps)


def segments_kept(starts: Tensor, length: int, steps: int) -> Tensor:
    """Everything but segments that begin at ``starts``.

    Args:
        starts: (n, segments) integers.
        length: of each segment.
        steps: of a sequence.

    Returns:
        (n, steps) booleans, True where a step is kept.

    >>> segments_kept(torch.tensor([[0, 3]]), 2, 6).int()
    tensor([[0, 0, 1, 0, 0, 1]], dtype=torch.int32)
    """
    behind = torch.arange(steps, device=starts.device) - starts.unsqueeze(2)
    return ~((behind >= 0) & (behind < length)).any(1)
