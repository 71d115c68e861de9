"""``medssl audit leakage`` as people meet it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.audit import leakage
from medssl.audit.encoders import close_in_embedding, pretraining_findings
from medssl.audit.sides import read_sides
from medssl.audit.target import guess_task
from medssl.cli import main
from medssl.cohort import Cohort
from medssl.errors import ConfigError, SplitError


def run(*words: str | Path) -> int:
    return main(["audit", "leakage", *map(str, words), "--permutations=0"])


def test_a_clean_cohort_passes(clean: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--cohort", clean, "--target", "sick", "--out", tmp_path / "audit.json") == 0
    assert capsys.readouterr().out.startswith("no leakage found in these checks\n")
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["findings"] == [] and written["about"]["fingerprint"] == Cohort(clean).info.fingerprint
    assert {"patients", "identical", "near duplicates", "shortcuts", "row order", "raw files"} <= set(written["checks"])


def test_copies_across_the_split_fail(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--cohort", volumes) == 1
    out = capsys.readouterr().out
    assert out.startswith("2 errors, 1 warning\n")
    assert "same to the last bit" in out and "saved in two ways" in out
    assert (volumes / "audit_leakage.json").is_file()


def test_a_split_with_a_patient_on_two_sides_is_looked_at_and_fails(clean: Path, tmp_path: Path) -> None:
    cohort = shutil.copytree(clean, tmp_path / "cohort")
    file = cohort / "splits" / "default.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"test": [*fields["test"], "p00"]}))
    report = leakage(cohort=cohort, permutations=0)
    assert report.exit_code == 1 and [f.check for f in report.findings] == ["patients"]


def test_raw_files_are_among_the_facts_when_they_are_there(clean: Path, tmp_path: Path) -> None:
    report = leakage(
        cohort=clean, target="sick", source=clean.parent / "source", permutations=0, out=tmp_path / "a.json"
    )
    assert report.checks["raw files"] == "24 of 24 recordings found by checksum"
    report = leakage(cohort=clean, target="sick", source=tmp_path, permutations=0, out=tmp_path / "a.json")
    assert "no file below" in report.checks["raw files"]


def test_events_and_numbers_can_be_targets(clean: Path, tmp_path: Path) -> None:
    beats = leakage(cohort=clean, target="beat", permutations=0, out=tmp_path / "a.json")
    assert beats.measures["metadata"]["columns"][0]["name"] == "onset_s"
    ages = leakage(cohort=clean, target="age", task="regression", permutations=0, out=tmp_path / "a.json")
    assert ages.measures["metadata"]["metric"] == "R²" and ages.exit_code == 0


def test_masks_are_left_out_with_a_sentence(clean: Path) -> None:
    cohort = Cohort(clean)
    assert guess_task(cohort, "sick") == guess_task(cohort, "beat") == "classification"
    with pytest.raises(ConfigError, match="did you mean 'sick'"):
        guess_task(cohort, "sik")


class TestTable:
    """``--table``: metadata before anything is prepared."""

    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        sick = np.arange(60) % 2
        (tmp_path / "clips").mkdir()
        for i in range(60):
            (tmp_path / "clips" / f"{i}.dat").write_bytes(bytes(int(100 + 80 * sick[i] + 30 * rng.normal())))
        frame = pd.DataFrame({
            "file": [f"clips/{i}.dat" for i in range(60)], "who": [f"p{i // 2 * 2 + i % 2}" for i in range(60)],
            "diagnosis": np.array(["no", "yes"])[sick], "weight": rng.normal(70, 10, 60), "code": sick,
        })  # fmt: skip
        frame.to_csv(tmp_path / "facts.csv", index=False)
        return tmp_path / "facts.csv"

    def test_the_size_of_files_gives_the_label_away(self, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--table", table, "--label", "diagnosis", "--patient", "who", "--ignore", "code") == 0
        out = capsys.readouterr().out
        assert out.startswith("1 warning\n") and "file bytes" in out
        assert not list(table.parent.glob("*.json")), "nothing is written unless asked for"

    def test_a_column_that_is_the_label_fails(self, table: Path) -> None:
        assert run("--table", table, "--label", "diagnosis", "--patient", "who") == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--label", "diagnosis"], "--patient is missing"),
            (["--label", "diagnosed", "--patient", "who"], "did you mean 'diagnosis'?"),
            (["--label", "diagnosis:no,maybe", "--patient", "who"], "maybe"),
            (["--label", "diagnosis", "--patient", "who", "--task", "regression"], "holds text"),
            (["--label", "diagnosis", "--patient", "who", "--target", "x"], "--target belongs to --cohort"),
        ],
    )
    def test_mistakes(self, table: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--table", table, *words) == 2
        message = capsys.readouterr().err
        assert said in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --cohort"),
        (["--cohort", "nowhere", "--table", "t.csv"], "either --cohort"),
        (["--cohort", "nowhere"], "no cohort at"),
        (["--table", "nowhere.csv", "--label", "a", "--patient", "b"], "no table"),
        (["--cohort", "nowhere", "--label", "a"], "belong to --table"),
    ],
)
def test_mistakes_get_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_unknown_names_in_a_cohort(clean: Path) -> None:
    with pytest.raises(SplitError, match="no split 'mine'"):
        leakage(cohort=clean, split="mine")
    with pytest.raises(ConfigError, match="sick"):
        leakage(cohort=clean, target="sik")


def test_an_encoder_that_saw_test_patients(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medssl.encoders import base
    from medssl.training import finetune
    from medssl.training.export import patient_marks

    cohort, sides = Cohort(clean), read_sides(clean, "default")
    print_ = cohort.info.fingerprint

    def seen(*patients: str) -> str:
        about = {"patients": {print_: list(patient_marks(print_, patients).values())}}
        monkeypatch.setattr(base, "load_encoder", lambda source: None)
        for module in (base, finetune):
            monkeypatch.setattr(module, "provenance_of", lambda source: about)
        findings, _ = pretraining_findings(cohort, sides, "runs/a")
        return findings[0].message if findings else ""

    assert "pre-trained on 1 test patients" in seen("p00", "t20")
    assert seen("p00", "p01") == ""
    monkeypatch.setattr(base, "provenance_of", lambda source: {"patients": {}})
    assert "cannot be told" in pretraining_findings(cohort, sides, "runs/a")[0][0].message


def test_recordings_that_an_encoder_holds_to_be_the_same() -> None:
    from toy_audit import placed

    x = np.random.default_rng(0).normal(size=(20, 8))
    x[19] = x[0] + 1e-3
    pairs, distance, usual = close_in_embedding(x, placed([f"p{i:02d}" for i in range(20)]))
    assert pairs.tolist() == [[0, 19]] and distance[0] < 1e-3 < usual


def test_the_known_shortcut_of_lung_ultrasound(shared_data: Path) -> None:
    table = shared_data / "pocus_lung_us" / "labels.tsv"
    if not table.is_file():
        pytest.skip("the lung ultrasound clips are not here")
    useless = ["licence", "licence_link", "origin", "label_note", "source_patient_id", "lung_severity_score"]
    report = leakage(
        table=table, label="label", patient="group", ignore=[*useless, "age", "sex", "probe"], permutations=0
    )
    assert report.measures["metadata"]["score"] > 0.7
    assert report.of("warning")
