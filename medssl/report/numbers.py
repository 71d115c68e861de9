"""The tables on which the claims of a study rest."""

from __future__ import annotations

from medssl.evaluation.metrics import info_of
from medssl.evaluation.verdict import format_p
from medssl.report.html import Html, details, section, table, tag
from medssl.report.study_data import Entry, Study, count, estimate

__all__ = ["numbers_section"]


def numbers_section(study: Study) -> Html:
    """Every arm at every budget, compared with the baseline of its architecture."""
    s, metric = study.summary, study.metric
    info, split = info_of(metric), s["split"]
    head = ["arm", "labelled patients", f"{info.title} [95 % CI]", "SD over repeats", *_against(study),
            "p (Holm)", "effect size d", "test patients"]  # fmt: skip
    rows = [
        _row(study, arm, b) for b in study.budgets for arm in study.arms if study.result(arm, b["asked"], metric)
    ]  # fmt: skip
    effect = head.index("effect size d")
    if all(row[effect] == "–" for row in rows):  # patients have no value of their own, so there is no such effect
        head, rows = head[:effect] + head[effect + 1 :], [row[:effect] + row[effect + 1 :] for row in rows]
    caption = (
        f"{info.title}, tested on {split['n_test_patients']} {split['unit']}s of the split “{split['name']}” "
        f"({split['rule']}, hash {split['sha256'][:12]}). p values: {_tests(s)}, adjusted by Holm over the "
        f"{len(s['comparisons'])} comparisons of this table."
    )
    smallest = s["planning"]["detectable_effect_sd"]
    planning = "" if smallest is None else (
        f"With {s['planning']['n_test_patients']} test patients, paired differences below about {smallest:.2g} "
        "standard deviations (of the patients' differences) would be missed in one study out of five or more."
    )  # fmt: skip
    words = (0, head.index("against")) if _several(study) else (0,)
    numbers = table(head, rows, caption=caption, numeric=[i for i in range(len(head)) if i not in words])
    said = tag("p", planning, class_="muted") if planning else Html("")
    return section("All numbers", numbers, said, _saved(study), _secondary(study), id_="all-numbers")


def _saved(study: Study) -> Html:
    """How many labels the baseline needs for the same result; empty for studies of earlier releases."""
    rows = [
        [e["encoder"], count(e["n_training_patients"]), e["baseline"], _patients(e["needed"], e),
         f"{_patients(e['low'], e)} to {_patients(e['high'], e)}", _share(e)]
        for e in study.summary.get("efficiency") or ()
    ]  # fmt: skip
    if not rows:
        return Html("")
    head = ["arm", "labelled patients", "baseline", "it needs, for the same result", "95 % CI", "gap closed [95 % CI]"]
    caption = (
        "Labelled patients with which the baseline would be as good, read from its curve; nothing is said beyond its "
        "ends. Gap closed: share of what all labels would bring to the baseline that the arm reaches with these few."
    )
    return details("Labels saved", table(head, rows, caption=caption, numeric=(1, 3, 4, 5)))


def _patients(value: float | str | None, entry: Entry) -> str:
    """A number of patients, or that it lies outside the curve."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return f"more than {entry['largest']:g}"
    return f"at most {value:g}" if value <= entry["smallest"] else f"{value:.3g}"


def _share(entry: Entry) -> str:
    if entry["gap_closed"] is None:
        return "–"
    if entry["gap_low"] is None:
        return f"{entry['gap_closed']:.0%}"
    return f"{entry['gap_closed']:.0%} [{entry['gap_low']:.0%}, {entry['gap_high']:.0%}]"


def _several(study: Study) -> bool:
    """Whether arms are compared with different baselines."""
    return len(set(study.baselines.values())) > 1


def _against(study: Study) -> list[str]:
    """Heads of the columns of a difference; with several baselines each row names its own."""
    if _several(study):
        return ["against", "difference [95 % CI]"]
    base = next(iter(study.baselines.values()), str(study.summary["baseline"]))
    return [f"difference to {base} [95 % CI]"]


def _row(study: Study, arm: str, budget: Entry) -> list[object]:
    metric = study.metric
    r, c = study.result(arm, budget["asked"], metric), study.comparison(arm, budget["asked"])
    assert r is not None
    against = [study.baselines.get(arm, "–")] if _several(study) else []
    return [
        arm, count(budget["n_patients"]), estimate(r, metric),
        _spread(r["sd_repeats"], metric), *against, _difference(c, metric),
        "–" if c is None else format_p(c["p_holm"]).removeprefix("p ").removeprefix("= "),
        "–" if c is None or c["effect_size"] is None else f"{c['effect_size']:+.2f}", r["n_patients"],
    ]  # fmt: skip


def _spread(sd: float | None, metric: str) -> str:
    """SD over repeats; of equal values it may be a rounding error."""
    return "–" if sd is None else f"{sd:{_digits(metric)}}" if sd > 1e-12 else "0"


def _digits(metric: str) -> str:
    return ".3f" if info_of(metric).worst is not None else ".3g"


def _secondary(study: Study) -> Html:
    several = _several(study)
    rows = [
        [c["encoder"], count(c["n_training_patients"]), info_of(c["metric"]).title,
         *([c["baseline"]] if several else []), _difference(c, c["metric"]), format_p(c["p_bh"])]
        for c in study.summary["secondary"]
    ]  # fmt: skip
    if not rows:
        return Html("")
    head = ["arm", "labelled patients", "metric", *_against(study), "p (BH)"]
    caption = "For exploration only: adjusted by Benjamini and Hochberg, no claim rests on them."
    numeric = (1, len(head) - 2, len(head) - 1)
    return details("Exploratory comparisons of other metrics", table(head, rows, caption=caption, numeric=numeric))


def _tests(summary: Entry) -> str:
    return " and ".join(dict.fromkeys(c["test"] for c in summary["comparisons"])) or "none"


def _difference(c: Entry | None, metric: str) -> Html | str:
    if c is None or c["difference"] is None:
        return "–"
    digits = _digits(metric)
    text = f"{c['difference']:+{digits}}"
    if c["low"] is not None:
        text += f" [{c['low']:+{digits}}, {c['high']:+{digits}}]"
    adjusted = c.get("p_holm", c.get("p_bh"))
    if adjusted is None or adjusted >= 0.05:
        return text
    word = "better" if c["better"] else "worse"
    return tag("span", f"{text} {word}", class_="good" if c["better"] else "bad")
