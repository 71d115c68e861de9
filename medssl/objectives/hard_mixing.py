"""A queue of a teacher's keys, and harder negatives mixed from the hardest of them (MoCo, MoCHi)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, LossOutput, positive
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, unit

__all__ = ["Mixing", "MoCHi", "draw_mixing", "hardest_keys", "mixed_similarity", "mochi"]

SQUARED_NORM = 1e-6  # opposite points may mix to nothing; their direction is noise and counts as nearly orthogonal
FEATURES_AT_ONCE = 16


class Mixing(NamedTuple):
    """Which hard negatives are mixed, and how; places count each query's hardest keys, the hardest first.

    Attributes:
        i, j: (…, N, s) int64 places of two keys.
        alpha: (…, N, s) share of the first, in [0, 1].
        k: (…, N, s') int64 places of keys that are mixed with the query itself.
        beta: (…, N, s') share of the query, in [0, 0.5].
    """

    i: Tensor
    j: Tensor
    alpha: Tensor
    k: Tensor
    beta: Tensor


def draw_mixing(
    shape: tuple[int, ...], known: Tensor, *, pairs: int, with_query: int, generator: torch.Generator | None
) -> Mixing:
    """Places uniform among the ``known`` hardest, α uniform in [0, 1), β in [0, 0.5).

    Args:
        shape: (…, N) of the queries.
        known: (N,) how many hard negatives a query has; 0 counts as 1.
        pairs, with_query: s and s'.
        generator: on the device of ``known``.
    """
    drawn = torch.rand((*shape, 3 * pairs + 2 * with_query), generator=generator, device=known.device)
    i, j, alpha, k, beta = drawn.split([pairs, pairs, pairs, with_query, with_query], dim=-1)
    count = known.clamp_min(1).unsqueeze(-1)
    # min: in float32 a draw just below 1 times the count may round up to it
    i, j, k = (torch.minimum((u * count).long(), count - 1) for u in (i, j, k))
    return Mixing(i, j, alpha, k, beta / 2)


def hardest_keys(similarity: Tensor, allowed: Tensor, most: int) -> Tensor:
    """(…, N, H) places of the most similar allowed keys, the hardest first; after those of a row come arbitrary ones.

    Args:
        similarity: (…, N, P) of queries to keys.
        allowed: (N, P) booleans.
        most: H is that, or P where there are fewer keys.
    """
    ranked = similarity.detach().masked_fill(~allowed, -torch.inf)
    return ranked.topk(min(most, ranked.shape[-1]), dim=-1).indices


def mixed_similarity(query: Tensor, similarity: Tensor, keys: Tensor, hardest: Tensor, mixing: Mixing) -> Tensor:
    r"""Similarity of queries to synthetic negatives, without making these.

    .. math:: h = \mathrm{norm}(\alpha n_i + (1-\alpha) n_j), \qquad h' = \mathrm{norm}(\beta q + (1-\beta) n_k)

    (Kalantidis et al., *Hard negative mixing for contrastive learning*, NeurIPS 2020). Both :math:`q \cdot h` follow
    from the known :math:`q \cdot n`; the norms need :math:`n_i \cdot n_j` and :math:`q \cdot n`. Synthetic negatives
    are constants: the gradient with respect to q is h, also where q was mixed into it.

    Args:
        query: (…, N, D) unit length.
        similarity: (…, N, P) of queries to keys.
        keys: (P, D) unit length, without gradient.
        hardest: (…, N, H), see ``hardest_keys``.
        mixing: of these queries.

    Returns:
        (…, N, s + s').
    """
    i, j, k = (hardest.gather(-1, place) for place in (mixing.i, mixing.j, mixing.k))
    near, far, third = (similarity.gather(-1, place) for place in (i, j, k))
    pair = _norm(mixing.alpha, _pair_products(keys, i, j))
    itself = (query * query.detach()).sum(-1, keepdim=True)  # 1, with the gradient that a constant h' gives
    own = _norm(mixing.beta, third.detach())
    first = (mixing.alpha * near + (1 - mixing.alpha) * far) / pair
    return torch.cat([first, (mixing.beta * itself + (1 - mixing.beta) * third) / own], dim=-1)


def _norm(share: Tensor, product: Tensor) -> Tensor:
    """Length of ``share · x + (1 - share) · y`` for unit x and y of that product."""
    squared = share.square() + (1 - share).square() + 2 * share * (1 - share) * product
    return squared.clamp_min(SQUARED_NORM).sqrt()


@torch.no_grad()
def _pair_products(keys: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Products of keys i and j, of the shape of i; some features at a time, for gathered keys would take D times it."""
    total = torch.zeros(i.shape, dtype=keys.dtype, device=keys.device)
    for part in keys.split(FEATURES_AT_ONCE, dim=-1):
        total += (part[i] * part[j]).sum(-1)
    return total


def mochi(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, hardest: int = 0, mixing: Mixing | None = None
) -> Tensor:
    r"""Cross-entropy of each query's own key against a queue and synthetic negatives; the mean over queries.

    :math:`L = -\log \mathrm{softmax}([q \cdot k^+, q \cdot n, q \cdot h, q \cdot h']/\tau)_0`; without ``mixing`` it is
    MoCo (He et al., CVPR 2020).

    Args:
        query: (N, D), normalised here, like the following.
        key: (N, D) of the same samples by a teacher, without gradient.
        queue: (Q, D) negatives, without gradient.
        temperature: τ > 0.
        hardest: keys nearest to a query that may be mixed; not used without ``mixing``.
        mixing: see ``Mixing``.

    >>> x = torch.eye(3)
    >>> round(float(mochi(x, x, torch.zeros(2, 3), temperature=1.0)), 4)  # log(e + 2) - 1
    0.5514
    """
    q, k, n = unit(query), unit(key.detach()), unit(queue.detach())
    similarity = q @ n.T
    allowed = torch.ones_like(similarity, dtype=torch.bool)
    mixed = None
    if mixing is not None:
        mixed = mixed_similarity(q, similarity, n, hardest_keys(similarity, allowed, hardest), mixing) / temperature
    negatives = _log_sum(similarity / temperature, allowed, mixed)
    return _against(negatives, (q * k).sum(-1) / temperature).mean()


def _log_sum(logits: Tensor, allowed: Tensor, mixed: Tensor | None) -> Tensor:
    """(…, N) log-sum-exp of the allowed logits and all mixed ones; finite but meaningless where none is allowed."""
    blocked = ~allowed & allowed.any(-1, keepdim=True)
    total = logits.masked_fill(blocked, -torch.inf).logsumexp(-1)
    return total if mixed is None else torch.logaddexp(total, mixed.logsumexp(-1))


def _against(negatives: Tensor, own: Tensor) -> Tensor:
    """``log(e^own + e^negatives) - own``."""
    difference = negatives - own
    return torch.logaddexp(difference, torch.zeros_like(difference))


class MoCHi(ContrastiveObjective):
    """MoCHi: MoCo, with harder negatives mixed from the hardest keys of the queue (2020).

    Queries are the student's embeddings, keys the teacher's. Negatives are the queue, the batch's own keys of other
    samples (so that there are some from the first step on), and the synthetic ones; a sample's own earlier keys and
    those of its group are none. Synthetic negatives are never queued. ``mixed: 0`` and ``mixed_with_query: 0`` make it
    MoCo.

    Published with a teacher's momentum of 0.999 throughout, which follows too slowly in runs of less than about 20 000
    steps. Here it begins with 0.99 and rises to 1; set ``momentum`` of Contrastive for another.

    Args:
        temperature: τ.
        queue: keys of earlier steps that serve as negatives (published: 65536).
        hardest: keys nearest to a query that are mixed.
        mixed: synthetic negatives a query from two of them; 0 for none.
        mixed_with_query: synthetic negatives a query from one of them and the query; 0 for none.
        start: share of the training after which mixing begins.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    needs = frozenset({"targets"})
    momentum: ClassVar[float | None] = 0.99

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        queue: int = 4096,
        hardest: int = 128,
        mixed: int = 256,
        mixed_with_query: int = 128,
        start: float = 0.1,
        chunk: int = 0,
    ) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("MoCHi", temperature=temperature, hardest=hardest)
        if mixed < 0 or mixed_with_query < 0:
            raise ConfigError(f"MoCHi mixes 0 or more negatives, not {mixed} and {mixed_with_query} with the query")
        if not 0 <= start <= 1:
            raise ConfigError(f"MoCHi starts to mix after a share of the training from 0 to 1, not {start}")
        self.temperature, self.hardest, self.start = temperature, hardest, start
        self.mixed, self.mixed_with_query = mixed, mixed_with_query

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``Objective.compute``."""
        # where there are no groups, a recording's own earlier keys must still be told from negatives
        group = given.index if given.group is None else given.group
        return super().compute(views, dataclasses.replace(given, group=group))

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``mochi``; the mean over ordered pairs of views. Samples of one label are further positives."""
        pairs = pair_up(views, given, self.queue)
        mixing = None
        if self.mixed + self.mixed_with_query > 0 and given.progress >= self.start:
            mixing = draw_mixing(
                tuple(pairs.anchors.shape[:2]), self._allowed(pairs).sum(-1).clamp_max(self.hardest),
                pairs=self.mixed, with_query=self.mixed_with_query, generator=given.generator,
            )  # fmt: skip

        def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
            return self._terms(pairs, mixing, anchors, keys, rows)

        losses, nearest = in_chunks(terms, pairs, self.chunk)
        made = 0 if mixing is None else self.mixed + self.mixed_with_query
        logs = {
            "pair_accuracy": (nearest * pairs.valid).sum() / (len(nearest) * pairs.valid.sum()).clamp_min(1),
            "synthetic_negatives": torch.tensor(float(made), device=losses.device),
        }
        return AnchorLosses(losses, pairs.valid, pairs.total, logs)

    def _allowed(self, pairs: Pairs) -> Tensor:
        """(N, P) which keys of all views, then of the queue, are negatives."""
        of_batch = pairs.negative.repeat(1, len(pairs.keys))
        return of_batch if pairs.queue_negative is None else torch.cat([of_batch, pairs.queue_negative], dim=1)

    def _terms(
        self, pairs: Pairs, mixing: Mixing | None, anchors: Tensor, keys: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """Losses (K, n) and 1 where every positive is nearer than all real negatives."""
        pool = keys.flatten(0, 1) if pairs.queue is None else torch.cat([keys.flatten(0, 1), pairs.queue])
        similarity, allowed = anchors @ pool.T, self._allowed(pairs)[rows]
        mixed = None
        if mixing is not None:
            chosen = Mixing(*(part[:, rows] for part in mixing))
            hardest = hardest_keys(similarity, allowed, self.hardest)
            mixed = mixed_similarity(anchors, similarity, pool, hardest, chosen) / self.temperature
        negatives = _log_sum(similarity / self.temperature, allowed, mixed).unsqueeze(-1)
        own = pairs.with_own_sample(anchors, keys, rows)
        other = ~torch.eye(len(anchors), len(keys), dtype=torch.bool, device=own.device).unsqueeze(1)
        losses = torch.where(other, _against(negatives, own / self.temperature), 0.0).sum(-1)
        count = other.sum(-1)
        if pairs.positive is not None:
            further = pairs.positive[rows].repeat(1, len(keys))
            theirs = _against(negatives, similarity[..., : further.shape[1]] / self.temperature)
            losses = losses + torch.where(further, theirs, 0.0).sum(-1)
            count = count + further.sum(-1)
        best = similarity.detach().masked_fill(~allowed, -torch.inf).amax(-1, keepdim=True)
        nearest = ((own.detach() >= best) | ~other).all(-1)
        return losses / count, nearest.to(losses.dtype)
