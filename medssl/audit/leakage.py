"""``medssl audit leakage``: does anything of the test patients reach training, and can the label be had for nothing?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.audit.findings import Finding, Report
from medssl.audit.sides import Placement, Sides
from medssl.errors import ConfigError
from medssl.training.targets import Task

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort

__all__ = ["audit_cohort", "leakage"]

FEWEST_PERMUTATIONS = 19  # with fewer the smallest p is above 0.05


def leakage(
    *,
    cohort: Path | None = None,
    split: str = "default",
    target: str | None = None,
    task: Task | None = None,
    encoder: str | None = None,
    source: Path | None = None,
    table: Path | None = None,
    label: str | None = None,
    patient: str | None = None,
    ignore: Sequence[str] = (),
    permutations: int = 99,
    seed: int = 0,
    out: Path | None = None,
) -> Report:
    """Look for patients and recordings on two sides of a split, and for labels that metadata give away.

    With ``--table`` in place of ``--cohort`` the metadata of a plain table are audited, before anything is prepared.
    Exit code 1 says that there are errors, 0 that there are at most warnings.

    Args:
        cohort: a prepared cohort.
        split: name of the split in COHORT/splits; ``NAME-fold2`` is fold 2 of the split NAME, ``none`` is no split.
        target: label or kind of event whose shortcuts are looked for; ``NAME:A,B`` restricts it to these classes.
        task: of the target, where its values do not say: whether a number is a class.
        encoder: a pre-training run: has it seen the test patients, and what does it hold to be the same?
        source: folder of the raw files, whose size and headers are then among the metadata.
        table: .csv, .tsv or .parquet with one row a recording, in place of a cohort.
        label: column of the table to predict; ``COLUMN:A,B`` restricts it to these classes.
        patient: column of the table that says whose the row is.
        ignore: columns that are no metadata (of the table, or as the result names them).
        permutations: of patients' facts, for the p value; 0 for none, else 19 or more.
        seed: of folds, bootstrap and permutations.
        out: the JSON file; by default ``audit_leakage.json`` in the cohort; of a table none.

    Returns:
        What was found.

    Raises:
        MedSSLError: the cohort, split, target, encoder or table is not there or does not fit.
    """
    if (cohort is None) == (table is None):
        raise ConfigError("give either --cohort (a prepared cohort) or --table (a file with --label and --patient)")
    if permutations < 0 or 0 < permutations < FEWEST_PERMUTATIONS:
        raise ConfigError(f"--permutations {permutations} cannot show anything; give 0 (no test), or 19 or more")
    if table is not None:
        given = {"target": target, "encoder": encoder}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise ConfigError(f"--{wrong[0]} belongs to --cohort; a table is audited with --label and --patient")
        report = _of_table(table, label, patient, task, source, ignore, permutations, seed)
    else:
        assert cohort is not None
        if label is not None or patient is not None:
            raise ConfigError("--label and --patient belong to --table; of a cohort give --target")
        report = _of_cohort(cohort, split, target, task, encoder, source, ignore, permutations, seed)
    file = out if out is not None else cohort / "audit_leakage.json" if cohort is not None else None
    print(report)
    if file is not None:
        report.save(Path(file))
        print(f"written: {file}")
    return report


def _of_table(
    table: Path, label: str | None, patient: str | None, task: Task | None, source: Path | None,
    ignore: Sequence[str], permutations: int, seed: int,
) -> Report:  # fmt: skip
    from medssl.audit.metadata import metadata_findings
    from medssl.audit.target import table_question

    if task == "segmentation":
        raise ConfigError("a table has no masks; give --task classification or regression, or none")
    asked = table_question(table, label, patient, task, source, ignore)
    findings, checks, measures = metadata_findings(asked, permutations=permutations, seed=seed)
    about = {"table": table.name, "label": label, "patient": patient, "ignore": list(ignore), "seed": seed}
    checks |= {"columns": ", ".join(asked.facts.columns)}
    return Report(findings, checks, about, measures)


def _of_cohort(
    cohort: Path, split: str, target: str | None, task: Task | None, encoder: str | None, source: Path | None,
    ignore: Sequence[str], permutations: int, seed: int,
) -> Report:  # fmt: skip
    from medssl.audit.sides import read_sides
    from medssl.cohort import Cohort

    opened = Cohort(cohort)
    sides = read_sides(opened.path, split)
    encoders = [] if encoder in (None, "none") else [(sides, str(encoder))]
    return audit_cohort(
        opened, sides, target, task, encoders, source=source, ignore=ignore, permutations=permutations, seed=seed
    )


def audit_cohort(
    cohort: Cohort,
    sides: Sides,
    target: str | None = None,
    task: Task | None = None,
    encoders: Sequence[tuple[Sides, str]] = (),
    *,
    source: Path | None = None,
    ignore: Sequence[str] = (),
    permutations: int = 99,
    seed: int = 0,
) -> Report:
    """The audit of a cohort, without printing or writing anything.

    Args:
        cohort: a prepared cohort.
        sides: who is kept apart from whom.
        encoders: pre-training runs, each with the sides that it has to keep to.
        target, task, source, ignore, permutations, seed: see :func:`leakage`.

    Raises:
        MedSSLError: the target or an encoder is not there or does not fit.
    """
    from medssl.audit.sides import patient_findings, place

    manifest = cohort.manifest
    patients = manifest["patient"].astype(str).tolist()
    placement = place(sides, patients)
    # what was asked for is looked up before the long work
    metadata = _metadata(cohort, sides, target, task, source, ignore, permutations, seed)
    findings, said = patient_findings(sides, patients, manifest["session"].fillna("").astype(str).tolist())
    checks = {"patients": said}
    findings += _pretraining(cohort, encoders, checks)
    findings += _copies(cohort, placement, checks)
    findings += _embeddings(cohort, placement, encoders, checks)
    about = {
        "cohort": str(cohort.path), "fingerprint": cohort.info.fingerprint, "split": sides.name,
        "split_sha256": sides.sha256, "target": target,
        "encoder": ", ".join(dict.fromkeys(encoder for _, encoder in encoders)) or None,
        "ignore": list(ignore), "seed": seed,
    }  # fmt: skip
    return Report([*findings, *metadata[0]], checks | metadata[1], about, metadata[2])


def _pretraining(cohort: Cohort, encoders: Sequence[tuple[Sides, str]], checks: dict[str, str]) -> list[Finding]:
    """Whether the encoders have seen whom they must not have."""
    from medssl.audit.encoders import pretraining_findings

    findings, said = [], []
    for sides, encoder in encoders:
        more, done = pretraining_findings(cohort, sides, encoder)
        findings += more
        said.append(done if len(encoders) == 1 else f"{encoder} on {sides.name}: {done}")
    if said:
        checks["pre-training"] = "; ".join(said)
    return findings


def _embeddings(
    cohort: Cohort, placement: Placement, encoders: Sequence[tuple[Sides, str]], checks: dict[str, str]
) -> list[Finding]:
    """What the encoders hold to be the same; each is asked once."""
    from medssl.audit.encoders import neighbour_findings

    names = list(dict.fromkeys(encoder for _, encoder in encoders))
    findings, said = [], []
    for encoder in names:
        more, done = neighbour_findings(cohort, placement, encoder)
        findings += more
        said.append(done if len(names) == 1 else f"{encoder}: {done}")
    if said:
        checks["embeddings"] = "; ".join(said)
    return findings


def _copies(cohort: Cohort, placement: Placement, checks: dict[str, str]) -> list[Finding]:
    from medssl.audit.duplicates import duplicate_findings, find_duplicates
    from medssl.audit.identical import identical_findings

    found = find_duplicates(cohort, placement)
    findings, checks["identical"] = identical_findings(cohort.manifest, placement, found.constant.tolist())
    checks["near duplicates"] = found.said
    return findings + duplicate_findings(found, cohort.manifest, placement)


def _metadata(
    cohort: Cohort, sides: Sides, target: str | None, task: Task | None, source: Path | None, ignore: Sequence[str],
    permutations: int, seed: int,
) -> tuple[list[Finding], dict[str, str], dict[str, Any]]:  # fmt: skip
    if target is None:
        return [], {"shortcuts": "left out: no --target was given"}, {}
    from medssl.audit.metadata import metadata_findings
    from medssl.audit.target import cohort_question, guess_task
    from medssl.training.targets import resolve_target

    found = resolve_target(cohort, task or guess_task(cohort, target), target)
    if found.task == "segmentation":
        return [], {"shortcuts": "left out: a mask is drawn voxel by voxel, metadata do not tell it"}, {}
    files, said = _files(cohort, source)
    development = sides.development(sorted(set(found.patients)))
    asked = cohort_question(found, development, files, ignore)
    findings, checks, measures = metadata_findings(asked, permutations=permutations, seed=seed)
    checks = {**checks, "raw files": said}
    if found.are_runs:
        from medssl.audit.phase_null import phase_null_findings

        more, checks["phase null"], figures = phase_null_findings(
            found, development, permutations=permutations, seed=seed
        )
        findings, measures = [*findings, *more], {**measures, "phase null": figures}
    return findings, checks, measures


def _files(cohort: Cohort, source: Path | None) -> tuple[pd.DataFrame | None, str]:
    """Facts of the raw file of each row, found by checksum."""
    if source is None:
        return None, "not looked at: size, codec and stored type are not in the manifest; give their folder as --source"
    from medssl.audit.source_files import files_by_checksum, table_of_files

    checksums = cohort.manifest["source_sha256"].fillna("").tolist()
    where = files_by_checksum(source, checksums)
    matched = [where.get(c) for c in checksums]
    n = sum(f is not None for f in matched)
    if not n:
        return None, f"no file below '{source}' has the checksum of a recording (those made of several files have none)"
    return table_of_files(matched), f"{n} of {len(checksums)} recordings found by checksum"
