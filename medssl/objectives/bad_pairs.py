"""Finding pairs that do harm by the history of their losses (dynamic bad pair mining)."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import positive
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.weighting import PairWeighting

__all__ = ["BadPairMiner", "BadPairs", "History", "Weighting", "bad_pair_weights", "bad_pairs", "repeats"]

Weighting = Literal["bounded", "paper", "code", "drop"]
History = Literal["auto", "mean", "epoch_weighted", "ema"]
SMALLEST_SPREAD = 1e-6


class BadPairs(NamedTuple):
    """What the histories of all pairs say.

    Attributes:
        mean: of the histories, scalar.
        sd: their standard deviation over the pairs (divided by N), scalar.
        noisy: (N,) pairs with an unusually small loss.
        faulty: (N,) pairs with an unusually large loss.
    """

    mean: Tensor
    sd: Tensor
    noisy: Tensor
    faulty: Tensor


def bad_pairs(history: Tensor, known: Tensor, *, noisy: float, faulty: float) -> BadPairs:
    r"""Pairs whose history m is far from the others: :math:`m < \mu - b_n \sigma`, or :math:`m > \mu + b_f \sigma`.

    Args:
        history: (N,) mean loss of every pair so far.
        known: (N,) booleans: the pair was seen; others neither count nor are flagged.
        noisy, faulty: thresholds :math:`b_n` and :math:`b_f` in standard deviations.

    >>> found = bad_pairs(torch.tensor([0.0, 5, 5, 5, 9]), torch.ones(5, dtype=torch.bool), noisy=1.5, faulty=1)
    >>> found.noisy.tolist(), found.faulty.tolist()
    ([True, False, False, False, False], [False, False, False, False, True])
    """
    count = known.sum().clamp_min(1)
    mean = torch.where(known, history, 0.0).sum() / count
    sd = (torch.where(known, history - mean, 0.0).square().sum() / count).sqrt()
    known = known & (sd > 8 * torch.finfo(sd.dtype).eps * mean.abs())  # equal histories but for rounding say nothing
    return BadPairs(mean, sd, known & (history < mean - noisy * sd), known & (history > mean + faulty * sd))


def bad_pair_weights(losses: Tensor, flagged: Tensor, mean: Tensor, sd: Tensor, weighting: Weighting) -> Tensor:
    r"""Weights of pairs by their present loss; 1 where a pair is not flagged or its loss is not a number.

    ``bounded``: :math:`e^{-(L-\mu)^2 / 2\sigma^2}`, from 0 to 1. ``paper`` and ``code``: the density of the normal
    distribution, that divided by :math:`\sigma\sqrt{2\pi}`, which exceeds 1 for small :math:`\sigma`. ``drop``: 0.

    Args:
        losses: (B,) present losses, without gradient.
        flagged: (B,) booleans.
        mean, sd: scalars μ and σ, see ``BadPairs``.
        weighting: which of the above.
    """
    sd = sd.clamp_min(SMALLEST_SPREAD)
    weights = torch.exp(-0.5 * ((losses - mean) / sd).square())
    if weighting in ("paper", "code"):
        weights = weights / (sd * math.sqrt(2 * math.pi))
    elif weighting == "drop":
        weights = torch.zeros_like(weights)
    return torch.where(flagged & losses.isfinite(), weights, 1.0)


def repeats(index: Tensor) -> Tensor:
    """How many equal numbers stand before each.

    >>> repeats(torch.tensor([7, 3, 7, 7, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    sorted_, order = index.sort(stable=True)
    place = torch.arange(len(index), device=index.device)
    return torch.empty_like(index).scatter_(0, order, place - torch.searchsorted(sorted_, sorted_))


class BadPairMiner(PairWeighting):
    """Dynamic bad pair mining (Lan et al., *Towards enhancing time series contrastive learning*, ICLR 2024).

    Two kinds of positive pairs do harm. *Noisy* ones: the recording is mostly noise, which both views share, so that
    their loss is unusually small. *Faulty* ones: augmentation took the content away, and their loss is unusually large.
    The mean of every pair's losses so far is compared with those of all others once an epoch; pairs that lie far off
    weigh less from then on. A pair is a recording with two fresh views of it, whatever its kind and its encoder.

    An epoch is as many pairs as there are recordings. Memory: 14 bytes a recording. All processes see all losses, so
    that they flag the same pairs as one would.

    Args:
        weighting: of flagged pairs, see ``bad_pair_weights``. ``bounded``; ``paper`` as printed; ``code`` as released
            (with ``history: epoch_weighted`` it all but drops the pairs); ``drop``.
        history: ``mean`` of a pair's losses; ``epoch_weighted``: the n-th counts n-fold; ``ema``: a moving average;
            ``auto``: as published, ``epoch_weighted`` for ``code``, else ``mean``. ``code`` divides by count and
            epochs of the run instead of the sum of the weights.
        warmup: epochs before any pair is flagged; below 1: as a share of the run. The first epoch always passes.
        noisy: standard deviations below the mean at which a pair counts as noisy; ``.inf``: none does.
        faulty: standard deviations above the mean at which it counts as faulty.
        ema_decay: of the moving average; 0: the last loss alone.
        keep_history: also keep every loss in checkpoints: ``table`` (recordings, epochs), of whose row the first
            ``count`` are losses and the rest 0.

    Raises:
        ConfigError: settings out of range.
    """

    memory: Tensor
    count: Tensor
    noisy_pairs: Tensor
    faulty_pairs: Tensor
    mean: Tensor
    sd: Tensor
    seen: Tensor
    epoch: Tensor
    table: Tensor

    def __init__(
        self,
        *,
        weighting: Weighting = "bounded",
        history: History = "auto",
        warmup: float = 0.6,
        noisy: float = 2.0,
        faulty: float = 3.0,
        ema_decay: float = 0.9,
        keep_history: bool = False,
    ) -> None:
        super().__init__()
        positive("BadPairMiner", noisy=noisy, faulty=faulty)
        if weighting not in get_args(Weighting) or history not in get_args(History):
            raise ConfigError(
                f"BadPairMiner takes a weighting of {', '.join(get_args(Weighting))} and a history of "
                f"{', '.join(get_args(History))}, not '{weighting}' and '{history}'"
            )
        if warmup < 0 or not 0 <= ema_decay < 1:
            raise ConfigError(
                f"BadPairMiner takes a warmup of 0 or more and an ema_decay from 0 to below 1, not {warmup} and "
                f"{ema_decay}"
            )
        self.weighting: Weighting = weighting
        self.history: History = history
        if history == "auto":
            self.history = "epoch_weighted" if weighting == "code" else "mean"
        self.warmup, self.noisy, self.faulty = warmup, noisy, faulty
        self.ema_decay, self.keep_history = ema_decay, keep_history
        self._calls: int | None = None
        self._weight: Tensor | None = None

    def remember(self, samples: int) -> None:
        """See ``PairWeighting.remember``."""
        self.register_buffer("memory", torch.zeros(samples))
        self.register_buffer("count", torch.zeros(samples, dtype=torch.int64))
        for name in ("noisy_pairs", "faulty_pairs"):
            self.register_buffer(name, torch.zeros(samples, dtype=torch.bool))
        for name in ("mean", "sd"):
            self.register_buffer(name, torch.zeros(()))
        for name in ("seen", "epoch"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        if self.keep_history:
            self.register_buffer("table", torch.empty(samples, 0))

    def plan(self, calls: int) -> None:
        """See ``PairWeighting.plan``."""
        self._calls = calls

    def forward(self, losses: Tensor, index: Tensor) -> Tensor:
        """See ``PairWeighting.forward``; flags pairs anew when an epoch begins, then takes in the losses."""
        every = gather_views(losses.view(1, -1, 1)).views.flatten()
        rows = gather_integers(index)
        assert rows is not None
        self._begin(len(every))
        flagged = self.noisy_pairs[index] | self.faulty_pairs[index]
        weights = bad_pair_weights(losses, flagged, self.mean, self.sd, self.weighting)
        self._record(every, rows)
        self._weight = weights.mean()
        return weights

    def logs(self) -> dict[str, Tensor]:
        """Pairs of the cohort that are flagged on either side, and the mean weight in the last batch."""
        if self._weight is None:
            return {}
        flagged = {"noisy_pairs": self.noisy_pairs.sum().float(), "faulty_pairs": self.faulty_pairs.sum().float()}
        return {**flagged, "pair_weight": self._weight}

    def histories(self, epochs: float) -> Tensor:
        """(N,) mean loss of each pair as ``history`` says; 0 for pairs that were not seen yet.

        Args:
            epochs: of the whole run, for ``weighting: code``.
        """
        if self.history == "ema":
            return self.memory
        count = self.count.clamp_min(1).to(self.memory.dtype)
        if self.history == "mean":
            return self.memory / count
        return self.memory / (count * epochs if self.weighting == "code" else count * (count + 1) / 2)

    def _begin(self, batch: int) -> None:
        """Flag pairs if this batch of all processes is the first of an epoch."""
        epoch = int(self.seen) // len(self.count)
        if epoch <= int(self.epoch):
            return
        self.epoch.fill_(epoch)
        epochs = math.inf if self._calls is None else self._calls * batch / len(self.count)
        warmup = self.warmup if self.warmup >= 1 else self.warmup * epochs if self.warmup else 0.0
        if epoch + 1e-9 < warmup:  # a hair: 0.6 · 5 epochs are 3
            return
        if self.weighting == "code" and self.history == "epoch_weighted" and self._calls is None:
            raise ConfigError("BadPairMiner with weighting 'code' must know how long the run is; call plan() first")
        found = bad_pairs(self.histories(epochs), self.count > 0, noisy=self.noisy, faulty=self.faulty)
        for name, value in zip(("mean", "sd", "noisy_pairs", "faulty_pairs"), found, strict=True):
            getattr(self, name).copy_(value)

    def _record(self, losses: Tensor, index: Tensor) -> None:
        """Take in the losses of a batch; those that are not finite were left out by the objective."""
        self.seen += len(index)
        kept = losses.isfinite()
        losses, index = losses[kept].to(self.memory.dtype), index[kept]
        turn = repeats(index)
        for place in range(int(turn.max()) + 1 if len(turn) else 0):  # a pair twice where one epoch ends in a batch
            now = turn == place
            self._update(losses[now], index[now])

    def _update(self, losses: Tensor, index: Tensor) -> None:
        """One loss each of different pairs."""
        before, count = self.memory[index], self.count[index]
        if self.history == "ema":
            after = torch.where(count > 0, self.ema_decay * before + (1 - self.ema_decay) * losses, losses)
        else:
            after = before + (losses if self.history == "mean" else (1 + count) * losses)
        self.memory[index] = after
        self.count[index] = count + 1
        if self.keep_history:
            missing = int(count.max()) + 1 - self.table.shape[1]
            if missing > 0:
                self.table = torch.nn.functional.pad(self.table, (0, missing))
            self.table[index, count] = losses

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        table = state_dict.get(f"{prefix}table")
        if table is not None and self.keep_history:  # it has grown since it was made
            self.table = self.table.new_empty(table.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
