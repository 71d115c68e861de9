"""Parts of a split that are tested in turn: its folds, or its sites."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medssl.errors import SplitError, unknown_name

if TYPE_CHECKING:
    from medssl.splits.files import Split

__all__ = ["Testing", "part_of", "parts", "sites_of"]

Testing = Literal["holdout", "folds", "sites"]
_PARTS = (("fold", r"-fold(\d+)$"), ("site", r"(?=-site-(.+)$)"))  # looking ahead: every "-site-" is tried


def parts(cohort: Path, name: str, testing: Testing) -> list[str]:
    """Names of the splits that a study tests in turn; each can be loaded with ``Split.load``.

    ``holdout`` is the split itself. ``folds`` are its folds, each tested by models of the others. ``sites`` are the
    sites of its development patients, each tested by models of the other sites.

    Raises:
        SplitError: the split has no folds, or the cohort fewer than two sites.
    """
    from medssl.splits.files import Split

    whole = Split.load(cohort, name)
    if testing == "holdout":
        return [name]
    if testing == "folds":
        if len(whole.folds) < 2:
            raise SplitError(f"split '{name}' has no folds; make one with `medssl cohort split {cohort} --folds 5`")
        return [f"{name}-fold{i}" for i in range(len(whole.folds))]
    of = sites_of(cohort)
    found = sorted({_as_name(of.get(p, "")) for p in whole.development} - {""})
    if len(found) < 2:
        raise SplitError(
            f"the development patients of split '{name}' come from {len(found)} site(s) (column 'site'), and leaving "
            "one out needs two; test on the hold-out or on folds"
        )
    return [f"{name}-site-{site}" for site in found]


def part_of(cohort: Path, name: str) -> tuple[str, str, str] | None:
    """(split, ``"fold"`` or ``"site"``, which) of the name of a part; None for that of a whole split."""
    if (cohort / "splits" / f"{name}.json").is_file():
        return None
    found = [(name[: m.start()], kind, m[1]) for kind, form in _PARTS for m in re.finditer(form, name) if m.start()]
    # names of splits and sites may hold "-site-" too: the reading is meant whose split is there
    there = [part for part in found if (cohort / "splits" / f"{part[0]}.json").is_file()]
    return next(iter(there or found), None)


def without_site(split: Split, site: str, site_of: Mapping[str, str]) -> Split:
    """The split that tests on the development patients of one site and learns from those of others.

    Raises:
        SplitError: no development patient is of that site, or all are.
    """
    of = {p: _as_name(site_of.get(p, "")) for p in split.development}
    test = tuple(p for p in split.development if of[p] == _as_name(site))
    if not test or len(test) == len(of):
        known = sorted({s for s in of.values() if s})
        raise SplitError(unknown_name("site", site, known) if not test else f"all patients are of site '{site}'")
    held = set(test)
    return replace(
        split,
        name=f"{split.name}-site-{_as_name(site)}",
        test=test,
        development=tuple(p for p in split.development if p not in held),
        excluded={**split.excluded, **dict.fromkeys(split.test, "test patient of the whole split")},
        folds=(),
        sha256="",
    )


def _as_name(site: str) -> str:
    """What of a site can be part of a split's name, and of a folder's."""
    return re.sub(r"[^\w.-]", "_", site)


def sites_of(cohort: Path) -> dict[str, str]:
    """Patient → site, empty where it is not known.

    Raises:
        SplitError: a patient with recordings of two sites, who would be learnt from and tested on.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(cohort / "recordings.parquet", columns=["patient", "site"])
    found: dict[str, str] = {}
    for patient, site in zip(table["patient"].to_pylist(), table["site"].to_pylist(), strict=True):
        known = found.setdefault(patient, site or "")
        if known != (site or ""):
            raise SplitError(f"patient '{patient}' has recordings of sites '{known}' and '{site or ''}'; test on folds")
    return found
