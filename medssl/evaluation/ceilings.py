"""Results better than what honest studies of a dataset reach: said so, and audited for leaks, before anybody reads on.

A recipe knows how far honest studies come (``medssl.cohort.ceiling``). Beyond that a leak is likelier than a discovery,
so the leakage audit is run with the result, and what it found stands beside it.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.errors import MedSSLError
from medssl.evaluation.metrics import info_of
from medssl.evaluation.verdict import format_value, labelled_patients

if TYPE_CHECKING:
    from medssl.training.targets import Target, Task

__all__ = ["FILE", "Asked", "ceiling_of", "judge_run", "reached", "write_judged"]

FILE = "audit_leakage.json"
_JUDGED = ("accuracy", "balanced_accuracy")
_UNFINISHED = {"error": "it was interrupted"}
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the audit of a study or run looks at.

    Attributes:
        cohort: folder.
        task, target: as asked for.
        split: name of the split.
        parts: names of what was tested: the split itself, or its folds or sites in turn.
        encoders: arm → (part, run, fingerprint of the weights) of each pre-trained encoder.
    """

    cohort: Path
    task: Task
    target: str
    split: str
    parts: Sequence[str]
    encoders: Mapping[str, Sequence[tuple[str, str, str]]]


def ceiling_of(target: Target, tested: Iterable[str]) -> dict[str, Any] | None:
    """The ceiling of a target, as it stands in ``summary.json``; None where there is none.

    Of several labels at once there is none either, since accuracy then means another thing.

    Args:
        target: whose cohort may know one.
        tested: patients that results are of.

    Returns:
        ``value``, ``source``, and ``largest_class``: the share of the tested items that are of the commonest class,
        which is what a model reaches that always answers it.
    """
    known = target.cohort.info.ceilings.get(target.name)
    if known is None or target.task != "classification" or target.multilabel:
        return None
    counts = np.bincount(target.y[target.items_of(tuple(tested))])
    share = float(counts.max() / counts.sum()) if counts.sum() else math.nan
    return {"value": known.value, "source": known.source, "largest_class": share}


def reached(results: Iterable[Entry], ceiling: Entry) -> list[dict[str, Any]]:
    """Means of accuracy and balanced accuracy at or above the ceiling, the highest first.

    Args:
        results: entries of ``summary.json``.
        ceiling: see :func:`ceiling_of`. Where the commonest class alone reaches it, accuracy says nothing, and only
            balanced accuracy is judged.

    >>> ceiling = {"value": 0.8, "source": "a review", "largest_class": 0.5}
    >>> about = {"encoder": "a", "budget": "8", "n_training_patients": 8, "class": "", "low": None, "high": None}
    >>> [r["mean"] for r in reached([{**about, "metric": "accuracy", "mean": m} for m in (0.79, 0.8, 0.9)], ceiling)]
    [0.9, 0.8]
    """
    judged = _JUDGED[1:] if ceiling["largest_class"] >= ceiling["value"] else _JUDGED
    found = [r for r in results if r["metric"] in judged and not r["class"] and _least(r["mean"], ceiling["value"])]
    kept = ("encoder", "budget", "n_training_patients", "metric", "mean", "low", "high")
    return [{key: r[key] for key in kept} for r in sorted(found, key=lambda r: -r["mean"])]


def write_judged(out: Path, summary: dict[str, Any], results: Iterable[Entry], asked: Asked) -> dict[str, Any]:
    """Write ``OUT/summary.json``; where results reach the ceiling, with a warning and with what the audit found.

    An audit of the same cohort, split, target and encoders is not made again. One that fails, or is interrupted, costs
    nothing of the summary, which then says so.

    Args:
        out: folder of the study or run; the audit is written there too, as ``audit_leakage.json``.
        summary: its ``ceiling`` is used; ``implausible`` is added.
        results: entries as of a study's ``results``.
        asked: what is to be audited.

    Returns:
        The summary.
    """
    from medssl.training.run import read_summary, write_json

    known = read_summary(out).get("implausible", {}).get("audit", {})
    entries = reached(results, summary["ceiling"])
    if not entries:
        write_json(out / "summary.json", summary)
        return summary
    arms = list(dict.fromkeys(e["encoder"] for e in entries))
    depends_on = _depends_on(asked, arms)
    current = known.get("depends_on") == depends_on and (out / FILE).is_file()
    summary["implausible"] = _said(entries, summary, asked, known if current else _UNFINISHED)
    write_json(out / "summary.json", summary)  # before the audit: whatever becomes of it, results and warning stand
    if not current:
        first = entries[0]
        print(
            f"{first['encoder']} reaches {_value(first)}, which honest studies of '{summary['target']}' do not: "
            "auditing for leaks", flush=True,
        )  # fmt: skip
        summary["implausible"] = _said(entries, summary, asked, _audit(out, asked, arms, depends_on))
        write_json(out / "summary.json", summary)
    print(_printed(summary["implausible"], out), flush=True)
    return summary


def judge_run(out: Path, summary: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """The same for one model: its ``metrics`` on the test patients, if the cohort knows a ceiling.

    Args:
        out: folder of the run, whose summary is written already.
        summary: of the run.
        asked: what is to be audited.
    """
    if "ceiling" not in summary:
        return summary
    about = {
        "encoder": "scratch" if summary["encoder"] == "none" else summary["encoder"], "budget": summary["budget"],
        "n_training_patients": summary["n_patients"], "class": "", "low": None, "high": None,
    }  # fmt: skip
    results = [{**about, "metric": metric, "mean": summary["metrics"].get(metric)} for metric in _JUDGED]
    return write_judged(out, summary, results, asked)


def _depends_on(asked: Asked, arms: Sequence[str]) -> dict[str, Any]:
    """Everything that the findings follow from, as plain values."""
    from medssl import __version__
    from medssl.cohort import Cohort
    from medssl.splits import Split

    try:
        fingerprint = Cohort(asked.cohort).info.fingerprint
        splits = {name: Split.load(asked.cohort, name).sha256 for name in (asked.split, *asked.parts)}
    except MedSSLError:  # the audit says what is wrong with them
        fingerprint, splits = "", {}
    weights = sorted({(part, mark) for arm in arms for part, _, mark in asked.encoders.get(arm, ())})
    return {
        "medssl": __version__, "fingerprint": fingerprint, "splits": splits, "task": asked.task,
        "target": asked.target, "encoders": [list(pair) for pair in weights],
    }  # fmt: skip


def _audit(out: Path, asked: Asked, arms: Sequence[str], depends_on: Entry) -> dict[str, Any]:
    """Run the leakage audit and write its file; what goes wrong is told in place of findings."""
    from medssl.audit.leakage import audit_cohort
    from medssl.audit.sides import read_sides, sides_of_parts
    from medssl.cohort import Cohort

    try:
        cohort = Cohort(asked.cohort)
        pairs = dict.fromkeys((part, source) for arm in arms for part, source, _ in asked.encoders.get(arm, ()))
        report = audit_cohort(
            cohort, sides_of_parts(cohort.path, asked.split, asked.parts), asked.target, asked.task,
            [(read_sides(cohort.path, part), source) for part, source in pairs],
        )  # fmt: skip
        report.save(out / FILE)
    except MedSSLError as error:
        return {"error": str(error)}
    except Exception as error:  # a fault of ours must not cost the user the study; it is reported with its type
        if os.environ.get("MEDSSL_DEBUG") == "1":
            raise
        return {"error": f"{type(error).__name__}: {error}"}
    findings = [
        {"severity": f.severity, "check": f.check, "message": f.message}
        for severity in ("error", "warning", "note")
        for f in report.of(severity)
    ]
    return {"verdict": report.verdict, "findings": findings, "file": FILE, "depends_on": dict(depends_on)}


def _said(entries: Sequence[Entry], summary: Entry, asked: Asked, audit: Entry) -> dict[str, Any]:
    """What stands as ``implausible`` in the summary."""
    ceiling, first, more = summary["ceiling"], entries[0], len(entries) - 1
    others = f" ({more} other result{' is' if more == 1 else 's are'} too high as well)" if more else ""
    chance = ""
    if first["low"] is not None and first["low"] < ceiling["value"]:
        chance = "; its interval begins below that, so that it may be chance"
    options = {"--cohort": str(asked.cohort), "--split": asked.split, "--target": asked.target}
    again = shlex.join(["medssl", "audit", "leakage", *(word for pair in options.items() for word in pair)])
    found = (
        f"The leakage audit could not be made ({audit['error']}): run `{again}`."
        if "error" in audit
        else f"The leakage audit found {audit['verdict'].removesuffix(' found in these checks')} ({audit['file']})."
    )
    sentence = (
        f"Do not trust this result: {first['encoder']} reaches {_value(first)} with {labelled_patients(first)}"
        f"{others}, and honest studies of '{summary['target']}' stay below "
        f"{format_value(ceiling['value'], first['metric'])} ({ceiling['source']}){chance}. {found} Even where an audit "
        "finds nothing, a leak that it cannot see is likelier than a discovery."
    )
    return {"sentence": sentence, "reached": list(entries), "audit": dict(audit)}


def _value(entry: Entry) -> str:
    """Metric, mean and interval of one result."""
    metric = entry["metric"]
    text = f"{info_of(metric).title} {format_value(entry['mean'], metric)}"
    if entry["low"] is None or math.isnan(entry["low"]):
        return text
    return f"{text} [{format_value(entry['low'], metric)}, {format_value(entry['high'], metric)}]"


def _printed(implausible: Entry, out: Path) -> str:
    audit = implausible["audit"]
    lines = [f"  {f['severity']:<8} {f['message']}" for f in audit.get("findings", ())]
    return "\n".join([implausible["sentence"], *lines, *([f"audit: {out / FILE}"] if "file" in audit else [])])


def _least(value: float | None, least: float) -> bool:
    return value is not None and value >= least - 1e-9  # 8 of 10 may be a little below 0.8
