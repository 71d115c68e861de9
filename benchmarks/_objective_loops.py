"""The objectives without negatives, of clusters and of maps again, as their equations read: pair of views by pair.

See ``_contrastive_loops.py``. Here each pair of views, each map and each recording is taken by itself; the ranking of
cells goes through all n × n pairs. Maps are (K, N, D, H, W).
"""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import torch
from _contrastive_loops import Memory, Result, mean, unit
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import Given
from medssl.objectives.neighbours import random_others


def _cosines(predictions: Tensor, targets: Tensor | None) -> Tensor:
    assert targets is not None
    pairs = permutations(range(len(predictions)), 2)
    return mean(functional.cosine_similarity(predictions[a], targets[b], dim=-1).mean() for a, b in pairs)


def simsiam(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The negative cosine, mean over ordered pairs of views."""
    return -_cosines(views, given.targets)


def byol(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The squared distance of unit vectors, the sum of both directions."""
    return 2 * (2 - 2 * _cosines(views, given.targets))


def _correlation(objective: Any, views: Tensor) -> Memory:
    """The running correlation after the step, sample by sample."""
    rows = views.detach().flatten(0, 1)
    batch = torch.zeros_like(objective.correlation)
    for row in rows:
        batch += torch.outer(row, row)
    return {"correlation": objective.decay * objective.correlation + (1 - objective.decay) * batch / len(rows)}


def direct_pred(objective: Any, views: Tensor, given: Given) -> Result:
    """The predictor of the eigenvalues, as in the released code."""
    spectrum, vectors = torch.linalg.eigh(objective.correlation)
    gains = ((spectrum.clamp_min(0) / spectrum.max()).sqrt() + objective.eps).clamp_min(1e-4)
    predictor = vectors @ torch.diag(gains) @ vectors.T
    return byol(objective, views @ predictor, given), _correlation(objective, views)


def direct_copy(objective: Any, views: Tensor, given: Given) -> Result:
    """The predictor F + ε I."""
    identity = torch.eye(views.shape[-1], dtype=views.dtype, device=views.device)
    predictor = objective.correlation + objective.eps * identity
    return byol(objective, views @ predictor, given), _correlation(objective, views)


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def barlow_twins(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The cross-correlation of every pair of views."""
    losses = []
    for one, other in combinations(views, 2):
        crossed = _standardised(one).T @ _standardised(other) / len(one)
        own = torch.eye(len(crossed), dtype=torch.bool, device=crossed.device)
        losses.append((1 - crossed[own]).square().sum() + objective.off_diagonal * crossed[~own].square().sum())
    return mean(losses)


def mixed_barlow_twins(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Barlow Twins, and cross-correlations of the mixture against those expected."""
    assert given.mixture is not None
    mixed, order, share = given.mixture
    m, one, other = (_standardised(x) for x in (mixed, views[0], views[1]))
    share, n, term = share.unsqueeze(1), len(mixed), 0
    for z in (one, other):
        expected = (share * one).T @ z / n + ((1 - share) * other[order]).T @ z / n
        term = term + (m.T @ z / n - expected).square().sum()
    return barlow_twins(objective, views, given) + objective.mixing * objective.off_diagonal * term


def vicreg(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The three terms of every pair of views."""
    losses = []
    for pair in combinations(views, 2):
        loss = objective.invariance * functional.mse_loss(*pair)
        for z in pair:
            hinge = torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
            covariance = (z - z.mean(0)).T @ (z - z.mean(0)) / (len(z) - 1)
            off = covariance[~torch.eye(len(covariance), dtype=torch.bool, device=z.device)]
            loss = loss + objective.variance / 2 * hinge + objective.covariance * off.square().sum() / z.shape[1]
        losses.append(loss)
    return mean(losses)


# --- clusters


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The published scaling of rows and columns in turn, (M, K) → (M, K)."""
    q = (scores.detach() / epsilon).exp().T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def _predicted(scores: list[Tensor], assigned: list[Tensor], temperature: float) -> Tensor:
    """Cross-entropy of every assigning view with every other view."""
    return mean(
        -(q * (s / temperature).log_softmax(-1)).sum(-1).mean()
        for a, q in enumerate(assigned)
        for v, s in enumerate(scores)
        if v != a
    )


def swav(objective: Any, views: Tensor, given: Given) -> Tensor:
    """SwAV without a queue."""
    scores = [unit(view) @ unit(objective.prototypes).T for view in views]
    assigned = [sinkhorn(s, objective.epsilon, objective.iterations) for s in scores[:2]]
    return _predicted(scores, assigned, objective.temperature)


def dino(objective: Any, views: Tensor, given: Given) -> Result:
    """DINO with a centre, at the end of the training, and the centre afterwards."""
    assert given.targets is not None
    scores = [unit(view) @ unit(objective.prototypes).T for view in views]
    known = [unit(view) @ unit(objective.teacher_prototypes).T for view in given.targets[: objective.globals]]
    assigned = [((x - objective.centre) / objective.teacher_temperature[1]).softmax(-1) for x in known]
    return _predicted(scores, assigned, objective.temperature), {"centre": _moved_centre(objective, known)}


def _moved_centre(objective: Any, known: list[Tensor]) -> Tensor:
    momentum: float = objective.centre_momentum
    moved: Tensor = momentum * objective.centre + (1 - momentum) * torch.cat(known).mean(0)
    return moved


def koleo(x: Tensor) -> Tensor:
    """Sample by sample."""
    z, losses = unit(x), []
    for i in range(len(z)):
        similarity = z.detach() @ z[i].detach()
        similarity[i] = -2
        losses.append(-(functional.pairwise_distance(z[i], z[similarity.argmax()], eps=1e-8) + 1e-8).log())
    return mean(losses)


def matryoshka(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The sum over levels, and KoLeo of the first views."""
    assert given.targets is not None
    epsilon, total = objective.teacher_temperature[1], 0
    for student, teacher in zip(objective.heads, objective.teacher_heads, strict=True):
        scores = [student(view) for view in views]
        known = [teacher(view) for view in given.targets[: objective.globals]]
        assigned = sinkhorn(torch.cat(known), epsilon, objective.iterations).chunk(len(known))
        total = total + _predicted(scores, list(assigned), objective.temperature)
    for view in views[: objective.globals]:
        total = total + objective.koleo * koleo(view)
    return total


def sim_dino(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The coding rate by the p × p determinant, as published."""
    assert given.targets is not None
    student, teacher = unit(views), unit(given.targets[: objective.globals])
    _, m, p = views.shape
    agreement = mean((t * s).sum(-1).mean() for u, t in enumerate(teacher) for v, s in enumerate(student) if v != u)
    rates = []
    for s, t in zip(student, teacher, strict=False):
        z = (s + t) / 2
        matrix = torch.eye(p, dtype=z.dtype, device=z.device) + p / (m * objective.epsilon) * z.T @ z
        rates.append(torch.linalg.cholesky(matrix).diagonal().log().sum())
    return -objective.weight * agreement - (p + m) / (p * m) * mean(rates)


# --- maps


def patch_distillation(scores: Tensor, assigned: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """iBOT's patch term, map by map."""
    losses = []
    for s, q, mask in zip(scores, assigned, hidden, strict=True):
        entropy = -(q * (s / temperature).log_softmax(-1)).sum(-1)
        losses.append((entropy * mask).sum() / mask.sum().clamp_min(1))
    return mean(losses)


def masked_momentum(objective: Any, views: Tensor, given: Given) -> Result:
    """The cells' distillation map by map, the contrast of whole views anchor by anchor."""
    assert given.targets is not None and given.mask is not None
    k, n = views.shape[:2]
    cells, seen = (x.flatten(0, 1).flatten(2).transpose(1, 2) for x in (views, given.targets))
    known = [unit(x) @ unit(objective.teacher_prototypes).T for x in seen]
    assigned = [((x - objective.centre) / objective.teacher_temperature[1]).softmax(-1) for x in known]
    scores = [unit(x) @ unit(objective.prototypes).T for x in cells]
    hidden = given.mask.flatten(0, 1).flatten(1)
    patch = patch_distillation(scores, assigned, hidden, objective.temperature)  # type: ignore[arg-type]
    whole = objective.predictor_head(unit(cells.mean(1))), seen.mean(1)
    queries, keys = (unit(x - x.mean(0)).unflatten(0, (k, n)) for x in whole)
    contrast = []
    for a, b in permutations(range(k), 2):
        for i in range(n):
            contrast.append(-(keys[b] @ queries[a, i] / objective.contrast_temperature).log_softmax(0)[i])
    loss = objective.patch * patch + objective.contrast * mean(contrast)
    return loss, {"centre": _moved_centre(objective, known)}


def ranking(targets: Tensor, scores: Tensor, matched: Tensor, margin: float, floor: float, unmatched: float) -> Tensor:
    """The continuous-target AP loss, all n × n pairs at once as published."""
    above, apart = targets.unsqueeze(1) - targets, scores.unsqueeze(1) - scores
    h = torch.where(apart < 0, 1 - 2 * apart / margin, (1 - apart / margin) ** 2)
    missed = (above.clamp_min(0) * torch.where(apart > margin, 0.0, h)).sum(1)
    count = ((above <= 0) & (apart <= 0)).sum(1).float()  # published: what ε adds is rounded to float32
    ratio = missed / (1e-5 + count)
    weight = (targets - floor).clamp_min(0)
    weight = torch.where(matched, weight, unmatched * weight)
    return (weight * ratio / (1 + ratio)).sum() / (1e-5 + weight.sum())


def _foreground(maps: Tensor, keep: float) -> Tensor:
    """(D, H, W) → (H, W): resemblance to the mean cell, smoothed, the cells that hold its largest part."""
    attention = functional.cosine_similarity(maps, maps.mean((1, 2), keepdim=True), dim=0).clamp_min(0)
    line = torch.exp(-0.5 * (torch.arange(-3, 4, dtype=maps.dtype, device=maps.device) / 0.6) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = functional.pad(attention[None, None], (3, 3, 3, 3), mode="reflect")
    mass, order = functional.conv2d(padded, kernel[None, None]).flatten().sort()
    mask = torch.zeros_like(mass)
    mask[order[(mass / mass.sum()).cumsum(0) > 1 - keep]] = 1
    return mask.view_as(attention) + 1e-3 * attention


def cotap(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Ranking of the neighbours' cells, recording by recording; the neighbour is the other view."""
    assert given.targets is not None
    k, n = views.shape[:2]
    losses = []
    for cells in sorted({min(c, *views.shape[3:]) for c in objective.cells}):
        kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for v, i in product(range(k), range(n)):
            mask = _foreground(given.targets[v, i], objective.keep).unsqueeze(0)
            weight, *maps = (
                functional.adaptive_avg_pool2d(x, (cells, cells)).flatten(1)
                for x in (mask, views[v, i], given.targets[v, i])
            )
            best = weight[0].topk(objective.top).indices
            kept[v, i] = unit(maps[0].T[best]), unit(maps[1].T[best])
        others = random_others(objective.others, n, generator=given.generator, device=views.device)
        partners = [(i, j) for row in [range(n), *others.tolist()] for i, j in enumerate(row)]
        for v in range(k if k > 2 else 1):
            pairs = [(kept[v, i], kept[(v + 1) % k, j]) for i, j in partners]
            scores, targets = (torch.cat([(a[of] @ b[of].T).flatten() for a, b in pairs]) for of in (0, 1))
            matched = torch.arange(len(scores), device=views.device) < n * objective.top**2
            losses.append(ranking(targets, scores, matched, objective.margin, objective.floor, 0.1))
    return mean(losses)


# --- VoCo


def voco_regularisation(bases: Tensor) -> Tensor:
    """Volume after volume, pair after pair."""
    losses = []
    for volume in bases:
        pairs = combinations(range(len(volume)), 2)
        losses.append(
            mean(torch.relu(functional.cosine_similarity(volume[i], volume[j].detach(), dim=0)) ** 2 for i, j in pairs)
        )
    return mean(losses)


def voco_prediction(crops: Tensor, bases: Tensor, labels: Tensor) -> Tensor:
    """Volume after volume, crop after crop."""
    losses = []
    for x, q, overlaps in zip(crops, bases, labels, strict=True):
        similarity = torch.stack([torch.relu(functional.cosine_similarity(crop[None], q)) for crop in x])
        cost = -torch.log(1 - (overlaps - similarity).abs() + 1e-6)
        negative = overlaps == 0
        losses.append(
            (overlaps * cost).sum() / (overlaps.sum() + 1e-6)
            + (negative * similarity**2).sum() / (negative.sum() + 1e-6)
        )
    return mean(losses)
