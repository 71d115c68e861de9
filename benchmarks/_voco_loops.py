"""The losses of VoCo's two released codes as these run them: volume after volume, crop after crop, pair after pair.

The released heads loop in Python over the volumes of a batch, their crops and the pairs of their base crops, with one
cosine similarity of two vectors at a time. Rows are those of a network pass: all random crops, then all bases,
volume-major. ``labels`` are (B, sw, n).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["head_v1", "head_v2"]

EPS = 1e-6


def _similarity(crop: Tensor, bases: Tensor) -> Tensor:
    """(n,) of one crop (D,) to every base (n, D), one after the other."""
    return torch.stack([torch.relu(functional.cosine_similarity(crop, base, dim=0)) for base in bases])


def _regularisation(bases: Tensor) -> Tensor:
    """Every base against the later ones, which are constant."""
    total, count = bases.new_zeros(()), 0
    for i, base in enumerate(bases):
        for other in bases[i + 1 :]:
            total = total + torch.relu(functional.cosine_similarity(base, other.detach(), dim=0)) ** 2
            count += 1
    return total / count


def _prediction(similarity: Tensor, labels: Tensor, version: int) -> Tensor:
    """Of one volume (sw, n), the sum of the positive and of the negative term."""
    positive = -(labels * torch.log(1 - (labels - similarity).abs() + EPS)).sum() / (labels.sum() + EPS)
    negative = (labels == 0).to(similarity.dtype)
    cost = similarity**2 if version == 1 else -torch.log(1 - similarity + EPS)
    return positive + (negative * cost).sum() / (negative.sum() + EPS)


def _volumes(rows: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Crops (sw, D) and bases (n, D) of every volume."""
    batch, crops, bases = labels.shape
    first, rest = rows[: batch * crops], rows[batch * crops :]
    return [(first[b * crops : (b + 1) * crops], rest[b * bases : (b + 1) * bases]) for b in range(batch)]


def head_v1(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Prediction both ways and regularisation, of rows (B·sw + B·n, D)."""
    total = student.new_zeros(())
    volumes = list(zip(_volumes(student, labels), _volumes(teacher, labels), labels, strict=True))
    for (x, q), (x_teacher, q_teacher), overlap in volumes:
        both = [
            (_similarity(crop, q_teacher) + _similarity(known, q)) / 2 for crop, known in zip(x, x_teacher, strict=True)
        ]
        total = total + _prediction(torch.stack(both), overlap, 1) + _regularisation(q)
    return total / len(volumes)


def head_v2(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Prediction, agreement on the next volume, and regularisation, of rows (B·sw + B·n, D)."""
    total = student.new_zeros(())
    ours, theirs = _volumes(student, labels), _volumes(teacher, labels)
    for b, ((x, q), (x_teacher, q_teacher), overlap) in enumerate(zip(ours, theirs, labels, strict=True)):
        following = (b + 1) % len(ours)
        own = torch.stack([_similarity(crop, q_teacher) for crop in x])
        across = torch.stack([_similarity(crop, ours[following][1]) for crop in x])
        target = torch.stack([_similarity(crop, theirs[following][1]) for crop in x_teacher]).detach()
        total = total + _prediction(own, overlap, 2) + _prediction(across, target, 2) + _regularisation(q)
    return total / len(ours)
