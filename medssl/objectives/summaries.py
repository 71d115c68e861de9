"""One vector for a whole map, where there is no class token."""

from __future__ import annotations

from torch import Tensor

from medssl.objectives.gather import gather_views

__all__ = ["batch_centred", "mean_cells"]


def mean_cells(maps: Tensor) -> Tensor:
    """Mean over the cells, (K, N, D, *grid) → (K, N, D)."""
    return maps.flatten(3).mean(-1)


def batch_centred(vectors: Tensor) -> Tensor:
    """Vectors less their mean over all views and recordings, of all processes.

    Mean cells of different recordings are nearly parallel, while the class tokens they stand for are trained to
    differ; without this their cosines hardly do. It is the centring half of the normalisation that published heads end
    with, which unlike the whole leaves relative lengths alone.

    Args:
        vectors: (K, N, D).
    """
    return vectors - gather_views(vectors).views.mean((0, 1))
