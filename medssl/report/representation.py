"""What the features of the encoders look like without labels: beside a study's results, and as a page of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.evaluation.metrics import info_of
from medssl.evaluation.metrics.catalogue import HEADLINE
from medssl.evaluation.verdict import format_p, format_value
from medssl.report.cards import arms_card, cards, cohort_cards, provenance
from medssl.report.html import Html, page, section, table, tag
from medssl.report.study_data import count

__all__ = ["quality_page", "rankme_section"]

Entry = Mapping[str, Any]
_SAME_KIND = "RankMe compares only encoders of the same method, architecture and width."


def rankme_section(summary: Entry) -> Html:
    """RankMe of every arm beside its result at every budget, and whether the two orders agree; empty where unknown."""
    measures: Mapping[str, Entry] = summary.get("representation") or {}
    if not any(_known(m.get("rankme")) for m in measures.values()):
        return Html("")
    metric, budgets = summary["metric"], [b["asked"] for b in summary["budgets"]]
    title = info_of(metric).title
    reached = {(r["encoder"], r["budget"]): r["mean"] for r in summary["results"]
               if r["metric"] == metric and not r["class"]}  # fmt: skip
    rows: list[list[object]] = [
        [arm, _with_sd(m), _number(m.get("rankme_centred")), _number(m.get("dimension")),
         *(format_value(reached.get((arm, b)), metric) for b in budgets)]
        for arm, m in measures.items()
    ]  # fmt: skip
    taus = summary.get("rankme_agreement") or {}
    rows.append(["Kendall's τ of the pre-trained ones", "", "", "", *(_tau(taus.get(b)) for b in budgets)])
    head = ["arm", "RankMe ± SD", "RankMe, centred", "width",
            *(f"{title}, {count(b['n_patients'])} patients" for b in summary["budgets"])]  # fmt: skip
    first = next(m for m in measures.values() if _known(m.get("rankme")))
    caption = (
        f"RankMe of the encoder's features of {first['n_recordings']} recordings ({first['n_patients']} development "
        "patients; one window in the middle of each), before any fine-tuning; at most the smaller of the number of "
        "recordings and the width. SD over random halves of the recordings."
    )
    numbers = table(head, rows, caption=caption, numeric=range(1, len(head)))
    said = tag("p", _says(taus))
    return section("RankMe beside the result", said, numbers, *_errors(measures), id_="rankme-beside-the-result")


def _says(taus: Mapping[str, Entry]) -> str:
    """Whether RankMe ranks the encoders as their results do, in one or two sentences."""
    known = [float(t["tau"]) for t in taus.values() if t["tau"] is not None]
    if not known:
        most = max((int(t["n_arms"]) for t in taus.values()), default=0)
        return (
            f"With {most} pre-trained encoder{'' if most == 1 else 's'} there is no order that RankMe could get right "
            f"or wrong; three or more are needed. {_SAME_KIND}"
        )
    if min(known) >= 0.99:
        text = "RankMe ranks the pre-trained encoders exactly as their results do, at every budget."
    elif min(known) > 0.3:
        text = "RankMe ranks the pre-trained encoders roughly as their results do, not exactly."
    elif max(known) > 0.3:
        text = "RankMe ranks the pre-trained encoders roughly as their results do at some budgets, not at others."
    elif max(known) < -0.3:
        text = "RankMe ranks the pre-trained encoders the wrong way round: do not choose by it here."
    else:
        text = "RankMe does not rank the pre-trained encoders as their results do: do not choose by it here."
    ps = [float(t["p"]) for t in taus.values() if t["p"] is not None]
    if not ps or min(ps) >= 0.05:
        text += " With so few encoders an order like this is often chance."
    if not all(t["comparable"] for t in taus.values()):
        return text + f" {_SAME_KIND} These differ, so its order means little."
    return text + f" {_SAME_KIND}"


def _tau(found: Entry | None) -> str:
    if found is None or found["tau"] is None:
        return "–"
    return f"{found['tau']:+.2f} ({format_p(found['p'])})"


def _with_sd(m: Entry) -> str:
    if not _known(m.get("rankme")):
        return "–"
    sd = f" ± {m['rankme_sd']:.2g}" if _known(m.get("rankme_sd")) else ""
    return f"{m['rankme']:.3g}{sd}"


def _errors(measures: Mapping[str, Entry]) -> list[Html]:
    return [tag("p", f"{a}: not measured: {m['error']}", class_="muted") for a, m in measures.items() if "error" in m]


def quality_page(folder: Path) -> Html:
    """The whole page of a study with ``--protocol representation``."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    parts = {
        "Measures": _measures(summary),
        "Agreement": _agreement(summary),
        "Data": cohort_cards(summary),
        "How to read this": _reading(),
        "Provenance": provenance(summary),
    }
    count = len(summary["representation"])
    title = f"Representation quality of {count} encoder{'' if count == 1 else 's'}"
    first = next(iter(summary["representation"].values()))
    facts = {
        "Recordings": first["n_recordings"], "Development patients": first["n_patients"],
        "Windows of each": first["windows"], "Compared": arms_card(list(summary["representation"])),
    }  # fmt: skip
    failed = [tag("li", f"{f['encoder']}: {f['error']}") for f in summary["failed"]]
    lead = Html(
        tag("p", f"medssl · representation quality · {summary['cohort']['modality']}", class_="muted")
        + tag("h1", title)
        + tag("p", summary["verdict"], class_="verdict", role="note", aria_label="Summary")
        + cards(facts)
        + (tag("div", tag("strong", "Not measured:"), tag("ul", *failed), class_="warn") if failed else "")
    )
    footer = tag("p", "Made by medssl for research. Not a medical device, not for diagnosis.")
    return page(title, {k: v for k, v in parts.items() if v}, lead=lead, footer=footer)


def _measures(summary: Entry) -> Html:
    metric = HEADLINE[summary["task"]]
    head = ["encoder", "width", "RankMe ± SD", "RankMe, centred", "α-ReQ (ranks, R²)", "participation ratio",
            "first direction's share", "dead dimensions", "uniformity", "alignment", "LiDAR (of)"]  # fmt: skip
    rows: list[list[object]] = []
    measures: Mapping[str, Entry] = summary["representation"]
    for arm, m in measures.items():
        low, high = m["alpha_ranks"]
        alpha = "–" if m["alpha_req"] is None else f"{m['alpha_req']:.2f} ({low}–{high}, {m['alpha_r2']:.2f})"
        lidar = f"– ({m['lidar_reason']})" if m["lidar"] is None else f"{m['lidar']:.3g} ({m['lidar_dimension']})"
        rows.append([
            arm, m["dimension"], _with_sd(m), _number(m["rankme_centred"]), alpha, _number(m["participation"]),
            f"{m['top1_share']:.0%}", m["dead_dims"], _number(m["uniformity"]), _number(m["alignment"]), lidar,
        ])  # fmt: skip
    known = {a: m["knn"] for a, m in measures.items() if m["knn"] is not None}
    if known:
        head.append(f"{info_of(metric).title} of {next(iter(known.values()))['k']} neighbours")
        rows = [
            [*r, format_value((known.get(str(r[0])) or {"metrics": {}})["metrics"].get(metric), metric)] for r in rows
        ]
    first = next(iter(measures.values()))
    caption = (
        f"Features of {first['n_recordings']} recordings of development patients; alignment and LiDAR of "
        f"{first['views']} augmented views of {first['viewed_recordings']} of them. Neighbours are of other patients."
    )
    return section(
        "Measures", table(head, rows, caption=caption, numeric=range(1, len(head))), id_="measures"
    )  # fmt: skip


def _agreement(summary: Entry) -> Html:
    found = summary["agreement"]
    if not found:
        return Html("")
    rows = [
        [" and ".join(p["encoders"]), _above(p, "relative"), _above(p, "jaccard"), _number(p["cka"])]
        for p in found["pairs"]
    ]  # fmt: skip
    head = ["encoders", "relative representations (floor)", f"{found['k']} nearest recordings (floor)", "linear CKA"]
    kind = "debiased, since there are few recordings" if found["cka"]["debiased"] else "centred"
    caption = (
        f"How alike two encoders see the same {found['n_recordings']} recordings: mean cosine of their relative "
        f"vectors ({found['n_anchors']} anchors), overlap of their lists of nearest recordings, CKA ({kind}). The "
        "floor is what recordings that do not belong together give; 1 is the same encoder."
    )
    return section("Agreement", table(head, rows, caption=caption, numeric=range(1, len(head))), id_="agreement")


def _above(pair: Entry, name: str) -> str:
    return f"{_number(pair[name])} ({_number(pair[f'{name}_floor'])})"


def _reading() -> Html:
    points = (
        "None of these numbers is a proof of quality. A low rank says that something is wrong; a high one does not say "
        "that it is right: noise has the highest of all.",
        f"{_SAME_KIND} The number of recordings and the width limit it.",
        "Alignment: squared distance of two augmented views of a recording, lower is better. Uniformity: how evenly "
        "recordings lie on the sphere, lower is better. Either is easily had at the cost of the other.",
        "LiDAR counts the directions that tell recordings apart from their own augmentations. α-ReQ near 1 is claimed "
        "best; far above it the features collapse, below it they are noise.",
        "Nearest neighbours answer for patients they have not seen; labels are used only to score them.",
        "Nothing was trained and no test patient was looked at. Whether pre-training helps with few labels is told by "
        "the other protocols of `medssl evaluate`.",
    )
    return section("How to read this", tag("ul", *(tag("li", p) for p in points)), id_="how-to-read-this")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _known(value: float | None) -> bool:
    return value is not None
