"""The page of a limited-label study, for people who would rather look than read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.evaluation.metrics import info_of
from medssl.evaluation.results import POOLED
from medssl.evaluation.verdict import format_p, format_value
from medssl.report.cards import cards, cohort_cards, provenance
from medssl.report.charts import Series, confusion_chart, legend, line_chart, paired_chart
from medssl.report.examples import example_section
from medssl.report.html import Html, details, figure, page, section, table, tag
from medssl.report.representation import rankme_section
from medssl.report.training import training_section

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["study_page"]

Entry = Mapping[str, Any]
_ALSO = {
    "segmentation": ("hd95_mm", "nsd"),
    "classification": ("auroc", "balanced_accuracy"),
    "regression": ("rmse", "r2"),
}


@dataclass(frozen=True)
class _Study:
    """What the page is drawn from."""

    folder: Path
    summary: Entry
    table: pd.DataFrame

    @property
    def metric(self) -> str:
        return str(self.summary["metric"])

    @property
    def arms(self) -> list[str]:
        return list(self.summary["encoders"])

    @property
    def budgets(self) -> list[Entry]:
        return list(self.summary["budgets"])

    def result(self, arm: str, budget: str, metric: str, name: str = "") -> Entry | None:
        return next(
            (r for r in self.summary["results"]
             if (r["encoder"], r["budget"], r["metric"], r["class"]) == (arm, budget, metric, name)), None,
        )  # fmt: skip

    def comparison(self, arm: str, budget: str) -> Entry | None:
        return next((c for c in self.summary["comparisons"] if (c["encoder"], c["budget"]) == (arm, budget)), None)


def study_page(folder: Path) -> Html:
    """The whole page of ``STUDY``, from its summary, results and examples (and the training curves of its cells)."""
    import pandas as pd

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    study = _Study(folder, summary, pd.read_parquet(folder / "results.parquet"))
    parts = {
        "Result": _result(study),
        "All numbers": _numbers(study),
        "Patients": _patients(study),
        "Classes": _classes(study),
        "RankMe beside the result": rankme_section(summary),
        "Examples": example_section(folder, summary),
        "Training": training_section(folder, summary),
        "Data": cohort_cards(summary),
        "How to read this": _reading(study),
        "Provenance": provenance(summary),
    }
    what = f"{summary['task']} of {summary['target']}"
    return page(
        f"{what}: limited-label study", {k: v for k, v in parts.items() if v}, lead=_lead(study), footer=_footer()
    )


def _lead(study: _Study) -> Html:
    s = study.summary
    facts = {
        "Test patients": s["split"]["n_test_patients"],
        "Label budgets (patients)": ", ".join(f"{b['n_patients']:g}" for b in study.budgets),
        "Repeats of each": s["repeats"],
        "Compared": ", ".join(study.arms),
        "Protocol": {"finetune": "fine-tuning", "linear": "linear probe", "knn": "nearest neighbours"}[s["protocol"]],
    }
    if "level" in s:  # studies of earlier releases do not say it
        facts |= {"Decided for each": s["level"], "By": s["aggregation"]}
    return Html(
        tag("p", f"medssl · limited-label study · {s['cohort']['modality']}", class_="muted")
        + tag("h1", f"{s['task'].capitalize()} of “{s['target']}” with few labels")
        + tag("p", s["verdict"], class_="verdict", role="note", aria_label="Verdict")
        + cards(facts)
        + _caveats(s["caveats"])
        + _failed(s["failed"])
    )


def _caveats(caveats: Sequence[str]) -> Html:
    if not caveats:
        return Html("")
    return tag("div", tag("strong", "Mind:"), tag("ul", *(tag("li", c) for c in caveats)), class_="warn")


def _failed(failed: Sequence[Entry]) -> Html:
    if not failed:
        return Html("")
    items = [tag("li", f"{f['encoder']}, {f['budget']} patients, repeat {f['repeat']}: {f['error']}") for f in failed]
    return tag("div", tag("strong", "Failed cells, counted as the worst value:"), tag("ul", *items), class_="warn")


def _footer() -> Html:
    return tag(
        "p", "Made by medssl for research. Not a medical device, not for diagnosis: these figures describe models on "
        "the test patients of one cohort and say nothing about any single patient.",
    )  # fmt: skip


def _result(study: _Study) -> Html:
    info = info_of(study.metric)
    better = "higher is better" if info.higher_is_better else "lower is better"
    caption = (
        f"{info.title} on the same {study.summary['split']['n_test_patients']} test patients against the number of "
        f"labelled training patients ({better}; {info.meaning}). {_bars(study)} Hover over or tab to a point for its "
        "numbers."
    )
    more = [
        figure(_curve(study, m), f"{info_of(m).title}: {info_of(m).meaning}.")
        for m in _ALSO[study.summary["task"]]
        if any(r["metric"] == m and not r["class"] for r in study.summary["results"])
    ]
    others = details("Other metrics", tag("div", *more, class_="grid")) if more else Html("")
    return section(
        "Result", legend(study.arms), figure(_curve(study, study.metric), caption), others, id_="result"
    )  # fmt: skip


def _bars(study: _Study) -> str:
    """What the bars are, or why there are none."""
    kinds = {r["interval"] for r in study.summary["results"] if r["metric"] == study.metric and not r["class"]}
    if "not estimable" in kinds:
        return "Where there is no bar, a class occurs in too few test patients for an interval."
    if kinds == {"none"}:
        return "There are too few test patients for intervals."
    return "Bars are 95 % intervals over patients."


def _curve(study: _Study, metric: str) -> Html:
    series = []
    for arm in study.arms:
        rows = [(b["n_patients"], study.result(arm, b["asked"], metric)) for b in study.budgets]
        known = [(n, r) for n, r in rows if r is not None and r["mean"] is not None]
        series.append(
            Series(
                arm,
                [n for n, _ in known],
                [r["mean"] for _, r in known],
                [_or_nan(r["low"]) for _, r in known],
                [_or_nan(r["high"]) for _, r in known],
                [f"{arm}, {n:g} patients: {_estimate(r, metric)}" for n, r in known],
            )
        )
    info = info_of(metric)
    return line_chart(
        series, title=f"{info.title} by labelled patients", x_label="labelled patients (logarithmic)",
        y_label=f"{info.title} ({info.unit})" if info.unit else info.title, log_x=True,
        x_ticks=[b["n_patients"] for b in study.budgets],
    )  # fmt: skip


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _estimate(r: Entry | None, metric: str) -> str:
    """Mean and interval."""
    if r is None or r["mean"] is None:
        return "–"
    mean = format_value(r["mean"], metric)
    if r["low"] is None:
        return mean
    low, high = (format_value(r[k], metric).removesuffix(info_of(metric).unit).strip() for k in ("low", "high"))
    return f"{mean} [{low}, {high}]"


def _numbers(study: _Study) -> Html:
    """The table on which the claims rest."""
    s, metric = study.summary, study.metric
    info, split = info_of(metric), s["split"]
    head = ["arm", "labelled patients", f"{info.title} [95 % CI]", "SD over repeats",
            f"difference to {_baseline(s)} [95 % CI]", "p (Holm)", "effect size d", "test patients"]  # fmt: skip
    rows = [
        _row(study, arm, b) for b in study.budgets for arm in study.arms if study.result(arm, b["asked"], metric)
    ]  # fmt: skip
    if all(row[6] == "–" for row in rows):  # patients have no value of their own, so there is no such effect size
        head, rows = head[:6] + head[7:], [row[:6] + row[7:] for row in rows]
    caption = (
        f"{info.title}, tested on {split['n_test_patients']} {split['unit']}s of the split “{split['name']}” "
        f"({split['rule']}, hash {split['sha256'][:12]}). p values: {_tests(s)}, adjusted by Holm over the "
        f"{len(s['comparisons'])} comparisons of this table."
    )
    effect = s["planning"]["detectable_effect_sd"]
    planning = "" if effect is None else (
        f"With {s['planning']['n_test_patients']} test patients, paired differences below about {effect:.2g} standard "
        "deviations (of the patients' differences) would be missed in one study out of five or more."
    )  # fmt: skip
    numbers = table(head, rows, caption=caption, numeric=range(1, len(head)))
    return section("All numbers", numbers, tag("p", planning, class_="muted"), _secondary(s), id_="all-numbers")


def _row(study: _Study, arm: str, budget: Entry) -> list[object]:
    metric = study.metric
    r, c = study.result(arm, budget["asked"], metric), study.comparison(arm, budget["asked"])
    assert r is not None
    return [
        arm, f"{budget['n_patients']:g}", _estimate(r, metric),
        "–" if r["sd_repeats"] is None else f"{r['sd_repeats']:.3g}", _difference(c, metric),
        "–" if c is None else format_p(c["p_holm"]).removeprefix("p ").removeprefix("= "),
        "–" if c is None or c["effect_size"] is None else f"{c['effect_size']:+.2f}", r["n_patients"],
    ]  # fmt: skip


def _secondary(summary: Entry) -> Html:
    rows = [
        [c["encoder"], f"{c['n_training_patients']:g}", info_of(c["metric"]).title, _difference(c, c["metric"]),
         format_p(c["p_bh"])]
        for c in summary["secondary"]
    ]  # fmt: skip
    if not rows:
        return Html("")
    head = ["arm", "labelled patients", "metric", f"difference to {_baseline(summary)} [95 % CI]", "p (BH)"]
    caption = "For exploration only: adjusted by Benjamini and Hochberg, no claim rests on them."
    return details("Exploratory comparisons of other metrics", table(head, rows, caption=caption))


def _tests(summary: Entry) -> str:
    return " and ".join(dict.fromkeys(c["test"] for c in summary["comparisons"])) or "none"


def _baseline(summary: Entry) -> str:
    """What differences are to, for the head of a column."""
    pairs = {c["encoder"]: c["baseline"] for c in summary["comparisons"]}
    if len(set(pairs.values())) < 2:
        return next(iter(pairs.values()), str(summary["baseline"]))
    return f"the baseline of its architecture ({', '.join(f'{arm}: {base}' for arm, base in pairs.items())})"


def _difference(c: Entry | None, metric: str) -> Html | str:
    if c is None or c["difference"] is None:
        return "–"
    digits = ".3f" if info_of(metric).worst is not None else ".3g"
    text = f"{c['difference']:+{digits}}"
    if c["low"] is not None:
        text += f" [{c['low']:+{digits}}, {c['high']:+{digits}}]"
    adjusted = c.get("p_holm", c.get("p_bh"))
    if adjusted is None or adjusted >= 0.05:
        return text
    word = "better" if c["better"] else "worse"
    return tag("span", f"{text} {word}", class_="good" if c["better"] else "bad")


def _patients(study: _Study) -> Html:
    """One chart a contender and budget: every test patient with the baseline and with the encoder."""
    pairs = {c["encoder"]: c["baseline"] for c in study.summary["comparisons"]}
    info = info_of(study.metric)
    blocks = []
    for b in study.budgets:
        charts = [_paired(study, base, arm, b) for arm, base in pairs.items()]
        if charts:
            count = tag("h3", f"{b['n_patients']:g} labelled patients")
            blocks.append(
                tag("div", count, tag("div", *charts, class_="grid"), data_group="paired", data_value=b["asked"])
            )
    if not blocks:
        return Html("")
    own = " of the patient's own cases" if study.summary["task"] == "classification" else ""
    text = tag(
        "p", f"Each dot is one test patient: {info.title}{own} after training from the baseline across, from the "
        "encoder up, both averaged over repeats. Dots on the line did not change; green ones are better with the "
        "encoder, red ones worse.",
    )  # fmt: skip
    return section("Patients", text, _chooser("paired", study.budgets), *blocks, id_="patients")


def _chooser(group: str, budgets: Sequence[Entry]) -> Html:
    options = [tag("option", f"{b['n_patients']:g} labelled patients", value=b["asked"]) for b in budgets]
    return tag("div", tag("label", "Show ", tag("select", *options, data_choose=group)), class_="controls", hidden="")


def _paired(study: _Study, base: str, arm: str, budget: Entry) -> Html:
    rows = study.table
    rows = rows[(rows["budget"] == budget["asked"]) & (rows["metric"] == study.metric) & (rows["class"] == "")]
    rows = rows[rows["patient"] != POOLED]
    means = rows.groupby(["encoder", "patient"])["value"].mean()
    if base not in means.index or arm not in means.index:
        return Html("")
    both = means[base].to_frame("first").join(means[arm].rename("second"), how="inner").sort_index()
    labels = [
        f"patient {p[:8]}: {format_value(a, study.metric)} → {format_value(b, study.metric)}"
        for p, a, b in zip(both.index, both["first"], both["second"], strict=True)
    ]
    info = info_of(study.metric)
    return paired_chart(
        both["first"].tolist(), both["second"].tolist(), labels,
        title=f"{info.title} of every patient, {arm} against {base}, {budget['n_patients']:g} labelled patients",
        x_label=base, y_label=arm, higher_is_better=info.higher_is_better,
    )  # fmt: skip


def _classes(study: _Study) -> Html:
    s = study.summary
    if not s["classes"]:
        return Html("")
    metrics = ("dice", "hd95_mm", "nsd") if s["task"] == "segmentation" else ("f1", "recall")
    names = s["class_names"]
    rows = []
    for b in study.budgets:
        for arm in study.arms:
            for name in s["classes"]:
                found = [study.result(arm, b["asked"], m, name) for m in metrics]
                if any(found):
                    values = [_estimate(r, m) for r, m in zip(found, metrics, strict=True)]
                    rows.append([names.get(name, name), arm, f"{b['n_patients']:g}", *values])
    if not rows:
        return Html("")
    rows.sort(key=lambda r: [names.get(c, c) for c in s["classes"]].index(r[0]))
    head = ["class", "arm", "labelled patients", *(f"{info_of(m).title} [95 % CI]" for m in metrics)]
    body = table(head, rows, caption="Each class on its own", numeric=tuple(range(2, len(head))))
    return section("Classes", _confusion(study), details("Numbers of each class", body), id_="classes")


def _confusion(study: _Study) -> Html:
    """Confusion matrices with the most labels, summed over patients and repeats."""
    classes = list(study.summary["classes"])
    rows = study.table[(study.table["metric"] == "n") & (study.table["budget"] == study.budgets[-1]["asked"])]
    if not len(rows) or len(classes) > 12:
        return Html("")
    charts = []
    for arm in study.arms:
        total = rows[rows["encoder"] == arm].groupby("class")["value"].sum()
        counts = np.array([[float(total.get(f"{t}/{p}", 0.0)) for p in classes] for t in classes])
        if counts.sum():
            charts.append(figure(confusion_chart(counts.tolist(), classes, title=f"Confusion of {arm}"), arm))
    text = tag("p", "Of all cases of a class (row), how many were given which answer (column), with the most labels; "
                    "summed over test patients and repeats.")  # fmt: skip
    return Html(text + tag("div", *charts, class_="grid")) if charts else Html("")


def _reading(study: _Study) -> Html:
    s = study.summary
    kinds = ", ".join(dict.fromkeys(r["interval"] for r in s["results"] if r["low"] is not None)) or "none"
    points = [
        "The test patients are the same for every arm and budget, and none of them was used for pre-training, "
        "training or choosing a checkpoint. Smaller budgets are part of larger ones.",
        f"Intervals (95 %) are over patients, not windows or slices: {kinds}. They say how the number would vary "
        "with other patients like these; the SD over repeats says how it varies with other labelled patients and "
        "seeds.",
        "A comparison is paired: each patient's difference, averaged over repeats. An adjusted p below 0.05 means "
        "that a difference this large would be rare if the arms were equally good. A larger p does not mean that "
        "they are.",
        "Empty predictions count: a missed structure scores Dice 0 and the image diagonal as distance. Failed runs "
        "count as the worst value.",
        "Nothing here shows that results carry over to other hospitals, scanners or populations.",
    ]
    if s["floor"]:
        points.insert(3, f"“floor” is a simple baseline without deep learning: {s['floor']}.")
    notes = [tag("li", n) for n in s.get("notes", ())]
    return section("How to read this", tag("ul", *(tag("li", p) for p in points), *notes), id_="how-to-read-this")
