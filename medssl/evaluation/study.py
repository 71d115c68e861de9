"""The limited-label study: encoders × label budgets × repeats, tested on the same patients, compared with statistics.

STUDY/cells/ENCODER/BUDGET/REPEAT/   one model each, see ``medssl.evaluation.cells``
STUDY/results.parquet                one row an (encoder, budget, repeat, fold, patient, metric, class)
STUDY/summary.json                   estimates with intervals, paired comparisons, the verdict, and what it rests on
STUDY/examples.npz                   a few test cases with the predictions of every arm, for the report
STUDY/features/                      frozen features, once an arm
STUDY/audit_leakage.json             where results reach what honest studies do not: see ``ceilings``
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError, TrainingError
from medssl.evaluation.agreement import rank_agreement
from medssl.evaluation.ceilings import Asked, write_judged
from medssl.evaluation.cells import BARE, Cell, Outcome, RunCell, run_cells
from medssl.evaluation.costs import Design, fitting_design, seconds_of_a_cell
from medssl.evaluation.examples import write_examples
from medssl.evaluation.planning import FLOOR, Plan, Protocol, make_plan
from medssl.evaluation.representation_study import arm_measures, measure_table, run_representation
from medssl.evaluation.results import COLUMNS, TaskInfo, failed_rows, prediction_rows, segmentation_rows
from medssl.evaluation.running import prepare_features, run_cell
from medssl.evaluation.summary import summarise
from medssl.evaluation.verdict import verdict
from medssl.splits.parts import Testing
from medssl.training.run import environment, locked, read_summary, write_json
from medssl.training.settings import FinetuneSettings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMAT_VERSION", "evaluate", "run_study"]

FORMAT_VERSION = 1
_DEFAULTS = FinetuneSettings()
Key = tuple[str, str, int]


def evaluate(
    *,
    cohort: Path,
    task: Literal["segmentation", "classification", "regression"],
    target: str,
    encoders: dict[str, str],
    out: Path,
    budgets: list[str] = ["1", "2", "8", "all"],  # noqa: B006 - read only; the command line shows it as the default
    repeats: int = 3,
    protocol: Protocol = "finetune",
    split: str = "default",
    testing: Testing = "holdout",
    settings: FinetuneSettings = _DEFAULTS,
    architecture: Encoder | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    time_budget: float | None = None,
) -> dict[str, Any]:
    """Compare pre-trained encoders with training from scratch at several label budgets, on the same test patients.

    Every arm sees the same label draws, test patients, steps and augmentation. Finished cells are not run again, so an
    interrupted study continues when it is called again, and arms, budgets or repeats can be added. The baseline and a
    simple one without deep learning are always among the arms. Accuracies beyond what honest studies of the dataset
    reach, where its recipe knows that, are audited for leaks.

    Args:
        cohort: a prepared cohort with a split.
        task: segmentation of a mask, classification of a label or of events, regression of a label.
        target: name of the mask, label or kind of event; ``NAME:A,B`` restricts classification to these classes.
        encoders: name=RUN pairs; ``scratch=none`` is training from scratch with the architecture of the others, and
            ``scratch2=none:RUN`` with that of RUN: every encoder is compared with the baseline of its own architecture.
        out: folder of the study.
        budgets: labelled patients: numbers, fractions such as 0.1, or ``all``; smaller ones are part of larger ones.
        repeats: label draws, each with its own training seed; 5 or more give intervals over draws and patients.
        protocol: train everything (finetune), or only a linear probe or nearest neighbours (knn) on frozen features.
            Without labels to learn from, and so without budgets and repeats: rank the items of other test patients and
            count those of the same class (retrieval), segment what resembles one prompted place of each object
            (prompt), or measure the features (representation).
        split: name of the split in COHORT/splits.
        testing: on the split's test patients (holdout), on each of its folds by models of the others (folds), or on
            each site by models of the other sites (sites). An encoder must not have seen whom it is tested on:
            ``voco=runs/voco-{fold}`` names one run a fold (or site), pre-trained with ``--exclude-split NAME-fold0``.
        settings: how every model is trained.
        architecture: of ``none`` arms that name no RUN; by default that of the first pre-trained encoder.
        jobs: models trained at the same time on this machine.
        scheduler: address of a Dask scheduler (or ``local``) that runs the cells instead.
        time_budget: minutes there are. A few steps are timed first, and what does not fit is left out: repeats beyond
            5, then budgets in between, then repeats; calling again with more time adds them. For fine-tuning.

    Returns:
        What stands in STUDY/summary.json.

    Raises:
        MedSSLError: something cannot work, said before the first step; or every cell failed.
    """
    laid_out = partial(
        make_plan, cohort=cohort, task=task, target=target, encoders=encoders, protocol=protocol, split=split, out=out,
        settings=settings, architecture=architecture, testing=testing,
    )  # fmt: skip
    plan = laid_out(budgets=[str(b) for b in budgets], repeats=repeats)
    _refuse_other_kind(out, protocol)
    if time_budget is not None:
        design = _what_fits(plan, time_budget, jobs)
        plan = laid_out(budgets=design.budgets, repeats=design.repeats)
    print(plan.describe(), flush=True)
    with locked(out):
        if protocol == "representation":
            summary = run_representation(plan, run_cell, jobs=jobs, scheduler=scheduler, progress=settings.progress)
            print(measure_table(summary), flush=True)
        else:
            prepare_features(plan)
            summary = run_study(
                plan, run_cell, jobs=jobs, scheduler=scheduler, progress=settings.progress,
                representation=arm_measures(plan),
            )  # fmt: skip
    print(f"{summary['verdict']}\nnext: medssl report {out}", flush=True)
    return summary


def _what_fits(plan: Plan, minutes: float, jobs: int) -> Design:
    """The part of a plan that fits into a time, said in one line."""
    if plan.facts["protocol"] != "finetune":
        raise ConfigError("--time-budget is for fine-tuning; cells on frozen features take seconds")
    with locked(plan.out):
        seconds = seconds_of_a_cell(plan)
    design = fitting_design(plan, seconds, minutes=minutes, jobs=jobs)
    whole = (tuple(plan.layout.budgets), plan.layout.repeats)
    fits = "the whole study fits" if (design.budgets, design.repeats) == whole else (
        f"budgets {', '.join(design.budgets)} × {design.repeats} repeats fit, of {', '.join(whole[0])} × {whole[1]}"
    )  # fmt: skip
    print(f"about {seconds:.0f} s a model; in {minutes:g} min {fits}", flush=True)
    return design


def _refuse_other_kind(out: Path, protocol: Protocol) -> None:
    """A study with labels and one without write files of the same names."""
    known = read_summary(out).get("kind")
    if known is not None and (known == "representation") != (protocol == "representation"):
        raise ConfigError(f"'{out}' holds a study of another kind ({known}); give another --out")


def run_study(
    plan: Plan,
    run: RunCell,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    representation: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run the cells of a plan and write the study's files.

    Args:
        plan: of the study.
        run: what runs one cell.
        jobs, scheduler, progress: see ``run_cells``.
        representation: arm → its label-free measures; None leaves them out.

    Returns:
        What stands in ``summary.json``.
    """
    outcomes = run_cells(plan.cells, run, jobs=jobs, scheduler=scheduler, progress=progress)
    failed = [(c, outcomes[c.folder]) for c in plan.cells if not outcomes[c.folder].finished]
    if len(failed) == len(plan.cells):
        raise TrainingError(f"every cell of the study failed; the first: {failed[0][1].error}")
    table, predictions = _table(plan, outcomes)
    _write_table(table, plan.out / "results.parquet")
    summary: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "kind": "study", "status": "finished", **plan.facts,
        "interval": "95 %, over patients", **summarise(table, predictions, plan.layout),
        "failed": [_failure(cell, outcome) for cell, outcome in failed],
        "seconds": float(sum(o.seconds for o in outcomes.values())),
    }  # fmt: skip
    if representation is not None:
        summary |= _beside(summary, representation, plan)
    summary["verdict"] = verdict(summary)
    summary["environment"] = environment([])
    write_examples(plan, predictions)
    if "ceiling" in summary:
        return write_judged(plan.out, summary, summary["results"], _asked(plan))
    write_json(plan.out / "summary.json", summary)
    return summary


def _beside(summary: Mapping[str, Any], measures: Mapping[str, Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """The label-free measures, and whether RankMe ranks the pre-trained arms as their results do."""
    pretrained = {a.name: a.about or {} for a in plan.arms if a.source not in (*BARE, FLOOR)}
    ranks = rank_agreement(
        measures, summary["results"], metric=summary["metric"], budgets=list(plan.layout.budgets), about=pretrained
    )
    return {"representation": dict(measures), "rankme_agreement": ranks}


def _asked(plan: Plan) -> Asked:
    """What an audit of the study looks at."""
    facts = plan.facts
    encoders: dict[str, dict[tuple[str, str, str], None]] = {}
    for cell in plan.cells:
        if cell.source not in (*BARE, FLOOR):
            encoders.setdefault(cell.encoder, {})[cell.options["split"], cell.source, cell.fingerprint] = None
    name = facts["split"]["name"]
    return Asked(
        Path(facts["cohort"]["path"]), facts["task"], facts["target"], name, facts["split"].get("parts", [name]),
        {arm: list(found) for arm, found in encoders.items()},
    )  # fmt: skip


def _failure(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    where = {"encoder": cell.encoder, "budget": cell.budget, "repeat": cell.repeat, "fold": cell.fold}
    return where | {"error": outcome.error}


def _table(plan: Plan, outcomes: Mapping[Path, Outcome]) -> tuple[pd.DataFrame, dict[Key, pd.DataFrame]]:
    """The results table with a row of the worst value for everything a failed cell did not answer."""
    import pandas as pd

    parts: dict[int, list[pd.DataFrame]] = {}
    predictions: dict[Key, list[pd.DataFrame]] = {}
    missing: list[Cell] = []
    for cell in plan.cells:
        if not outcomes[cell.folder].finished:
            missing.append(cell)
            continue
        rows, answers = _read(cell, plan)
        parts.setdefault(cell.fold, []).append(_labelled(rows, cell, plan, failed=False))
        if answers is not None:
            predictions.setdefault((cell.encoder, cell.budget, cell.repeat), []).append(answers)
    columns = ["patient", "metric", "class", "value", "n_items"]
    patterns = {fold: (found[0][columns], pd.concat(found)) for fold, found in parts.items()}
    for cell in missing:
        if cell.fold in patterns:  # where nothing finished, nobody was tested
            parts[cell.fold].append(_labelled(failed_rows(*patterns[cell.fold]), cell, plan, failed=True))
    whole = {
        key: pd.concat(answers, ignore_index=True)
        for key, answers in predictions.items()
        if len(answers) == len(patterns)
    }
    return pd.concat([table for found in parts.values() for table in found], ignore_index=True), whole


def _read(cell: Cell, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Rows of a finished cell and, but for segmentation, its predictions of the test patients in a fixed order."""
    import pandas as pd

    if plan.layout.info.task == "retrieval":
        return pd.read_parquet(cell.folder / "retrieved.parquet"), None
    if plan.layout.info.task == "segmentation":
        cases = pd.read_parquet(cell.folder / "per_case.parquet")
        return segmentation_rows(cases[cases["group"] == "test"]), None
    answers = pd.read_parquet(cell.folder / "predictions.parquet")
    order = [c for c in ("patient", "recording", "onset_s") if c in answers]
    answers = answers[answers["group"] == "test"].sort_values(order, kind="stable").reset_index(drop=True)
    return prediction_rows(answers, _informed(plan.layout.info, cell)), answers


def _informed(info: TaskInfo, cell: Cell) -> TaskInfo:
    """With the mean of what the cell was trained on; cells of earlier versions did not write it down."""
    if info.task != "regression":
        return info
    known = read_summary(cell.folder).get("training_mean")
    return replace(info, training_mean=math.nan if known is None else known)


def _labelled(rows: pd.DataFrame, cell: Cell, plan: Plan, *, failed: bool) -> pd.DataFrame:
    about = {"encoder": cell.encoder, "budget": cell.budget, "repeat": cell.repeat, "level": plan.facts["level"]}
    whole = rows.assign(**about, fold=cell.fold, failed=failed)
    return whole[list(COLUMNS)].astype({"n_items": np.int64, "value": np.float64})


def _write_table(table: pd.DataFrame, file: Path) -> None:
    beside = file.with_name(f".{file.name}.part")
    table.to_parquet(beside, index=False)
    beside.replace(file)
