"""The page is one complete file, says what the numbers say, and can be read by everybody."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toy_pages import MEASURES, add_pictures, add_strip, mask_study
from toy_studies import AGE, BEATS, MASKS, make_plan, run

from medssl.errors import ConfigError
from medssl.evaluation.results import TaskInfo
from medssl.evaluation.study import run_study
from medssl.report import report

VOID = {"meta", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects elements and text, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(params=[MASKS, BEATS, AGE], ids=["segmentation", "classification", "regression"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    info: TaskInfo = request.param
    arms = ("scratch", "voco") if info is MASKS else ("scratch", "voco", "floor")
    run_study(make_plan(tmp_path, info, arms=arms), run, progress=False, representation=MEASURES)
    if info is BEATS:
        add_strip(tmp_path)
    return tmp_path


def test_the_page_is_complete_and_needs_no_network(study: Path) -> None:
    file = report(study)
    assert file == study / "report.html"
    text = file.read_text(encoding="utf-8")
    Page(text)
    assert file.stat().st_size < 5_000_000
    assert not re.search(r"https?://|url\(|@import|<link|<script src|<iframe", text)
    assert all(src.startswith(("data:", "#")) for src in re.findall(r'(?:src|href)="([^"]*)"', text))


def test_the_page_says_what_the_summary_says(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    page = Page(report(study).read_text(encoding="utf-8"))
    assert summary["verdict"] in page.words
    assert summary["split"]["sha256"][:12] in page.words and "hold-out" in page.words
    assert "not for diagnosis" in page.words
    for arm in summary["encoders"]:
        assert arm in page.words
    means = [r for r in summary["results"] if r["metric"] == summary["metric"] and not r["class"]]
    digits = ".3g" if summary["task"] == "regression" else ".3f"
    assert all(f"{r['mean']:{digits}} [{r['low']:{digits}}, {r['high']:{digits}}]" in page.words for r in means)


def test_everything_seen_is_said_too(study: Path) -> None:
    page = Page(report(study).read_text(encoding="utf-8"))
    for drawing in page.all("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels)), "headings in order"
    assert page.all("html")[0]["lang"] == "en" and page.all("main")
    assert all(h.get("scope") for h in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a")]
    assert all(link.removeprefix("#") in ids for link in links if link), "a link inside the page leads nowhere"
    assert [a for a in page.all("g") if a.get("class") == "point" and a.get("tabindex") == "0"]
    assert page.all("meta")[1]["name"] == "viewport"


def test_the_same_study_gives_the_same_page(study: Path, tmp_path: Path) -> None:
    assert report(study, tmp_path / "a.html").read_bytes() == report(study, tmp_path / "b.html").read_bytes()


def test_names_from_the_data_cannot_break_the_page(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path, BEATS), run, progress=False)
    add_strip(tmp_path)
    file = tmp_path / "summary.json"
    summary = json.loads(file.read_text())
    summary["target"] = summary["verdict"] = '<script>alert("x")</script>'
    file.write_text(json.dumps(summary))
    text = report(tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in text and "r&lt;0&gt;" in text
    Page(text)


def test_a_recording_with_one_answer_is_a_picture_with_what_each_arm_says(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path, BEATS), run, progress=False)
    add_pictures(tmp_path)
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    pictures = [a for a in page.all("img") if "correlations of 8 regions" in (a.get("alt") or "")]
    assert len(pictures) == 4, "two recordings at two budgets"
    assert "true: S scratch: N ✗ voco: N ✗ r<1>" in page.words and "true: N scratch: N voco: N r<0>" in page.words


def test_many_channels_are_counted_and_rounding_errors_are_no_spread(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path, BEATS), run, progress=False)
    file = tmp_path / "summary.json"
    summary = json.loads(file.read_text())
    summary["cohort"]["channels"] = [f"#{i}" for i in range(1, 201)]
    for budget in summary["budgets"]:
        budget["n_patients"] += 1 / 3
    for result in summary["results"]:
        result["sd_repeats"] = 1.2e-16
    file.write_text(json.dumps(summary))
    words = Page(report(tmp_path).read_text(encoding="utf-8")).words
    assert "200: #1, #2, … #200" in words and "#56, #57" not in words
    assert "2.3 labelled patients" in words and "2.33 " not in words and "e-16" not in words


def test_slices_are_stored_once_and_every_arm_is_shown(tmp_path: Path) -> None:
    text = report(mask_study(tmp_path)).read_text(encoding="utf-8")
    page = Page(text)
    assert text.count("data:image/png") == 1
    windows = [a for a in page.all("svg") if a.get("class") == "slice"]
    assert len(windows) == 6, "image, reference, and two arms at two budgets"
    assert len({a["viewbox"] for a in windows}) == 1
    slider = next(a for a in page.all("input") if a.get("type") == "range")
    assert (slider["min"], slider["max"]) == ("1", "13")
    said = next(a["data-values"] for a in page.all("output"))
    assert said is not None and said.split("|")[0] == "slice 1 of 13 (z 4 of 20)"
    assert "Dice of the case 0.87" in page.words and "Dice of this slice 0.9" in page.words


def test_cases_that_would_make_the_page_large_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask_study(tmp_path)
    with np.load(tmp_path / "examples.npz") as kept:
        known = {n: kept[n] for n in kept.files}
    again = {n.replace("_0", "_1", 1): a for n, a in known.items() if n.partition("/")[0].endswith("_0")}
    np.savez(tmp_path / "examples.npz", **known, **again)
    assert report(tmp_path).read_text(encoding="utf-8").count("data:image/png") == 2
    monkeypatch.setattr("medssl.report.examples.MOST_LETTERS", 10)
    text = report(tmp_path).read_text(encoding="utf-8")
    assert text.count("data:image/png") == 1 and "Of 2 cases 1 are shown" in text


def test_examples_of_the_first_version_are_still_shown(study: Path) -> None:
    if json.loads((study / "summary.json").read_text())["task"] != "segmentation":
        pytest.skip("slices belong to segmentation")
    with np.load(study / "examples.npz") as kept:
        names = ("image_0", "reference_0", "recording_0", "pixel_mm_0")
        old = {n: kept[n][0] if kept[n].ndim == 3 else kept[n] for n in kept.files
               if n in names or n.startswith("prediction_0/")}  # fmt: skip
    np.savez(study / "examples.npz", kind_0=np.array("slice"), **old)
    page = Page(report(study).read_text(encoding="utf-8"))
    assert len([a for a in page.all("svg") if a.get("class") == "slice"]) == 6
    assert not [a for a in page.all("input") if a.get("type") == "range"], "one slice needs no slider"


def test_maps_show_every_recording_and_escape_what_they_say(tmp_path: Path) -> None:
    text = report(mask_study(tmp_path)).read_text(encoding="utf-8")
    assert "<title>N, site A&lt;; patient p00, recording r0, test</title>" in text
    assert text.count('class="dot ') == 2 * 48 and text.count(' ring"') == 2 * 24
    assert 'data-value="site"' in text and 'data-by="label"' in text


def test_the_cohorts_card_shows_what_varies_and_what_was_refused(tmp_path: Path) -> None:
    page = Page(report(mask_study(tmp_path)).read_text(encoding="utf-8"))
    assert "The same in all recordings: Voxel size along z (mm): 1." in page.words
    assert "25–30: 44 recordings" in page.words and "no header <b>" in page.words


def test_calibration_is_shown_for_every_arm_and_budget(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    page = Page(report(study).read_text(encoding="utf-8"))
    if summary["task"] != "classification":
        assert "Calibration" not in page.words
        return
    labels = [a.get("aria-label") or "" for a in page.all("svg")]
    assert sum(label.startswith("Calibration of ") for label in labels) == 6
    assert "surer than it should be" in page.words


def test_with_several_baselines_each_row_names_its_own(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path, arms=("scratch", "voco", "worse")), run, progress=False)
    file = tmp_path / "summary.json"
    summary = json.loads(file.read_text())
    for entry in (*summary["comparisons"], *summary["secondary"]):
        entry["baseline"] = "voco" if entry["encoder"] == "worse" else "scratch"
    file.write_text(json.dumps(summary))
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "against difference [95 % CI]" in page.words and "of its architecture" not in page.words


def test_failed_cells_are_shown(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path, options={"fail": ["voco", "2", 1]}), run, progress=False)
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "voco, 2 patients, repeat 1: the loss is not finite" in page.words


def test_wrong_answers_are_marked_in_strips(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path, BEATS, arms=("scratch", "voco", "floor")), run, progress=False)
    add_strip(tmp_path)
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert page.words.count("V✗") == 6, "one wrong beat for each arm and budget"


def test_rankme_stands_beside_the_result(study: Path) -> None:
    page = Page(report(study).read_text(encoding="utf-8"))
    assert "21.5 ± 0.25" in page.words and "4 ± 0.25" in page.words
    assert "36 recordings (36 development patients" in page.words
    assert "With 1 pre-trained encoder there is no order that RankMe could get right or wrong" in page.words
    assert "compares only encoders of the same method, architecture and width" in page.words


def test_an_older_study_without_measures_has_its_page(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path), run, progress=False)
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "RankMe" not in page.words


@pytest.mark.parametrize(
    ("taus", "comparable", "said"),
    [
        ((1.0, 1.0), True, "exactly as their results do, at every budget. With so few encoders"),
        ((1.0, 0.6), True, "roughly as their results do, not exactly"),
        ((-1.0, -0.5), True, "the wrong way round: do not choose by it here"),
        ((0.8, -0.2), True, "at some budgets, not at others"),
        ((0.2, -0.2), True, "does not rank the pre-trained encoders as their results do"),
        ((1.0, 1.0), False, "These differ, so its order means little"),
    ],
)
def test_the_page_says_whether_rankme_ranks_them_right(
    tmp_path: Path, taus: tuple[float, float], comparable: bool, said: str
) -> None:
    run_study(make_plan(tmp_path), run, progress=False, representation=MEASURES)
    file = tmp_path / "summary.json"
    summary = json.loads(file.read_text())
    summary["rankme_agreement"] = {
        b: {"tau": t, "p": 0.33, "n_arms": 3, "comparable": comparable} for b, t in zip(("2", "all"), taus, strict=True)
    }
    file.write_text(json.dumps(summary))
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert said in page.words and f"{taus[0]:+.2f} (p = 0.33)" in page.words


def test_an_arm_that_could_not_be_measured_is_said(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path), run, progress=False, representation={**MEASURES, "voco": {"error": "no memory"}})
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "voco: not measured: no memory" in page.words


def measured(rank: float, **more: object) -> dict[str, object]:
    return {
        "n_recordings": 36, "n_patients": 30, "dimension": 64, "windows": 8, "dropped": 0, "rankme": rank,
        "rankme_sd": 0.5, "rankme_centred": 9.0, "participation": 5.0, "top1_share": 0.4, "std_l2": 0.1,
        "uniformity": -2.0, "dead_dims": 3, "alpha_req": 1.2, "alpha_ranks": [4, 32], "alpha_r2": 0.97, "views": 8,
        "viewed_recordings": 36, "alignment": 0.7, "lidar": 6.0, "lidar_dimension": 18, "lidar_reason": "",
        "knn": {"k": 18, "temperature": 0.07, "n_items": 36, "n_patients": 30, "metrics": {"macro_f1": 0.61}}, **more,
    }  # fmt: skip


def test_a_study_of_representation_quality_has_a_page(tmp_path: Path) -> None:
    summary = {
        **make_plan(tmp_path, BEATS).facts, "kind": "representation", "protocol": "representation", "budgets": [],
        "verdict": "Measured <without> labels.", "failed": [{"encoder": "old", "error": "too <small>"}],
        "representation": {
            "untrained": measured(3.0, alpha_req=None, lidar=None, lidar_reason="the recordings do not differ"),
            "voco": measured(12.5),
        },
        "agreement": {
            "n_recordings": 36, "n_anchors": 9, "k": 10,
            "pairs": [{"encoders": ["untrained", "voco"], "relative": 0.6, "relative_floor": 0.1, "jaccard": 0.4,
                       "jaccard_floor": 0.15, "cka": 0.55}],
            "cka": {"encoders": ["untrained", "voco"], "matrix": [[1, 0.55], [0.55, 1]], "debiased": True},
        },
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = report(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    for said in ("12.5 ± 0.5", "1.20 (4–32, 0.97)", "– (the recordings do not differ)", "6 (18)", "0.610",
                 "0.6 (0.1)", "0.4 (0.15)", "debiased", "too <small>", "noise has the highest of all"):  # fmt: skip
        assert said in page.words, said
    assert "<small>" not in text and all(h.get("scope") for h in page.all("th"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) and all((a["href"] or "#")[1:] in ids for a in page.all("a"))


def test_a_fine_tuning_run_has_a_page(tmp_path: Path) -> None:
    summary = {
        "status": "finished", "task": "classification", "target": "beat", "classes": ["N", "V"], "encoder": "none",
        "n_patients": 8, "n_test_patients": 5, "split": "default", "split_rule": "hold-out", "split_hash": "a" * 64,
        "metrics": {"macro_f1": 0.61, "f1/N": 0.9, "f1/V": 0.32, "auroc": None, "n/N/N": 9.0, "n/N/V": 1.0,
                    "n/V/V": 2.0},
        "seconds": {"train": 60.0, "test": 6.0}, "notes": ["no training item of class S in this budget"],
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.csv").write_text("step,loss,validation\n10,1.5,\n20,1.2,0.4\n30,0.9,0.5\n")
    (tmp_path / "config.yaml").write_text("task: classification\n")
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "macro-F1 0.610 on 5 test patients" in page.words
    assert "no training item of class S" in page.words
    assert "n/a" in page.words, "an undefined AUROC is not shown as a number"
    assert "task: classification" in page.words


def test_a_pre_training_run_has_a_page_with_its_alarms(tmp_path: Path) -> None:
    summary = {"status": "stopped", "method": "VoCo", "encoder": "ResEnc", "steps": 120, "rankme": 3.14159,
               "alarms": ["RankMe fell by half"], "n_patients": 20, "seconds": 90.0}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.csv").write_text("step,loss,rankme\n10,1.5,20\n20,1.2,3.1\n")
    page = Page(report(tmp_path).read_text(encoding="utf-8"))
    assert "Pre-training was stopped and can be resumed after 120 steps" in page.words
    assert "RankMe fell by half" in page.words and "1.5 min" in page.words


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run or study.*medssl evaluate"):
        report(tmp_path)


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"kind": "stu')
    with pytest.raises(ConfigError, match=r"summary.json' is damaged.*run the command that wrote it again"):
        report(tmp_path)
