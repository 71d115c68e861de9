"""The verb ``search``: nearest cases of a recording or a raw file, and retrieval of all by all beside the floors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from toy_searches import run_for, signals, volumes

from medssl.cli import main
from medssl.cohort import Cohort
from medssl.errors import CohortError, ConfigError, SplitError
from medssl.evaluation.embedding import embed
from medssl.evaluation.embedding_files import read_embeddings
from medssl.evaluation.search import search
from medssl.splits import split
from medssl.training.export import patient_marks


@pytest.fixture(scope="module")
def torsos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volumes(tmp_path_factory.mktemp("torsos"))


@pytest.fixture(scope="module")
def ecgs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signals(tmp_path_factory.mktemp("ecgs"))


@pytest.fixture(scope="module")
def run(torsos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_for(torsos, tmp_path_factory.mktemp("encoders") / "mine")


def hits(folder: Path) -> list[dict[str, str]]:
    with (folder / "hits.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_nearest_cases_of_a_recording_are_those_of_other_patients(torsos: Path, run: Path, tmp_path: Path) -> None:
    found = search(str(run), torsos, "torso_003", top=4, out=tmp_path / "out")
    x = read_embeddings(tmp_path / "out" / "embeddings" / "mine-torsos.parquet").features.astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    manifest = Cohort(torsos).manifest
    others = np.flatnonzero(manifest["patient"] != manifest["patient"].iloc[2])
    expected = others[np.argsort(-(unit @ unit[2])[others])][:4]
    (strip,) = found["strips"]
    assert [h["recording"] for h in strip["hits"]] == manifest["recording"].iloc[expected].tolist()
    assert [h["similarity"] for h in strip["hits"]] == pytest.approx((unit @ unit[2])[expected].tolist())
    table = hits(tmp_path / "out")
    assert [r["recording"] for r in table] == [h["recording"] for h in strip["hits"]]
    assert {"rank", "patient", "cohort", "kind", "label_class", "label_findings"} < set(table[0])
    same = search(str(run), torsos, "torso_003", top=1, exclude="none")["strips"][0]["hits"]
    assert same[0]["recording"] != "torso_003"


def test_centred_embeddings_are_compared_without_what_all_have_in_common(
    torsos: Path, run: Path, tmp_path: Path
) -> None:
    found = search(str(run), torsos, "torso_003", top=4, centre=True, out=tmp_path / "out")
    x = read_embeddings(tmp_path / "out" / "embeddings" / "mine-torsos.parquet").features.astype(np.float64)
    x -= x.mean(0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    manifest = Cohort(torsos).manifest
    others = np.flatnonzero(manifest["patient"] != manifest["patient"].iloc[2])
    expected = others[np.argsort(-(unit @ unit[2])[others])][:4]
    (strip,) = found["strips"]
    assert [h["recording"] for h in strip["hits"]] == manifest["recording"].iloc[expected].tolist()
    assert [h["similarity"] for h in strip["hits"]] == pytest.approx((unit @ unit[2])[expected].tolist(), abs=1e-5)
    file = torsos.parent / "raw-volumes" / "imagesTr" / "torso_003.nii.gz"
    raw = search(str(run), torsos, str(file), top=4, centre=True)["strips"][0]["hits"]
    assert [h["similarity"] for h in raw] == pytest.approx([h["similarity"] for h in strip["hits"]], abs=1e-5)


def test_the_mean_is_that_of_the_recordings_that_answer(torsos: Path, run: Path, tmp_path: Path) -> None:
    cohort = Path(shutil.copytree(torsos, tmp_path / "torsos"))
    made = split(cohort, test=2)
    given: dict[str, Any] = {"label": ["class"], "split": "default", "floors": False, "centre": True, "strips": 1}
    found = search(str(run), cohort, out=tmp_path / "out", **given)
    x = read_embeddings(tmp_path / "out" / "embeddings" / "mine-torsos.parquet").features.astype(np.float64)
    manifest = Cohort(cohort).manifest
    answer = (manifest["patient"].isin(made.development) & manifest["label_class"].notna()).to_numpy()
    x -= x[answer].mean(0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    query = manifest.index[manifest["recording"] == found["strips"][0]["query"]["recording"]][0]
    best = float((unit[answer] @ unit[query]).max())
    assert found["strips"][0]["hits"][0]["similarity"] == pytest.approx(best, abs=1e-5)


def test_the_page_shows_the_query_and_its_hits(torsos: Path, run: Path, tmp_path: Path) -> None:
    search(str(run), torsos, "torso_003", top=4, out=tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5 and "http" not in page.replace("http://www.w3.org", "")
    assert "Query torso_003" in page and "torsos · ct" in page
    assert page.index(">query<") < page.index("1. ")


@pytest.mark.parametrize("kind", ["torsos", "ecgs"])
def test_a_raw_file_gets_the_hits_of_the_recording_that_was_made_of_it(
    kind: str, torsos: Path, ecgs: Path, tmp_path: Path
) -> None:
    cohort, name, file = {
        "torsos": (torsos, "torso_004", torsos.parent / "raw-volumes" / "imagesTr" / "torso_004.nii.gz"),
        "ecgs": (ecgs, "p003_1", ecgs.parent / "raw-signals" / "p003_1.hea"),
    }[kind]
    encoder = str(run_for(cohort, tmp_path / "run"))
    raw = search(encoder, cohort, str(file), top=3, out=tmp_path / "raw")
    known = search(encoder, cohort, name, top=3, out=tmp_path / "known")
    for key in ("recording", "similarity"):
        one, other = ([h[key] for h in r["strips"][0]["hits"]] for r in (raw, known))
        assert one == (pytest.approx(other, abs=1e-6) if key == "similarity" else other)
    assert f"is recording {name} of {cohort.name}" in raw["notes"][0]
    assert not list((tmp_path / "raw" / "embeddings").glob("*query*"))


def test_a_raw_file_that_is_new_excludes_nobody_and_says_so(torsos: Path, run: Path, tmp_path: Path) -> None:
    image = nibabel.load(torsos.parent / "raw-volumes" / "imagesTr" / "torso_004.nii.gz")
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("one", "two"):
        array = np.asarray(image.dataobj) + (1 if name == "one" else 40)
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), image.affine), folder / f"{name}.nii.gz")
    found = search(str(run), torsos, str(folder), top=2)
    assert [s["query"]["recording"] for s in found["strips"]] == ["one", "two"]
    assert found["strips"][0]["hits"][0]["recording"] == "torso_004"
    assert found["strips"][0]["hits"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert not any("by its bytes" in note for note in found["notes"])
    assert any("cannot be told" in note for note in found["notes"])


def test_every_recording_asks_and_the_floors_answer_too(torsos: Path, run: Path, tmp_path: Path) -> None:
    found = search(str(run), torsos, label=["class"], out=tmp_path, strips=2, top=3)
    assert list(found["encoders"]) == ["mine", "untrained", "pixels"]
    assert found["encoders"]["untrained"]["architecture"] == found["encoders"]["mine"]["architecture"]
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert len(table) == 3 * 8  # of nine recordings one has no label
    for entry in found["results"]:
        own = table[table["encoder"] == entry["encoder"]]
        assert entry["mean"] == pytest.approx(own[entry["metric"]].mean())
        assert entry["n_queries"] + entry["n_skipped"] == 8
    assert [(c["encoder"], c["floor"]) for c in found["comparisons"]] == [("mine", "untrained"), ("mine", "pixels")]
    assert found["verdict"].startswith("mine reaches mAP@10")
    rows = pd.DataFrame(hits(tmp_path))
    assert set(rows["encoder"]) == {"mine"} and (rows["patient"] != rows["query_patient"]).all()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for said in ("hit rate", "random order", "untrained", "pixels", "not by their result", "over patients"):
        assert said in page, said
    assert page.count("<h3>Query ") == 2


def test_strips_do_not_depend_on_the_encoder(torsos: Path, run: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        encoder = str(run_for(torsos, tmp_path / name / "run", seed=3)) if name == "b" else str(run)
        found = search(encoder, torsos, label=["class"], out=tmp_path / name, strips=3, seed=seed, floors=False)
        drawn.append([s["query"]["recording"] for s in found["strips"]])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_second_call_embeds_nothing_again(torsos: Path, run: Path, tmp_path: Path) -> None:
    one = search(str(run), torsos, label=["class"], out=tmp_path)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "embeddings").iterdir()}
    assert set(times) == {"mine-torsos.parquet", "untrained-torsos.parquet", "pixels-torsos.parquet"}
    again = search(str(run), torsos, label=["class"], out=tmp_path, relevance="exact")
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "embeddings").iterdir()} == times
    assert again["results"] == one["results"]  # a single label is a set of one


def test_a_file_of_embeddings_stands_for_its_encoder(torsos: Path, run: Path, tmp_path: Path) -> None:
    file = embed(str(run), torsos, tmp_path / "mine.parquet")
    by_run, by_file = (search(e, torsos, label=["class"]) for e in (str(run), str(file)))
    assert by_run["results"] == by_file["results"]  # the untrained twin is made from what the file says
    hit = search(str(file), torsos, "torso_001", top=1)["strips"][0]["hits"][0]
    assert hit["recording"] == search(str(run), torsos, "torso_001", top=1)["strips"][0]["hits"][0]["recording"]
    with pytest.raises(ConfigError, match="cannot read a raw file"):
        search(str(file), torsos, str(torsos.parent / "raw-volumes" / "imagesTr" / "torso_004.nii.gz"))
    with pytest.raises(ConfigError, match="holds the embeddings of one cohort"):
        search(str(file), torsos, "torso_001", also=[volumes(tmp_path, patients=2)])


def test_several_encoders_have_a_line_each_and_share_their_floors(torsos: Path, run: Path, tmp_path: Path) -> None:
    other = run_for(torsos, tmp_path / "other", seed=2)
    found = search(str(run), torsos, label=["findings"], beside={"second": str(other)}, relevance="jaccard")
    assert list(found["encoders"]) == ["mine", "second", "untrained", "pixels"]
    assert len(found["comparisons"]) == 4
    two = search(str(run), torsos, "torso_001", beside={"second": str(other)}, top=2)
    assert [s["encoder"] for s in two["strips"]] == ["mine", "second"]


def test_test_patients_ask_and_development_patients_answer(torsos: Path, run: Path, tmp_path: Path) -> None:
    cohort = Path(shutil.copytree(torsos, tmp_path / "torsos"))
    made = split(cohort, test=2)
    found = search(str(run), cohort, label=["class"], split="default", out=tmp_path / "out", floors=False)
    rows = pd.DataFrame(hits(tmp_path / "out"))
    assert set(rows["query_patient"]) <= set(made.test) and set(rows["patient"]) <= set(made.development)
    manifest = Cohort(cohort).manifest
    known = manifest[manifest["label_class"].notna()]["patient"]
    assert found["results"][0]["n_items"] == int(known.isin(made.development).sum())
    assert found["results"][0]["n_queries"] + found["results"][0]["n_skipped"] == int(known.isin(made.test).sum())
    everyone = search(str(run), cohort, label=["class"], split="default", floors=False, exclude="none")
    assert everyone["results"][0]["mean"] == found["results"][0]["mean"]  # no patient is on both sides
    about = json.loads((run / "encoder" / "encoder.json").read_text())
    leaky = Path(shutil.copytree(run, tmp_path / "leaky"))
    fingerprint = Cohort(cohort).info.fingerprint
    about["provenance"]["patients"] = {fingerprint: list(patient_marks(fingerprint, made.test).values())}
    (leaky / "encoder" / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(SplitError, match="was pre-trained on 2 test patients"):
        search(str(leaky), cohort, label=["class"], split="default")
    assert "pre-trained on 2 of the 5 patients" in search(str(leaky), cohort, label=["class"])["notes"][0]
    with pytest.raises(SplitError):
        search(str(run), cohort, label=["class"], split="other")


def test_rules_of_relevance_change_what_is_found(torsos: Path) -> None:
    given: dict[str, Any] = {"label": ["findings"], "floors": False, "exclude": "none"}
    counts = {
        rule: search("pixels", torsos, relevance=rule, jaccard=0.5, **given)["results"][0]["random_order"]
        for rule in ("any", "exact", "jaccard")
    }
    assert counts["exact"] < counts["any"] and counts["exact"] <= counts["jaccard"] <= counts["any"]


def test_other_cohorts_join_the_gallery_and_ask_across(torsos: Path, run: Path, tmp_path: Path) -> None:
    more = volumes(tmp_path, patients=6, seed=7)
    shutil.move(more, tmp_path / "later")
    also = [tmp_path / "later"]
    found = search(str(run), torsos, "torso_001", also=also, top=20)["strips"][0]["hits"]
    assert {h["cohort"] for h in found} == {"torsos", "later"}
    assert all(h["patient"] != "p0" for h in found), "equal ids count as one person, whatever the cohort"
    result = search(str(run), torsos, also=also, label=["class"], cross=True, out=tmp_path / "out", strips=1)
    places = list(dict.fromkeys((r["queries"], r["gallery"]) for r in result["results"]))
    assert places == [("torsos", "torsos"), ("later", "later"), ("torsos", "later"), ("later", "torsos"),
                      ("macro mean", "macro mean")]  # fmt: skip
    of = {(r["encoder"], r["queries"], r["gallery"]): r["mean"] for r in result["results"] if r["metric"] == "mrr"}
    within = [of["mine", n, n] for n in ("torsos", "later")]
    assert of["mine", "macro mean", "macro mean"] == pytest.approx(np.mean(within))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "torsos → later" in page and "macro mean" in page


def test_vectors_of_different_length_are_not_compared(torsos: Path, ecgs: Path) -> None:
    with pytest.raises(ConfigError, match="vectors of different lengths"):
        search("pixels", torsos, "torso_001", also=[ecgs])
    found = search("pixels", torsos, also=[ecgs], label=["class", "rhythm"], cross=True)
    assert {(r["queries"], r["gallery"]) for r in found["results"]} == {
        ("torsos", "torsos"), ("ecgs", "ecgs"), ("macro mean", "macro mean")
    }  # fmt: skip
    assert any("differ in length" in note for note in found["notes"])


def test_nothing_in_common_across_cohorts_is_said(torsos: Path, tmp_path: Path) -> None:
    more = volumes(tmp_path, patients=4)
    shutil.move(more, tmp_path / "later")
    with pytest.raises(CohortError, match="has anything to find in 'later'"):
        search("pixels", torsos, also=[tmp_path / "later"], label=["class", "findings"], cross=True)


def test_help_shows_what_may_stand_without_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert "--query" in capsys.readouterr().out
    assert main(["search", "run"]) == 2
    assert "cohort is missing" in capsys.readouterr().err
    assert main(["search", "run", "cohort", "query", "more"]) == 2
    assert "unknown option 'more'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["torso_00"], "did you mean 'torso_00"),
        (["nowhere.nii.gz"], "no recording of"),
        ([], "--label must say what is relevant"),
        (["torso_001", "--label", "class"], "belongs to a search without QUERY"),
        (["--label", "klass"], "no label 'klass'"),
        (["--label", "class", "--cross"], "name another one with --also"),
        (["--label", "class", "--relevance", "jaccard", "--jaccard", "2"], "above 0 and at most 1"),
        (["torso_001", "--top", "0"], "must be 1 or more"),
        (["torso_001", "--beside", "untrained=x"], "cannot be the name"),
        (["torso_001", "--also", "{cohort}"], "named twice"),
        (["--query", "torso_001", "--exclude", "nobody"], "expected one of"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str], said: str, torsos: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(run), str(torsos), *(w.format(cohort=torsos) for w in words)]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1, message


def test_a_query_of_another_kind_gets_one_sentence(
    torsos: Path, ecgs: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signal = ecgs.parent / "raw-signals" / "p001_1.hea"
    assert main(["search", str(run), str(torsos), str(signal)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "p001_1.hea' cannot be searched among volumes" in message
    (tmp_path / "empty").mkdir()
    assert main(["search", str(run), str(torsos), str(tmp_path / "empty")]) == 2
    assert "no volume file" in capsys.readouterr().err
    lead = run_for(ecgs, tmp_path / "ecg")
    np.save(tmp_path / "short.npy", np.zeros((1, 40)))
    options = ["--options", "rate_hz=125", "units=mV", "channels=[X]"]
    assert main(["search", str(lead), str(ecgs), str(tmp_path / "short.npy"), *options]) == 2
    assert "medssl: " in capsys.readouterr().err


def test_a_run_or_a_study_is_not_written_over(torsos: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "summary.json").write_text('{"kind": "study"}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("cohort: [a]")
    (tmp_path / "notes.txt").write_text("years of work")
    for name, said in (("study", "holds a run or a study"), ("run", "holds a run"), ("notes.txt", "is a file")):
        with pytest.raises(ConfigError, match=said):
            search(str(run), torsos, "torso_001", out=tmp_path / name)
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["summary.json"]


def test_an_embed_file_of_another_cohort_is_refused(
    torsos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = volumes(tmp_path, patients=3, seed=5)
    file = embed(str(run), other, tmp_path / "other.parquet")
    assert main(["search", str(file), str(torsos), "torso_001"]) == 2
    assert "made from another cohort" in capsys.readouterr().err


def test_an_empty_cohort_is_refused(torsos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(torsos, empty)
    about = json.loads((empty / "cohort.json").read_text())
    (empty / "cohort.json").write_text(json.dumps(about | {"n_recordings": 0}))
    frame = pd.read_parquet(empty / "recordings.parquet")
    frame.iloc[:0].to_parquet(empty / "recordings.parquet")
    with pytest.raises(CohortError, match="holds no recording"):
        embed("pixels", empty, tmp_path / "e.parquet")
    with pytest.raises(CohortError, match="no recording"):
        search("pixels", empty, label=["class"])


def test_the_command_line_prints_hits_and_writes_a_page(
    torsos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(run), str(torsos), "torso_001", "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("torso_001 (mine):") and len(out.splitlines()) == 3
    folder = tmp_path / "out"
    assert main(["search", str(run), str(torsos), "--label", "class", "--out", str(folder), "--windows", "2"]) == 0
    assert "random order" in capsys.readouterr().out
    before = (folder / "report.html").read_bytes()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == before
