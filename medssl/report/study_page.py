"""The page of a limited-label study, for people who would rather look than read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.report.calibration import calibration_section
from medssl.report.cards import arms_card, cards, cohort_cards, implausible_card, provenance
from medssl.report.examples import example_section
from medssl.report.html import Html, page, section, tag
from medssl.report.maps import map_section
from medssl.report.numbers import numbers_section
from medssl.report.outcome import classes_section, patients_section, result_section
from medssl.report.representation import rankme_section
from medssl.report.study_data import Entry, Study, count, load_study
from medssl.report.training import training_section

__all__ = ["study_page"]

_PROTOCOLS = {
    "finetune": "fine-tuning", "linear": "linear probe", "knn": "nearest neighbours",
    "retrieval": "retrieval without labels", "prompt": "segmentation by a prompt, without training",
}  # fmt: skip


def study_page(folder: Path) -> Html:
    """The whole page of ``STUDY``, from its summary, results and examples (and the training curves of its cells)."""
    study = load_study(folder)
    summary = study.summary
    parts = {
        "Result": result_section(study),
        "All numbers": numbers_section(study),
        "Patients": patients_section(study),
        "Classes": classes_section(study),
        "Calibration": calibration_section(study),
        "Examples": example_section(study),
        "Map of features": map_section(study),
        "RankMe beside the result": rankme_section(summary),
        "Training": training_section(folder, summary),
        "Data": cohort_cards(summary, study.pictures),
        "How to read this": _reading(study),
        "Provenance": provenance(summary),
    }
    return page(
        f"{study.asked} of {summary['target']}: limited-label study",
        {k: v for k, v in parts.items() if v},
        lead=_lead(study),
        footer=_footer(),
    )


def _lead(study: Study) -> Html:
    s = study.summary
    facts = {
        "Test patients": s["split"]["n_test_patients"],
        **(_drawn(study) if study.fitted else {}),
        "Compared": arms_card(study.arms),
        "Protocol": _PROTOCOLS[s["protocol"]],
    }
    if "level" in s:  # studies of earlier releases do not say it
        facts |= {f"Decided for each {s['level']}": s["aggregation"]}
    return Html(
        tag("p", f"medssl · limited-label study · {s['cohort']['modality']}", class_="muted")
        + tag("h1", f"{study.asked.capitalize()} of “{s['target']}” with {_few(study)} labels")
        + implausible_card(s)
        + tag("p", s["verdict"], class_="verdict", role="note", aria_label="Verdict")
        + cards(facts)
        + _caveats(s["caveats"])
        + _failed(s["failed"])
    )


def _drawn(study: Study) -> dict[str, object]:
    budgets = ", ".join(count(b["n_patients"]) for b in study.budgets)
    return {"Label budgets (patients)": budgets, "Repeats of each": study.summary["repeats"]}


def _few(study: Study) -> str:
    return "few" if study.fitted else "no"


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


def _of_repeats() -> list[str]:
    return [
        "Smaller budgets are part of larger ones. Comparisons and intervals are of means over repeats; the SD over "
        "repeats says how a number varies with other labelled patients and seeds.",
        "Empty predictions count: a missed structure scores Dice 0 and the image diagonal as distance. Failed runs "
        "count as the worst value.",
    ]


def _of_rankings() -> list[str]:
    return [
        "Items are ranked against those of other test patients only. Classes count equally, whatever their number of "
        "items, and so do patients."
    ]


def _reading(study: Study) -> Html:
    s = study.summary
    kinds = ", ".join(dict.fromkeys(r["interval"] for r in s["results"] if r["low"] is not None)) or "none"
    points = [
        "The test patients are the same for every arm, and none of them was used for pre-training, training or "
        "choosing a checkpoint.",
        f"Intervals (95 %) are over patients, not windows or slices: {kinds}. They say how the number would vary "
        "with other patients like these.",
        "A comparison is paired: each patient's difference. An adjusted p below 0.05 means that a difference this "
        "large would be rare if the arms were equally good. A larger p does not mean that they are.",
        *(_of_repeats() if study.fitted else _of_rankings()),
        "Nothing here shows that results carry over to other hospitals, scanners or populations.",
    ]
    if s["floor"]:
        points.insert(3, f"“floor” is a simple baseline without deep learning: {s['floor']}.")
    notes = [tag("li", n) for n in s.get("notes", ())]
    return section("How to read this", tag("ul", *(tag("li", p) for p in points), *notes), id_="how-to-read-this")
