"""The page of a search: the nearest cases as a strip of pictures; of an evaluation also figures beside their floors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.verdict import format_p
from medssl.report.cards import cards
from medssl.report.charts import Series, legend, line_chart
from medssl.report.html import Html, details, figure, listing, page, section, table, tag
from medssl.report.pictures import recording_picture

__all__ = ["search_page"]

Entry = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]
MACRO = "macro mean"
_VIEWS = {
    "windows": "mean of at most {windows} windows", "whole": "whole recording, resized to one window",
    "grid": "averaged onto a small grid",
}  # fmt: skip


def search_page(folder: Path) -> Html:
    """The whole page of a search, from ``summary.json`` and ``pictures.npz`` of its folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    pictures = _pictures(folder / "pictures.npz")
    evaluation = summary["mode"] == "evaluation"
    parts = {
        "Figures": _figures(summary) if evaluation else Html(""),
        "Comparisons": _comparisons(summary) if evaluation else Html(""),
        "Examples" if evaluation else "Nearest cases": _strips(summary, pictures),
        "How to read this": _reading(summary),
        "Provenance": _provenance(summary),
    }
    title = "Retrieval without training" if evaluation else "Nearest cases"
    footer = tag("p", "Made by medssl for research. Not a medical device, not for diagnosis.")
    return page(
        f"{title}: {summary['encoder']}", {k: v for k, v in parts.items() if v}, lead=_lead(summary, title),
        footer=footer,
    )  # fmt: skip


def _pictures(file: Path) -> dict[str, NDArray[Any]]:
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _lead(s: Entry, title: str) -> Html:
    facts: dict[str, object] = {
        "Encoder": s["encoder"],
        "Searched": ", ".join(s["cohorts"]),
        "Left out": "the query's own patient" if s["exclude"] == "patient" else "the query alone",
        "Compared by": "cosine, less the mean of a cohort" if s.get("centre") else "cosine",
        "Search": "exact" if s["index"] == "exact" else "approximate (FAISS)",
    }  # fmt: skip
    if s["mode"] == "evaluation":
        facts |= {"Relevant by": ", ".join(s["label"])}
        if s["split"] is not None:
            facts |= {"Asking and answering": f"test and development patients of split {s['split']}"}
    said = tag("p", s["verdict"], class_="verdict", role="note", aria_label="Verdict") if "verdict" in s else Html("")
    notes = tag("div", tag("ul", *(tag("li", n) for n in s["notes"])), class_="warn") if s["notes"] else Html("")
    kinds = ", ".join(dict.fromkeys(c["modality"] or c["kind"] for c in s["cohorts"].values()))
    top = tag("p", f"medssl · search · {kinds}", class_="muted") + tag("h1", title)
    return Html(top + said + cards(facts) + _cohorts(s["cohorts"]) + notes)


def _cohorts(cohorts: Entry) -> Html:
    rows = [
        (name, c["kind"], c["n_recordings"], c["n_patients"], _VIEWS[c["reading"]["view"]].format(**c["reading"]),
         " x ".join(map(str, c["reading"]["size"])))
        for name, c in cohorts.items()
    ]  # fmt: skip
    head = ("cohort", "kind", "recordings", "patients", "read as", "size")
    return table(head, rows, caption="Cohorts, and how the encoder reads them", numeric=(2, 3))


def _title(metric: str) -> str:
    """
    >>> _title("map_at_10"), _title("mrr")
    ('mAP@10', 'MRR')
    """
    name, _, k = metric.partition("_at_")
    written = {"map": "mAP", "ndcg": "nDCG", "mrr": "MRR", "recall": "Recall", "precision": "Precision"}[name]
    return f"{written}@{k}" if k else written


def _where(entry: Entry) -> str:
    return str(entry["queries"]) if entry["queries"] == entry["gallery"] else f"{entry['queries']} → {entry['gallery']}"


def _figures(s: Entry) -> Html:
    places = list(dict.fromkeys(_where(r) for r in s["results"]))
    parts = [_of_place(s, [r for r in s["results"] if _where(r) == place], place) for place in places]
    return section("Figures", *parts, id_="figures")


def _of_place(s: Entry, results: Sequence[Entry], place: str) -> Html:
    """Table and curves of one cohort, one pair of cohorts, or the mean over cohorts."""
    arms = list(dict.fromkeys(r["encoder"] for r in results))
    of = {(r["encoder"], r["metric"]): r for r in results}
    metrics = list(dict.fromkeys(r["metric"] for r in results))
    first = results[0]
    said = (
        f"{first['n_queries']} queries of {first['n_patients']} patients; {first['n_skipped']} skipped, since no other "
        f"patient has anything relevant. {first['n_items']} labelled recordings could be found. Below each figure its "
        "95 % interval over patients."
    )
    wanted = [m for m in ("recall_at_1", "recall_at_5", "map_at_10", "ndcg_at_10", "mrr") if m in metrics]
    chart = figure(
        line_chart(
            [*(_recall(s, a, of) for a in arms), _by_chance(s, of, arms[0])], title=f"Recall by depth, {place}",
            x_label="k", y_label="Recall@k", x_ticks=s["ks"],
        ),
        "Recall@k: share of queries with at least one relevant recording among the k nearest.",
    )  # fmt: skip
    return Html(
        tag("h3", place) + legend([*arms, "random order"]) + chart + _table(of, arms, wanted, said)
        + details("All measures", _table(of, arms, metrics, said))
    )  # fmt: skip


def _recall(s: Entry, arm: str, of: Mapping[tuple[str, str], Entry]) -> Series:
    rows = [of[arm, f"recall_at_{k}"] for k in s["ks"]]
    low, high = ([float("nan") if r[side] is None else r[side] for r in rows] for side in ("low", "high"))
    said = [f"{arm}, k = {k}: {_value(r)}" for k, r in zip(s["ks"], rows, strict=True)]
    return Series(arm, s["ks"], [r["mean"] for r in rows], low, high, said)


def _by_chance(s: Entry, of: Mapping[tuple[str, str], Entry], arm: str) -> Series:
    values = [of[arm, f"recall_at_{k}"]["random_order"] for k in s["ks"]]
    return Series("random order", s["ks"], values)


def _table(of: Mapping[tuple[str, str], Entry], arms: Sequence[str], metrics: Sequence[str], said: str) -> Html:
    rows: list[list[object]] = [[arm, *(_cell(of[arm, m]) for m in metrics)] for arm in arms]
    rows.append(["random order", *(f"{of[arms[0], m]['random_order']:.3f}" for m in metrics)])
    return table(["", *map(_title, metrics)], rows, caption=said, numeric=range(1, len(metrics) + 1))


def _value(r: Entry) -> str:
    return f"{r['mean']:.3f}" + ("" if r["low"] is None else f" ({r['low']:.3f} to {r['high']:.3f})")


def _cell(r: Entry) -> Html:
    below = "no interval" if r["low"] is None else f"{r['low']:.3f} to {r['high']:.3f}"
    return Html(f"{r['mean']:.3f}{tag('br')}{tag('small', below)}")


def _comparisons(s: Entry) -> Html:
    if not s["comparisons"]:
        return Html("")
    rows = [
        [c["encoder"], c["floor"], _where(c), f"{c['difference']:+.3f}",
         "–" if c["low"] is None else f"{c['low']:+.3f} to {c['high']:+.3f}", format_p(c["p"]), format_p(c["p_holm"])]
        for c in s["comparisons"]
    ]  # fmt: skip
    caption = (
        f"{_title(s['metric'])}, the same queries for both: sign flips over patients, adjusted by Holm over all rows. "
        "Untrained: the same network with random weights. Pixels: no network at all."
    )
    head = ["encoder", "against", "cohort", "difference", "95 % interval", "p", "adjusted"]
    return section("Comparisons", table(head, rows, caption=caption, numeric=(3, 4, 5, 6)), id_="comparisons")


def _strips(s: Entry, pictures: Arrays) -> Html:
    known: dict[int, Html] = {}
    evaluation = s["mode"] == "evaluation"
    if evaluation:
        text = (
            f"Queries are drawn at random (seed {s['seed']}), not by their result: the query first, then what "
            f"{s['encoder']} holds to be nearest. ✓ marks what is relevant, ✗ what is not."
        )
    else:
        text = "The query first, then the nearest cases, by the cosine of their embeddings."
    first = [label.partition(":")[0] for label in s.get("label", ())]
    several = len({strip["encoder"] for strip in s["strips"]}) > 1
    blocks = [_strip(strip, pictures, known, first, several) for strip in s["strips"]]
    if not blocks:
        return Html("")
    name = "Examples" if evaluation else "Nearest cases"
    return section(name, tag("p", text), *blocks, id_="examples" if evaluation else "nearest-cases")


def _strip(strip: Entry, pictures: Arrays, known: dict[int, Html], first: Sequence[str], several: bool) -> Html:
    query = strip["query"]
    across = f" in {strip['gallery']}" if strip.get("gallery", query["cohort"]) != query["cohort"] else ""
    title = f"Query {query['recording']}{across}" + (f", {strip['encoder']}" if several else "")
    about = ""
    if "n_relevant" in strip:
        about = f"{strip['n_relevant']} of {strip['n_items']} recordings are relevant"
    places = [
        _place(query, pictures, known, first, "query"),
        *(_place(hit, pictures, known, first) for hit in strip["hits"]),
    ]
    row = tag("ol", *places, class_="hits")
    scroll = tag("div", row, class_="scroll", tabindex="0", role="region", aria_label=title)
    return tag("div", tag("h3", title), tag("p", about, class_="muted") if about else Html(""), scroll, class_="case")


def _place(item: Entry, pictures: Arrays, known: dict[int, Html], first: Sequence[str], head: str = "") -> Html:
    """One picture with what is known of it; the labels that were asked about come first."""
    number = item["picture"]
    label = f"Recording {item['recording']}, {item['what']}"
    if number not in known:
        known[number] = recording_picture(pictures.get(f"picture_{number}"), float(item["aspect"]), label)
    mark = "" if item.get("relevant") is None else " ✓" if item["relevant"] else " ✗"
    title = head or f"{item['rank']}. {item['similarity']:.4f}{mark}"
    style = None if not mark else "good" if item["relevant"] else "bad"
    labels = sorted(item["labels"].items(), key=lambda pair: pair[0] not in first)
    told = [tag("span", v) if n in first else tag("span", f"{n}: {v}", class_="muted") for n, v in labels]
    facts = [
        item["recording"], f"patient {item['patient']}" if item["patient"] not in ("", item["recording"]) else "",
        f"{item['cohort']} · {item['modality'] or item['kind']}",
    ]  # fmt: skip
    told += [tag("span", fact, class_="muted") for fact in facts if fact]
    return tag("li", known[number], tag("strong", title, class_=style), *told)


def _reading(s: Entry) -> Html:
    points = ["Similarity is the cosine of two embeddings; 1 is the same direction. It has no unit and no threshold."]
    if s["mode"] == "evaluation":
        points += [
            f"A recording is relevant for a query when {s['relevance_meaning']}. Recordings without a known label are "
            "neither queries nor found.",
            "Recall@k is a hit rate: the share of queries with at least one relevant recording among the k nearest. "
            "With few classes it is near 1 by chance; compare it with the random order.",
            "Precision@k is the share of relevant ones among the k nearest. mAP@k is the mean over queries of the "
            "precision at the rank of every hit, summed and divided by min(k, relevant ones). nDCG@k has gains 0 and "
            f"1. MRR is the mean of 1 / rank of the first hit, 0 where it lies beyond rank {s['depth']}.",
            "Random order: what these measures are on average when the gallery is shuffled, computed exactly.",
            "Figures are means over queries; intervals and tests take patients as the unit.",
            "Sites, devices and burnt-in text can make recordings alike as well as disease does: look at the strips.",
        ]  # fmt: skip
        if any(r["queries"] == MACRO for r in s["results"]):
            points.append("The macro mean counts every cohort the same, whatever its size.")
    else:
        points.append(
            "A near case is not a diagnosis: what the encoder holds to be alike may be the device or the site."
        )
    return section("How to read this", tag("ul", *(tag("li", p) for p in points)), id_="how-to-read-this")


def _provenance(s: Entry) -> Html:
    shown = {k: s[k] for k in ("encoders", "cohorts", "reading", "exclude", "index", "environment") if k in s}
    text = json.dumps(shown, indent=1, ensure_ascii=False)
    return section(
        "Provenance", listing("Encoders, cohorts, software", tag("pre", tag("code", text))), id_="provenance"
    )
