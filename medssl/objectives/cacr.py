"""Contrastive attraction and contrastive repulsion (CACR)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, full_precision, positive
from medssl.objectives.contrastive import other_views
from medssl.objectives.gather import gather_views
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, weighted_mean

__all__ = [
    "CACR",
    "attraction",
    "cacr_anchors",
    "cacr_attraction",
    "cacr_repulsion",
    "cacr_teacher",
    "cacr_teacher_anchors",
    "repulsion",
    "repulsion_anchors",
]

Cost = Literal["euclidean", "rbf"]


def cacr_attraction(views: Tensor, *, alpha: float = 1.0, t_pos: float = 1.0) -> Tensor:
    r"""Contrastive attraction: positives that are far away are drawn more (Zheng et al., TMLR 2023).

    .. math:: L_{CA} = \frac{1}{K} \sum_l \frac{1}{N} \sum_i \sum_{m \ne l} \pi_{lim} \, \alpha c_{lim}, \qquad
        \pi_{lim} = \mathrm{softmax}_m (t^+ c_{lim})

    with c = 2 - 2 cos the squared distance of unit embeddings. The gradient flows through the weights π too.

    Args:
        views: (K, N, D), K ≥ 2; normalised here. With two views π = 1.
        alpha: α.
        t_pos: t⁺, an *inverse* temperature ≥ 0; 0 weighs all positives alike.

    >>> float(cacr_attraction(torch.eye(4).expand(3, 4, 4)))  # identical views
    0.0
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given())
        mine = pairs.with_own_sample(pairs.anchors, pairs.keys, slice(0, views.shape[1]))
        return attraction(mine, alpha=alpha, t_pos=t_pos).mean()


def attraction(mine: Tensor, *, alpha: float, t_pos: float) -> Tensor:
    """The terms of ``cacr_attraction``.

    Args:
        mine: (K, N, K) cosine similarities of the views of a sample.
        alpha, t_pos: see there.

    Returns:
        (K, N), one term a view and sample.
    """
    cost = 2 - 2 * mine
    others = other_views(len(mine), mine.device)
    share = (t_pos * cost).masked_fill(~others, -torch.inf).softmax(-1)
    return alpha * torch.where(others, share * cost, 0.0).sum(-1)


def cacr_repulsion(
    views: Tensor,
    *,
    beta: float = 1.0,
    t_neg: float = 1.0,
    cost: Cost = "euclidean",
    rho: float = 2.0,
    debias: float = 0.0,
    group: Tensor | None = None,
) -> Tensor:
    r"""Contrastive repulsion: negatives that are near are pushed away more (Zheng et al., TMLR 2023).

    .. math:: L_{CR} = \frac{2}{K (K-1)} \sum_{l < m} \frac{1}{N} \sum_i \sum_{j \ne i} \pi_{lmij}
        (-\beta c(v_{li}, v_{mj})), \qquad \pi_{lmij} = \mathrm{softmax}_{j \ne i} (-t^- c(v_{li}, v_{mj}))

    with c = 2 - 2 cos; anchors come from the view of lower index l. The gradient flows through the weights π too.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here.
        beta: β.
        t_neg: t⁻, an *inverse* temperature ≥ 0; 0 weighs all negatives alike.
        cost: ``"rbf"``: β log of the mean over i of Σ_j π exp(-ρ c), one logarithm a pair of views.
        rho: ρ of the RBF.
        debias: τ₊, share of the negatives taken to be false: the term becomes (term - τ₊ c(v_li, v_mi)) / (1 - τ₊).
        group: (N,) integers; other samples of the same group are no negatives.
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group))
        losses = repulsion_anchors(pairs, beta=beta, t_neg=t_neg, cost=cost, rho=rho, debias=debias)
        return weighted_mean(AnchorLosses(losses, pairs.valid, pairs.total, {}), None)


def repulsion_anchors(
    pairs: Pairs,
    *,
    beta: float,
    t_neg: float,
    cost: Cost = "euclidean",
    rho: float = 2.0,
    debias: float = 0.0,
    chunk: int = 0,
) -> Tensor:
    """The terms of ``cacr_repulsion``, (K(K - 1)/2, N), one a pair of views. Memory: (K(K - 1)/2, N, M).

    With the RBF cost the logarithm of a mean over samples is no mean over samples; the terms then are its value plus
    each sample's deviation to first order, so that their mean has its value and its gradient.
    """
    first, second = torch.triu_indices(len(pairs.anchors), len(pairs.anchors), 1, device=pairs.anchors.device)

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        similarity = torch.einsum("pid,pjd->pij", anchors[first], keys[second])
        similarity, negative = _with_queue(similarity, pairs, anchors[first], rows)
        mine = pairs.with_own_sample(anchors, keys, rows)[first, :, second]
        if cost == "rbf":
            return _log_potential(similarity, negative, t_neg=t_neg, rho=rho), mine
        return repulsion(similarity, negative, beta=beta, t_neg=t_neg), mine

    losses, mine = in_chunks(terms, pairs, chunk, met=max(1, (len(pairs.anchors) - 1) // 2))
    if cost == "rbf":
        losses = beta * _about_the_mean(losses, pairs.valid)
    return losses if debias == 0 else (losses - debias * (2 - 2 * mine)) / (1 - debias)


def repulsion(similarity: Tensor, negative: Tensor, *, beta: float, t_neg: float) -> Tensor:
    """Σ_j π_j (-β c_j) of single anchors; see ``cacr_repulsion``.

    Args:
        similarity: (..., N, M) cosine.
        negative: (N, M) booleans, at least one a row.
        beta, t_neg: see there.

    Returns:
        (..., N).
    """
    cost = 2 - 2 * similarity
    share = (-t_neg * cost).masked_fill(~negative, -torch.inf).softmax(-1)
    return -beta * (share * cost).sum(-1)


def _log_potential(similarity: Tensor, negative: Tensor, *, t_neg: float, rho: float) -> Tensor:
    """(..., N): log Σ_j π_j exp(-ρ c_j)."""
    cost = (2 - 2 * similarity).masked_fill(~negative, torch.inf)
    near, all_alike = (-(t_neg + rho) * cost).logsumexp(-1), negative.sum(-1).to(cost.dtype).log()
    return near - ((-t_neg * cost).logsumexp(-1) if t_neg > 0 else all_alike)


def _about_the_mean(logs: Tensor, valid: Tensor) -> Tensor:
    """From (P, N) logarithms of x: log mean x + (x - mean x) / mean x, the mean over valid samples of all processes."""
    everywhere = gather_views(logs.detach().masked_fill(~valid, -torch.inf)).views
    count = everywhere.isfinite().sum(1, keepdim=True).to(logs.dtype)
    mean = torch.where(count > 0, everywhere.logsumexp(1, keepdim=True) - count.log(), 0.0)
    return mean + torch.where(valid, logs - mean, 0.0).exp() - 1


def _with_queue(similarity: Tensor, pairs: Pairs, anchors: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Similarities (A, n, M + Q) to keys and queue, and (n, M + Q) which are negatives.

    An anchor without any gets all, so that its value is finite; it is left out of the mean.
    """
    negative = pairs.negative[rows]
    if pairs.queue is not None and pairs.queue_negative is not None:
        similarity = torch.cat([similarity, anchors @ pairs.queue.T], -1)
        negative = torch.cat([negative, pairs.queue_negative[rows]], -1)
    return similarity, negative | ~negative.any(-1, keepdim=True)


def cacr_anchors(
    pairs: Pairs,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    t_pos: float = 1.0,
    t_neg: float = 1.0,
    cost: Cost = "euclidean",
    rho: float = 2.0,
    debias: float = 0.0,
    chunk: int = 0,
) -> AnchorLosses:
    """``cacr_attraction`` + ``cacr_repulsion`` a sample, (1, N); both among the logs."""
    mine = pairs.with_own_sample(pairs.anchors, pairs.keys, slice(0, pairs.anchors.shape[1]))
    attracted = attraction(mine, alpha=alpha, t_pos=t_pos).mean(0, keepdim=True)
    repelled = repulsion_anchors(pairs, beta=beta, t_neg=t_neg, cost=cost, rho=rho, debias=debias, chunk=chunk).mean(
        0, keepdim=True
    )
    return AnchorLosses(attracted + repelled, pairs.valid, pairs.total, _logs(pairs, attracted, repelled))


def cacr_teacher(
    queries: Tensor, keys: Tensor, *, temperature: float, cost: Cost = "rbf", group: Tensor | None = None
) -> Tensor:
    r"""CACR of a student's views against one view of a teacher (the published form for ImageNet).

    With :math:`p_{li} = \mathrm{softmax}_l (\|q_{li} - k_i\|^2 / T)`, without gradient:

    .. math::
        L_{rbf} = \frac{2T}{N} \sum_{l,i} p_{li} \, \mathrm{CE}(q_{li} \cdot k / T, i), \qquad
        L_{euc} = \frac{1}{N} \sum_{l,i} p_{li} \Big[ (1 - q_{li} \cdot k_i) - \sum_{j \ne i} \pi_{ij}
        (1 - q_{li} \cdot k_j) \Big]

    with :math:`\pi_{ij} = \mathrm{softmax}_j (-(1 - q_{li} \cdot k_j)/T)`, without gradient. Both are means over
    the samples; the published code sums the Euclidean one.

    Args:
        queries: (Q, N, D) of the student; normalised here.
        keys: (N, D) of the teacher, a constant.
        temperature: T > 0.
        cost: ``"rbf"`` or ``"euclidean"``.
        group: (N,) integers; other samples of the same group are no negatives.
    """
    with full_precision(queries.device):
        # the first view of both belongs to the key and asks nothing of itself
        padded = torch.cat([keys.detach().unsqueeze(0), queries])
        pairs = pair_up(padded, Given(targets=padded.detach(), group=group))
        losses, _ = _against_teacher(pairs, temperature=temperature, cost=cost, chunk=0)
        return weighted_mean(AnchorLosses(losses[:1], pairs.valid, pairs.total, {}), None)


def cacr_teacher_anchors(pairs: Pairs, *, temperature: float, cost: Cost = "rbf", chunk: int = 0) -> AnchorLosses:
    """``cacr_teacher`` with each of the teacher's K views as keys and the student's other views as queries: (K, N).

    Memory: (K, N, K, M).
    """
    losses, attracted = _against_teacher(pairs, temperature=temperature, cost=cost, chunk=chunk)
    return AnchorLosses(losses, pairs.valid, pairs.total, _logs(pairs, attracted, losses - attracted))


def _against_teacher(pairs: Pairs, *, temperature: float, cost: Cost, chunk: int) -> tuple[Tensor, Tensor]:
    """(K, N) losses, one a view of the teacher, and what of them attracts."""

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        mine = pairs.with_own_sample(anchors, keys, rows)  # (K, n, K): query, sample, key
        others = other_views(len(mine), mine.device)
        far = ((2 - 2 * mine.detach()) / temperature).masked_fill(~others, -torch.inf).softmax(0)
        similarity = torch.einsum("aid,bjd->aibj", anchors, keys).transpose(1, 2)  # (K, K, n, M)
        similarity, negative = _with_queue(similarity, pairs, anchors.unsqueeze(1).expand(-1, len(keys), -1, -1), rows)
        away = _away(similarity.masked_fill(~negative, -torch.inf), mine.transpose(1, 2), temperature, cost)
        attracts = 2 * (1 - mine) if cost == "rbf" else 1 - mine
        losses = [torch.where(others, far * x, 0.0).sum(0).T for x in (attracts + away.transpose(1, 2), attracts)]
        return tuple(losses)

    losses, attracted = in_chunks(terms, pairs, chunk)
    return losses, attracted


def _away(similarity: Tensor, mine: Tensor, temperature: float, cost: Cost) -> Tensor:
    """What repels: (..., n) from the similarities (..., n, M) to negatives, else -inf, and (..., n) to the positive."""
    if cost == "rbf":
        energy = (similarity / temperature).logsumexp(-1)
        return 2 * temperature * torch.logaddexp(energy, mine / temperature) - 2
    share = (similarity.detach() / temperature).softmax(-1)
    return torch.where(similarity.isfinite(), share * (similarity - 1), 0.0).sum(-1)


def _logs(pairs: Pairs, attracted: Tensor, repelled: Tensor) -> dict[str, Tensor]:
    """Means over the samples of this process that have negatives."""
    count = pairs.valid.sum().clamp_min(1)
    logs = {"attraction": attracted, "repulsion": repelled}
    return {k: torch.where(pairs.valid, v, 0.0).mean(0).sum().detach() / count for k, v in logs.items()}


class CACR(ContrastiveObjective):
    """CACR: far positives are attracted more, near negatives repelled more, in two separate terms (2023).

    With a teacher it takes the form published for ImageNet, where ``temperature`` and ``cost`` alone matter. Labels
    only take samples from the negatives.

    Args:
        alpha: weight of the attraction.
        beta: weight of the repulsion.
        t_pos: inverse temperature of the attraction; 0 weighs all positives alike. It matters for three views or more.
        t_neg: inverse temperature of the repulsion, 0.9 to 2 in the paper; 0 weighs all negatives alike.
        cost: ``euclidean`` squared distance, or ``rbf``, its Gaussian.
        rho: of the Gaussian.
        debias: share of the negatives taken to be false ones.
        temperature: of the form with a teacher.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        t_pos: float = 1.0,
        t_neg: float = 2.0,
        cost: Cost = "euclidean",
        rho: float = 2.0,
        debias: float = 0.0,
        temperature: float = 1.0,
        queue: int = 0,
        chunk: int = 0,
    ) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("CACR", alpha=alpha, beta=beta, rho=rho, temperature=temperature)
        if min(t_pos, t_neg) < 0 or not 0 <= debias < 1:
            raise ConfigError(
                f"CACR takes t_pos and t_neg of 0 or more and a debias from 0 to below 1, not {t_pos}, {t_neg} and "
                f"{debias}"
            )
        if cost not in ("euclidean", "rbf"):
            raise ConfigError(f"CACR has the costs 'euclidean' and 'rbf', not '{cost}'")
        self.alpha, self.beta, self.t_pos, self.t_neg = alpha, beta, t_pos, t_neg
        self.cost, self.rho, self.debias, self.temperature = cost, rho, debias, temperature

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``cacr_anchors`` and, with a teacher, ``cacr_teacher_anchors``."""
        pairs = pair_up(views, given, self.queue)
        if given.targets is not None:
            return cacr_teacher_anchors(pairs, temperature=self.temperature, cost=self.cost, chunk=self.chunk)
        return cacr_anchors(
            pairs, alpha=self.alpha, beta=self.beta, t_pos=self.t_pos, t_neg=self.t_neg, cost=self.cost,
            rho=self.rho, debias=self.debias, chunk=self.chunk,
        )  # fmt: skip
