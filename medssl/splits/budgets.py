"""Label budgets: nested prefixes of one stratified order of the development patients, validation included."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medssl.errors import SplitError
from medssl.splits.files import Split

__all__ = ["Budget", "budget", "nested_order"]

VALIDATION_STRIDE = 5
SMALLEST_WITH_VALIDATION = 5


@dataclass(frozen=True)
class Budget:
    """Labelled patients that one model may use.

    Attributes:
        train: patients to fit on.
        validation: patients to choose a checkpoint on; part of the budget, empty below 5 patients.
        draw: number of the draw.
        asked: the budget as it was given: ``"8"``, ``"0.1"``, ``"all"``.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    draw: int
    asked: str

    @property
    def n_patients(self) -> int:
        """Patients whose labels are used, validation included."""
        return len(self.train) + len(self.validation)


def budget(
    split: Split,
    strata: Mapping[str, str],
    asked: int | float | str,
    *,
    draw: int = 0,
    seed: int = 0,
    require_all: bool = False,
) -> Budget:
    """The labelled patients of one budget: a prefix of :func:`nested_order` over the development patients.

    Every 5th patient of each stratum is validation, so validation comes out of the budget, and no patient changes
    role when the budget grows. Budgets below 5 have none.

    Args:
        split: its development patients are the pool.
        strata: patient → stratum of every labelled patient (from :func:`medssl.splits.strata`); others cannot be used.
        asked: a number of patients, a fraction in (0, 1], or ``"all"``; also as text. ``1`` is one patient, ``1.0``
            all of them.
        draw: number of the repeat; the same for all methods that are compared.
        seed: of the study.
        require_all: refuse a budget that does not hold every stratum (classification).

    Raises:
        SplitError: more patients asked than are labelled, no such budget, or a class that the budget lacks.
    """
    pool = {p: strata[p] for p in split.development if p in strata}
    count = _count(asked, len(pool))
    order = nested_order(pool, seed=seed, draw=draw)
    chosen = order[:count]
    lacking = sorted(set(pool.values()) - {pool[p] for p in chosen})
    if require_all and lacking:
        raise SplitError(
            f"a budget of {count} patients lacks {', '.join(lacking)}; "
            f"give at least {len(set(pool.values()))} patients, one a class"
        )
    seen: dict[str, int] = {}
    validation = []
    for patient in chosen if count >= SMALLEST_WITH_VALIDATION else ():
        seen[pool[patient]] = seen.get(pool[patient], 0) + 1
        if seen[pool[patient]] % VALIDATION_STRIDE == 0:
            validation.append(patient)
    train = tuple(p for p in chosen if p not in set(validation))
    return Budget(train=train, validation=tuple(validation), draw=draw, asked=str(asked))


def nested_order(strata: Mapping[str, str], *, seed: int, draw: int) -> list[str]:
    """One stratified order of the patients; a budget of b patients is its first b.

    First one patient of every stratum, the largest first; then always from the stratum that is furthest behind its
    share (ties: the larger stratum, then its name). So every prefix of at least as many patients as there are strata
    holds all of them, and prefixes are nested.

    Args:
        strata: patient → stratum.
        seed, draw: of the permutation inside each stratum.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, draw]))
    members: dict[str, list[str]] = {}
    for patient in sorted(strata):
        members.setdefault(strata[patient], []).append(patient)
    queues = {g: [str(p) for p in rng.permutation(members[g])] for g in sorted(members)}
    size = {g: len(q) for g, q in queues.items()}
    ranked = sorted(queues, key=lambda g: (-size[g], g))
    taken = dict.fromkeys(ranked, 1)
    order = [queues[g][0] for g in ranked]
    total = len(strata)
    while len(order) < total:
        # share * (n + 1) - taken, times the total: whole numbers, so that ties are ties
        open_ = [g for g in ranked if taken[g] < size[g]]
        behind = max(open_, key=lambda g: size[g] * (len(order) + 1) - taken[g] * total)
        order.append(queues[behind][taken[behind]])
        taken[behind] += 1
    return order


def _count(asked: int | float | str, available: int) -> int:
    if isinstance(asked, str):
        try:
            asked = available if asked == "all" else float(asked) if re.search(r"[.e]", asked) else int(asked)
        except ValueError as error:
            raise SplitError(f"budget '{asked}' is no number of patients, no fraction and not 'all'") from error
    if available == 0:
        raise SplitError("no development patient has this label; choose another target or split")
    if isinstance(asked, float) and 0 < asked <= 1:
        return max(1, math.floor(asked * available + 0.5))
    if asked != int(asked) or asked < 1:
        raise SplitError(f"budget {asked} is neither a number of patients nor a fraction in (0, 1]")
    if asked > available:
        raise SplitError(f"budget {asked} is more than the {available} labelled development patients; use 'all'")
    return int(asked)
