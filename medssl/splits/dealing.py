"""Drawing a test set and dealing folds: stratified patients, or whole sites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medssl.errors import SplitError

__all__ = ["deal_folds", "draw_test"]


def draw_test(
    groups: Mapping[str, Sequence[str]], strata_of: Mapping[str, str], test: float | int, rng: np.random.Generator
) -> tuple[str, ...]:
    """The test patients.

    Args:
        groups: what is drawn as a whole (a patient, or a site) → its patients.
        strata_of: patient → stratum; groups without any labelled patient are never drawn.
        test: number or fraction of patients; whole sites are added until it is reached.
        rng: of the draw.
    """
    by_stratum = _strata_of_groups(groups, strata_of)
    available = sum(len(groups[g]) for members in by_stratum.values() for g in members)
    wanted = _wanted(test, available)
    shuffled = {s: [members[i] for i in rng.permutation(len(members))] for s, members in sorted(by_stratum.items())}
    if any(len(members) > 1 for members in groups.values()):  # sites: whole ones until the number is reached
        queue = [g for s in shuffled for g in shuffled[s]]
        return _whole_sites(groups, queue, wanted)
    quota = _quotas({s: len(members) for s, members in shuffled.items()}, wanted)
    return tuple(sorted(p for s, members in shuffled.items() for g in members[: quota[s]] for p in groups[g]))


def deal_folds(
    groups: Mapping[str, Sequence[str]], strata_of: Mapping[str, str], folds: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], ...]:
    """Folds of equal size: strata one after the other, each dealt to the folds that have least."""
    by_stratum = _strata_of_groups(groups, strata_of)
    count = sum(len(members) for members in by_stratum.values())
    if folds < 2 or folds > count:
        raise SplitError(f"{folds} folds cannot be made of {count} patients or sites; give 2 to {count}")
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for stratum in sorted(by_stratum):
        members = by_stratum[stratum]
        had = [0] * folds
        for i in rng.permutation(len(members)):
            group = groups[members[i]]
            target = min(range(folds), key=lambda f: (had[f], len(dealt[f]), f))
            dealt[target] += group
            had[target] += len(group)
    return tuple(tuple(sorted(fold)) for fold in dealt)


def _strata_of_groups(groups: Mapping[str, Sequence[str]], strata_of: Mapping[str, str]) -> dict[str, list[str]]:
    """stratum → groups; a site is stratified by nothing, an unlabelled patient is in no stratum."""
    found: dict[str, list[str]] = {}
    for group in sorted(groups):
        members = groups[group]
        labelled = [p for p in members if p in strata_of]
        if labelled:
            found.setdefault(strata_of[labelled[0]] if len(members) == 1 else "site", []).append(group)
    return found


def _whole_sites(groups: Mapping[str, Sequence[str]], queue: Sequence[str], wanted: int) -> tuple[str, ...]:
    held: list[str] = []
    for site in queue[:-1]:  # one site at least stays to learn from
        if len(held) >= wanted:
            break
        held += groups[site]
    return tuple(sorted(held))


def _wanted(test: float | int, available: int) -> int:
    if test < 0 or (isinstance(test, float) and test >= 1 and not test.is_integer()):
        raise SplitError(f"--test {test} is neither a number of patients nor a fraction below 1")
    wanted = math.floor(test * available + 0.5) if 0 < test < 1 else int(test)
    wanted = max(wanted, 1) if test > 0 else 0
    if wanted >= available > 0 and test > 0:
        raise SplitError(f"{wanted} test patients are asked of {available} that can be drawn; give a smaller --test")
    return wanted


def _quotas(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Shares by largest remainder; a stratum of two or more is on both sides wherever the numbers allow."""
    total = sum(sizes.values())
    exact = {s: n * wanted / total for s, n in sizes.items()} if total else {}
    quota = {s: int(e) for s, e in exact.items()}
    for s in sorted(sizes, key=lambda s: (quota[s] - exact[s], -sizes[s], s))[: wanted - sum(quota.values())]:
        quota[s] += 1
    for s in sorted(sizes, key=lambda s: (-sizes[s], s)):
        if sizes[s] >= 2 and quota[s] == 0 and wanted:
            donor = max(quota, key=lambda d: (quota[d] - exact[d], quota[d], d) if quota[d] > 1 else (-math.inf, 0, d))
            if quota[donor] > 1:
                quota[donor] -= 1
                quota[s] = 1
    return quota
