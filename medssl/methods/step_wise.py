"""What methods share that compare single time steps: encoders of one map of full length, and hiding of steps."""

from __future__ import annotations

import inspect

from torch import Tensor

from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError
from medssl.objectives.gather import gather_views

__all__ = ["encode_steps", "gather_steps", "refuse_strided", "takes_mask"]


def refuse_strided(encoder: Encoder, name: str) -> None:
    """Refuse an encoder that has no vector of every step.

    Args:
        encoder: of a method.
        name: of the method.

    Raises:
        ConfigError: it takes no signals, or has several maps or one of another length.
    """
    if encoder.dims != 1 or tuple(encoder.strides) != ((1,),):
        raise ConfigError(
            f"{name} compares single time steps, but {type(encoder).__name__} has no map of the signal's full length; "
            "choose TS2Vec, InceptionTime or XceptionTime"
        )


def takes_mask(encoder: Encoder) -> bool:
    """Whether steps can be hidden behind the input layer (``mask`` of its ``forward``)."""
    return "mask" in inspect.signature(encoder.forward).parameters


def encode_steps(encoder: Encoder, x: Tensor, mask: Tensor | None) -> Features:
    """Features of signals of which some steps are hidden: behind the input layer, or else in the input, as zeros.

    Args:
        encoder: of one map of full length.
        x: (N, C, T).
        mask: (N, T) booleans, True where a step is kept; None keeps all.
    """
    features: Features
    if mask is None:
        features = encoder(x)
    elif takes_mask(encoder):
        features = encoder(x, mask=mask)
    else:
        features = encoder(x.masked_fill(~mask.unsqueeze(1), 0.0))
    return features


def gather_steps(z: Tensor) -> tuple[Tensor, int]:
    """Sequences of all processes, by rank, with gradients, and where this process' own start.

    Args:
        z: (N, T, D), T the same in all processes.

    Returns:
        (W·N, T, D), and rank · N; see ``gather_views``.
    """
    gathered = gather_views(z.flatten(1).unsqueeze(0))
    if gathered.world == 1:
        return z, 0
    return gathered.views.squeeze(0).unflatten(1, z.shape[1:]), gathered.offset
