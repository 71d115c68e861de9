"""The shortcut check of one target: what is a fact, what is another label, what is the order of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.facts import Facts, encode
from medssl.audit.findings import Finding
from medssl.audit.prediction import Problem
from medssl.audit.shortcuts import (
    ASSOCIATED,
    association,
    copies_of_label,
    look_for_shortcuts,
    manageable,
    renumbered,
    shortcut_finding,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Question", "metadata_findings"]


@dataclass(frozen=True)
class Question:
    """A label, and what could give it away, item by item.

    Attributes:
        target: name of the label.
        problem: its values and patients.
        facts: (n rows) metadata.
        others: (n rows) other labels; may have no columns.
        order: (n,) place in the manifest or table.
        groups: what may be tied to the class as a whole: ``{"site": (n,) texts}``.
        is_input: the columns are what a model of the table would see, so that one equal to the label is an error.
    """

    target: str
    problem: Problem
    facts: pd.DataFrame
    others: pd.DataFrame
    order: NDArray[np.int64]
    groups: dict[str, NDArray[Any]] = field(default_factory=dict)
    is_input: bool = False


def metadata_findings(
    asked: Question, *, permutations: int, seed: int
) -> tuple[list[Finding], dict[str, str], dict[str, Any]]:
    """Whether metadata, other labels or the order of rows tell the label.

    Returns:
        Findings; in words what was done, by check; the figures.
    """
    rows, classes, left_out = manageable(asked.problem, seed)
    problem = renumbered(asked.problem, rows, classes)
    facts = encode(asked.facts.iloc[rows], problem.patients)
    findings = _copies(asked, problem, facts)
    found = look_for_shortcuts(problem, facts, permutations=permutations, seed=seed)
    size = f"{len(problem.y)} items of {len(np.unique(problem.patients))} patients"
    size += f" ({left_out})" if left_out else ""
    said, measures = {}, {}
    if found is None:
        why = "there are too few patients" if facts.names else "nothing in it differs between recordings"
        said["shortcuts"] = f"left out: the metadata cannot be learnt from, {why} ({size})"
    else:
        used = f"{len(facts.names)} columns of metadata" if len(facts.names) > 3 else ", ".join(facts.names)
        said["shortcuts"] = f"'{asked.target}' from {used}; {size}: {found}"
        measures["metadata"] = found.to_plain() | {"dropped": dict(facts.dropped)}
        findings += [f for f in [shortcut_finding(found, asked.target)] if f]
    findings += _associations(asked, problem, rows, measures)
    findings += _order(asked, problem, rows, seed, said, measures)
    findings += _others(asked, problem, rows, seed, said, measures)
    return findings, said, measures


def _copies(asked: Question, problem: Problem, facts: Facts) -> list[Finding]:
    copies = copies_of_label(problem, facts)
    if not copies:
        return []
    return [Finding(
        "error" if asked.is_input else "warning", "shortcuts",
        f"{', '.join(repr(c) for c in copies)} says the same as '{asked.target}' for every item: "
        + ("leave it out of the table (--ignore) and of every model" if asked.is_input
           else "no model can be judged on data where the two are one"),
        [{"column": c} for c in copies],
    )]  # fmt: skip


def _associations(
    asked: Question, problem: Problem, rows: NDArray[np.int64], measures: dict[str, Any]
) -> list[Finding]:
    findings = []
    if problem.kind != "classes":
        return []
    for name, texts in asked.groups.items():
        known = texts[rows] != ""
        if not known.any():
            continue
        codes = np.unique(texts[rows][known].astype(str), return_inverse=True)[1]
        both = association(problem.y[known], codes, problem.patients[known])
        if both is None:
            continue
        v, p = both
        measures[f"cramers_v {name}"] = {"v": v, "p": p}
        if v > ASSOCIATED and p < 0.05:
            findings.append(Finding(
                "warning", "shortcuts", f"'{asked.target}' goes with {name} (Cramér's V {v:.2f}, p {p:.2g}, "
                f"{len(np.unique(codes))} values of {name}): balance the classes within each {name}, or test on others",
            ))  # fmt: skip
    return findings


def _order(
    asked: Question, problem: Problem, rows: NDArray[np.int64], seed: int, said: dict[str, str],
    measures: dict[str, Any],
) -> list[Finding]:  # fmt: skip
    """Row order apart: folders named by class sort the rows by label, which harms only those who cut by position."""
    place = Facts(("row",), asked.order[rows].astype(np.float64)[:, None], np.zeros(1, dtype=bool), {})
    found = look_for_shortcuts(problem, place, permutations=0, seed=seed)
    if found is None:
        return []
    said["row order"], measures["row order"] = str(found), found.to_plain()
    if not found.telling:
        return []
    return [Finding(
        "note", "row order",
        f"rows are sorted by '{asked.target}' ({found}): never split, subsample or batch by position",
    )]  # fmt: skip


def _others(
    asked: Question, problem: Problem, rows: NDArray[np.int64], seed: int, said: dict[str, str],
    measures: dict[str, Any],
) -> list[Finding]:  # fmt: skip
    facts = encode(asked.others.iloc[rows], problem.patients)
    found = look_for_shortcuts(problem, facts, permutations=0, seed=seed)
    if found is not None:
        said["other labels"] = f"{', '.join(facts.names)}: {found}"
        measures["other labels"] = found.to_plain()
    copies = copies_of_label(problem, facts)
    if not copies:
        return []
    return [Finding(
        "warning", "other labels", f"label {', '.join(repr(c) for c in copies)} says the same as '{asked.target}' for "
        "every item: never give it to a model that predicts the other", [{"column": c} for c in copies],
    )]  # fmt: skip


def texts(values: Sequence[Any]) -> NDArray[Any]:
    """An object array of texts, empty where unknown."""
    return np.array(["" if v is None or v != v else str(v) for v in values], dtype=object)
