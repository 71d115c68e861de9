"""A temperature for every training sample, found while training (iSogCLR)."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, positive
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up

__all__ = ["ISogCLR", "SampleMemory", "Surrogate", "averaged_over_repeats", "isogclr_step", "moved", "surrogate"]


class SampleMemory(NamedTuple):
    """What is remembered of N samples.

    The published code keeps s, in its bimodal form divided by the exponential of a running maximum. The logarithm is
    the same number, and neither overflows nor underflows however far the maximum moves.

    Attributes:
        log_s: (N,) logarithm of the moving mean of ``exp(similarity / τ)`` over negatives; -inf: never seen.
        u: (N,) moving mean of the gradient of the objective with respect to τ.
        tau: (N,) temperature τ.
    """

    log_s: Tensor
    u: Tensor
    tau: Tensor


class Surrogate(NamedTuple):
    """What one step gives, each (K, N), one a view of a sample.

    Attributes:
        losses: their gradient is that of the objective; their value is not.
        log_s: logarithm of the renewed moving mean ŝ; detached, like the following.
        slope: gradient of the objective with respect to τ.
        objective: ``τ log ŝ + τρ - s⁺``.
    """

    losses: Tensor
    log_s: Tensor
    slope: Tensor
    objective: Tensor


def surrogate(
    similarity: Tensor, attraction: Tensor, negatives: Tensor, memory: SampleMemory, first: Tensor,
    *, rho: float, gamma: float,
) -> Surrogate:  # fmt: skip
    r"""Losses and estimates of anchors against all their negatives.

    .. math::
        \hat s_i = (1-\gamma) s_i + \gamma g_i, \quad g_i = \tfrac{1}{M_i}\sum_j e^{s_{ij}/\tau_i}, \quad
        w_{ij} = e^{s_{ij}/\tau_i} / \hat s_i, \quad \ell_i = \tfrac{1}{M_i}\sum_j w_{ij} s_{ij} - s_i^+

    without gradient through :math:`w`, and the slope :math:`\log\hat s_i + \rho - \tfrac{1}{M_i}\sum_j w_{ij}
    s_{ij}/\tau_i` (Qiu et al., *Not all semantics are created equal*, ICML 2023). Weights are bounded by M/γ.

    Args:
        similarity: (K, N, P) cosines of anchors to keys.
        attraction: (K, N) similarity s⁺ to the positive, or its mean over several.
        negatives: (N, P) booleans; M of them differ from row to row. A row without any gives ``-attraction``.
        memory: of the N samples.
        first: (N,) booleans: nothing is remembered yet, so that ŝ = g.
        rho, gamma: ρ ≥ 0 and 0 < γ ≤ 1.
    """
    with torch.no_grad():
        count = negatives.sum(-1).clamp_min(1).to(similarity.dtype)
        logits = (similarity / memory.tau.unsqueeze(-1)).masked_fill(~negatives, -torch.inf)
        log_g = logits.logsumexp(-1) - count.log()
        kept = math.log1p(-gamma) if gamma < 1 else -math.inf
        log_s = torch.where(first, log_g, torch.logaddexp(memory.log_s + kept, log_g + math.log(gamma)))
        weights = torch.where(negatives, (logits - log_s.unsqueeze(-1)).exp(), 0.0) / count.unsqueeze(-1)
        weighted = (weights * similarity).sum(-1)
        slope = log_s + rho - weighted / memory.tau
        objective = memory.tau * (log_s + rho) - attraction
    return Surrogate((weights * similarity).sum(-1) - attraction, log_s, slope, objective)


def moved(
    memory: SampleMemory, log_s: Tensor, slope: Tensor, *, beta: float, eta: float, low: float, high: float
) -> SampleMemory:
    """The memory after a step: ``u ← (1 - β)u + β · slope``, then ``τ ← clip(τ - ηu)``.

    Args:
        memory: of N samples, before.
        log_s, slope: (N,) of this step.
        beta, eta: β in [0, 1] and η ≥ 0.
        low, high: range of τ.
    """
    u = (1 - beta) * memory.u + beta * slope
    return SampleMemory(log_s, u, (memory.tau - eta * u).clamp(low, high))


def isogclr_step(
    views: Tensor, memory: SampleMemory, first: Tensor,
    *, rho: float, gamma: float, beta: float, eta: float, low: float, high: float, clip: float,
) -> tuple[Tensor, SampleMemory]:  # fmt: skip
    r"""One step of iSogCLR on a batch of different samples: the gradient surrogate, and the memory afterwards.

    It minimises :math:`\frac1n\sum_i \tau_i \log E_j e^{(s_{ij}-s_i^+)/\tau_i} + \tau_i\rho` over the network and over
    every :math:`\tau_i`: a large temperature for samples with many near negatives, a small one for rare ones. Negatives
    are all views of all other samples. With K > 2 views the losses, ŝ and slopes are means over all of them, and s⁺
    over the other views.

    Args:
        views: (K, N, D) of unit length.
        memory: of these samples, before.
        first: (N,) booleans, see ``surrogate``.
        rho, gamma: see ``surrogate``.
        beta, eta, low, high: see ``moved``.
        clip: largest size of a slope, after the mean over views.

    Returns:
        Twice the mean over views and samples (the published sum over two views), and the memory after the step.
    """
    k, n, _ = views.shape
    keys = views.flatten(0, 1)
    similarity = views @ keys.T
    own = torch.eye(n, dtype=torch.bool, device=views.device).repeat(1, k)
    others = own.unsqueeze(0) & ~torch.eye(k, dtype=torch.bool, device=views.device).repeat_interleave(n, 1)[:, None]
    attraction = torch.where(others, similarity, 0.0).sum(-1) / (k - 1)
    found = surrogate(similarity, attraction, ~own, memory, first, rho=rho, gamma=gamma)
    log_s, slope = _over_views(found, clip)
    return 2 * found.losses.mean(), moved(memory, log_s, slope, beta=beta, eta=eta, low=low, high=high)


def averaged_over_repeats(index: Tensor, valid: Tensor, log_s: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What samples that stand in a batch more than once agree on.

    Args:
        index: (N,) which sample.
        valid: (N,) booleans: what is said of it counts.
        log_s, slope: (N,) what is said of it.

    Returns:
        (N,) ``log_s`` of the mean of s, mean slope, and whether anything valid is known; alike wherever ``index`` is.
    """
    same = (index.unsqueeze(1) == index) & valid
    count = same.sum(1)
    mean_log = torch.where(same, log_s, -torch.inf).logsumexp(1) - count.clamp_min(1).log()
    return mean_log, torch.where(same, slope, 0.0).sum(1) / count.clamp_min(1), count > 0


def _over_views(found: Surrogate, clip: float) -> tuple[Tensor, Tensor]:
    """(N,) logarithm of the mean of ŝ, and the clipped mean slope."""
    mean = found.log_s.logsumexp(0) - math.log(len(found.log_s))
    return mean, found.slope.mean(0).clamp(-clip, clip)


class ISogCLR(ContrastiveObjective):
    """iSogCLR: InfoNCE over the whole data set, with a temperature for every recording (2023).

    Frequent kinds of recordings get large temperatures and rare ones small ones, which helps on long-tailed cohorts.
    The loss is a surrogate that has the objective's gradient, not its value: watch the logged ``objective``.

    Args:
        rho: ρ; larger values lower the temperatures.
        gamma: share of the present batch in the moving mean over negatives.
        beta: share of the present batch in the moving mean of a temperature's gradient.
        eta: step size of the temperatures.
        temperature: that every recording begins with.
        low: smallest temperature.
        high: largest temperature.
        clip: largest size of a temperature's gradient.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    needs = frozenset({"index"})

    log_s: Tensor
    u: Tensor
    tau: Tensor

    def __init__(
        self,
        *,
        rho: float = 0.3,
        gamma: float = 0.8,
        beta: float = 0.5,
        eta: float = 0.03,
        temperature: float = 0.1,
        low: float = 0.05,
        high: float = 1.0,
        clip: float = 3.0,
        chunk: int = 0,
    ) -> None:
        super().__init__(chunk=chunk)
        positive("ISogCLR", gamma=gamma, temperature=temperature, low=low, clip=clip)
        if not (gamma <= 1 and 0 <= beta <= 1 and eta >= 0 and rho >= 0):
            raise ConfigError(
                "ISogCLR needs a gamma up to 1, a beta from 0 to 1, and eta and rho of 0 or more, "
                f"not gamma {gamma}, beta {beta}, eta {eta} and rho {rho}"
            )
        if not low <= temperature <= high:
            raise ConfigError(f"ISogCLR begins with a temperature from {low} (low) to {high} (high), not {temperature}")
        self.rho, self.gamma, self.beta, self.eta = rho, gamma, beta, eta
        self.temperature, self.low, self.high, self.clip = temperature, low, high, clip

    def remember(self, samples: int) -> None:
        """See ``Objective.remember``: 12 bytes a recording."""
        self.register_buffer("log_s", torch.full((samples,), -torch.inf))
        self.register_buffer("u", torch.zeros(samples))
        self.register_buffer("tau", torch.full((samples,), self.temperature))

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``isogclr_step``; samples of one group are no negatives, those of one label further positives."""
        assert given.index is not None
        # a recording that stands in the batch twice is no negative of itself
        group = given.index if given.group is None else given.group
        pairs = pair_up(views, dataclasses.replace(given, group=group))
        memory = SampleMemory(*(kept[given.index].to(pairs.anchors.dtype) for kept in (self.log_s, self.u, self.tau)))

        def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
            return self._terms(pairs, memory, anchors, keys, rows)

        found = Surrogate(*in_chunks(terms, pairs, self.chunk))
        if self.training:
            self._update(given.index, pairs.valid, *_over_views(found, self.clip))
        objective = torch.where(pairs.valid, found.objective.mean(0), 0.0).sum() / pairs.valid.sum().clamp_min(1)
        logs = {
            "objective": objective,
            "temperature": memory.tau.mean(),
            "temperature_min": memory.tau.min(),
            "temperature_max": memory.tau.max(),
        }
        return AnchorLosses(2 * found.losses.mean(0, keepdim=True), pairs.valid, pairs.total, logs)

    def _terms(self, pairs: Pairs, memory: SampleMemory, anchors: Tensor, keys: Tensor, rows: slice) -> Surrogate:
        similarity = anchors @ keys.flatten(0, 1).T
        mine = pairs.with_own_sample(anchors, keys, rows)
        other = ~torch.eye(len(anchors), len(keys), dtype=torch.bool, device=mine.device).unsqueeze(1)
        total, count = torch.where(other, mine, 0.0).sum(-1), other.sum(-1)
        if pairs.positive is not None:
            further = pairs.positive[rows].repeat(1, len(keys))
            total = total + torch.where(further, similarity, 0.0).sum(-1)
            count = count + further.sum(-1)
        negatives = pairs.negative[rows].repeat(1, len(keys))
        chosen = SampleMemory(*(kept[rows] for kept in memory))
        first = chosen.log_s.isneginf()
        return surrogate(similarity, total / count, negatives, chosen, first, rho=self.rho, gamma=self.gamma)

    @torch.no_grad()
    def _update(self, index: Tensor, valid: Tensor, log_s: Tensor, slope: Tensor) -> None:
        """Write what all processes found, so that all remember the same."""
        everywhere = gather_integers(index)
        assert everywhere is not None
        said = gather_views(torch.stack([valid.to(slope.dtype), log_s, slope]).unsqueeze(-1)).views.squeeze(-1)
        log_s, slope, known = averaged_over_repeats(everywhere, said[0] > 0, said[1], said[2])
        before = SampleMemory(*(kept[everywhere].to(slope.dtype) for kept in (self.log_s, self.u, self.tau)))
        after = moved(before, log_s, slope, beta=self.beta, eta=self.eta, low=self.low, high=self.high)
        for kept, old, new in zip((self.log_s, self.u, self.tau), before, after, strict=True):
            kept[everywhere] = torch.where(known, new, old).to(kept.dtype)
