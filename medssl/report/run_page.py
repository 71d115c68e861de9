"""The page of one run: pre-training or fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.evaluation.metrics import info_of
from medssl.evaluation.metrics.catalogue import HEADLINE
from medssl.evaluation.verdict import format_value
from medssl.report.cards import cards, implausible_card
from medssl.report.html import Html, figure, listing, page, section, table, tag
from medssl.report.plots import confusion_chart
from medssl.report.training import run_curves

__all__ = ["run_page"]

Entry = Mapping[str, Any]


def run_page(run: Path) -> Html:
    """The whole page of ``RUN``, from its summary, metrics, configuration and environment."""
    from medssl.training.metrics_log import read_metrics

    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    rows = read_metrics(run)
    finetuned = "task" in summary
    title = (
        f"{summary['task'].capitalize()} of “{summary['target']}”"
        if finetuned
        else f"Pre-training with {summary.get('method', '?')}"
    )
    parts = {
        "Result": _tested(summary) if finetuned else Html(""),
        "Training": section("Training", run_curves(rows), id_="training") if rows else Html(""),
        "Provenance": _provenance(run),
    }
    lead = Html(
        tag("p", f"medssl · run {run.name}", class_="muted") + tag("h1", title)
        + implausible_card(summary)
        + tag("p", _sentence(summary), class_="verdict", role="note", aria_label="Summary")
        + cards(_facts(summary)) + _warnings(summary)
    )  # fmt: skip
    footer = tag("p", "Made by medssl for research. Not a medical device, not for diagnosis.")
    return page(f"{title} ({run.name})", {k: v for k, v in parts.items() if v}, lead=lead, footer=footer)


def _sentence(s: Entry) -> str:
    if "task" not in s:
        state = {
            "finished": "finished",
            "stopped": "was stopped and can be resumed",
            "running": "is running or was killed",
        }
        text = f"Pre-training {state.get(s.get('status', ''), 'failed')}"
        text += f" after {s['steps']} steps" if "steps" in s else ""
        text += f"; {s['error']}" if s.get("error") else ""
        rank = s.get("rankme")
        return text + (f". RankMe of the last look: {rank:.3g}." if isinstance(rank, float) else ".")
    if "metrics" not in s:
        return "This run did not finish; there is nothing to report yet."
    metric = HEADLINE[s["task"]]
    value = format_value(s["metrics"].get(metric), metric)
    return (
        f"{info_of(metric).title} {value} on {s['n_test_patients']} test patients, trained with {s['n_patients']} "
        f"labelled patients from {'scratch' if s['encoder'] in ('none', 'scratch') else s['encoder']}. One run has "
        "no interval over repeats; `medssl evaluate` gives one."
    )


def _facts(s: Entry) -> dict[str, object]:
    names = {
        "steps": "Steps", "n_patients": "Patients", "n_recordings": "Recordings", "n_train_patients": "Training "
        "patients",
        "n_validation_patients": "Validation patients", "n_test_patients": "Test patients", "encoder": "Encoder",
        "architecture": "Architecture", "best_step": "Step kept", "skipped_steps": "Skipped steps",
        "level": "Decided for each", "n_test_items": "Decisions tested", "aggregation": "By",
    }  # fmt: skip
    facts: dict[str, object] = {title: s[key] for key, title in names.items() if s.get(key) is not None}
    seconds = s.get("seconds")
    total = sum(seconds.values()) if isinstance(seconds, dict) else seconds
    if total is not None:
        facts["Time"] = f"{total:.0f} s" if total < 60 else f"{total / 60:.1f} min"
    return facts


def _warnings(s: Entry) -> Html:
    lines = [str(x) for key in ("alarms", "notes") for x in s.get(key) or ()]
    return tag("div", tag("ul", *(tag("li", x) for x in lines)), class_="warn") if lines else Html("")


def _tested(s: Entry) -> Html:
    metrics = {k: v for k, v in s.get("metrics", {}).items() if not k.startswith(("n/", "tp/", "fp/", "fn/"))}
    if not metrics:
        return Html("")
    rows = [[key, format_value(value, key), info_of(key).meaning] for key, value in metrics.items()]
    classes = [c for c in s.get("classes", ()) if f"f1/{c}" in metrics]
    counts = [[float(s["metrics"].get(f"n/{t}/{p}") or 0) for p in classes] for t in classes]
    chart = Html("")
    if 1 < len(classes) <= 12 and any(any(row) for row in counts):
        chart = figure(confusion_chart(counts, classes, title="Confusion matrix"), "All items of the test patients.")
    split = f"Test patients of the split “{s['split']}” ({s['split_rule']}, hash {s['split_hash'][:12]})"
    return section(
        "Result", chart, table(["metric", "value", "meaning"], rows, caption=split, numeric=(1,)), id_="result"
    )


def _provenance(run: Path) -> Html:
    parts = []
    for name, title in (("config.yaml", "Configuration"), ("environment.json", "Software, device and data")):
        if (run / name).is_file():
            parts.append(listing(title, tag("pre", tag("code", (run / name).read_text(encoding="utf-8")))))
    return section("Provenance", *parts, id_="provenance") if parts else Html("")
