"""From a manifest to a split: one call for the command line, one for code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl.errors import SplitError, unknown_name
from medssl.splits.dealing import deal_folds, draw_test
from medssl.splits.files import Split, patient_key
from medssl.splits.stratify import LABEL, patient_strata

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["coverage", "make_split", "split"]


def split(
    cohort: Path,
    *,
    name: str = "default",
    test: int | float = 0.2,
    folds: int = 0,
    by: Literal["patient", "site"] = "patient",
    stratify: str | None = None,
    seed: int = 0,
    test_sites: Sequence[str] = (),
    test_where: str = "",
    overwrite: bool = False,
) -> Split:
    """Write a named patient-level split file into a cohort and print who is where.

    Args:
        cohort: folder of the cohort.
        name: of the split.
        test: patients kept back: a number, or a fraction of those that may be chosen; 0 for none.
        folds: also deal the other patients into this many folds; 0 for none.
        by: ``"site"`` keeps whole sites together.
        stratify: label, event kind or mask to balance; patients without it are never test patients.
        seed: of the draw.
        test_sites: whole sites to hold out as external test sets.
        test_where: an official test set, as LABEL=VALUE (``split=test``): the patients with that value, whatever
            ``test`` says.
        overwrite: replace a split of the same name.
    """
    from medssl.cohort import Cohort

    opened = Cohort(cohort)
    made = make_split(
        opened.manifest,
        name=name,
        test=test,
        folds=folds,
        by=by,
        stratify=stratify,
        seed=seed,
        test_sites=test_sites,
        test_patients=_patients_where(opened.manifest, test_where) if test_where else (),
        events=opened.events,
    )
    file = made.save(cohort, overwrite=overwrite)
    sizes = [f"{len(made.test)} test", f"{len(made.development)} development"]
    sizes += [f"{len(patients)} of site {site}" for site, patients in made.external.items()]
    print(f"{file}: {', '.join(sizes)} patients, sha256 {made.sha256[:12]}")
    if stratify:
        for side, counts in coverage(made, patient_strata(opened.manifest, opened.events, stratify)).items():
            print(
                f"  {side}: "
                + ", ".join(f"{stratum} {n}" + (" (none!)" if n == 0 else "") for stratum, n in counts.items())
            )
    return made


def make_split(
    manifest: pd.DataFrame,
    *,
    name: str,
    test: float | int = 0.2,
    folds: int = 0,
    by: Literal["patient", "site"] = "patient",
    stratify: str | None = None,
    seed: int = 0,
    test_sites: Sequence[str] = (),
    test_patients: Sequence[str] = (),
    events: pd.DataFrame | None = None,
) -> Split:
    """Draw a split of the patients of a manifest. See :func:`split`.

    Args:
        manifest: at least ``recording`` and ``patient``; ``site`` for splits by site, what ``stratify`` names.
        test_patients: an official test set, taken as it is instead of a draw.
        events: the cohort's events, needed where ``stratify`` is a kind of event.

    Raises:
        SplitError: two spellings of one patient, unknown names, more test patients than there are, or nobody left.
    """
    everyone = _patients(manifest)
    strata_of = patient_strata(manifest, events, stratify) if stratify else dict.fromkeys(everyone, "all")
    external = _external(manifest, everyone, test_sites)
    pool = [p for p in everyone if p not in {p for side in external.values() for p in side}]
    groups = _groups(manifest, pool, by)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    if test_patients:
        unknown = sorted(set(test_patients) - set(pool))
        if unknown:
            raise SplitError(f"test patients {', '.join(unknown[:5])} are not in the manifest (or at a held-out site)")
        held = tuple(sorted(test_patients))
        unlabelled = [p for p in held if p not in strata_of]
        if unlabelled:
            raise SplitError(
                f"{len(unlabelled)} of {len(held)} test patients have no '{stratify}' (first: {unlabelled[0]}); "
                "nothing could be measured on them: choose another test set"
            )
    else:
        held = draw_test(groups, strata_of, test, rng)
    development = tuple(p for p in pool if p not in set(held))
    if not development:
        raise SplitError(f"{len(held)} test patients leave nobody to learn from; give a smaller --test")
    left = {g: members for g, members in groups.items() if not set(members) & set(held)}
    dealt = deal_folds(left, strata_of, folds, rng) if folds else ()
    words = ["official test set" if test_patients else f"test {test}", f"whole {by}s", f"{folds} folds"]
    words += [f"external sites {', '.join(external)}"] if external else []
    return Split(
        name=name,
        test=held,
        development=development,
        seed=seed,
        rule="; ".join(words),
        stratified_by=stratify or "",
        external=external,
        folds=dealt,
        manifest_sha256=_manifest_sha256(manifest),
    )


def _patients_where(manifest: pd.DataFrame, condition: str) -> tuple[str, ...]:
    """Patients of the recordings whose label has a value: ``"split=test"``."""
    label, equals, value = condition.partition("=")
    labels = [c.removeprefix(LABEL) for c in manifest.columns if c.startswith(LABEL)]
    if not equals:
        raise SplitError(f"--test-where '{condition}' is not LABEL=VALUE, such as split=test")
    if label not in labels:
        raise SplitError(unknown_name("label", label, labels))
    values: dict[str, set[str]] = {}
    for patient, found in zip(manifest["patient"], manifest[LABEL + label], strict=True):
        if found is not None and found == found:  # NaN is unknown, too
            values.setdefault(str(patient), set()).add(f"{found:g}" if isinstance(found, float) else str(found))
    chosen = [patient for patient, has in sorted(values.items()) if value in has]
    if not chosen:
        known = ", ".join(sorted(set().union(*values.values()))[:10])
        raise SplitError(f"no recording has {label} '{value}'; there are: {known}")
    torn = [patient for patient in chosen if len(values[patient]) > 1]
    if torn:
        raise SplitError(f"patient '{torn[0]}' has {label} {' and '.join(sorted(values[torn[0]]))}: on one side only")
    return tuple(chosen)


def coverage(split: Split, strata: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Patients of every stratum on every side; a 0 is a class that cannot be learnt, or not be judged, there."""
    sides = {"test": split.test, "development": split.development, **split.external}
    sides |= {f"fold {i}": fold for i, fold in enumerate(split.folds)}
    names = sorted(set(strata.values()))
    return {
        side: {s: sum(strata.get(p) == s for p in patients) for s in names}
        for side, patients in sides.items()
        if patients
    }


def _patients(manifest: pd.DataFrame) -> list[str]:
    everyone = sorted({str(p) for p in manifest["patient"]})
    spellings: dict[str, str] = {}
    for patient in everyone:
        other = spellings.setdefault(patient_key(patient), patient)
        if other != patient:
            raise SplitError(f"'{other}' and '{patient}' are one patient spelt in two ways; mend the ids in the recipe")
    if not everyone or "" in spellings:
        raise SplitError("the manifest has recordings without a patient; a split needs to know whose they are")
    return everyone


def _sites(manifest: pd.DataFrame) -> dict[str, set[str]]:
    if "site" not in manifest:
        raise SplitError("the manifest has no column 'site'; split by patient instead")
    found: dict[str, set[str]] = {}
    for patient, site in zip(manifest["patient"], manifest["site"], strict=True):
        found.setdefault(str(patient), set()).add(str(site or ""))
    return found


def _external(manifest: pd.DataFrame, everyone: Sequence[str], sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not sites:
        return {}
    of = _sites(manifest)
    known = {site for sites_ in of.values() for site in sites_}
    unknown = [site for site in sites if site not in known]
    if unknown:
        raise SplitError(f"no site '{unknown[0]}' in the manifest; there are: {', '.join(sorted(known))}")
    held: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for site in sites:  # a patient seen at two held-out sites counts for the first
        held[site] = tuple(p for p in everyone if site in of[p] and p not in taken)
        taken |= set(held[site])
    return held


def _groups(manifest: pd.DataFrame, pool: Sequence[str], by: str) -> dict[str, list[str]]:
    """What is drawn as a whole: patients, or sites with all their patients."""
    if by == "patient":
        return {p: [p] for p in pool}
    if by != "site":
        raise SplitError(f"splits are by 'patient' or by 'site', not by '{by}'")
    of = _sites(manifest)
    groups: dict[str, list[str]] = {}
    for patient in pool:
        if len(of[patient]) > 1 or not all(of[patient]):
            where = ", ".join(sorted(of[patient])).strip(", ") or "none"
            raise SplitError(f"patient '{patient}' has not exactly one site (has: {where}); split by patient instead")
        groups.setdefault(next(iter(of[patient])), []).append(patient)
    if len(groups) < 2:
        raise SplitError("all patients come from one site; split by patient instead")
    return groups


def _manifest_sha256(manifest: pd.DataFrame) -> str:
    columns = [c for c in ("recording", "patient", "sha256") if c in manifest]
    rows = sorted("\t".join(str(v) for v in row) for row in manifest[columns].itertuples(index=False))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
