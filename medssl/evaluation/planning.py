"""What a study will do: arms, budgets, cells, checked before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medssl.configurable import spec
from medssl.errors import ConfigError, SplitError
from medssl.evaluation.arms import (
    FLOOR,
    WITHOUT_LABELS,
    Arm,
    Protocol,
    baseline_first,
    baselines_of,
    make_arms,
    notes_on,
    shared_architecture,
)
from medssl.evaluation.ceilings import ceiling_of
from medssl.evaluation.cells import BARE, FOLD, NO_BUDGET, NO_LABELS, Cell, outcome_of
from medssl.evaluation.floor import describe_floor
from medssl.evaluation.results import TaskInfo
from medssl.evaluation.retrieval import chance, classes_of
from medssl.evaluation.summary import Layout
from medssl.splits.parts import Testing, parts

if TYPE_CHECKING:
    from medssl.cohort import Cohort
    from medssl.encoders.base import Encoder
    from medssl.splits import Budget, Split
    from medssl.training.settings import FinetuneSettings
    from medssl.training.targets import Target, Unit

__all__ = ["FLOOR", "Arm", "Plan", "Protocol", "budget_patients", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """A study that can be run.

    Attributes:
        cells: all of them, the smallest budget first, and within it one repeat after the other.
        arms: in order, the simple baseline last.
        layout: for the summary.
        facts: cohort, split, settings and so on, for the summary.
        test_patients: with the target, whom every cell is tested on.
        out: the study's folder.
    """

    cells: tuple[Cell, ...]
    arms: tuple[Arm, ...]
    layout: Layout
    facts: Mapping[str, Any]
    test_patients: tuple[str, ...]
    out: Path

    def describe(self) -> str:
        """The plan with its expected cost, for people."""
        layout = self.layout
        known = [o for o in (outcome_of(c) for c in self.cells) if o is not None and o.finished]
        if self.facts["protocol"] in ("representation", *WITHOUT_LABELS):
            return self._without_labels(len(known))
        left = len(self.cells) - len(known)
        steps = self.facts["settings"]["max_steps"] if self.facts["protocol"] == "finetune" else 0
        trained = sum(c.source != FLOOR for c in self.cells)
        budgets = ", ".join(f"{b}: {round(n, 1):g} patients" for b, n in layout.budgets.items())
        lines = [
            f"study: {len(layout.arms)} arms ({', '.join(layout.arms)}) × {len(layout.budgets)} budgets "
            f"({budgets}) × {layout.repeats} repeats "
            f"= {len(self.cells)} cells, tested on {len(self.test_patients)} patients of split "
            f"'{self.facts['split']['name']}'"
        ]
        if steps:
            lines.append(f"expected cost: {trained} models × {steps} steps = {trained * steps} optimiser steps")
        if known and left:
            mean = float(np.mean([o.seconds for o in known]))
            lines.append(
                f"{len(known)} cells are finished already; {left} left, about {mean * left / 60:.0f} min one by one"
            )
        elif not left:
            lines.append("all cells are finished already; only the results are written anew")
        return "\n".join(lines)

    def _without_labels(self, done: int) -> str:
        """The plan of a protocol that trains nothing, of which some arms are done."""
        arms, patients, split = self.layout.arms, len(self.test_patients), self.facts["split"]["name"]
        told = {
            "representation": f"representation of {', '.join(arms)} ({done} of {len(arms)} done before) on development "
            f"patients of split '{split}'; nothing is trained",
            "retrieval": f"retrieval without labels: {len(arms)} arms ({', '.join(arms)}; {done} done before), each "
            f"item ranks those of the other test patients; {patients} patients of split '{split}'",
            "prompt": f"segmentation by a prompt: {len(arms)} arms ({', '.join(arms)}; {done} done before), one "
            f"prompted place an object; {patients} test patients of split '{split}', the threshold from its "
            "development patients; nothing is trained",
        }
        return told[self.facts["protocol"]]


def make_plan(
    *,
    cohort: Path,
    task: Literal["segmentation", "classification", "regression"],
    target: str,
    encoders: Mapping[str, str],
    budgets: Sequence[str],
    repeats: int,
    protocol: Protocol,
    split: str,
    out: Path,
    settings: FinetuneSettings,
    architecture: Encoder | None,
    testing: Testing = "holdout",
) -> Plan:
    """Check everything that can be checked before the first step, and lay out the cells.

    Args:
        testing: see ``medssl.splits.parts``; the other arguments are those of ``evaluate``.

    Raises:
        MedSSLError: unknown target, split or encoder; a budget the split cannot meet; a task the protocol cannot do.
    """
    from medssl.cohort import Cohort
    from medssl.splits import Split
    from medssl.training.targets import resolve_target

    _refuse(protocol, task)
    if protocol == "representation":
        budgets, repeats, testing = (), 1, "holdout"  # it looks at development patients only
    elif protocol in WITHOUT_LABELS:
        budgets, repeats = (), 1  # its one budget is no label at all
    elif repeats < 1 or not budgets:
        raise ConfigError("a study needs at least one budget and one repeat")
    opened = Cohort(cohort)
    found = resolve_target(opened, task, target)
    the_splits = [Split.load(opened.path, name) for name in parts(opened.path, split, testing)]
    tested = _tested(found, the_splits, protocol)
    level, aggregation = _decided(found, settings, protocol)
    of_part = [baseline_first(make_arms(_encoders_of(encoders, s, split), protocol)) for s in the_splits]
    _check_leaks(of_part, the_splits, opened)
    arms = of_part[0]
    wanted = spec(architecture) if architecture is not None else shared_architecture(arms)
    drawn = _draws(found, target, the_splits, protocol, budgets, repeats)
    sizes = {b: float(np.mean([d.n_patients for d in draws])) if draws else 0.0 for b, draws in drawn.items()}
    sizes = dict(sorted(sizes.items(), key=lambda item: item[1]))
    notes = [_chance_of(found, the_splits)] if protocol == "retrieval" else []
    simple = None
    if protocol != "representation":
        simple = describe_floor(found, level, fitted=protocol not in WITHOUT_LABELS)
    if simple:
        floor = Arm(FLOOR, FLOOR, about={"what": simple})
        arms, of_part = (*arms, floor), [(*own, floor) for own in of_part]
    options = {
        "cohort": str(cohort), "cohort_fingerprint": opened.info.fingerprint, "task": task, "target": target,
        "protocol": protocol, "architecture": wanted,
        "settings": spec(replace(settings, progress=False)),
    }  # fmt: skip
    cells = tuple(
        _cell(out, options, arm, b, r, s, None if testing == "holdout" else i)
        for b in sizes or (NO_BUDGET,)
        for r in range(repeats)
        for i, s in enumerate(the_splits)
        for arm in of_part[i]
    )
    info = _task_info(found, protocol)
    baselines = baselines_of(arms, wanted)
    layout = Layout(info, tuple(a.name for a in arms), baselines, sizes, repeats, FLOOR if simple else None)
    ceiling = ceiling_of(found, tested)
    facts = ({} if ceiling is None else {"ceiling": ceiling}) | {
        "task": task, "target": target, "protocol": protocol, "baseline": arms[0].name, "floor": simple,
        "level": level, "aggregation": aggregation,
        "cohort": _cohort_facts(opened, cohort), "repeats": repeats,
        "split": _split_facts(Split.load(opened.path, split), tested, the_splits),
        "classes": list(info.classes), "class_names": dict(info.names or {}), "multilabel": info.multilabel,
        "budgets": [{"asked": b, "n_patients": n, "draws": _draw_facts(drawn[b], found)} for b, n in sizes.items()],
        "encoders": {a.name: {"source": a.source, **(a.about or {})} for a in arms},
        "architecture": wanted, "settings": options["settings"], "notes": notes + notes_on(arms, wanted, baselines),
    }  # fmt: skip
    return Plan(cells, arms, layout, facts, tested, out)


def _refuse(protocol: Protocol, task: str) -> None:
    """Say which protocol does not do a task.

    Raises:
        ConfigError: this one.
    """
    if protocol in ("linear", "knn") and task == "segmentation":
        raise ConfigError(
            f"the {protocol} protocol serves classification and regression; use finetune or prompt for segmentation"
        )
    if protocol == "retrieval" and task != "classification":
        raise ConfigError(f"the retrieval protocol finds items of the same class; for {task} use another one")
    if protocol == "prompt" and task != "segmentation":
        raise ConfigError(f"the prompt protocol segments what is pointed at; for {task} use another one")


def _tested(target: Target, splits: Sequence[Split], protocol: Protocol) -> tuple[str, ...]:
    """The patients with the target that are tested, each once.

    Raises:
        SplitError: there are none in a part of the split, or none to be measured.
    """
    for s in splits:
        needed, who = (s.development, "development") if protocol == "representation" else (s.test, "test")
        if not len(target.items_of(needed)):
            raise SplitError(f"no {who} patient of split '{s.name}' has the target '{target.name}'; make another split")
    return tuple(sorted({p for s in splits for p in set(target.patients[target.items_of(s.test)])}))


def _chance_of(target: Target, splits: Sequence[Split]) -> str:
    """What a random order would reach.

    Raises:
        SplitError: there is nothing to retrieve in a part of the split.
    """
    expected = []
    for s in splits:
        items = target.items_of(s.test)
        expected.append(chance(classes_of(target, items), target.patients[items]))
        if np.isnan(expected[-1]):
            raise SplitError(
                f"no class of '{target.name}' occurs in two test patients of split '{s.name}', so none can be retrieved"
            )
    return f"a random order reaches a mean average precision of about {np.mean(expected):.3f}"


def _check_leaks(of_part: Sequence[Sequence[Arm]], splits: Sequence[Split], cohort: Cohort) -> None:
    """Refuse encoders that were pre-trained on patients that they would be tested on."""
    from medssl.training.finetune import check_leak

    for arms, split in zip(of_part, splits, strict=True):
        for arm in arms:
            if arm.source not in BARE:
                check_leak(Path(arm.source), cohort, split)


def _encoders_of(encoders: Mapping[str, str], part: Split, split: str) -> dict[str, str]:
    """The encoders of one part of the split: ``{fold}`` in a source stands for its number, or its site."""
    which = re.sub("^(fold|site-)", "", part.name.removeprefix(f"{split}-"))
    return {name: source.replace("{fold}", which) for name, source in encoders.items()}


def _draws(
    target: Target, asked: str, splits: Sequence[Split], protocol: Protocol, budgets: Sequence[str], repeats: int
) -> dict[str, list[Budget]]:
    """The patients of every budget, repeat and part of the split; one budget without any where no label is used."""
    if protocol in WITHOUT_LABELS:
        return {NO_LABELS: []}
    return {b: [budget_patients(target, asked, s, b, r) for r in range(repeats) for s in splits] for b in budgets}


def _cell(
    out: Path, options: Mapping[str, Any], arm: Arm, budget: str, repeat: int, split: Split, fold: int | None
) -> Cell:
    """One cell; ``fold`` is None where there is one test set."""
    folder = out / "cells" / arm.name / budget / str(repeat)
    return Cell(
        arm.name, arm.source, budget, repeat, folder if fold is None else folder / f"{FOLD}{fold}",
        _relevant({**options, "split": split.name, "split_hash": split.sha256}, arm), arm.fingerprint, fold or 0,
    )  # fmt: skip


def budget_patients(target: Target, asked: str, split: Split, budget: str, draw: int) -> Budget:
    """The patients of one budget: the same for every arm, and the same that ``finetune`` draws."""
    from medssl.splits import budget as draw_budget
    from medssl.training import finetune

    return draw_budget(split, finetune.strata_for(target, asked, split), budget, draw=draw, seed=0)


def _relevant(options: Mapping[str, Any], arm: Arm) -> dict[str, Any]:
    """Only what the arm's result depends on, so that an arm can be added later without touching finished cells."""
    own = dict(options)
    if arm.source not in BARE:
        own["architecture"] = None
    elif arm.about:
        own["architecture"] = arm.about["encoder"]
    if arm.source == FLOOR:  # it answers the same units as the encoders, and is otherwise without settings
        asked = options["settings"]
        units = {"window": ("level", "size", "window_s", "test_windows"), "patient": ("level",)}.get(asked["level"], ())
        own["settings"] = {name: asked[name] for name in units}
    return own


def _decided(target: Target, settings: FinetuneSettings, protocol: Protocol) -> tuple[Unit, str]:
    """The level of the decisions and how one comes about; of the rows measured where nothing is decided.

    Raises:
        ConfigError: a level that the target does not have, or a head that the protocol does not train.
    """
    from medssl.training.levels import describe_level, make_decisions

    if protocol == "retrieval":
        level = make_decisions(target, replace(settings, level="auto")).parts.level
        return level, "the order of the other test patients' items by cosine similarity"
    if protocol == "prompt":
        return "recording", "one prompted place an object; one threshold for all, chosen on development patients"
    if protocol == "representation":
        return "recording", f"mean features of at most {settings.test_windows} windows a recording"
    if protocol in ("linear", "knn") and (settings.sequence or settings.aggregate == "attention"):
        raise ConfigError(
            f"sequences and attention are learnt with the head, which the {protocol} protocol does not train; use the "
            "finetune protocol, with --settings.freeze true for encoders as they are"
        )
    level = make_decisions(target, settings).target.level
    return level, describe_level(level, target, settings, features=protocol != "finetune")


def _task_info(target: Target, protocol: Protocol) -> TaskInfo:
    if protocol == "retrieval":
        return TaskInfo("retrieval", target.name, target.classes, target.multilabel)
    if target.task == "segmentation":
        labels = {str(i): name for i, name in enumerate(target.classes) if i}
        return TaskInfo("segmentation", target.name, tuple(labels), names=labels)
    return TaskInfo(target.task, target.name, target.classes, target.multilabel)


def _cohort_facts(cohort: Any, path: Path) -> dict[str, Any]:
    info = cohort.info
    return {
        "path": str(path), "fingerprint": info.fingerprint, "kind": info.kind, "modality": info.modality,
        "recipe": info.recipe, "n_recordings": info.n_recordings, "n_patients": info.n_patients,
        "n_rejected": info.n_rejected, "channels": list(info.channels), "rate_hz": info.rate_hz,
        "spacing_mm": None if info.spacing_mm is None else list(info.spacing_mm),
    }  # fmt: skip


def _split_facts(split: Split, tested: Sequence[str], tested_in: Sequence[Split]) -> dict[str, Any]:
    names = [part.name for part in tested_in]
    return ({} if names == [split.name] else {"parts": names}) | {
        "name": split.name, "sha256": split.sha256, "unit": split.unit, "rule": split.rule,
        "stratified_by": split.stratified_by, "seed": split.seed, "n_test_patients": len(tested),
        "n_development_patients": len(split.development),
    }  # fmt: skip


def _draw_facts(draws: Sequence[Budget], target: Target) -> list[dict[str, Any]]:
    """How many patients and labelled items each draw holds."""
    out = []
    for drawn in draws:
        patients = (*drawn.train, *drawn.validation)
        out.append({
            "n_train": len(drawn.train), "n_validation": len(drawn.validation),
            "n_items": len(target.items_of(patients)),
        })  # fmt: skip
    return out
