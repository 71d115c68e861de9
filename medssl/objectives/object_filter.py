"""Object-aware filter of CoTAP: cells seen through a bank of learned object prototypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.pairs import unit

__all__ = ["ObjectFilter", "filter_cells", "filter_summary", "new_bank", "prototype_entropy", "spherical_means"]

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


def filter_cells(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cells attend to prototypes; a prototype is a window of cells.

    .. math:: a_{cm} = \mathrm{softmax}_m \Big( M^{-1/2} \sum_{w} \langle q_{c+w}, k_{mw} \rangle \Big), \quad
        o_c = \sum_m a_{cm} \bar v_m

    The sum runs over the window, with zeros beyond the map's border; :math:`\bar v` is the mean over the window. The
    published scale is that of the number of prototypes M, not of the width of a head.

    Args:
        queries: (N, H, d, *grid), H heads.
        keys: (M, H, d, *window), odd numbers of cells.
        values: (M, H, d, *window).

    Returns:
        o (N, H, d, *grid), and a (N, H, M, *grid).
    """
    count, heads, width = keys.shape[:3]
    window, grid = keys.shape[3:], queries.shape[3:]
    scores = CONVOLUTIONS[len(grid) - 1](
        queries.flatten(1, 2), keys.transpose(0, 1).reshape(heads * count, width, *window),
        padding=tuple(w // 2 for w in window), groups=heads,
    )  # fmt: skip
    attention = (scores.unflatten(1, (heads, count)) * count**-0.5).softmax(2)
    mean = values.flatten(3).mean(-1)
    return torch.einsum("nhm...,mhd->nhd...", attention, mean), attention


def filter_summary(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """``filter_cells`` of single vectors, which have no neighbours: keys are averaged over the window as well.

    Args:
        queries: (N, H, d).
        keys: (M, H, d, *window).
        values: (M, H, d, *window).

    Returns:
        (N, H, d).
    """
    key, value = (v.flatten(3).mean(-1) for v in (keys, values))
    attention = (torch.einsum("nhd,mhd->nhm", queries, key) * len(keys) ** -0.5).softmax(-1)
    return torch.einsum("nhm,mhd->nhd", attention, value)


def prototype_entropy(bank: Tensor, samples: Tensor, *, temperature: float = 0.1) -> Tensor:
    r"""Mean entropy of each prototype's similarities to samples, :math:`p = \mathrm{softmax}_s(\cos(b_m, x_s) / \tau)`.

    It is minimised: every prototype specialises on few samples.

    Args:
        bank: b (M, ...), M prototypes.
        samples: x (S, ...), of the same shape; no gradient.
        temperature: τ > 0.

    Returns:
        Scalar, 0 to log S.
    """
    similarity = unit(bank.flatten(1)) @ unit(samples.detach().flatten(1)).T
    logp = (similarity / temperature).log_softmax(1)
    return -(logp.exp() * logp).sum(1).mean()


@torch.no_grad()
def spherical_means(samples: Tensor, count: int, *, steps: int = 10) -> Tensor:
    """Spherical k-means (``count``, F) of unit rows (S, F), from ``count`` rows spread evenly over the samples.

    A cluster that loses all of its rows keeps its centre.
    """
    start = torch.linspace(0, len(samples) - 1, count, device=samples.device).round().long()
    centres = samples[start]
    for _ in range(steps):
        nearest = (samples @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, samples)
        norm = sums.norm(dim=1, keepdim=True)
        centres = torch.where(norm > 0, sums / norm.clamp_min(torch.finfo(norm.dtype).tiny), centres)
    return centres


class ObjectFilter(nn.Module):
    """What cells become beside what prototypes say of them: (N, D, *grid) → (N, 2D, *grid).

    Cells and prototypes are normalised and share one projection to queries, keys and values, as in the transformer
    block that CoTAP borrows; general encoders have none, so the filter has weights of its own. Output: layer norm of
    the cell and of the cell plus what it attended to. The block's MLP is left out.

    Args:
        width: D.
        heads: must divide the width.
    """

    def __init__(self, width: int, *, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"the filter's heads ({heads}) must divide the width of the projections ({width})")
        self.heads = heads
        self.norm_in = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(2 * width)

    def forward(self, maps: Tensor, bank: Tensor) -> Tensor:
        """Filtered maps.

        Args:
            maps: (N, D, *grid).
            bank: (M, D, *window), without gradient: it learns from ``prototype_entropy`` alone.
        """
        queries = self._heads(maps, 1)[0]
        seen = self.proj(filter_cells(queries, *self._heads(bank.detach(), 3)[1:])[0].flatten(1, 2).movedim(1, -1))
        cells = maps.movedim(1, -1)
        both: Tensor = self.norm_out(torch.cat([cells, cells + seen], -1))
        return both.movedim(-1, 1)

    def summary(self, vectors: Tensor, bank: Tensor) -> Tensor:
        """(N, D) → (N, 2D), see ``filter_summary``."""
        queries = self._heads(vectors, 1)[0]
        seen = self.proj(filter_summary(queries, *self._heads(bank.detach(), 3)[1:]).flatten(1))
        both: Tensor = self.norm_out(torch.cat([vectors, vectors + seen], -1))
        return both

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """The first ``parts`` of queries, keys and values of (N, D, ...): (N, heads, d, ...) each."""
        width = x.shape[1]
        rows = parts * width
        projected = functional.linear(self.norm_in(x.movedim(1, -1)), self.qkv.weight[:rows], self.qkv.bias[:rows])
        split: Tensor = projected.movedim(-1, 1).unflatten(1, (parts, self.heads, width // self.heads))
        return tuple(split.unbind(1))


def new_bank(count: int, width: int, window: tuple[int, ...]) -> nn.Parameter:
    """(M, D, *window) prototypes, of random directions."""
    return nn.Parameter(torch.randn(count, width, *window) / math.sqrt(width * math.prod(window)))
