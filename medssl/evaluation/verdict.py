"""The study in one or two sentences that say no more than the numbers do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medssl.evaluation.arms import WITHOUT_LABELS
from medssl.evaluation.metrics import info_of

__all__ = ["format_p", "format_value", "labelled_patients", "verdict"]

ALPHA = 0.05
TWO_WAY = 5  # repeats from which intervals are over label draws as well as patients
Entry = Mapping[str, Any]


def verdict(summary: Entry) -> str:
    """What one may claim from a study's ``results`` and ``comparisons``.

    The strongest Holm-significant comparison is named, gains before losses; without one the sentence says that no
    difference was shown and how large one would have to be to show. The simple baseline is named when it is not beaten.
    """
    sentences = [_comparison(summary), _draws(summary), _floor(summary), _failures(summary)]
    return " ".join(s for s in sentences if s)


def _comparison(summary: Entry) -> str:
    found = [c for c in summary["comparisons"] if _number(c["p_holm"])]
    n = summary["planning"]["n_test_patients"]
    if not summary["comparisons"]:
        return _alone(summary)
    if n < 5:
        return f"With {n} test patients nothing can be concluded; hold out at least 5, better 20 or more."
    if not found:
        return _untested(summary)
    # a claim needs both: a test that is passed and an interval that can be given and leaves out zero
    solid = [c for c in found if c["p_holm"] < ALPHA and _number(c["low"]) and c["low"] * c["high"] > 0]
    if not solid:
        return _nothing_shown(summary, found, n)
    gains = [c for c in solid if c["better"]]
    best = min(gains or solid, key=lambda c: (c["p_holm"], -abs(c["difference"])))
    return _claim(summary, best) + _others(solid, best)


def _untested(summary: Entry) -> str:
    if all(c["interval"] != "not estimable" for c in summary["comparisons"]):
        return "No comparison could be tested; see the failed cells."
    title = info_of(summary["metric"]).title
    target, _, _ = summary["target"].partition(":")  # it may have been restricted to some classes already
    return (
        f"No comparison could be tested: a class occurs in too few of the test patients for an interval of {title}. "
        f"Hold out more patients, or compare the frequent classes alone (--target {target}:A,B); the means stand below."
    )


def _claim(summary: Entry, c: Entry) -> str:
    metric = summary["metric"]
    title = info_of(metric).title
    arm, base = (_result(summary, e, c["budget"], metric) for e in (c["encoder"], c["baseline"]))
    word, side = "better" if c["better"] else "worse", 1 if c["difference"] > 0 else -1
    bounds = ""
    if _number(c["low"]):
        low, high = sorted((side * c["low"], side * c["high"]))
        bounds = f" [{format_value(low, metric)}, {format_value(high, metric)}]"
    return (
        f"With {labelled_patients(c)}, {c['encoder']} reaches {title} {format_value(arm['mean'], metric)} against "
        f"{format_value(base['mean'], metric)} for {c['baseline']}: {word} by "
        f"{format_value(abs(c['difference']), metric)}{bounds} "
        f"over {c['n_patients']} test patients (adjusted {format_p(c['p_holm'])}){_needed(summary, c)}."
    )


def _needed(summary: Entry, c: Entry) -> str:
    """How many labels the baseline would need for a gain; nothing where one budget was tried."""
    same = ("encoder", "budget")
    found = [e for e in summary.get("efficiency", ()) if all(e[k] == c[k] for k in same)] if c["better"] else []
    if not found or found[0]["needed"] is None:
        return ""
    e = found[0]
    if e["needed"] == "beyond":
        return f"; {c['baseline']} does not reach that with {e['largest']:g}"
    bounds = [
        f"more than {e['largest']:g}" if v == "beyond" else f"{v:.0f}" for v in (e["low"], e["high"]) if v is not None
    ]
    return f"; {c['baseline']} needs about {e['needed']:.0f} for that" + (f" [{', '.join(bounds)}]" if bounds else "")


def _others(solid: Sequence[Entry], best: Entry) -> str:
    worse = [c for c in solid if not c["better"] and c is not best]
    more = [c for c in solid if c["better"] and c is not best]
    text = f" {len(more)} more comparison{'s' * (len(more) > 1)} also showed a gain." if more and best["better"] else ""
    if worse:
        text += (
            f" {'Reliably worse' if best['better'] else 'Also reliably worse'}: "
            + "; ".join(f"{c['encoder']} with {labelled_patients(c)}" for c in worse)
            + "."
        )
    return text


def _nothing_shown(summary: Entry, found: Sequence[Entry], n: int) -> str:
    widest = max(found, key=lambda c: abs(c["difference"]))
    metric = summary["metric"]
    effect = summary["planning"]["detectable_effect_sd"]
    bounds = f" [{widest['low']:.3g}, {widest['high']:.3g}]" if _number(widest["low"]) else ""
    passed = ""
    if widest["p_holm"] < ALPHA:
        why = "its interval holds zero" if bounds else "so few patients give no interval"
        passed = f"; it passes the test, but {why}, and a claim needs both"
    return (
        f"No encoder differed reliably from {widest['baseline']} at any label budget; the largest difference in "
        f"{info_of(metric).title} was {widest['difference']:+.3g}{bounds} for "
        f"{widest['encoder']} with {labelled_patients(widest)} (adjusted {format_p(widest['p_holm'])}{passed}). With "
        f"{n} test patients, differences below about {effect:.2g} standard deviations between patients would usually "
        "go unseen."
    )


def _draws(summary: Entry) -> str:
    """A caveat where chance in who was labelled, and in training, could not show at all."""
    repeats = summary["repeats"]
    if repeats >= TWO_WAY or not summary["comparisons"] or summary["protocol"] in WITHOUT_LABELS:
        return ""
    if repeats == 1:
        return f"One label draw and training seed only: repeat it with --repeats {TWO_WAY} before relying on it."
    return (
        f"The intervals are over patients, for these {repeats} label draws and seeds; --repeats {TWO_WAY} would "
        "include the chance in those too."
    )


def _alone(summary: Entry) -> str:
    metric = summary["metric"]
    mine = [r for r in summary["results"] if r["metric"] == metric and not r["class"] and r["encoder"] != "floor"]
    if not mine:
        return "No cell finished."
    last = mine[-1]
    return (
        f"{last['encoder']} reaches {info_of(metric).title} {format_value(last['mean'], metric)} with "
        f"{labelled_patients(last)}; nothing was compared with it."
    )


def _floor(summary: Entry) -> str:
    """Says so when the simple baseline is as good as everything else with the most labels."""
    metric, floor = summary["metric"], summary.get("floor")
    if not floor:
        return ""
    sign = 1 if info_of(metric).higher_is_better else -1
    rows = [r for r in summary["results"] if r["metric"] == metric and not r["class"] and _number(r["mean"])]
    last = rows[-1]["budget"] if rows else ""
    at_last = {r["encoder"]: r["mean"] for r in rows if r["budget"] == last}
    simple = at_last.pop("floor", None)
    if simple is None or not at_last or max(sign * v for v in at_last.values()) > sign * simple:
        return ""
    most = " with the most labels" if len(summary["budgets"]) > 1 else ""
    return f"The simple baseline ({floor}) was not beaten: it reaches {format_value(simple, metric)}{most}."


def _failures(summary: Entry) -> str:
    n = len(summary.get("failed", ()))
    return f"{n} cell{'s' * (n > 1)} failed and count{'s' * (n == 1)} as the worst value." if n else ""


def _result(summary: Entry, encoder: str, budget: str, metric: str) -> Entry:
    return next(
        r for r in summary["results"]
        if (r["encoder"], r["budget"], r["metric"], r["class"]) == (encoder, budget, metric, "")
    )  # fmt: skip


def labelled_patients(entry: Entry) -> str:
    """The budget of an entry in words."""
    n = entry["n_training_patients"]
    count = f"{n:.0f}" if float(n).is_integer() else f"about {n:.0f}"
    return f"{count} labelled patient{'' if round(n) == 1 else 's'}"


def format_value(value: float | None, metric: str) -> str:
    """A value as people read it: three digits for shares, with the unit where there is one.

    >>> format_value(0.8472, "dice"), format_value(3.217, "hd95_mm"), format_value(None, "dice")
    ('0.847', '3.22 mm', 'n/a')
    """
    if not _number(value):
        return "n/a"
    info = info_of(metric)
    text = f"{value:.3f}" if info.worst is not None else f"{value:.3g}"
    return f"{text} {info.unit}".strip()


def format_p(p: float | None) -> str:
    """
    >>> format_p(0.0004), format_p(0.0312), format_p(None)
    ('p < 0.001', 'p = 0.031', 'p not available')
    """
    if not _number(p):
        return "p not available"
    assert p is not None
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
