"""Methods that leave behind the average of all their encoders, not the last one."""

from __future__ import annotations

import copy
from typing import Any

import torch

from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.teacher import ema_update, frozen
from medssl.optim import Optim

__all__ = ["WeightAveraged"]


class WeightAveraged(Method):
    """What is exported is the equally weighted mean of the encoder's weights since step 0 (as TS2Vec and COMET do).

    After k steps: the mean of k + 1 states, the first of which is the start. Buffers are the last ones.

    Args:
        encoder: what is trained.
        optim: optimiser settings.
    """

    states: torch.Tensor

    def __init__(self, encoder: Encoder, optim: Optim | None = None) -> None:
        super().__init__(encoder, optim)
        self.averaged = frozen(copy.deepcopy(encoder))
        self.register_buffer("states", torch.ones((), dtype=torch.int64))

    @property
    def exported(self) -> Encoder:
        """The averaged encoder."""
        assert isinstance(self.averaged, Encoder)
        return self.averaged

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then take the new weights into the mean: before anything is saved, so that resuming changes nothing."""
        super().optimizer_step(*args, **kwargs)
        self.average()

    def average(self) -> None:
        """Take the present weights into the mean."""
        count = int(self.states)
        ema_update(self.averaged, self.encoder, count / (count + 1), buffers="copy")
        self.states += 1
