"""Supervised contrastive learning: recordings of one label belong together."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, Weights, full_precision, positive
from medssl.objectives.contrastive import other_views, with_positives
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, weighted_mean

__all__ = ["SupCon", "sup_con", "sup_con_anchors"]


def sup_con(
    views: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    form: Literal["out", "in"] = "out",
    group: Tensor | None = None,
    weights: Weights | None = None,
) -> Tensor:
    r"""Supervised contrastive loss over the K·N embeddings of a batch (Khosla et al., NeurIPS 2020, eq. 2 and 3).

    .. math::
        L_{out} = \frac{-1}{KN} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} \log \frac{e^{s_{ip}/\tau}}{\sum_{a \ne i}
        e^{s_{ia}/\tau}}, \qquad
        L_{in} = \frac{-1}{KN} \sum_i \log \frac{1}{|P_i|} \sum_{p \in P_i} \frac{e^{s_{ip}/\tau}}{\sum_{a \ne i}
        e^{s_{ia}/\tau}}

    P_i are all other embeddings with the label of i, its own other views among them.

    Args:
        views: (K, N, D), normalised here.
        labels: (N,) integers.
        temperature: τ > 0.
        form: ``"out"`` (better in the paper) or ``"in"``: whether the mean over positives stands outside the logarithm.
        group: (N,) integers; samples of one group but another label are left out.
        weights: see ``Weights``.

    >>> from medssl.objectives.contrastive import info_nce
    >>> views, labels = torch.eye(4).expand(2, 4, 4), torch.arange(4)
    >>> bool((sup_con(views, labels, temperature=1.0) - info_nce(views, temperature=1.0)).abs() < 1e-6)
    True
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(sup_con_anchors(pairs, temperature=temperature, form=form), weights)


def sup_con_anchors(
    pairs: Pairs, *, temperature: float, form: Literal["out", "in"] = "out", chunk: int = 0
) -> AnchorLosses:
    """The terms of ``sup_con``, (K, N), and ``positives``, their mean number, among the logs."""
    assert pairs.positive is not None
    k = len(pairs.anchors)
    count = (k - 1 + k * pairs.positive.sum(-1)).to(pairs.anchors.dtype)

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        assert pairs.positive is not None
        further = pairs.positive[rows]
        similarity = torch.einsum("aid,bjd->aibj", anchors / temperature, keys)
        if form == "out":
            mine = pairs.with_own_sample(anchors, keys, rows) / temperature
            own = torch.where(other_views(k, mine.device), mine, 0.0).sum(-1)
            others = torch.einsum("aibj,ij->ai", similarity, further.to(similarity.dtype))
            target = (own + others) / count[rows]
        else:
            positives = pairs.drop(similarity.clone(), rows, further | pairs.own[rows])
            target = positives.flatten(2).logsumexp(-1) - count[rows].log()
        energy = pairs.drop(similarity, rows, with_positives(pairs, rows)).flatten(2).logsumexp(-1)
        if pairs.queue is not None:
            energy = torch.logaddexp(energy, pairs.to_queue(anchors / temperature, rows).logsumexp(-1))
        return (energy - target,)

    (losses,) = in_chunks(terms, pairs, chunk)
    return AnchorLosses(losses, pairs.valid, pairs.total, {"positives": count.mean()})


class SupCon(ContrastiveObjective):
    """SupCon: all embeddings with the anchor's label are positives, all others negatives (2020).

    Args:
        temperature: τ; 0.1 in the paper.
        form: ``out`` takes the mean over positives outside the logarithm, ``in`` inside.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def __init__(
        self, *, temperature: float = 0.1, form: Literal["out", "in"] = "out", queue: int = 0, chunk: int = 0
    ) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("SupCon", temperature=temperature)
        if form not in ("out", "in"):
            raise ConfigError(f"SupCon has the forms 'out' and 'in', not '{form}'")
        self.temperature, self.form = temperature, form

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``sup_con``."""
        pairs = pair_up(views, given, self.queue)
        return sup_con_anchors(pairs, temperature=self.temperature, form=self.form, chunk=self.chunk)
