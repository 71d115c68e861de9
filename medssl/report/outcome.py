"""Results of a study as pictures: curves, patients in pairs, confusion."""

from __future__ import annotations

import numpy as np

from medssl.evaluation.metrics import info_of
from medssl.evaluation.results import POOLED
from medssl.evaluation.verdict import format_value
from medssl.report.charts import Series, legend, line_chart
from medssl.report.html import Html, details, figure, section, table, tag
from medssl.report.plots import confusion_chart, paired_chart
from medssl.report.study_data import Entry, Study, chooser, count, estimate, patients_of

__all__ = ["classes_section", "patients_section", "result_section"]

_ALSO = {
    "segmentation": ("hd95_mm", "nsd"),
    "classification": ("auroc", "balanced_accuracy"),
    "regression": ("rmse", "r2"),
    "retrieval": ("recall_at_1", "recall_at_5", "recall_at_10"),
    "prompt": ("jaccard", "dice_oracle"),
}
_OF_A_CLASS = {
    "segmentation": ("dice", "hd95_mm", "nsd"),
    "retrieval": ("map", "recall_at_1"),
    "prompt": ("dice", "dice_oracle"),
}


def result_section(study: Study) -> Html:
    """Curves of the headline over the budgets; other metrics are folded away."""
    info = info_of(study.metric)
    better = "higher is better" if info.higher_is_better else "lower is better"
    caption = (
        f"{info.title} on the same {study.summary['split']['n_test_patients']} test patients against the number of "
        f"labelled training patients ({better}; {info.meaning}). {_bars(study)} Point at, tap or tab to a mark for its "
        "numbers; arrow keys go from mark to mark."
    )
    more = [
        figure(_curve(study, m), f"{info_of(m).title}: {info_of(m).meaning}.")
        for m in _ALSO[study.asked]
        if any(r["metric"] == m and not r["class"] for r in study.summary["results"])
    ]
    others = details("Other metrics", tag("div", *more, class_="grid")) if more else Html("")
    return section(
        "Result", legend(study.arms), figure(_curve(study, study.metric), caption), others, id_="result"
    )  # fmt: skip


def _bars(study: Study) -> str:
    """What the bars are, or why there are none."""
    kinds = {r["interval"] for r in study.summary["results"] if r["metric"] == study.metric and not r["class"]}
    if "not estimable" in kinds:
        return "Where there is no bar, a class occurs in too few test patients for an interval."
    if kinds == {"none"}:
        return "There are too few test patients for intervals."
    return "Bars are 95 % intervals over patients."


def _curve(study: Study, metric: str) -> Html:
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
                [f"{arm}, {count(n)} patients: {estimate(r, metric)}" for n, r in known],
            )
        )
    info = info_of(metric)
    return line_chart(
        series, title=f"{info.title} by labelled patients",
        x_label="labelled patients (logarithmic)" if study.fitted else "labelled patients",
        y_label=f"{info.title} ({info.unit})" if info.unit else info.title, log_x=study.fitted,
        x_ticks=[b["n_patients"] for b in study.budgets],
    )  # fmt: skip


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def patients_section(study: Study) -> Html:
    """One chart a contender and budget: every test patient with the baseline and with the encoder."""
    info = info_of(study.metric)
    blocks = []
    for b in study.budgets:
        charts = [_paired(study, base, arm, b) for arm, base in study.baselines.items()]
        charts = [c for c in charts if c]
        if charts:
            count = tag("h3", patients_of(b))
            blocks.append(
                tag("div", count, tag("div", *charts, class_="grid"), data_group="paired", data_value=b["asked"])
            )
    if not blocks:
        return Html("")
    own = " of the patient's own cases" if study.asked == "classification" else ""
    how = (
        "after training from the baseline across, from the encoder up, both averaged over repeats" if study.fitted else
        "with the baseline across, with the encoder up"
    )  # fmt: skip
    text = tag(
        "p", f"Each dot is one test patient: {info.title}{own} {how}. Dots on the line did not change; green "
        "ones are better with the encoder, red ones worse. The same patient lights up in every chart.",
    )  # fmt: skip
    return section("Patients", text, chooser("paired", study.budgets), *blocks, id_="patients")


def _paired(study: Study, base: str, arm: str, budget: Entry) -> Html:
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
        both["first"].tolist(), both["second"].tolist(), list(both.index), labels,
        title=f"{info.title} of every patient, {arm} against {base}, {count(budget['n_patients'])} labelled patients",
        x_label=base, y_label=arm, higher_is_better=info.higher_is_better,
    )  # fmt: skip


def classes_section(study: Study) -> Html:
    """Confusion matrices, and the numbers of every class."""
    s = study.summary
    if not s["classes"]:
        return Html("")
    metrics = _OF_A_CLASS.get(study.asked, ("f1", "recall"))
    names = s["class_names"]
    rows = []
    for b in study.budgets:
        for arm in study.arms:
            for name in s["classes"]:
                found = [study.result(arm, b["asked"], m, name) for m in metrics]
                if any(found):
                    values = [estimate(r, m) for r, m in zip(found, metrics, strict=True)]
                    rows.append([names.get(name, name), arm, count(b["n_patients"]), *values])
    if not rows:
        return Html("")
    rows.sort(key=lambda r: [names.get(c, c) for c in s["classes"]].index(r[0]))
    head = ["class", "arm", "labelled patients", *(f"{info_of(m).title} [95 % CI]" for m in metrics)]
    body = table(head, rows, caption="Each class on its own", numeric=tuple(range(2, len(head))))
    return section("Classes", _confusion(study), details("Numbers of each class", body), id_="classes")


def _confusion(study: Study) -> Html:
    """Confusion matrices of every budget, summed over patients and repeats."""
    classes = list(study.summary["classes"])
    rows = study.table[study.table["metric"] == "n"]
    if not len(rows) or len(classes) > 12:
        return Html("")
    total = rows.groupby(["budget", "encoder", "class"])["value"].sum().to_dict()
    blocks = []
    for b in study.budgets:
        charts = []
        for arm in study.arms:
            counts = np.array([[total.get((b["asked"], arm, f"{t}/{p}"), 0.0) for p in classes] for t in classes])
            if counts.sum():
                title = f"Confusion of {arm}, {patients_of(b)}"
                charts.append(figure(confusion_chart(counts.tolist(), classes, title=title), arm))
        if charts:
            head = tag("h3", f"Confusion with {patients_of(b)}")
            blocks.append(tag("div", head, tag("div", *charts, class_="grid"), data_group="confusion",
                              data_value=b["asked"]))  # fmt: skip
    if not blocks:
        return Html("")
    text = tag("p", "Of all cases of a class (row), how many were given which answer (column); summed over test "
                    "patients and repeats.")  # fmt: skip
    return Html(text + chooser("confusion", study.budgets, last=True) + "".join(blocks))
