"""From a cohort and a target, or a table and a column, to the question that the shortcut check asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.facts import manifest_facts
from medssl.audit.metadata import Question, texts
from medssl.audit.prediction import Problem
from medssl.cohort import Cohort
from medssl.cohort.manifest import LABEL
from medssl.errors import ConfigError, unknown_name
from medssl.training.targets import Target, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cohort_question", "guess_task", "problem_of", "table_question"]

_FEW_VALUES = 10  # numbers with more different values are a regression target


def guess_task(cohort: Cohort, target: str) -> Task:
    """The task that a target is for, where the user does not say."""
    name = target.partition(":")[0]
    info = cohort.info
    if name in info.labels and info.labels[name] == "number" and ":" not in target:
        return "regression" if cohort.manifest[LABEL + name].nunique() > _FEW_VALUES else "classification"
    if name in info.labels or name in info.events:
        return "classification"
    if name in info.masks:
        return "segmentation"
    raise ConfigError(unknown_name("target", name, [*info.labels, *info.events, *info.masks]))


def cohort_question(
    target: Target, development: Sequence[str], files: pd.DataFrame | None, ignore: Sequence[str]
) -> Question:
    """What the manifest (and the raw files) say of the items of the development patients.

    Args:
        target: label or events.
        development: patients that may be learnt from.
        files: facts of the raw file of each manifest row, where there are any.
        ignore: columns that are not looked at.
    """
    import pandas as pd

    manifest = target.cohort.manifest
    items = target.items_of(development)
    if len(items) < 2:
        raise ConfigError(f"{len(items)} development patients have '{target.name}'; two are the least to audit it")
    rows = target.rows[items]
    facts = manifest_facts(target.cohort)
    if files is not None:
        facts = pd.concat([facts, files], axis=1)
    facts = _without(facts, ignore).iloc[rows].reset_index(drop=True)
    if target.onset_s is not None:
        facts["onset_s"] = target.onset_s[items]
    labels = [c for c in manifest.columns if c.startswith(LABEL) and c != LABEL + target.name]
    others = manifest[labels].iloc[rows].reset_index(drop=True).rename(columns=lambda c: c.removeprefix(LABEL))
    others = others.apply(lambda column: column.map(lambda v: ", ".join(v) if isinstance(v, list) else v))
    groups = {name: texts(manifest[name].iloc[rows].tolist()) for name in ("site", "scanner") if name not in ignore}
    return Question(
        target.name, problem_of(target, items), facts,
        _without(others, ignore), rows, groups,
    )  # fmt: skip


def problem_of(target: Target, items: NDArray[np.int64]) -> Problem:
    """What is to be predicted of some items of a target."""
    kind: Any = "number" if target.task == "regression" else "labels" if target.multilabel else "classes"
    patients = np.unique(target.patients[items].astype(str), return_inverse=True)[1].astype(np.int64)
    return Problem(kind, target.y[items], patients, target.classes)


def table_question(
    table: Path, label: str | None, patient: str | None, task: Task | None, source: Path | None, ignore: Sequence[str]
) -> Question:
    """What the columns of a table say about one of them; columns that name files are replaced by facts of these.

    Raises:
        ConfigError: no such file or column, or no patients.
    """
    import pandas as pd

    frame = _read(table)
    name, _, only = (label or "").partition(":")
    for option, column in (("label", name), ("patient", patient)):
        if not column:
            raise ConfigError(f"--{option} is missing: a table is audited with --label COLUMN and --patient COLUMN")
        if column not in frame.columns:
            raise ConfigError(unknown_name(f"--{option} column", column, map(str, frame.columns)))
    frame = frame[texts(frame[name].tolist()) != ""].reset_index(drop=True)
    owners = texts(frame[patient].tolist())
    if (owners == "").any() or not len(frame):
        raise ConfigError(f"'{table}' has rows without '{name}' or '{patient}'; fill them in, or leave these rows out")
    problem = _problem(frame[name], np.unique(owners.astype(str), return_inverse=True)[1], task, only.split(","), name)
    keep = np.flatnonzero(problem.y >= 0) if problem.kind == "classes" else np.arange(len(frame))
    problem = Problem(problem.kind, problem.y[keep], problem.patients[keep], problem.classes)
    facts = _with_files(frame.drop(columns=[name, str(patient)]), [table.parent, *([source] if source else [])])
    return Question(
        name, problem, _without(facts, ignore).iloc[keep].reset_index(drop=True),
        pd.DataFrame(index=range(len(keep))), keep, is_input=True,
    )  # fmt: skip


def _problem(
    column: pd.Series[Any], patients: NDArray[np.int64], task: Task | None, only: Sequence[str], name: str
) -> Problem:
    """Classes or numbers; items of classes that were not asked for get -1."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    if task == "regression" and numbers.isna().any():
        raise ConfigError(f"'{name}' holds text, which is no target of regression; leave --task out")
    wanted = [c for c in only if c]
    if task == "regression" or (
        task is None and not wanted and numbers.notna().all() and numbers.nunique() > _FEW_VALUES
    ):
        return Problem("number", numbers.to_numpy(dtype=np.float64), patients)
    values = texts(column.tolist())
    present = sorted(set(values))
    missing = [c for c in wanted if c not in present]
    if missing:
        raise ConfigError(unknown_name(f"class of '{name}'", missing[0], present))
    classes = tuple(wanted or present)
    if len(classes) < 2:
        raise ConfigError(f"'{name}' has {len(classes)} class; two are needed")
    index = {c: i for i, c in enumerate(classes)}
    return Problem("classes", np.array([index.get(v, -1) for v in values], dtype=np.int64), patients, classes)


def _read(table: Path) -> pd.DataFrame:
    import pandas as pd

    if not table.is_file():
        raise ConfigError(f"no table '{table}'; give a .csv, .tsv or .parquet file")
    try:
        if table.suffix == ".parquet":
            return pd.read_parquet(table)
        frame: pd.DataFrame = pd.read_csv(table, sep="\t" if table.suffix in (".tsv", ".txt") else ",")
        return frame
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise ConfigError(f"'{table}' cannot be read as a table ({str(error).splitlines()[0]})") from error


def _with_files(frame: pd.DataFrame, roots: Sequence[Path]) -> pd.DataFrame:
    """Facts of the files that a column names, in place of the column."""
    import pandas as pd

    from medssl.audit.source_files import table_of_files

    for name in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[name]):
            continue
        found = [_file(value, roots) for value in texts(frame[name].tolist())]
        if sum(f is not None for f in found) > 0.5 * len(found):
            facts = table_of_files(found)
            facts["file folder"] = [f.parent.name if f is not None else None for f in found]
            frame = pd.concat([frame.drop(columns=[name]), facts], axis=1)
            break
    return frame


def _file(value: str, roots: Sequence[Path]) -> Path | None:
    if not value or len(value) > 500 or "://" in value:
        return None
    return next((root / value for root in roots if (root / value).is_file()), None)


def _without(frame: pd.DataFrame, ignore: Sequence[str]) -> pd.DataFrame:
    return frame[[c for c in frame.columns if c not in set(ignore)]]
