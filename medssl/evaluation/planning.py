"""What a study will do: arms, budgets, cells, checked before anything is trained."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medssl.configurable import spec
from medssl.errors import CheckpointError, ConfigError, SplitError
from medssl.evaluation.cells import BARE, NO_BUDGET, Cell, outcome_of
from medssl.evaluation.floor import describe_floor
from medssl.evaluation.results import TaskInfo
from medssl.evaluation.summary import Layout

if TYPE_CHECKING:
    from medssl.encoders.base import Encoder
    from medssl.splits import Budget, Split
    from medssl.training.settings import FinetuneSettings
    from medssl.training.targets import Target, Unit

__all__ = ["FLOOR", "Arm", "Plan", "Protocol", "budget_patients", "make_plan"]

Protocol = Literal["finetune", "linear", "knn", "representation"]
FLOOR = "floor"


@dataclass(frozen=True)
class Arm:
    """One contender.

    Attributes:
        name: as the user called it.
        source: run directory, ``"none"``, ``"untrained"`` or ``"floor"``.
        fingerprint: hash of the encoder's weights.
        about: for the report: class, provenance.
    """

    name: str
    source: str
    fingerprint: str = ""
    about: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """A study that can be run.

    Attributes:
        cells: all of them.
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
        left = len(self.cells) - len(known)
        steps = self.facts["settings"]["max_steps"] if self.facts["protocol"] == "finetune" else 0
        trained = sum(c.source != FLOOR for c in self.cells)
        if self.facts["protocol"] == "representation":
            return (
                f"representation of {', '.join(layout.arms)} ({len(known)} of {len(layout.arms)} done before) on "
                f"development patients of split '{self.facts['split']['name']}'; nothing is trained"
            )
        lines = [
            f"study: {len(layout.arms)} arms ({', '.join(layout.arms)}) × {len(layout.budgets)} budgets "
            f"({', '.join(f'{b}: {n:g} patients' for b, n in layout.budgets.items())}) × {layout.repeats} repeats "
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
) -> Plan:
    """Check everything that can be checked before the first step, and lay out the cells.

    Raises:
        MedSSLError: unknown target, split or encoder; a budget the split cannot meet; a task the protocol cannot do.
    """
    from medssl.cohort import Cohort
    from medssl.training.finetune import load_split
    from medssl.training.targets import resolve_target

    if protocol in ("linear", "knn") and task == "segmentation":
        raise ConfigError(
            f"the {protocol} protocol serves classification and regression; use finetune for segmentation"
        )
    if protocol == "representation":
        budgets, repeats = (), 1
    elif repeats < 1 or not budgets:
        raise ConfigError("a study needs at least one budget and one repeat")
    opened = Cohort(cohort)
    found = resolve_target(opened, task, target)
    the_split = load_split(opened.path, split)
    tested = tuple(sorted(set(found.patients[found.items_of(the_split.test)])))
    needed, who = (the_split.development, "development") if protocol == "representation" else (tested, "test")
    if not len(found.items_of(needed)):
        raise SplitError(f"no {who} patient of split '{split}' has the target '{target}'; make another split")
    level, aggregation = _decided(found, settings, protocol)
    arms = _baseline_first(_arms(encoders, protocol))
    wanted = spec(architecture) if architecture is not None else _shared_architecture(arms)
    drawn = {b: [budget_patients(found, target, the_split, b, draw) for draw in range(repeats)] for b in budgets}
    sizes = {b: float(np.mean([d.n_patients for d in draws])) for b, draws in drawn.items()}
    sizes = dict(sorted(sizes.items(), key=lambda item: item[1]))
    simple = None if protocol == "representation" else describe_floor(found, level)
    if simple:
        arms = (*arms, Arm(FLOOR, FLOOR, about={"what": simple}))
    options = {
        "cohort": str(cohort), "cohort_fingerprint": opened.info.fingerprint, "task": task, "target": target,
        "split": split, "split_hash": the_split.sha256, "protocol": protocol, "architecture": wanted,
        "settings": spec(replace(settings, progress=False)),
    }  # fmt: skip
    cells = tuple(
        Cell(a.name, a.source, b, r, out / "cells" / a.name / b / str(r), _relevant(options, a), a.fingerprint)
        for b in sizes or (NO_BUDGET,)
        for r in range(repeats)
        for a in arms
    )
    info = _task_info(found)
    baselines = _baselines(arms, wanted)
    layout = Layout(info, tuple(a.name for a in arms), baselines, sizes, repeats, FLOOR if simple else None)
    facts = {
        "task": task, "target": target, "protocol": protocol, "baseline": arms[0].name, "floor": simple,
        "level": level, "aggregation": aggregation,
        "cohort": _cohort_facts(opened, cohort), "split": _split_facts(the_split, tested), "repeats": repeats,
        "classes": list(info.classes), "class_names": dict(info.names or {}), "multilabel": info.multilabel,
        "budgets": [{"asked": b, "n_patients": n, "draws": _draw_facts(drawn[b], found)} for b, n in sizes.items()],
        "encoders": {a.name: {"source": a.source, **(a.about or {})} for a in arms},
        "architecture": wanted, "settings": options["settings"], "notes": _notes(arms, wanted, baselines),
    }  # fmt: skip
    return Plan(cells, arms, layout, facts, tested, out)


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

    if protocol == "representation":
        return "recording", f"mean features of at most {settings.test_windows} windows a recording"
    if protocol in ("linear", "knn") and (settings.sequence or settings.aggregate == "attention"):
        raise ConfigError(
            f"sequences and attention are learnt with the head, which the {protocol} protocol does not train; use the "
            "finetune protocol, with --settings.freeze true for encoders as they are"
        )
    level = make_decisions(target, settings).target.level
    return level, describe_level(level, target, settings, features=protocol != "finetune")


def _arms(encoders: Mapping[str, str], protocol: Protocol) -> tuple[Arm, ...]:
    arms = []
    for name, source in encoders.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == FLOOR:
            raise ConfigError(f"'{name}' cannot be the name of an encoder; use letters, digits, '.', '_', '-'")
        kind, _, run = source.partition(":")
        if kind == "untrained" and protocol == "finetune":
            raise ConfigError(
                f"'{name}={source}' is for the linear and knn protocols; fine-tuning takes '{name}=none{source[9:]}'"
            )
        arms.append(_bare(name, kind, run) if kind in BARE else _pretrained(name, source))
    if not any(a.source in BARE for a in arms):  # a study without its baseline would claim nothing
        name, source = ("scratch", "none") if protocol == "finetune" else ("untrained", "untrained")
        if name in encoders:
            raise ConfigError(f"the name '{name}' is kept for the baseline; call that encoder otherwise")
        arms.append(Arm(name, source))
    return tuple(arms)


def _baseline_first(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The first arm without pre-training leads: it is the baseline, in tables and in colours."""
    return tuple(sorted(arms, key=lambda a: a.source not in BARE))


def _baselines(arms: Sequence[Arm], wanted: Any) -> dict[str, str]:
    """Arm → the arm it is compared with: the first of its architecture without pre-training, else the first at all."""
    bare = [(a.name, a.about["encoder"] if a.about else wanted) for a in arms if a.source in BARE]
    found = {}
    for arm in arms:
        if arm.source == FLOOR:
            continue
        own = arm.about["encoder"] if arm.about else wanted
        alike = (name for name, architecture in bare if _same(own, architecture))
        found[arm.name] = next(alike, bare[0][0])
    return {name: baseline for name, baseline in found.items() if name != baseline}


def _bare(name: str, kind: str, run: str) -> Arm:
    """An arm without pre-training, of the default architecture or that of a run."""
    return Arm(name, kind, about={"encoder": _exported(name, run)["encoder"]}) if run else Arm(name, kind)


def _pretrained(name: str, source: str) -> Arm:
    from medssl.encoders.base import encoder_folder
    from medssl.training.export import labels_note

    about = _exported(name, source)
    digest = hashlib.sha256((encoder_folder(source) / "encoder.safetensors").read_bytes()).hexdigest()
    provenance = about.get("provenance", {})
    known = {k: v for k, v in provenance.items() if k not in ("patients", "labelled")}
    facts = {"encoder": about["encoder"], "provenance": known, "sha256": digest}
    note = labels_note(provenance)
    return Arm(name, source, digest, facts | ({"labels": note} if note else {}))


def _exported(name: str, source: str) -> dict[str, Any]:
    """What ``encoder.json`` of a run says.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    from medssl.encoders.base import encoder_folder, load_encoder

    folder = encoder_folder(source)
    if not (folder / "encoder.json").is_file():
        raise CheckpointError(
            f"'{name}={source}': there is no exported encoder; give a run of `medssl pretrain`, or 'none'"
        )
    load_encoder(folder)  # says what is wrong with a damaged one
    about: dict[str, Any] = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return about


def _shared_architecture(arms: Sequence[Arm]) -> Any:
    """Specification of the first pre-trained encoder: what scratch is built as, so that arms differ in weights only."""
    trained = (a.about["encoder"] for a in arms if a.about and a.source not in BARE)
    return next(trained, None)


def _notes(arms: Sequence[Arm], wanted: Any, baselines: Mapping[str, str]) -> list[str]:
    """Arms that differ from their baseline in more than their weights, or have learnt from labels already."""
    of = {a.name: a.about["encoder"] if a.about and "encoder" in a.about else wanted for a in arms}
    others = [name for name, baseline in baselines.items() if not _same(of[name], of[baseline])]
    notes = [
        f"{name} differs from {baselines[name]} in architecture, not only in pre-training: add a baseline of its own, "
        f"as in 'scratch2=none:RUN'"
        for name in others
    ]
    return notes + [f"{a.name} {a.about['labels']}" for a in arms if a.about and "labels" in a.about]


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two specifications name one network, whatever their number of input channels; None is the default."""
    if one is None or other is None:
        return one is other
    from medssl.configurable import build, discover, spec
    from medssl.encoders.base import Encoder, with_channels

    discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
    parts = [with_channels(spec(build(s, Encoder)), 1) for s in (one, other)]  # type: ignore[type-abstract]
    return parts[0] == parts[1]


def _task_info(target: Target) -> TaskInfo:
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


def _split_facts(split: Split, tested: Sequence[str]) -> dict[str, Any]:
    return {
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
