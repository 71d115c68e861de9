"""CWCL: every sample is a positive, as far as something else says that it is alike."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from medssl.objectives.base import Given, full_precision, positive
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, unit, weighted_mean

__all__ = ["CWCL", "LabelCWCL", "cosine_weights", "cwcl", "cwcl_anchors", "effective_number", "gaussian_weights"]


def cwcl(
    p: Tensor,
    q: Tensor,
    frozen: Tensor,
    *,
    temperature: float,
    sharpness: float = 1.0,
    group: Tensor | None = None,
) -> Tensor:
    r"""Continuously weighted contrastive loss (Srinivasa et al., *CWCL*, NeurIPS 2023).

    .. math:: L = \frac{-1}{N} \sum_i \sum_j \bar w_{ij} \log \frac{e^{p_i \cdot q_j/\tau}}{\sum_k
        e^{p_i \cdot q_k/\tau}} - \frac{1}{N} \sum_i \log \frac{e^{p_i \cdot q_i/\tau}}{\sum_k e^{p_k \cdot q_i/\tau}}

    with :math:`\bar w_{ij} = w_{ij} / \sum_k w_{ik}` from ``cosine_weights``: rows are weighted, columns are ordinary
    InfoNCE.

    Args:
        p: (N, D) of the trained tower; normalised here.
        q: (N, D) of the other one.
        frozen: (N, F) what the weights are made of, a constant.
        temperature: τ > 0.
        sharpness: see ``cosine_weights``.
        group: (N,) integers; other samples of the same group take no part.

    >>> same = torch.ones(4, 8)  # all alike: 2 log N
    >>> round(float((cwcl(same, same, same, temperature=0.1) / 2).exp()), 3)
    4.0
    """
    with full_precision(p.device):
        pairs = pair_up(torch.stack([p, q]), Given(group=group))
        weights = cosine_weights(frozen.detach().expand(2, -1, -1), sharpness=sharpness)
        return weighted_mean(cwcl_anchors(pairs, weights, temperature=temperature), None)


def cosine_weights(frozen: Tensor, *, sharpness: float = 1.0) -> Tensor:
    r"""Logarithms of :math:`w_{ij} = (\tfrac12 \cos(f_i, f_j) + \tfrac12)^\kappa`, in [0, 1].

    Typical embeddings have w above 1/2 for all pairs, so that κ = 1 (the paper) gives almost flat targets; as κ grows
    the weights tend to those of InfoNCE.

    Args:
        frozen: (K, N, F) of this process' samples.
        sharpness: κ > 0.

    Returns:
        (K, N, M), M samples of all processes; -inf for opposite ones.
    """
    mine = unit(frozen)
    cosine = torch.einsum("aif,ajf->aij", mine, gather_views(mine).views)
    return sharpness * ((cosine + 1) / 2).clamp_min(0).log()


def gaussian_weights(labels: Tensor, *, width: float) -> Tensor:
    r"""Logarithms of :math:`w_{ij} = e^{-(y_i - y_j)^2 / 2 \sigma^2}`.

    Args:
        labels: (N,) continuous values (age in years, say) of this process' samples.
        width: σ > 0, in their unit.

    Returns:
        (1, N, M), M samples of all processes.
    """
    everyone = gather_integers(labels)
    assert everyone is not None
    return -(labels.unsqueeze(1) - everyone).square().unsqueeze(0) / (2 * width**2)


def cwcl_anchors(pairs: Pairs, weights: Tensor, *, temperature: float, chunk: int = 0) -> AnchorLosses:
    """The terms of ``cwcl``, (K(K - 1)/2, N): one a pair a < b of views, view a as p and b as q.

    Memory: (K(K - 1), N, M).

    Args:
        pairs: anchors and keys.
        weights: (K, N, M) or (1, N, M) logarithms of w, without gradient, for each view as q.
        temperature: τ.
        chunk: samples at a time.
    """
    first, second = torch.triu_indices(len(pairs.anchors), len(pairs.anchors), 1, device=pairs.anchors.device)
    kept = pairs.negative | pairs.own
    share = weights.masked_fill(~kept, -torch.inf).softmax(-1)  # of the kept, the own sample weighs at least 2^-κ

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        wanted = share[:, rows] if len(share) == 1 else share[second, rows]
        own = pairs.with_own_sample(anchors, keys, rows) / temperature
        logits = torch.einsum("pid,pjd->pij", anchors[first] / temperature, keys[second])
        target = (wanted * logits).sum(-1) + own[second, :, first]
        columns = torch.einsum("pid,pjd->pij", anchors[second] / temperature, keys[first])
        energies = [x.masked_fill_(~kept[rows], -torch.inf).logsumexp(-1) for x in (logits, columns)]
        return (energies[0] + energies[1] - target,)

    (losses,) = in_chunks(terms, pairs, chunk, met=len(pairs.anchors) - 1)
    logs = {"effective_positives": effective_number(share).mean()}
    return AnchorLosses(losses, pairs.valid, pairs.total, logs)


def effective_number(share: Tensor) -> Tensor:
    """(..., M) shares whose sum is 1 → (...): the exponential of their entropy, from 1 (all in one) to M (all alike).

    >>> effective_number(torch.tensor([0.5, 0.5, 0.0]))
    tensor(2.)
    """
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return entropy.exp()


class _Weighted(ContrastiveObjective):
    """Pairs of views with weights that a subclass gives."""

    def __init__(self, *, temperature: float, chunk: int) -> None:
        super().__init__(chunk=chunk)
        positive(type(self).__name__, temperature=temperature)
        self.temperature = temperature

    @abstractmethod
    def log_weights(self, given: Given) -> Tensor:
        """(K, N, M) or (1, N, M) logarithms of the weights."""

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``cwcl``; of every pair of views the first is p, and the second, q, gives the weights."""
        pairs = pair_up(views, Given(group=given.group))
        weights = self.log_weights(given).to(pairs.anchors.dtype)
        return cwcl_anchors(pairs, weights, temperature=self.temperature, chunk=self.chunk)


class CWCL(_Weighted):
    """CWCL: every sample is a positive, weighted by how alike a teacher finds the two (2023).

    The paper's weights come from a frozen tower of another modality; ``momentum`` of Contrastive makes a teacher of
    the encoder itself. The keys stay the student's.

    Args:
        temperature: τ.
        sharpness: κ, power of the weights (cos + 1) / 2; 1 in the paper, where nearly all samples weigh alike. Look at
            ``effective_positives``.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    momentum: ClassVar[float | None] = 0.99

    def __init__(self, *, temperature: float = 0.07, sharpness: float = 1.0, chunk: int = 0) -> None:
        super().__init__(temperature=temperature, chunk=chunk)
        positive("CWCL", sharpness=sharpness)
        self.sharpness = sharpness

    def log_weights(self, given: Given) -> Tensor:
        """See ``cosine_weights``."""
        assert given.targets is not None
        return cosine_weights(given.targets, sharpness=self.sharpness)


class LabelCWCL(_Weighted):
    """LabelCWCL: CWCL whose weights fall with the distance of continuous labels, such as ages (2023).

    Args:
        width: σ of the Gaussian exp(-(y - y')² / 2σ²), in the unit of the labels; give one that fits them.
        temperature: τ.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    continuous: ClassVar[bool] = True

    def __init__(self, *, width: float = 1.0, temperature: float = 0.07, chunk: int = 0) -> None:
        super().__init__(temperature=temperature, chunk=chunk)
        positive("LabelCWCL", width=width)
        self.width = width

    def log_weights(self, given: Given) -> Tensor:
        """See ``gaussian_weights``."""
        assert given.labels is not None
        if not given.labels.is_floating_point():
            raise ValueError("LabelCWCL needs continuous labels, but these are classes; name a numeric column")
        return gaussian_weights(given.labels, width=self.width)
