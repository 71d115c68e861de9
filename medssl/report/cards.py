"""Small parts that study and run pages share: fact cards, the cohort's card, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.report.html import Html, details, section, table, tag

__all__ = ["cards", "cohort_cards", "histogram_table", "provenance"]

Entry = Mapping[str, Any]


def cards(facts: Mapping[str, object]) -> Html:
    """Name and value pairs in boxes."""
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts.items()), class_="cards")


def cohort_cards(summary: Entry) -> Html:
    """The cohort's card: what went in, what was refused, how labels are spread over the split."""
    c, s = summary["cohort"], summary["split"]
    grid = {}
    if c.get("spacing_mm"):
        grid["Voxel size (z, y, x)"] = " × ".join(f"{v:g}" for v in c["spacing_mm"]) + " mm"
    if c.get("rate_hz"):
        grid["Sampling rate"] = f"{c['rate_hz']:g} Hz"
    facts = {
        "Recordings": c["n_recordings"], "Patients": c["n_patients"], "Rejected on preparation": c["n_rejected"],
        "Channels": ", ".join(c["channels"]), **grid, "Recipe": c["recipe"], "Test patients": s["n_test_patients"],
        "Development patients": s["n_development_patients"],
        "Stratified by": s.get("stratified_by") or "nothing",
    }  # fmt: skip
    draws = [
        [b["asked"], f"{b['n_patients']:g}", _range(b["draws"], "n_train"), _range(b["draws"], "n_validation"),
         _range(b["draws"], "n_items")]
        for b in summary["budgets"]
    ]  # fmt: skip
    head = ["budget asked", "patients", "of them for training", "for choosing the checkpoint", "labelled cases"]
    caption = "What each budget held, over its draws. Validation patients come out of the budget."
    return section(
        "Data",
        cards(facts),
        _variation(Path(c["path"])),
        table(head, draws, caption=caption, numeric=(1, 2, 3, 4)) if draws else Html(""),
        id_="data",
    )


def _range(draws: list[Entry], key: str) -> str:
    values = sorted({int(d[key]) for d in draws})
    return "–" if not values else f"{values[0]}" if len(values) == 1 else f"{values[0]}–{values[-1]}"


def _variation(cohort: Path) -> Html:
    """Spread of what differs between recordings, and the reasons of refusals, when the cohort can be reached."""
    file = cohort / "recordings.parquet"
    if not file.is_file():
        return Html("")
    import pandas as pd

    manifest = pd.read_parquet(file)
    parts = []
    if "n_samples" in manifest and manifest["n_samples"].notna().any() and manifest["rate_hz"].notna().any():
        parts.append(histogram_table("Duration (s)", (manifest["n_samples"] / manifest["rate_hz"]).dropna().tolist()))
    for axis, name in enumerate("zyx"):
        if "n_samples" in manifest and manifest["n_samples"].notna().any():
            break
        parts.append(histogram_table(f"Extent along {name} (voxels)", [s[axis] for s in manifest["shape"]]))
    for column in ("site", "scanner"):
        counts: Any = manifest[column].fillna("").replace("", "unknown").value_counts() if column in manifest else {}
        if len(counts) > 1:
            parts.append(table([column, "recordings"], list(counts.items())[:12], caption=f"By {column}", numeric=(1,)))
    rejected = cohort / "rejected.csv"
    if rejected.is_file():
        reasons = pd.read_csv(rejected)
        if len(reasons) and "reason" in reasons:
            rows = list(reasons["reason"].astype(str).str.slice(0, 120).value_counts().items())[:12]
            parts.append(table(["reason", "files"], rows, caption="Rejected on preparation", numeric=(1,)))
    return details("Variation within the cohort", tag("div", *parts, class_="grid")) if parts else Html("")


def histogram_table(title: str, values: list[float], bins: int = 8) -> Html:
    """A histogram as a table with bars, so that it can be read without seeing it."""
    import numpy as np

    counts, edges = np.histogram(values, bins=bins if len(set(values)) > 1 else 1)
    rows = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        share = 100 * count / max(int(counts.max()), 1)
        bar = Html(
            '<svg viewBox="0 0 100 10" width="100" height="10" aria-hidden="true">'
            f'<rect width="{share:.0f}" height="10" fill="var(--s1)"/></svg>'
        )
        rows.append([f"{low:.4g}–{high:.4g}", bar, int(count)])
    return table([title, "", "recordings"], rows, caption=title, numeric=(2,))


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
        details("Complete configuration", tag("pre", tag("code", json.dumps(config, indent=1, ensure_ascii=False)))),
        details("Software", tag("pre", tag("code", json.dumps(environment, indent=1, ensure_ascii=False)))),
        id_="provenance",
    )  # fmt: skip
