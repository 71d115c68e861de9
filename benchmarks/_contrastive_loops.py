"""The contrastive objectives again, as their equations read: one anchor after the other.

What ``objectives.py`` compares the package with, in value, gradient, time and memory: each anchor is a product of one
row with all keys. Networks that belong to an objective (heads, gates) and its random draws are taken from it: they are
no part of what is compared. Every function takes the objective for its settings and memory, which it leaves alone, the
views (K, N, D), and what else is given. It returns the loss or, where the objective keeps a memory, the loss and the
buffers as they should be after the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, pairwise, permutations, product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import Given
from medssl.objectives.class_pairs import draw_partners
from medssl.objectives.hard_mixing import draw_mixing

Memory = dict[str, Tensor]
Result = Tensor | tuple[Tensor, Memory]


def unit(x: Tensor) -> Tensor:
    """Rows of unit length."""
    return functional.normalize(x, dim=-1, eps=1e-12)


def without(x: Tensor, *places: int) -> Tensor:
    """Rows of x but those at some places."""
    bounds = pairwise([-1, *sorted(places), len(x)])
    return torch.cat([x[before + 1 : after] for before, after in bounds])


def mean(values: Iterable[Tensor]) -> Tensor:
    """Of scalars."""
    return torch.stack(list(values)).mean()


def info_nce(objective: Any, views: Tensor, given: Given) -> Tensor:
    """NT-Xent of every pair of views."""
    z, n, losses = unit(views), views.shape[1], []
    for one, other in combinations(z, 2):
        both = torch.cat([one, other])
        for i in range(2 * n):
            logits = both @ both[i] / objective.temperature
            losses.append(without(logits, i).logsumexp(0) - logits[(i + n) % (2 * n)])
    return mean(losses)


def _decoupled(views: Tensor, temperature: float, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    z, n, losses = unit(views), views.shape[1], []
    for one, other in combinations(z, 2):
        both = torch.cat([one, other])
        weights = weigh(torch.stack([one[i] @ other[i] for i in range(n)]))
        for i in range(2 * n):
            own = (i + n) % (2 * n)
            logits = both @ both[i] / temperature
            losses.append(without(logits, i, own).logsumexp(0) - weights[i % n] * logits[own])
    return mean(losses)


def dcl(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Without positives in the denominator."""
    return _decoupled(views, objective.temperature, torch.ones_like)


def dclw(objective: Any, views: Tensor, given: Given) -> Tensor:
    """DCL with the weights of equal pairs, without gradient through them."""
    return _decoupled(views, objective.temperature, lambda s: 2 - len(s) * (s.detach() / objective.sigma).softmax(0))


def sup_con(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Khosla et al., equation 2, over all K·N embeddings."""
    assert given.labels is not None
    rows, labels, losses = unit(views).flatten(0, 1), given.labels.repeat(len(views)), []
    for i in range(len(rows)):
        logits = without(rows @ rows[i] / objective.temperature, i)
        losses.append(logits.logsumexp(0) - logits[without(labels, i) == labels[i]].mean())
    return mean(losses)


def hard_info_nce(objective: Any, views: Tensor, given: Given) -> Tensor:
    """One-directional InfoNCE of every ordered pair of views, with negatives from a quantile upwards."""
    losses = []
    for one, other in permutations(unit(views), 2):
        for i in range(len(one)):
            similarity = other @ one[i]
            negatives = without(similarity, i)
            hard = negatives[negatives >= negatives.detach().quantile(objective.quantile)]
            logits = torch.cat([similarity[i : i + 1], hard]) / objective.temperature
            losses.append(logits.logsumexp(0) - logits[0])
    return mean(losses)


def mv_info_nce(objective: Any, views: Tensor, given: Given) -> Tensor:
    """As in the released code: the denominator counts negatives of the same view."""
    z, (k, n, _), losses = unit(views), views.shape, []
    rows = z.flatten(0, 1)
    for i in range(n):
        own, everything = [], []
        for view in range(k):
            everything.append(without(rows @ z[view, i] / objective.temperature, view * n + i))
            own.append(without(z[:, i] @ z[view, i] / objective.temperature, view))
        losses.append(torch.cat(everything).logsumexp(0) - torch.cat(own).logsumexp(0))
    return mean(losses)


def mv_dhel(objective: Any, views: Tensor, given: Given) -> Tensor:
    """As in the released code, but in the log domain."""
    z, (k, n, _), losses = unit(views), views.shape, []
    for i in range(n):
        energies = [without(view @ view[i] / objective.temperature, i).logsumexp(0) for view in z]
        own = [z[a, i] @ z[b, i] / objective.temperature for a, b in combinations(range(k), 2)]
        losses.append(torch.stack(energies).sum() - torch.stack(own).logsumexp(0))
    return mean(losses)


def poly_view(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Every ordered pair of views, against all views of all other samples."""
    z, (k, n, _), losses = unit(views), views.shape, []
    rows = z.flatten(0, 1)
    for a, i in product(range(k), range(n)):
        logits = rows @ z[a, i] / objective.temperature
        negatives = without(logits, *range(i, k * n, n)).logsumexp(0)
        losses += [torch.logaddexp(negatives, logits[b * n + i]) - logits[b * n + i] for b in range(k) if b != a]
    return mean(losses)


def cacr(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Attraction and repulsion, costs from differences as published."""
    z, (k, n, _) = unit(views), views.shape
    attracted, repelled = [], []
    for i, a in product(range(n), range(k)):
        cost = (without(z[:, i], a) - z[a, i]).square().sum(-1)
        attracted.append(objective.alpha * ((objective.t_pos * cost).softmax(0) * cost).sum())
    for one, other in combinations(z, 2):
        for i in range(n):
            cost = (without(other, i) - one[i]).square().sum(-1)
            repelled.append(-objective.beta * ((-objective.t_neg * cost).softmax(0) * cost).sum())
    return mean(attracted) + mean(repelled)


def _weighted(views: Tensor, temperature: float, weights: Callable[[int, int], Tensor]) -> Tensor:
    """Weighted rows and ordinary columns of every pair of views; the second gives the weights (view, sample) → (N,)."""
    z, (k, n, _), losses = unit(views), views.shape, []
    for a, b in combinations(range(k), 2):
        for i in range(n):
            weight = weights(b, i)
            rows, columns = z[b] @ z[a, i] / temperature, z[a] @ z[b, i] / temperature
            losses.append(-(weight / weight.sum()) @ rows.log_softmax(0) - columns.log_softmax(0)[i])
    return mean(losses)


def cwcl(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Weights ½ cos + ½ of the teacher's embeddings."""
    assert given.targets is not None
    frozen = unit(given.targets)
    return _weighted(
        views, objective.temperature, lambda b, i: ((frozen[b] @ frozen[b, i] + 1) / 2) ** objective.sharpness
    )


def label_cwcl(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Weights of the distance of labels."""
    labels, width = given.labels, objective.width
    assert labels is not None
    return _weighted(views, objective.temperature, lambda b, i: (-((labels - labels[i]) ** 2) / (2 * width**2)).exp())


def simlap(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Every key filtered with the anchor's gate."""
    labels, (k, n, _) = given.labels, views.shape
    assert labels is not None
    partner = draw_partners(labels, objective.partners, given.generator)
    row = {label: place for place, label in enumerate(objective.vocabulary.tolist())}
    gates = objective.gate(
        *(torch.tensor([row[v] for v in x.tolist()], device=views.device) for x in (labels, partner))
    )
    rows, everyone, total, count = unit(views).flatten(0, 1), labels.repeat(k), [], 0
    for a, i in product(range(k), range(n)):
        filtered = unit(gates[i] * rows)
        logits = filtered @ filtered[a * n + i] / objective.temperature
        positive = everyone == partner[i]
        energy = logits[(everyone != labels[i]) & ~positive].logsumexp(0)
        total.append((torch.logaddexp(energy, logits[positive]) - logits[positive]).sum())
        count += int(positive.sum())
    return torch.stack(total).sum() / count


def amcl(objective: Any, views: Tensor, given: Given) -> Tensor:
    """The soft form: the sum over heads, the mean over ordered pairs of views."""
    net, heads, losses = objective.temperature, objective.heads(views), []
    low, high = net.low, net.high
    for head in heads:
        z = unit(head)
        phi = net.phi(z)
        for a, b in permutations(range(len(z)), 2):
            for i in range(z.shape[1]):
                tau = low + (high - low) * torch.sigmoid(phi[b] @ phi[a, i] + net.offset)
                logits = z[b] @ z[a, i] / tau
                omega = z.shape[-1] / 2 * tau.log() + 1 / tau
                repulsion = logits.logsumexp(0) - objective.beta * without(omega, i).mean()
                losses.append(repulsion - logits[i] + objective.beta * omega[i])
    return len(heads) * mean(losses)


def isogclr(objective: Any, views: Tensor, given: Given) -> Result:
    """The surrogate of every anchor, and the updates of s, u and τ."""
    assert given.index is not None
    z, (k, n, _), losses = unit(views), views.shape, []
    rows = z.flatten(0, 1)
    after = {name: getattr(objective, name).clone() for name in ("log_s", "u", "tau")}
    for i, place in enumerate(given.index.tolist()):
        before, u, tau = (getattr(objective, name)[place] for name in ("log_s", "u", "tau"))
        found, slopes = [], []
        for a in range(k):
            similarity = rows @ z[a, i]
            negatives = without(similarity, *range(i, k * n, n))
            energy = (negatives.detach() / tau).exp()
            s = energy.mean()
            if before > -torch.inf:
                s = (1 - objective.gamma) * before.exp() + objective.gamma * s
            losses.append((energy / s * negatives).mean() - without(similarity[i::n], a).mean())
            found.append(s)
            slopes.append(s.log() + objective.rho - (energy / s * negatives.detach()).mean() / tau)
        slope = mean(slopes).clamp(-objective.clip, objective.clip)
        after["log_s"][place] = mean(found).log()
        after["u"][place] = (1 - objective.beta) * u + objective.beta * slope
        after["tau"][place] = (tau - objective.eta * after["u"][place]).clamp(objective.low, objective.high)
    return 2 * mean(losses), after


def mochi(objective: Any, views: Tensor, given: Given) -> Tensor:
    """Synthetic negatives made as vectors; real ones are the queue and the other samples' keys."""
    assert given.targets is not None and given.index is not None
    z, keys, (k, n, _), losses = unit(views), unit(given.targets), views.shape, []
    filled = int(objective.queue.filled)
    pool = torch.cat([keys.flatten(0, 1), objective.queue.keys[:filled]])
    owner = torch.cat([given.index.repeat(k), objective.queue.group[:filled]])
    known = torch.stack([(owner != i).sum() for i in given.index]).clamp_max(objective.hardest)
    mixing = draw_mixing(
        (k, n), known, pairs=objective.mixed, with_query=objective.mixed_with_query, generator=given.generator
    )
    for a, i in product(range(k), range(n)):
        query = z[a, i]
        similarity = (pool @ query).masked_fill(owner == given.index[i], -torch.inf)
        hard = pool[similarity.detach().topk(min(objective.hardest, len(pool))).indices]
        first, second, alpha, third, beta = (part[a, i] for part in mixing)
        alpha, beta = alpha.unsqueeze(-1), beta.unsqueeze(-1)
        of_two = unit(alpha * hard[first] + (1 - alpha) * hard[second])
        of_query = unit(beta * query.detach() + (1 - beta) * hard[third])
        negatives = torch.cat([similarity, of_two @ query, of_query @ query]) / objective.temperature
        for b in range(k):
            if b != a:
                own = (keys[b, i] @ query / objective.temperature).unsqueeze(0)
                losses.append(torch.cat([own, negatives]).logsumexp(0) - own[0])
    return mean(losses)
