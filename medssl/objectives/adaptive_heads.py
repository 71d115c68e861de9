"""Several projection heads, and a temperature for every pair of every head (AMCL)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import Given, positive
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up

__all__ = ["AMCL", "Form", "PairTemperature", "ParallelHeads", "amcl", "amcl_terms", "gaussian_penalty"]

Form = Literal["soft", "hard"]


def gaussian_penalty(temperature: Tensor, width: int) -> Tensor:
    r""":math:`\Omega(\tau) = \tfrac{D}{2}\log\tau + 1/\tau`: what a Gaussian likelihood of variance τ in D dimensions
    asks for a temperature."""
    return 0.5 * width * temperature.log() + temperature.reciprocal()


def amcl(
    anchors: Tensor,
    keys: Tensor,
    positive_temperature: Tensor,
    negative_temperature: Tensor,
    *,
    beta: float,
    form: Form = "soft",
    hardest: int = 1,
) -> Tensor:
    r"""Adaptive multi-head contrastive loss of one direction, temperatures given; the mean over samples.

    .. math::
        L_i = \sum_c \big[ -s^c_{ii}/\tau^c_{ii} + \max_{n \ne i} s^c_{in}/\tau^c_{in}
              + \beta\,\Omega(\tau^c_{ii}) - \beta\,\Omega(\tau^c_{in^*}) \big]

    with :math:`s` the cosine similarity in head c, :math:`n^*` the negative of the largest similarity, and
    :math:`\Omega` as in ``gaussian_penalty`` (Wang et al., *Adaptive multi-head contrastive learning*, ECCV 2024). That
    is the hard form, as published. The soft form puts the log-sum-exp of :math:`s/\tau` over the positive and all
    negatives in the place of the largest, and the mean of :math:`\Omega` over the negatives in the place of the hardest
    one's: with one head, one temperature and β = 0 it is InfoNCE.

    The loss is unbounded below as the temperature of a negative goes to 0 or to infinity: keep temperatures in a range.

    Args:
        anchors: (C, N, D) embeddings of C heads, normalised here.
        keys: (C, N, D) those of the other view, in the same order.
        positive_temperature: (C, N), above 0.
        negative_temperature: (C, N, N), above 0; the diagonal is not used.
        beta: of the regulariser.
        form: see above.
        hardest: negatives that the hard form averages over.

    >>> x, t = torch.eye(2).expand(1, 2, 2), torch.ones(1, 2, 2)
    >>> round(float(amcl(x, x, t[:, 0], t, beta=0.0)), 4)  # log(e + 1) - 1
    0.3133
    """
    a, b = (functional.normalize(x, dim=-1, eps=1e-12) for x in (anchors, keys))
    same = torch.eye(a.shape[1], dtype=torch.bool, device=a.device)
    similarity = torch.einsum("cid,cjd->cij", a, b)
    temperature = torch.where(same, positive_temperature.unsqueeze(-1), negative_temperature)
    losses = amcl_terms(similarity, temperature, same, ~same, beta=beta, form=form, hardest=hardest, width=a.shape[-1])
    return losses.mean(-1).sum(0)


def amcl_terms(
    similarity: Tensor,
    temperature: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    beta: float,
    form: Form,
    hardest: int,
    width: int,
) -> Tensor:
    """Losses of anchors (…, N) against keys (…, N, M); see ``amcl``. Several positives count with their mean.

    Args:
        similarity: (…, N, M) cosines.
        temperature: (…, N, M), above 0.
        positives: (N, M) booleans, at least one an anchor.
        negatives: (N, M) booleans. The loss of an anchor without any is finite and means nothing.
        beta, form, hardest: see ``amcl``.
        width: D of Ω.
    """
    logits = similarity / temperature
    penalty = gaussian_penalty(temperature, width)
    attraction = _mean_where(logits - beta * penalty, positives)
    if form == "soft":
        repulsion = logits.masked_fill(~(negatives | positives), -torch.inf).logsumexp(-1)
        return repulsion - beta * _mean_where(penalty, negatives) - attraction
    ranked = similarity.detach().masked_fill(~negatives, -torch.inf)
    nearest = ranked.topk(min(hardest, ranked.shape[-1]), dim=-1).indices
    found = negatives.expand_as(ranked).gather(-1, nearest)
    return _mean_where((logits - beta * penalty).gather(-1, nearest), found) - attraction


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen entries of the last dimension; 0 where there are none."""
    return torch.where(chosen, values, 0.0).sum(-1) / chosen.sum(-1).clamp_min(1)


class ParallelHeads(nn.Module):
    """C projection heads side by side: Linear → BN → ReLU → Linear each, (…, N, in) → (C, …, N, out).

    Args:
        width: features in.
        heads: C.
        hidden: features of each hidden layer.
        out: features out of each head.
    """

    def __init__(self, width: int, *, heads: int, hidden: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.first = nn.Sequential(
            nn.Linear(width, heads * hidden, bias=False),  # the normalisation takes any bias away
            nn.BatchNorm1d(heads * hidden),
            nn.ReLU(),
        )
        bound = 1 / math.sqrt(hidden)  # that of nn.Linear
        self.weight = nn.Parameter(torch.empty(heads, hidden, out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(heads, 1, out).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        """(…, N, in) → (C, …, N, out); all rows are normalised together."""
        rows = self.first(features.reshape(-1, features.shape[-1])).unflatten(-1, (self.heads, -1))
        projected = torch.baddbmm(self.bias, rows.transpose(0, 1), self.weight)
        return projected.view(self.heads, *features.shape[:-1], -1)


class PairTemperature(nn.Module):
    r"""The temperature of a pair, from its two embeddings: ``low + (high - low) · sigmoid(⟨φ(z), φ(z')⟩ + b)``.

    φ is a two-layer network that all heads share; the dot product makes the temperature symmetric in the pair and costs
    N² products where a network on the pair would be evaluated N² times. The trained offset b lets it begin near
    ``start``.

    Args:
        width: D of z.
        low, high: range.
        start: at the beginning, of a pair whose φ are orthogonal.
        hidden: features of both layers of φ.
    """

    def __init__(self, width: int, *, low: float, high: float, start: float, hidden: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.phi = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden, bias=False))
        share = (start - low) / (high - low)
        self.offset = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def of(self, product: Tensor) -> Tensor:
        """τ, of any shape, from the dot products of φ."""
        return self.low + (self.high - self.low) * torch.sigmoid(product + self.offset)


class _Means(NamedTuple):
    """What one chunk of anchors gives: (K, n) each, averaged over the other views (and summed over heads: losses)."""

    losses: Tensor
    positive_temperature: Tensor
    negative_temperature: Tensor
    pair_accuracy: Tensor


class AMCL(ContrastiveObjective):
    """AMCL: several projection heads, each with a learnt temperature for every pair (2024).

    It has projection heads of its own. A teacher's features, where there is a teacher, pass through the same heads
    without gradient. The loss is the mean over ordered pairs of views and the sum over heads.

    Args:
        heads: C; 3 to 5 were best.
        hidden: features of the hidden layer of each head.
        out: features out of each head.
        form: soft weighs all negatives; hard takes only the nearest, as published.
        hardest: negatives that the hard form averages over.
        beta: of the temperatures' regulariser.
        low: smallest temperature, at least 0.05: below it the loss runs away.
        high: largest temperature.
        start: temperature to begin with, about.
        temperature_hidden: features of the network that gives the temperatures.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    takes: ClassVar[Literal["projections", "features", "maps"]] = "features"

    def __init__(
        self,
        *,
        heads: int = 3,
        hidden: int = 512,
        out: int = 128,
        form: Form = "soft",
        hardest: int = 1,
        beta: float = 0.1,
        low: float = 0.05,
        high: float = 2.0,
        start: float = 0.1,
        temperature_hidden: int = 128,
        chunk: int = 0,
    ) -> None:
        super().__init__(chunk=chunk)
        positive("AMCL", heads=heads, hidden=hidden, out=out, hardest=hardest, temperature_hidden=temperature_hidden)
        if form not in ("soft", "hard"):
            raise ConfigError(f"AMCL has the forms soft and hard, not {form}")
        if not 0.05 <= low < start < high:
            raise ConfigError(f"AMCL needs 0.05 ≤ low < start < high, not low {low}, start {start} and high {high}")
        if beta < 0:
            raise ConfigError(f"AMCL needs a beta of 0 or more, not {beta}")
        self.count, self.hidden, self.out, self.form, self.hardest, self.beta = heads, hidden, out, form, hardest, beta
        self.low, self.high, self.start, self.temperature_hidden = low, high, start, temperature_hidden

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``: makes the heads and the temperatures' network."""
        self.heads = ParallelHeads(width, heads=self.count, hidden=self.hidden, out=self.out)
        self.temperature = PairTemperature(
            self.out, low=self.low, high=self.high, start=self.start, hidden=self.temperature_hidden
        )

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``amcl``."""
        if given.targets is not None:
            with torch.no_grad():
                targets = self.heads(given.targets).flatten(0, 1)
            given = dataclasses.replace(given, targets=targets)
        pairs = pair_up(self.heads(views).flatten(0, 1), given)
        # φ travels behind its embedding, so that anchors and keys are cut into chunks together with it
        anchors, keys = (torch.cat([z, self.temperature.phi(z)], -1) for z in (pairs.anchors, pairs.keys))
        pairs = dataclasses.replace(pairs, anchors=anchors, keys=keys)

        def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
            return self._terms(pairs, anchors, keys, rows)

        met = 3 * len(pairs.keys) // self.count  # temperatures and similarities of a pair, and what is made of both
        found = _Means(*in_chunks(terms, pairs, self.chunk, met=met))
        logs = {name: value.mean().detach() for name, value in zip(found._fields[1:], found[1:], strict=True)}
        return AnchorLosses(found.losses, pairs.valid, pairs.total, logs)

    def _terms(self, pairs: Pairs, anchors: Tensor, keys: Tensor, rows: slice) -> _Means:
        a, b = (x.unflatten(0, (self.count, -1)) for x in (anchors, keys))  # (C, K, n, D + H), (C, L, M, D + H)
        similarity = torch.einsum("caid,cbjd->cabij", a[..., : self.out], b[..., : self.out])
        temperature = self.temperature.of(torch.einsum("caid,cbjd->cabij", a[..., self.out :], b[..., self.out :]))
        mine = pairs.own[rows] if pairs.positive is None else pairs.own[rows] | pairs.positive[rows]
        others = pairs.negative[rows]
        losses = amcl_terms(
            similarity, temperature, mine, others,
            beta=self.beta, form=self.form, hardest=self.hardest, width=self.out,
        )  # fmt: skip
        shown = similarity.detach()
        best = (shown.masked_fill(~chosen, -torch.inf).amax(-1) for chosen in (pairs.own[rows], others))
        apart = (_mean_where(temperature.detach(), chosen).mean(0) for chosen in (mine, others))
        nearest = torch.ge(*best).to(shown.dtype).mean(0)
        return _Means(*(_over_other_views(x) for x in (losses.sum(0), *apart, nearest)))


def _over_other_views(values: Tensor) -> Tensor:
    """(K, L, n) of anchors' views and keys' views → (K, n): the mean over the keys of other views than the anchor's."""
    k, views = values.shape[:2]
    same = torch.eye(k, views, dtype=torch.bool, device=values.device).unsqueeze(-1)
    return torch.where(same, 0.0, values).sum(1) / (~same).sum(1)
