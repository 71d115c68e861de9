"""Who stands on which side of a split, read so that a split which leaks can still be looked at."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.audit.findings import Finding
from medssl.errors import SplitError
from medssl.splits import Split
from medssl.splits.files import patient_key

__all__ = ["Placement", "Relation", "Sides", "patient_findings", "place", "read_sides", "sides_of_parts"]

Relation = Literal["within", "across", "folds", "held", "same", "out"]
_PSEUDONYM = re.compile(r"P[0-9a-f]{10}")


@dataclass(frozen=True)
class Sides:
    """The sides of a split.

    Attributes:
        name, sha256: of the split; ``none`` and empty where there is no split.
        members: side → patients: ``test``, ``development``, ``external SITE``, ``excluded``.
        folds: each fold's patients.
        split: the split itself; None where there is none, or where it puts a patient on two sides.
    """

    name: str
    sha256: str = ""
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folds: Sequence[Sequence[str]] = ()
    split: Split | None = None

    def development(self, patients: Iterable[str]) -> list[str]:
        """Those that may be learnt from: everybody where there is no split."""
        if not self.members:
            return list(patients)
        inside = {patient_key(p) for p in self.members["development"]}
        held = {patient_key(p) for side, ps in self.members.items() if side != "development" for p in ps}
        return [p for p in patients if patient_key(p) in inside - held]


def read_sides(cohort: Path, name: str) -> Sides:
    """The sides of ``COHORT/splits/NAME.json``, or of a part of it; ``none`` is no split.

    Raises:
        SplitError: the split is missing, damaged, changed by hand, or of another state of the cohort. A patient on two
            sides is not refused here: that is what an audit is for.
    """
    if name == "none":
        return Sides(name)
    leaking = _leaking(cohort / "splits" / f"{name}.json")
    if leaking is not None:
        return leaking
    split = Split.load(cohort, name)
    external = {f"external {site}": patients for site, patients in split.external.items()}
    members = {"test": split.test, "development": split.development, **external, "excluded": tuple(split.excluded)}
    return Sides(name, split.sha256, members, split.folds, split)


def sides_of_parts(cohort: Path, name: str, parts: Sequence[str]) -> Sides:
    """The sides of a study that tests parts of a split in turn: each part's test patients are one fold.

    Those that every part learns from and none tests (patients without a site) are a last fold of their own.

    Args:
        cohort: folder.
        name: of the whole split.
        parts: names of what is tested, as of ``medssl.splits.parts``; the split's own name alone is a hold-out.

    Raises:
        SplitError: as :func:`read_sides`.
    """
    if list(parts) == [name]:
        return read_sides(cohort, name)
    splits = [Split.load(cohort, part) for part in parts]
    first = splits[0]
    everyone = (*first.development, *first.test)
    tested = {p for split in splits for p in split.test}
    always = tuple(p for p in everyone if p not in tested)
    external = {f"external {site}": patients for site, patients in first.external.items()}
    members = {"development": everyone, **external, "excluded": tuple(first.excluded)}
    folds = [split.test for split in splits] + ([always] if always else [])
    return Sides(name, Split.load(cohort, name).sha256, members, folds)


def _leaking(file: Path) -> Sides | None:
    """The sides of a file that ``Split`` would refuse, because a patient stands on two of them."""
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        external = {f"external {site}": p for site, p in fields.get("external", {}).items()}
        members = {"test": fields["test"], "development": fields["development"], **external}
        members["excluded"] = list(fields.get("excluded", {}))
        sides = Sides(file.stem, str(fields.get("sha256", "")), members, fields.get("folds", ()))
        return sides if _clashes(sides.members) or _clashes(_named(sides.folds)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # ``Split.load`` says what is wrong with it


def _named(folds: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    return {f"fold {i}": fold for i, fold in enumerate(folds)}


def _clashes(groups: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """Patient without blanks and case → side → how it is spelt there, of those on several sides."""
    found: dict[str, dict[str, str]] = {}
    for side, patients in groups.items():
        for patient in patients:
            found.setdefault(patient_key(str(patient)), {})[side] = str(patient)
    return {key: sides for key, sides in found.items() if len(sides) > 1}


def patient_findings(sides: Sides, patients: Sequence[str], sessions: Sequence[str]) -> tuple[list[Finding], str]:
    """Patients on two sides, near-identical ids, sessions of two patients.

    Args:
        sides: of the split.
        patients: (n,) patient of every recording. sessions: (n,) likewise, empty where unknown.

    Returns:
        The findings, and in words what was compared.
    """
    findings = []
    for groups, what in ((sides.members, "sides"), (_named(sides.folds), "folds")):
        clashes = _clashes(groups)
        if clashes:
            key, first = next(iter(clashes.items()))
            where = " and ".join(f"'{side}'" + (f" (as {p!r})" if p != key else "") for side, p in first.items())
            findings.append(Finding(
                "error", "patients",
                f"{len(clashes)} patients stand on two {what} of split '{sides.name}' (first: {key}, in {where}): make "
                "the split again with `medssl cohort split`",
                [{"patient": k, "sides": sorted(s)} for k, s in clashes.items()],
            ))  # fmt: skip
    everyone = sorted(set(patients))
    findings += _near_ids(sides, everyone) + _shared_sessions(patients, sessions)
    said = f"{len(everyone)} patients" + (f", split '{sides.name}'" if sides.members else ", no split")
    said += f" with {len(sides.folds)} folds" if sides.folds else ""
    if everyone and all(_PSEUDONYM.fullmatch(p) for p in everyone):
        said += "; ids are pseudonyms, so only blanks and case could be evened out (done by `prepare`)"
    return findings, said


def canonical_id(patient: str) -> str:
    """An id without case, blanks, punctuation and leading zeros, to find two spellings of one person.

    >>> canonical_id(" Pat-007 ") == canonical_id("pat7")
    True
    """
    folded = unicodedata.normalize("NFKC", patient).casefold()
    return "".join(str(int(part)) if part.isdigit() else part for part in re.findall(r"[0-9]+|[^\W\d_]+", folded))


def _near_ids(sides: Sides, patients: Sequence[str]) -> list[Finding]:
    spellings: dict[str, list[str]] = {}
    for patient in patients:
        spellings.setdefault(canonical_id(patient), []).append(patient)
    alike = [names for key, names in spellings.items() if key and len(names) > 1]
    if not alike:
        return []
    side_of = {patient_key(p): side for side, members in sides.members.items() for p in members}
    torn = [names for names in alike if len({side_of.get(patient_key(p)) for p in names}) > 1]
    first = ", ".join(f"'{p}'" for p in (torn or alike)[0])
    across = f", {len(torn)} of them across the sides of the split" if torn else ""
    return [Finding(
        "warning", "patients",
        f"{len(alike)} patient ids differ from another only in blanks, case, punctuation or leading zeros{across} "
        f"(first: {first}): if they are one person each, mend the ids in the recipe and prepare again",
        [{"patients": names, "sides": sorted({side_of.get(patient_key(p), "") for p in names})} for names in alike],
    )]  # fmt: skip


def _shared_sessions(patients: Sequence[str], sessions: Sequence[str]) -> list[Finding]:
    """Sessions of two patients, where a session id otherwise belongs to one (a StudyInstanceUID, not "01")."""
    owners: dict[str, set[str]] = {}
    for patient, session in zip(patients, sessions, strict=True):
        if session:
            owners.setdefault(session, set()).add(patient)
    shared = {session: names for session, names in owners.items() if len(names) > 1}
    if not shared or len(shared) > 0.1 * len(owners):
        return []
    first, names = next(iter(shared.items()))
    return [Finding(
        "warning", "patients",
        f"{len(shared)} of {len(owners)} sessions belong to several patients (first: {first}, of "
        f"{', '.join(sorted(names))}): if a patient was renamed between two imports, give both one id",
        [{"session": s, "patients": sorted(n)} for s, n in shared.items()],
    )]  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where every recording of the manifest stands, as numbers.

    Attributes:
        patient: (n,) number of the patient.
        side: (n,) number of the side in ``names``; -1 where there is no split.
        fold: (n,) or -1.
        held: (n,) kept back for testing.
        out: (n,) excluded, so in nobody's way.
        names: of the sides.
    """

    patient: NDArray[np.int64]
    side: NDArray[np.int64]
    fold: NDArray[np.int64]
    held: NDArray[np.bool_]
    out: NDArray[np.bool_]
    names: Sequence[str]

    def relation(self, rows: Sequence[int] | NDArray[np.integer]) -> Relation:
        """How recordings that are the same stand to each other; the worst where there are more than two."""
        rows = np.asarray(rows)
        if len(np.unique(self.patient[rows])) == 1:
            return "within"
        rows = rows[~self.out[rows]]
        if len(np.unique(self.patient[rows])) < 2:
            return "out"
        held = self.held[rows]
        if held.any() and not held.all():
            return "across"
        folds = self.fold[rows][~held]
        if len(np.unique(folds[folds >= 0])) > 1:
            return "folds"
        return "held" if len(np.unique(self.side[rows])) > 1 else "same"

    def where(self, row: int) -> str:
        """Side of one recording, for people."""
        side = self.names[self.side[row]] if self.side[row] >= 0 else ""
        return f"{side}, fold {self.fold[row]}" if self.fold[row] >= 0 else side


def place(sides: Sides, patients: Sequence[str]) -> Placement:
    """Numbers for every recording; a patient on two sides counts for the first of them, ``test`` before others."""
    names = list(sides.members)
    side_of: dict[str, int] = {}
    for number, side in enumerate(names):
        for patient in sides.members[side]:
            side_of.setdefault(patient_key(str(patient)), number)
    fold_of = {patient_key(str(p)): i for i, fold in enumerate(sides.folds) for p in fold}
    keys = [patient_key(p) for p in patients]
    numbers = np.array([side_of.get(k, -1) for k in keys], dtype=np.int64)
    kinds = np.array([*names, ""], dtype=object)
    missing = [p for p, s in zip(patients, numbers, strict=True) if s < 0]
    if names and missing:
        raise SplitError(f"patient '{missing[0]}' is on no side of split '{sides.name}'; make the split again")
    return Placement(
        np.unique(keys, return_inverse=True)[1].astype(np.int64), numbers,
        np.array([fold_of.get(k, -1) for k in keys], dtype=np.int64),
        np.array([kinds[s] == "test" or str(kinds[s]).startswith("external ") for s in numbers], dtype=bool),
        np.array([kinds[s] == "excluded" for s in numbers], dtype=bool), names,
    )  # fmt: skip
