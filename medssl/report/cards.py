"""Small parts that pages share: fact cards, the cohort's card, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.evaluation.cohort_card import cohort_card
from medssl.report.html import Html, figure, listing, section, table, tag
from medssl.report.plots import histogram_chart
from medssl.report.study_data import count

__all__ = ["arms_card", "cards", "cohort_cards", "implausible_card", "provenance"]

Entry = Mapping[str, Any]
MOST_NAMES, MOST_CHANNELS = 6, 24


def cards(facts: Mapping[str, object]) -> Html:
    """Name and value pairs in boxes."""
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts.items()), class_="cards")


def arms_card(arms: Sequence[str]) -> str:
    """Names of a few arms, or how many there are: below stand all."""
    return ", ".join(arms) if len(arms) <= MOST_NAMES else f"{len(arms)} arms, named below"


def implausible_card(summary: Entry) -> Html:
    """Results that honest studies do not reach, with what the leakage audit found; empty where there are none."""
    found = summary.get("implausible")
    if not found:
        return Html("")
    findings = [
        tag("li", tag("strong", f["severity"]), f": {f['message']}") for f in found["audit"].get("findings", ())
    ]
    return tag(
        "div", tag("strong", "Better than honest studies reach:"), tag("p", found["sentence"]),
        tag("ul", *findings) if findings else Html(""), class_="warn", role="note",
        aria_label="Better than honest studies reach",
    )  # fmt: skip


def cohort_cards(summary: Entry, pictures: Mapping[str, Any] | None = None) -> Html:
    """The cohort's card: what went in, what was refused, how recordings vary, how labels are spread over the split.

    Args:
        summary: of the study.
        pictures: ``examples.npz``; where it has no card the cohort itself is asked, if it can be reached.
    """
    c, s = summary["cohort"], summary["split"]
    grid = {}
    if c.get("spacing_mm"):
        grid["Voxel size (z, y, x)"] = " × ".join(f"{v:g}" for v in c["spacing_mm"]) + " mm"
    if c.get("rate_hz"):
        grid["Sampling rate"] = f"{c['rate_hz']:g} Hz"
    facts = {
        "Recordings": c["n_recordings"], "Patients": c["n_patients"], "Rejected on preparation": c["n_rejected"],
        "Channels": _some(c["channels"]), **grid, "Recipe": c["recipe"], "Test patients": s["n_test_patients"],
        "Development patients": s["n_development_patients"],
        "Stratified by": s.get("stratified_by") or "nothing",
    }  # fmt: skip
    draws = [
        [b["asked"], count(b["n_patients"]), _range(b["draws"], "n_train"), _range(b["draws"], "n_validation"),
         _range(b["draws"], "n_items")]
        for b in summary["budgets"]
        if b["draws"]
    ]  # fmt: skip
    head = ["budget asked", "patients", "of them for training", "for choosing the checkpoint", "labelled cases"]
    kept = (pictures or {}).get("cohort_card")
    card = json.loads(str(kept)) if kept is not None else cohort_card(Path(c["path"]))
    caption = "What each budget held, over its draws. Validation patients come out of the budget."
    return section(
        "Data",
        cards(facts),
        _variation(card),
        table(head, draws, caption=caption, numeric=(1, 2, 3, 4)) if draws else Html(""),
        id_="data",
    )


def _some(names: Sequence[str]) -> str:
    """All names, or of many the first and the last."""
    return ", ".join(names) if len(names) <= MOST_CHANNELS else f"{len(names)}: {names[0]}, {names[1]}, … {names[-1]}"


def _range(draws: list[Entry], key: str) -> str:
    values = sorted({int(d[key]) for d in draws})
    return "–" if not values else f"{values[0]}" if len(values) == 1 else f"{values[0]}–{values[-1]}"


def _variation(card: Entry) -> Html:
    """Spread of what differs between recordings, and the reasons of refusals."""
    if not card:
        return Html("")
    charts, same = [], []
    for title, found in card["histograms"].items():
        if found["edges"][0] == found["edges"][-1]:
            same.append(f"{title}: {found['edges'][0]:.4g}")
            continue
        chart = histogram_chart(
            found["edges"], found["counts"], title=f"Histogram of {title}", x_label=title, what="recordings"
        )
        charts.append(figure(chart, title))
    tables = [
        table([what, "recordings"], list(names.items()), caption=f"By {what}", numeric=(1,))
        for what, names in card["counts"].items()
    ]
    if card["rejected"]:
        tables.append(
            table(["reason", "inputs"], list(card["rejected"].items()), caption="Rejected on preparation", numeric=(1,))
        )
    said = tag("p", f"The same in all recordings: {'; '.join(same)}.", class_="muted") if same else Html("")
    grid = tag("div", *charts, *tables, class_="grid") if charts or tables else Html("")
    return Html(tag("h3", "Variation within the cohort") + said + grid)


_CONFIGURATION = (
    "task", "target", "protocol", "baseline", "split", "cohort", "budgets", "repeats", "encoders",
    "architecture", "settings",
)  # fmt: skip


def provenance(summary: Entry) -> Html:
    """Everything needed to repeat the study."""
    environment = summary.get("environment", {})
    versions = environment.get("versions", {})
    facts = {
        "Cohort fingerprint": str(summary["cohort"]["fingerprint"])[:16],
        "Split hash": str(summary["split"]["sha256"])[:16],
        "medssl": versions.get("medssl", "?"),
        "Code state": environment.get("git") or "not a repository",
        "Device": environment.get("device") or "?",
        "Compute": f"{summary.get('seconds', 0) / 60:.0f} min in all cells",
    }
    config = {k: summary[k] for k in _CONFIGURATION if k in summary}
    return section(
        "Provenance", cards(facts),
        listing("Complete configuration", tag("pre", tag("code", json.dumps(config, indent=1, ensure_ascii=False)))),
        listing("Software", tag("pre", tag("code", json.dumps(environment, indent=1, ensure_ascii=False)))),
        id_="provenance",
    )  # fmt: skip
