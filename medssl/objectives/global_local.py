r"""Contrast of slices by where they lie in their volume, and of regions of one slice.

Chaitanya, Erdil, Karani & Konukoglu, *Contrastive learning of global and local features for medical image segmentation
with limited annotations*, NeurIPS 2020. With s the cosine similarity over the temperature, every term is

.. math:: \ell(a, b; \Omega) = -\log \frac{e^{s_{ab}}}{e^{s_{ab}} + \sum_{k \in \Omega} e^{s_{ak}}}

and the losses differ in their pairs (a, b) and negatives Ω. ``reduction="mean"`` is the mean over all terms,
``"reference"`` the published scaling. Everything is computed in float32, or in float64 where that is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import full_precision, promoted
from medssl.objectives.gather import gather_views

__all__ = [
    "Regions",
    "gather_regions",
    "gather_volumes",
    "global_domain",
    "global_negatives",
    "global_random",
    "local_domain",
    "local_random",
    "regions",
]

Reduction = Literal["mean", "reference"]

NORM_EPS = 1e-6
LAYERS = 3  # of regions along the axial axis, at most
MARGIN = {3: 4, 1: 1}  # cells that the last level keeps from the end; published, so 3×3 regions leave the last one out
LATTICE = ((0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4), (4, 0), (4, 2), (4, 4), (1, 1), (1, 3), (3, 1), (3, 3))
"""Row and column level of the regions r0 … r12; the version of nine has the first nine."""

_Near = tuple[int | tuple[int, int], ...]
_NEAR_3X3: tuple[_Near, ...] = (
    (1, 9, (1, 2), 3, (2, 1)), (0, 2, 9, 10, 4), (1, (1, 2), 10, (2, 3), 5), (0, 9, 4, 6, 11), (9, 10, 11, 12, 3),
    (2, 4, 8, 10, 12), (3, (2, 1), 7, 11, (3, 2)), (4, 6, 8, 11, 12), ((2, 3), 5, 7, 12, (3, 2)), (0, 1, 3, 4, 10),
    (1, 2, 9, 4, 5), (3, 4, 6, 7, 12), (4, 5, 7, 8, 11),
)  # fmt: skip
_NEAR_1X1: tuple[_Near, ...] = (
    (1, 3, 4, 9, 10), (0, 2, 4, 9, 10), (1, 4, 5, 11, 10), (0, 4, 6, 9, 11), (9, 10, 11, 12, 3), (2, 4, 8, 10, 12),
    (3, 4, 7, 11, 9), (4, 6, 8, 11, 12), (4, 5, 7, 12, 11), (0, 1, 3, 4, 10), (1, 2, 4, 5, 12), (3, 4, 6, 1, 9),
    (4, 5, 7, 8, 10),
)  # fmt: skip
_NEAR_NINE: tuple[_Near, ...] = (
    (1, 3, 4, 2, 6), (0, 2, 3, 4, 5), (0, 1, 4, 5, 8), (0, 1, 4, 6, 7), (0, 1, 3, 5, 7), (1, 2, 4, 7, 8),
    (0, 3, 4, 7, 8), (3, 4, 5, 6, 8), (2, 4, 5, 6, 7),
)  # fmt: skip


def global_random(embeddings: Tensor, *, temperature: float) -> Tensor:
    r"""G^R, the contrast of SimCLR: any other slice is a negative, wherever it lies.

    .. math:: L = \frac{1}{|P|} \sum_{(a, b) \in P} \ell(a, b; \{k \ne a, b\})

    over all ordered pairs P of views of one slice.

    Args:
        embeddings: (V, K, S, D) of S slices of V volumes in K ≥ 2 views; normalised here.
        temperature: τ > 0.

    Returns:
        Scalar.
    """
    _refuse(embeddings, volumes=1, members=2)
    with full_precision(embeddings.device):
        logits, rows = _similarities(embeddings, temperature)
        first, second = _pairs_of_members(rows)
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        others = logits.masked_fill(itself, -math.inf).logsumexp(1)
        return (others[first] - logits[first, second]).mean()


def global_negatives(embeddings: Tensor, *, temperature: float, reduction: Reduction = "mean") -> Tensor:
    r"""G^{D-}: slices of the same part of any volume show the same anatomy, so they are never negatives.

    .. math:: L = \frac{1}{|P|} \sum_{(a, b) \in P} \ell(a, b; \{k : \text{part}(k) \ne \text{part}(a)\})

    over all ordered pairs P of members of one slice.

    Args:
        embeddings: (V, K, S, D) of one slice from each of S ≥ 2 parts of V volumes, as K ≥ 2 members (the slice itself
            and its views; the paper has two views); normalised here.
        temperature: τ > 0.
        reduction: ``"reference"`` divides by the V·K·S rows.

    Returns:
        Scalar.
    """
    _refuse(embeddings, volumes=1, members=2, parts=2)
    with full_precision(embeddings.device):
        logits, rows = _similarities(embeddings, temperature)
        losses = _of_pairs(logits, rows, *_pairs_of_members(rows))
        return losses.mean() if reduction == "mean" else losses.sum() / len(logits)


def global_domain(embeddings: Tensor, *, temperature: float, reduction: Reduction = "mean") -> Tensor:
    r"""G^D: slices of the same part of different volumes are positives too.

    With o a slice, o' its view, and n the slice of the same part of the next volume (the last is followed by the
    first), the pairs are (o, o'), (o, n), (n, n'), (o', n'), each in both directions; negatives as in G^{D-}.

    Args:
        embeddings: (V, 2, S, D) of one slice from each of S ≥ 2 parts of V ≥ 2 different volumes, and of its view;
            normalised here.
        temperature: τ > 0.
        reduction: ``"reference"`` divides by the 2·V·S rows, which makes it four times the mean.

    Returns:
        Scalar.
    """
    _refuse(embeddings, volumes=2, members=2, parts=2)
    if embeddings.shape[1] != 2:
        raise ValueError(f"global_domain takes a slice and one view of it, not {embeddings.shape[1]} members")
    with full_precision(embeddings.device):
        logits, rows = _similarities(embeddings, temperature)
        own, view = rows.unbind(1)
        following, its_view = own.roll(-1, 0), view.roll(-1, 0)
        one = torch.stack([own, own, following, view]).flatten()
        other = torch.stack([view, following, its_view, its_view]).flatten()
        losses = _of_pairs(logits, rows, torch.cat([one, other]), torch.cat([other, one]))
        return losses.mean() if reduction == "mean" else losses.sum() / len(logits)


def gather_volumes(embeddings: Tensor) -> Tensor:
    """Volumes of all processes, by rank, with gradients: (V, K, S, D) → (W·V, K, S, D).

    Every process then computes the loss of all volumes, whose rows are few; as data-parallel training averages
    gradients, all learn what one process with all volumes would.
    """
    rows = gather_views(embeddings.flatten(1, 2).transpose(0, 1)).views
    return rows.transpose(0, 1).reshape(-1, *embeddings.shape[1:])


class Regions(NamedTuple):
    """Which cells of a map are compared.

    Attributes:
        cells: (P, E) int64, the cells of each place in raster order, counted in the flattened map.
        anchors: (R,) int64, the places that are regions; the others only serve as negatives.
        negatives: (R, P) booleans, negatives of each region, in the map itself as in its partner.
    """

    cells: Tensor
    anchors: Tensor
    negatives: Tensor


def regions(
    size: Sequence[int],
    *,
    edge: Literal[3, 1] = 3,
    count: Literal[13, 9] = 13,
    negatives: Literal["listed", "all"] = "listed",
    listed: int = 5,
) -> Regions:
    """The published regions of a map: on the corners, edges and middle of the plane, and (13) between them.

    In maps of volumes the same regions lie in up to three layers that do not overlap, as deep as they are wide (or as
    the map is deep).

    Args:
        size: of the map, (y, x) or (z, y, x).
        edge: cells of a region along each axis.
        count: regions in the plane.
        negatives: ``"listed"`` near-by places of the same layer, as the released code lists them; ``"all"`` regions
            that do not overlap, as the paper says.
        listed: how many of the list, from its start.

    Raises:
        ConfigError: the map is too small to hold these regions apart.
    """
    *depth, height, width = size
    least = MARGIN[edge] + 4
    if min(height, width) < least:
        raise ConfigError(
            f"a map of {' × '.join(map(str, size))} cells is too small for regions of {edge} × {edge}, which need "
            f"{least} × {least}; use more decoder blocks or larger slices"
        )
    near = _NEAR_NINE if count == 9 else _NEAR_3X3 if edge == 3 else _NEAR_1X1
    named = list(LATTICE[:count])
    between = sorted({n for row in near for n in row if isinstance(n, tuple)}) if negatives == "listed" else []
    lattice = named + between
    deep = min(edge, depth[0]) if depth else 1
    starts = _layers(depth[0] if depth else 1, deep)
    levels = [[(length - MARGIN[edge]) * i // 4 for i in range(5)] for length in (height, width)]
    places = torch.tensor([(z, levels[0][a], levels[1][b]) for z in starts for a, b in lattice])
    extent = torch.tensor([deep, edge, edge])
    inside = torch.tensor(list(itertools.product(range(deep), range(edge), range(edge))))
    cells = ((places[:, None] + inside) * torch.tensor([height * width, width, 1])).sum(-1)
    layer = torch.arange(len(starts))[:, None] * len(lattice)
    anchors = (layer + torch.arange(count)).flatten()
    if negatives == "listed":
        mask = torch.block_diag(*[_listed(near, lattice, listed)] * len(starts))
    else:
        apart = ((places[anchors][:, None] - places[anchors]).abs() >= extent).any(-1)
        mask = torch.zeros(len(anchors), len(places), dtype=torch.bool)
        mask[:, anchors] = apart
    if not mask.any(1).all():
        raise ConfigError(
            f"in a map of {' × '.join(map(str, size))} cells some regions of {edge} × {edge} overlap all others, so "
            "they have no negatives; use more decoder blocks, larger slices or listed negatives"
        )
    return Regions(cells, anchors, mask)


def gather_regions(maps: Tensor, cells: Tensor) -> Tensor:
    """What stands in each place: (N, C, *size) and (P, E) → (N, P, E·C), cells in raster order, channels fastest."""
    found = maps.flatten(2).index_select(2, cells.flatten())
    return found.view(*maps.shape[:2], *cells.shape).permute(0, 2, 3, 1).flatten(2)


def local_random(first: Tensor, second: Tensor, table: Regions, *, temperature: float) -> Tensor:
    r"""L^R: a region is found again in another view of the same slice, among other regions of both.

    .. math:: L = \frac{1}{2NR} \sum_n \sum_r \ell_r(f_n, f'_n) + \ell_r(f'_n, f_n)

    where a region's negatives are ``table.negatives`` in the map itself and in its partner.

    Args:
        first: (N, P, D) vectors of the places of N maps (``gather_regions``, perhaps followed by a linear layer).
        second: the same of the maps of another view, in the same order. The views must not differ in space.
        table: what ``first`` and ``second`` hold.
        temperature: τ > 0.

    Returns:
        Scalar.
    """
    with full_precision(first.device):
        unit = _unit(torch.stack([first, second]))
        anchors = unit[:, :, table.anchors]
        own = anchors @ unit.mT / temperature
        across = anchors @ unit.flip(0).mT / temperature
        return _of_regions(own, across, table).mean()


def local_domain(
    first: Tensor, second: Tensor, table: Regions, *, temperature: float, reduction: Reduction = "mean"
) -> Tensor:
    r"""L^D: a region is found again in another view of its slice, and in slices of the same part of other volumes.

    .. math:: L = \frac{1}{SRV^2} \sum_{v, s, r} \Big[ \ell_r(f_{vs}, f'_{vs}) + \sum_{w \ne v} \ell_r(f_{vs}, f_{ws})
              \Big]

    Args:
        first: (V, S, P, D) vectors of the places of one slice from each of S parts of V volumes.
        second: the same of their other views.
        table: what ``first`` and ``second`` hold.
        temperature: τ > 0.
        reduction: ``"reference"`` divides by the number 2·V·S of maps and the number of regions.

    Returns:
        Scalar.
    """
    with full_precision(first.device):
        unit, view = _unit(first), _unit(second)
        anchors = unit[:, :, table.anchors]
        own = anchors @ unit.mT / temperature
        across = torch.einsum("vsrd,wspd->vwsrp", anchors, unit) / temperature
        to_view = anchors @ view.mT / temperature
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)[..., None, None, None]
        losses = _of_regions(own[:, None], torch.where(itself, to_view[:, None], across), table)
        if reduction == "mean":
            return losses.mean()
        return losses.sum() / (2 * math.prod(unit.shape[:2]) * len(table.anchors))


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(promoted(x), dim=-1, eps=NORM_EPS)


def _similarities(embeddings: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(n, n) similarities of all rows over τ, and (V, K, S) the row of each."""
    unit = _unit(embeddings.flatten(0, 2))
    rows = torch.arange(len(unit), device=unit.device).view(embeddings.shape[:3])
    return unit @ unit.mT / temperature, rows


def _pairs_of_members(rows: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different members of one slice, as two lists of rows."""
    members = torch.ones(2 * rows.shape[1:2], device=rows.device).fill_diagonal_(0).nonzero()
    first, second = members.unbind(1)
    return rows[:, first].flatten(), rows[:, second].flatten()


def _of_pairs(logits: Tensor, rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """ℓ of pairs of rows; negatives are all rows of other parts."""
    part = torch.arange(rows.shape[-1], device=rows.device).expand(rows.shape).flatten()
    negatives = logits.masked_fill(part[:, None] == part, -math.inf).logsumexp(1)[first]
    positive = logits[first, second]
    return torch.logaddexp(positive, negatives) - positive


def _of_regions(own: Tensor, across: Tensor, table: Regions) -> Tensor:
    """ℓ of every region, (..., R), from similarities (..., R, P) to the places of its own map and of the partner."""
    own, across = torch.broadcast_tensors(own, across)
    index = table.anchors.view(-1, 1).expand(*across.shape[:-1], 1)
    positive = across.gather(-1, index).squeeze(-1)
    both = torch.cat([own, across], -1).masked_fill(~table.negatives.repeat(1, 2), -math.inf)
    return torch.logaddexp(positive, both.logsumexp(-1)) - positive


def _layers(depth: int, extent: int) -> list[int]:
    """First cells of layers that do not overlap, evenly spread."""
    count = min(LAYERS, depth // extent)
    return [(depth - extent) // 2] if count < 2 else [i * (depth - extent) // (count - 1) for i in range(count)]


def _listed(near: Sequence[_Near], lattice: Sequence[tuple[int, int]], count: int) -> Tensor:
    """(R, places) booleans of one layer."""
    mask = torch.zeros(len(near), len(lattice), dtype=torch.bool)
    for region, names in enumerate(near):
        for name in names[:count]:
            mask[region, name if isinstance(name, int) else lattice.index(name)] = True
    return mask


def _refuse(embeddings: Tensor, *, volumes: int, members: int, parts: int = 1) -> None:
    least = (volumes, members, parts, 1)
    if embeddings.ndim != 4 or any(n < m for n, m in zip(embeddings.shape, least, strict=True)):
        raise ValueError(
            f"expected (V, K, S, D) with at least {volumes} volumes, {members} members and {parts} parts, got "
            f"{tuple(embeddings.shape)}"
        )
