"""What all contrastive objectives share: anchors and keys, who is whose negative, chunks, weights, the mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medssl.errors import ConfigError
from medssl.objectives.base import Family, Given, LossOutput, Objective, Weights, promoted
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.queue import KeyQueue

__all__ = ["AnchorLosses", "ContrastiveObjective", "Pairs", "in_chunks", "pair_up", "unit", "weighted_mean"]

EPS = 1e-12
# A step holds about four tensors of the size of the similarities. Chunks are computed twice, which costs no time on a
# CPU, since they fit in its cache (measured).
WHOLE_ELEMENTS = 2**24  # similarities up to which all are computed at once: 256 MiB in float32
CHUNK_ELEMENTS = 2**22  # and how many at once above that: 64 MiB


class AnchorLosses(NamedTuple):
    """Losses of all anchors before the mean.

    Attributes:
        losses: (A, N), A losses a sample (usually one a view); 0 where the sample has no negative.
        valid: (N,) whether the sample has at least one negative.
        total: samples with a negative among those of all processes, divided by the number of processes.
        logs: named diagnostics, detached scalars.
    """

    losses: Tensor
    valid: Tensor
    total: Tensor
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """Anchors of this process, and the keys of all processes they are compared with.

    Attributes:
        anchors: (K, N, D), unit length.
        keys: (L, M, D), unit length, M = W·N samples; the anchors themselves, or a teacher's embeddings (L views).
        offset: column of the first anchor's own sample among the keys.
        own: (N, M) the key is of the anchor's own sample.
        negative: (N, M) the key is of another sample, neither of the anchor's group nor of its label.
        positive: (N, M) the key is of another sample with the anchor's label; None without labels.
        queue: (Q, D) keys of earlier steps, unit length, without gradient; None without a queue.
        queue_negative: (N, Q) they may serve as negatives of the anchor.
        valid: (N,) the sample has at least one negative.
        total: see ``AnchorLosses``.
        everyone: all other samples are negatives: there are neither groups nor labels.
    """

    anchors: Tensor
    keys: Tensor
    offset: int
    own: Tensor
    negative: Tensor
    positive: Tensor | None
    queue: Tensor | None
    queue_negative: Tensor | None
    valid: Tensor
    total: Tensor
    everyone: bool

    def drop(self, similarity: Tensor, rows: slice, kept: Tensor | None = None) -> Tensor:
        """Set to -inf, in place, what no anchor may be compared with: itself, and the keys that are not ``kept``.

        Args:
            similarity: (K, n, L, M) of the anchors ``rows`` to all keys.
            rows: of the anchors.
            kept: (n, M) booleans; None keeps all keys but the anchor itself (or the teacher's word on it).
        """
        if kept is not None:
            similarity.masked_fill_(~kept.unsqueeze(1), -torch.inf)
        similarity.diagonal(dim1=0, dim2=2).masked_fill_(self.own[rows].unsqueeze(-1), -torch.inf)
        return similarity

    def to_queue(self, anchors: Tensor, rows: slice) -> Tensor:
        """(K, n, Q): product of the anchors ``rows`` with the keys of the queue; -inf where one is no negative."""
        assert self.queue is not None and self.queue_negative is not None
        return (anchors @ self.queue.T).masked_fill_(~self.queue_negative[rows], -torch.inf)

    def with_own_sample(self, anchors: Tensor, keys: Tensor, rows: slice) -> Tensor:
        """(K, n, L): similarity of the anchors ``rows`` to the keys of their own sample."""
        first = self.offset + (rows.start or 0)
        return torch.einsum("aid,bid->aib", anchors, keys[:, first : first + anchors.shape[1]])


def unit(x: Tensor) -> Tensor:
    """Rows of unit length; a zero row stays zero and has a finite gradient."""
    return functional.normalize(x, dim=-1, eps=EPS)


def pair_up(views: Tensor, given: Given, queue: KeyQueue | None = None) -> Pairs:
    """Normalise, join the keys of all processes, and tell who is whose negative.

    Args:
        views: (K, N, D), not normalised.
        given: ``targets`` (L, N, D) become the keys, without gradient; ``group`` and integer ``labels`` say which
            samples are no negatives of each other.
        queue: keys of earlier steps.

    Raises:
        ValueError: a single sample and no queue: there is nothing to contrast with.
    """
    anchors = unit(promoted(views))
    keys, offset, world = gather_views(anchors if given.targets is None else unit(promoted(given.targets)))
    n, m = anchors.shape[1], keys.shape[1]
    device = anchors.device
    group, labels = gather_integers(given.group), gather_integers(given.labels)
    index = torch.arange(m, device=device)
    mine = slice(offset, offset + n)
    own = index == index[mine].unsqueeze(1)
    same = own.clone()
    for values in (group, labels):
        if values is not None:
            same |= values[mine].unsqueeze(1) == values
    earlier = queue.read() if queue is not None else keys.new_zeros(0, keys.shape[-1])
    if m < 2 and not len(earlier):
        raise ValueError("needs at least 2 samples: with one there is nothing to contrast with")
    lonely = _lonely(group, labels, index)
    allowed = None
    if queue is not None and len(earlier):
        allowed = queue.negatives(group, labels).expand(m, -1)
        lonely = lonely & ~allowed.any(-1)
        allowed = allowed[mine]
    positive = None if labels is None else (labels[mine].unsqueeze(1) == labels) & ~own
    return Pairs(
        anchors, keys, offset, own, ~same, positive, earlier.to(anchors.dtype) if len(earlier) else None, allowed,
        ~lonely[mine], (~lonely).sum() / world, group is None and labels is None,
    )  # fmt: skip


def _lonely(group: Tensor | None, labels: Tensor | None, index: Tensor) -> Tensor:
    """(M,) the sample has no negative among all samples."""
    same = index.unsqueeze(1) == index
    for values in (group, labels):
        if values is not None:
            same |= values.unsqueeze(1) == values
    return same.all(-1)


Terms = Callable[[Tensor, Tensor, slice], tuple[Tensor, ...]]
"""From anchors (K, n, D), all keys (L, M, D) and the anchors' rows to tensors (A, n)."""


def in_chunks(terms: Terms, pairs: Pairs, rows: int = 0, *, met: int = 0) -> tuple[Tensor, ...]:
    """``terms`` of all anchors, some samples at a time where all similarities would take too much memory.

    Value and gradient are those of one call: every anchor's terms depend on that anchor and all keys alone. Chunks are
    computed again in the backward pass, so that the peak is one chunk's similarities.

    Args:
        terms: see ``Terms``.
        pairs: anchors and keys.
        rows: samples at a time; 0 chooses: all up to 2²⁴ similarities, above that chunks of 2²².
        met: views of the keys that an anchor is compared with, or as many as take the same memory; 0: all.
    """
    k, n = pairs.anchors.shape[:2]
    queued = 0 if pairs.queue is None else len(pairs.queue)
    a_sample = k * ((met or pairs.keys.shape[0]) * pairs.keys.shape[1] + queued)
    if rows <= 0:
        rows = n if n * a_sample <= WHOLE_ELEMENTS else max(1, CHUNK_ELEMENTS // a_sample)
    if rows >= n:
        return terms(pairs.anchors, pairs.keys, slice(0, n))
    parts = []
    for first in range(0, n, rows):
        chosen = slice(first, min(first + rows, n))
        part = checkpoint(terms, pairs.anchors[:, chosen], pairs.keys, chosen, use_reentrant=False)
        parts.append(part)
    return tuple(torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True))


def weighted_mean(terms: AnchorLosses, weights: Weights | None) -> Tensor:
    """Mean over the anchors of valid samples, each times its weight; the divisor does not depend on the weights."""
    losses = torch.where(terms.valid, terms.losses, 0.0)
    if callable(weights):
        weights = weights(torch.where(terms.valid, losses.detach().mean(0), torch.nan))
    if weights is not None:
        losses = torch.where(terms.valid, losses * weights, 0.0)
    count = torch.where(terms.total > 0, terms.total, 1.0)
    return losses.sum() / (losses.shape[0] * count)


class ContrastiveObjective(Objective):
    """A loss a sample against negatives. Subclasses give the losses; queue, weights and the mean are alike for all.

    Args:
        queue: keys of earlier steps that serve as further negatives; 0 for none. Best with a teacher (``momentum`` of
            Contrastive), whose keys change slowly.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    family: ClassVar[Family] = "contrastive"
    pairwise: ClassVar[bool] = True
    min_samples: ClassVar[int] = 2

    def __init__(self, *, queue: int = 0, chunk: int = 0) -> None:
        super().__init__()
        if queue < 0 or chunk < 0:
            raise ConfigError(f"{type(self).__name__} takes a queue and a chunk of 0 or more, not {queue} and {chunk}")
        self.queue_size, self.chunk = queue, chunk
        self.queue: KeyQueue | None = None

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        if self.queue_size:
            self.queue = KeyQueue(self.queue_size, width)

    @abstractmethod
    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """Losses (A, N) of the anchors of this process; arguments as in ``Objective.compute``."""

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``Objective.compute``."""
        terms = self.anchors(views, given)
        if self.queue is not None and self.training:
            keys = views if given.targets is None else given.targets
            self.queue.push(unit(keys[0]), given.group, given.labels)
        logs = {k: v.detach() for k, v in terms.logs.items()}
        return LossOutput(
            weighted_mean(terms, given.weights), {**logs, "samples_with_negatives": terms.valid.float().mean()}
        )
