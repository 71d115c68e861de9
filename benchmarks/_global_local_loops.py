"""Global and local contrast as the released code runs them: a handful of small operations for every pair and region.

The code of Chaitanya et al. (2020) builds one graph of about ten thousand operations a step from Python loops over
pairs of rows (and, locally, over pairs of maps, regions and negatives); exponentials and logarithms are taken as they
stand. Inputs and results are those of ``medssl.objectives.global_local`` with ``reduction="mean"``.
"""

from __future__ import annotations

from itertools import permutations, product

import torch
from _contrastive_loops import mean, unit
from torch import Tensor

from medssl.objectives.global_local import Regions

__all__ = ["global_domain", "global_negatives", "global_random", "local_domain", "local_random"]

Place = tuple[int, int, int]


def _term(anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """ℓ of unit vectors (D,), (D,) and (n, D)."""
    top = torch.exp(anchor @ positive / temperature)
    return -torch.log(top / (top + torch.exp(negatives @ anchor / temperature).sum()))


def _others(rows: Tensor, place: Place) -> Tensor:
    """Rows of other parts, gathered for each anchor anew."""
    volumes, members, parts = rows.shape[:3]
    chosen = [rows[p] for p in product(range(volumes), range(members), range(parts)) if p[2] != place[2]]
    return torch.stack(chosen)


def global_random(embeddings: Tensor, temperature: float) -> Tensor:
    """G^R of (V, K, S, D)."""
    rows = unit(embeddings)
    volumes, members, parts = rows.shape[:3]
    places = list(product(range(volumes), range(members), range(parts)))
    losses = []
    for v, s in product(range(volumes), range(parts)):
        for a, b in permutations(range(members), 2):
            rest = torch.stack([rows[p] for p in places if p not in ((v, a, s), (v, b, s))])
            losses.append(_term(rows[v, a, s], rows[v, b, s], rest, temperature))
    return mean(losses)


def global_negatives(embeddings: Tensor, temperature: float) -> Tensor:
    """G^{D-} of (V, K, S, D)."""
    rows = unit(embeddings)
    volumes, members, parts = rows.shape[:3]
    losses = []
    for v, s in product(range(volumes), range(parts)):
        for a, b in permutations(range(members), 2):
            rest = _others(rows, (v, a, s))
            losses.append(_term(rows[v, a, s], rows[v, b, s], rest, temperature))
    return mean(losses)


def global_domain(embeddings: Tensor, temperature: float) -> Tensor:
    """G^D of (V, 2, S, D)."""
    rows = unit(embeddings)
    volumes, _, parts = rows.shape[:3]
    losses = []
    for v, s in product(range(volumes), range(parts)):
        following = (v + 1) % volumes
        own, view, other, its_view = (v, 0, s), (v, 1, s), (following, 0, s), (following, 1, s)
        for one, two in ((own, view), (own, other), (other, its_view), (view, its_view)):
            for a, b in ((one, two), (two, one)):
                losses.append(_term(rows[a], rows[b], _others(rows, a), temperature))
    return mean(losses)


def _region(vectors: Tensor, place: int) -> Tensor:
    """One region of one map, normalised whenever it is looked at."""
    return unit(vectors[place][None])[0]


def _of_pair(own: Tensor, partner: Tensor, table: Regions, temperature: float) -> list[Tensor]:
    """ℓ of every region of a map (P, D), found in its partner."""
    losses = []
    for region, place in enumerate(table.anchors.tolist()):
        anchor, positive = _region(own, place), _region(partner, place)
        total = torch.exp(anchor @ positive / temperature)
        top = total
        for near in table.negatives[region].nonzero().flatten().tolist():
            for vectors in (own, partner):
                total = total + torch.exp(anchor @ _region(vectors, near) / temperature)
        losses.append(-torch.log(top / total))
    return losses


def local_random(first: Tensor, second: Tensor, table: Regions, temperature: float) -> Tensor:
    """L^R of (N, P, D) and (N, P, D)."""
    losses = []
    for one, other in zip(first, second, strict=True):
        losses += _of_pair(one, other, table, temperature) + _of_pair(other, one, table, temperature)
    return mean(losses)


def local_domain(first: Tensor, second: Tensor, table: Regions, temperature: float) -> Tensor:
    """L^D of (V, S, P, D) and (V, S, P, D)."""
    volumes, parts = first.shape[:2]
    losses = []
    for v, s in product(range(volumes), range(parts)):
        losses += _of_pair(first[v, s], second[v, s], table, temperature)
        for w in range(volumes):
            if w != v:
                losses += _of_pair(first[v, s], first[w, s], table, temperature)
    return mean(losses)
