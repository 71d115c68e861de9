"""What people do wrong, on the command line: one sentence that says what to do, exit code 2, and nothing destroyed."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from toy_cohorts import make_cohort

from medssl.cli import main
from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.synth.volumes import write_volumes

Refuse = Callable[..., str]

RESENC = "{class_path: ResEnc, init_args: {features: [4, 8], blocks: [1, 1], strides: [1, 2]}}"
RESNET = "{class_path: ResNet1d, init_args: {widths: [4, 8], blocks: 1, kernel: 3}}"
TRAINER = "trainer: {max_steps: 2, batch_size: 2, workers: 0, progress: false, accelerator: cpu}\n"
QUICK = "{max_steps: 1, batch_size: 2, progress: false, accelerator: cpu"
CONTRASTIVE = f"""
method:
  class_path: Contrastive
  init_args:
    encoder: {RESENC}
    views: {{class_path: VolumeViews, init_args: {{size: [8, 8, 8]}}}}
    projector: [8, 8]
{TRAINER}"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pseudonym key of this test alone, so that the real one is never touched."""
    file = tmp_path / "pseudonym.key"
    file.write_text("0123456789abcdef" * 4)
    file.chmod(0o600)
    monkeypatch.setenv("MEDSSL_PSEUDONYM_KEY", str(file))
    monkeypatch.delenv("MEDSSL_DEBUG", raising=False)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command that cannot work and returns the one line it says about it."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("medssl: ")]
        assert len(lines) == 1, error
        assert error.splitlines()[-1] == lines[0], "the reason is the last thing said"
        assert "Traceback" not in error and "Warning" not in error
        return lines[0].removeprefix("medssl: ")

    return run


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients P0 to P5, split: two of them for testing."""
    from medssl.splits import split

    cohort = make_cohort(tmp_path_factory.mktemp("volumes"), "volume", patients=6)
    split(cohort, test=2)
    return cohort


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("signals"), "signal", patients=4)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a YAML file."""

    def write(text: str) -> Path:
        file = tmp_path / f"config{len(list(tmp_path.glob('config*.yaml')))}.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def segment(volumes: Path, tmp_path: Path) -> Callable[..., list[str | Path]]:
    """``finetune`` of the toy volumes with some options replaced."""

    def command(cohort: Path = volumes, **changes: str | Path) -> list[str | Path]:
        options: dict[str, str | Path] = {"task": "segmentation", "target": "organs", "out": tmp_path / "tuned"}
        options |= {"settings.max-steps": "1", "settings.progress": "false", "settings.accelerator": "cpu"} | changes
        return ["finetune", "--cohort", cohort, *(w for k, v in options.items() for w in (f"--{k}", v))]

    return command


# Cohorts and splits


def test_one_recording_for_batches_of_two(refuse: Refuse, config: Callable[[str], Path], tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, "volume", patients=1)
    message = refuse("pretrain", "--config", config(CONTRASTIVE), "--cohort", cohort, "--out", tmp_path / "run")
    assert "patients" in message
    assert not (tmp_path / "run" / "encoder").exists()


@pytest.mark.parametrize("budget", ["5", "1000", "0", "-3", "1.5", "many"])
def test_a_budget_that_cannot_be_met(refuse: Refuse, segment: Callable[..., list[Any]], budget: str) -> None:
    message = refuse(*segment(budget=budget))
    assert "budget" in message or "patients" in message


def test_an_unknown_target(refuse: Refuse, segment: Callable[..., list[Any]]) -> None:
    message = refuse(*segment(target="orgasn"))
    assert "orgasn" in message and "organs" in message


def test_a_target_of_another_task(refuse: Refuse, segment: Callable[..., list[Any]]) -> None:
    assert "organs" in refuse(*segment(task="regression"))


def test_an_unknown_split(refuse: Refuse, segment: Callable[..., list[Any]]) -> None:
    message = refuse(*segment(split="defalut"))
    assert "defalut" in message and "default" in message


def test_a_cohort_that_was_never_split(refuse: Refuse, segment: Callable[..., list[Any]], tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, "volume", patients=3)
    assert "cohort split" in refuse(*segment(cohort=cohort))


def test_a_split_that_was_edited_by_hand(
    refuse: Refuse, segment: Callable[..., list[Any]], volumes: Path, tmp_path: Path
) -> None:
    cohort = shutil.copytree(volumes, tmp_path / "copy")
    file = cohort / "splits" / "default.json"
    edited = json.loads(file.read_text())
    edited["test"], edited["development"] = edited["development"], edited["test"]
    file.write_text(json.dumps(edited))
    assert "default" in refuse(*segment(cohort=cohort))


def test_more_test_patients_than_there_are(refuse: Refuse, volumes: Path) -> None:
    assert "test" in refuse("cohort", "split", volumes, "--name", "other", "--test", "6")


def test_a_cohort_that_is_not_there(refuse: Refuse, segment: Callable[..., list[Any]], tmp_path: Path) -> None:
    assert "nowhere" in refuse(*segment(cohort=tmp_path / "nowhere"))


# Encoders


def test_an_encoder_of_other_channels(
    refuse: Refuse, signals: Path, config: Callable[[str], Path], tmp_path: Path
) -> None:
    from medssl.splits import split

    text = (
        CONTRASTIVE.replace(RESENC, RESNET)
        .replace("VolumeViews", "SignalViews")
        .replace("size: [8, 8, 8]", "size: [64]")
    )
    run, cohort = tmp_path / "run", shutil.copytree(signals, tmp_path / "copy")
    split(cohort, test=1)
    assert main(["pretrain", "--config", str(config(text)), "--cohort", str(cohort), "--out", str(run)]) == 0
    about = run / "encoder" / "encoder.json"
    changed = about.read_text().replace('"I"', '"V1"').replace('"II"', '"V2"')
    assert changed != about.read_text()
    about.write_text(changed)
    message = refuse(
        "finetune", "--cohort", cohort, "--task", "classification", "--target", "rhythm", "--encoder", run,
        "--out", tmp_path / "tuned",
    )  # fmt: skip
    assert "V1" in message and "channels" in message


def test_a_method_for_another_kind_of_data(
    refuse: Refuse, signals: Path, config: Callable[[str], Path], tmp_path: Path
) -> None:
    message = refuse("pretrain", "--config", config(CONTRASTIVE), "--cohort", signals, "--out", tmp_path / "run")
    assert "signal" in message and "volume" in message


@pytest.mark.parametrize("what", ["missing", "empty folder", "damaged"])
def test_a_study_with_an_encoder_that_is_none(refuse: Refuse, volumes: Path, tmp_path: Path, what: str) -> None:
    run = tmp_path / "no-run"
    if what != "missing":
        (run / "encoder").mkdir(parents=True)
    if what == "damaged":
        (run / "encoder" / "encoder.json").write_text("{")
    message = refuse(
        "evaluate", "--cohort", volumes, "--task", "segmentation", "--target", "organs", "--encoders", f"mine={run}",
        "scratch=none", "--budgets", "2", "--repeats", "1", "--out", tmp_path / "study",
    )  # fmt: skip
    assert "no-run" in message
    assert not (tmp_path / "study" / "results.parquet").exists()


def test_an_encoder_that_has_seen_the_test_patients(
    refuse: Refuse, segment: Callable[..., list[Any]], volumes: Path, config: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pretrain = ["pretrain", "--config", config(CONTRASTIVE), "--cohort", volumes, "--out", run]
    assert main([str(a) for a in [*pretrain, "--exclude-split", "none"]]) == 0
    message = refuse(*segment(encoder=run))
    assert "test patients" in message and "pre-train" in message


def test_a_finished_run_is_not_overwritten(
    refuse: Refuse, volumes: Path, config: Callable[[str], Path], tmp_path: Path
) -> None:
    command = ["pretrain", "--config", config(CONTRASTIVE), "--cohort", volumes, "--out", tmp_path / "run"]
    assert main([str(a) for a in command]) == 0
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    assert "medssl resume" in refuse(*command)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    assert "--max-steps" in refuse("resume", tmp_path / "run")
    assert "no run" in refuse("resume", tmp_path / "elsewhere")


# Volumes and signals that are odd


def save(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0])), file)


def noise(seed: int, shape: tuple[int, int, int] = (14, 13, 12)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {Path(row[0]).name: " ".join(row[1:]) for row in rows[1:]}


def test_volumes_with_holes_are_repaired_and_those_without_values_refused(tmp_path: Path) -> None:
    raw, cohort = tmp_path / "raw", tmp_path / "cohort"
    some, every = noise(0), np.full((14, 13, 12), np.nan, dtype=np.float32)
    some[2:5, 3, 4] = np.nan
    some[7, 7, 7] = np.inf
    for name, array in {"good": noise(1), "holes": some, "nothing": every}.items():
        save(raw / f"{name}.nii.gz", array)
    assert main(["prepare", "folder", str(raw), str(cohort), "--workers", "0", "--keep-ids"]) == 0
    opened = Cohort(cohort)
    assert set(opened.manifest["patient"]) == {"good", "holes"}
    assert list(rejected(cohort)) == ["nothing.nii.gz"]
    holes = opened.manifest.set_index("patient").loc["holes"]
    assert any("finite" in note for note in holes["notes"]), "the repair is noted"
    reader = opened.reader(int(np.flatnonzero(opened.manifest["patient"] == "holes")[0]))
    fields = reader.input_fields()
    values = reader.read_all() * fields["input_scale"][:, None, None, None]
    assert np.isfinite(values).all()


def test_signals_without_a_single_value(refuse: Refuse, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    np.save(raw / "p1.npy", np.full((2, 1000), np.nan, dtype=np.float32))
    options = ["--options", "kind=signal", "rate_hz=100", "units=mV", "--workers", "0"]
    message = refuse("prepare", "folder", raw, tmp_path / "cohort", *options)
    assert "p1.npy" in message and "rejected.csv" in message
    assert "p1.npy" in rejected(tmp_path / "cohort")


def test_one_slice_and_crops_larger_than_the_volume_train(config: Callable[[str], Path], tmp_path: Path) -> None:
    raw, cohort = tmp_path / "raw", tmp_path / "cohort"
    for number in range(3):
        save(raw / f"p{number}.nii.gz", noise(number, (9, 10, 1)))
    assert main(["prepare", "folder", str(raw), str(cohort), "--workers", "0", "--keep-ids"]) == 0
    assert Cohort(cohort).reader(0).shape == (1, 10, 9)
    text = CONTRASTIVE.replace("size: [8, 8, 8]", "size: [8, 16, 16]")
    run = tmp_path / "run"
    assert main(["pretrain", "--config", str(config(text)), "--cohort", str(cohort), "--out", str(run)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert np.isfinite(summary["metrics"]["loss"])


def test_fine_tuning_with_patches_larger_than_the_volumes(segment: Callable[..., list[Any]], tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"settings: {QUICK}, size: [32, 32, 32]}}\narchitecture: {RESENC}\n")
    assert main([str(a) for a in [*segment(), "--config", settings]]) == 0
    summary = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    assert 0 <= summary["metrics"]["dice"] <= 1


# Predict


@pytest.fixture(scope="module")
def model(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    settings = run.with_name("settings.yaml")
    settings.write_text(f"settings: {QUICK}, size: [8, 8, 8]}}\narchitecture: {RESENC}\n")
    command = ["finetune", "--config", settings, "--cohort", volumes, "--task", "segmentation", "--target", "organs"]
    assert main([str(a) for a in [*command, "--out", run]]) == 0
    return run


def test_one_damaged_file_among_good_ones(model: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    save(raw / "a.nii.gz", noise(0))
    save(raw / "c.nii.gz", noise(1))
    whole = (raw / "a.nii.gz").read_bytes()
    (raw / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    (raw / "d.nii.gz").touch()
    assert main(["predict", str(model), str(raw), str(out)]) == 0
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    reasons = rejected(out)
    assert set(reasons) == {"b.nii.gz", "d.nii.gz"}
    assert "cut short" in reasons["b.nii.gz"] and "empty" in reasons["d.nii.gz"]


def test_nothing_but_damaged_files(refuse: Refuse, model: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for name in ("a", "b"):
        (raw / f"{name}.nii.gz").write_bytes(b"no volume")
    assert "2 refused" in refuse("predict", model, raw, out)
    assert set(rejected(out)) == {"a.nii.gz", "b.nii.gz"}


def test_a_run_whose_files_were_damaged(refuse: Refuse, model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "config.yaml").write_text("method: [1, ")
    assert "config.yaml' is damaged" in refuse("resume", copy)
    weights = copy / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "do not fit" in refuse("predict", copy, tmp_path, tmp_path / "out")
    (copy / "model" / "model.json").write_text('{"format_version": 1,')
    assert "model.json' is damaged" in refuse("predict", copy, tmp_path, tmp_path / "out")


def test_an_output_that_cannot_be_a_folder(
    refuse: Refuse, volumes: Path, config: Callable[[str], Path], segment: Callable[..., list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    inside = tmp_path / "notes.txt" / "run"
    assert "notes.txt" in refuse("pretrain", "--config", config(CONTRASTIVE), "--cohort", volumes, "--out", inside)
    assert "notes.txt" in refuse(*segment(out=inside))
    assert "notes.txt" in refuse(*segment(out=tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_predicting_what_is_not_there(refuse: Refuse, model: Path, tmp_path: Path) -> None:
    assert "does not exist" in refuse("predict", model, tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "empty" in refuse("predict", model, tmp_path / "empty", tmp_path / "out")
    assert "no model" in refuse("predict", tmp_path / "none", tmp_path / "empty", tmp_path / "out")


# Prepare and verify


def test_a_source_that_is_not_there(refuse: Refuse, tmp_path: Path) -> None:
    message = refuse("prepare", "msd", tmp_path / "none", tmp_path / "cohort")
    assert "does not exist" in message
    assert not (tmp_path / "cohort" / "cohort.json").exists()


def test_a_cohort_of_other_settings_is_not_mixed_in(refuse: Refuse, tmp_path: Path) -> None:
    raw, cohort = write_volumes(tmp_path / "raw", patients=2, seed=0, shape=(8, 10, 10)), tmp_path / "cohort"
    command = ["prepare", "msd", str(raw), str(cohort), "--options", "modality=ct", "--workers", "0"]
    assert main(command) == 0
    before = (cohort / "cohort.json").read_bytes()
    message = refuse(*command, "--preparation", "spacing_mm=[8.0,8.0,8.0]")
    assert "other settings" in message and "spacing_mm" in message and "--overwrite" in message
    assert (cohort / "cohort.json").read_bytes() == before
    assert main(command) == 0, "the same settings are no conflict"


def test_a_folder_that_is_something_else_is_left_alone(refuse: Refuse, tmp_path: Path) -> None:
    raw, mine = write_volumes(tmp_path / "raw", patients=1, seed=0, shape=(8, 10, 10)), tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1.txt").write_text("years of work")
    refuse("prepare", "msd", raw, mine, "--options", "modality=ct", "--workers", "0")
    refuse("prepare", "msd", raw, mine / "chapter1.txt", "--options", "modality=ct", "--workers", "0")
    assert [p.name for p in mine.iterdir()] == ["chapter1.txt"]
    assert (mine / "chapter1.txt").read_text() == "years of work"


def test_unknown_settings_of_a_preparation_and_a_recipe(refuse: Refuse, tmp_path: Path) -> None:
    raw = write_volumes(tmp_path / "raw", patients=1, seed=0, shape=(8, 10, 10))
    assert "spacign" in refuse("prepare", "msd", raw, tmp_path / "c", "--preparation", "spacign=1")
    assert "modalty" in refuse("prepare", "msd", raw, tmp_path / "c", "--options", "modalty=ct")


def test_a_damaged_array_is_named(refuse: Refuse, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(3):
        save(raw / f"p{number}.nii.gz", noise(number))
    prepare("folder", raw, tmp_path / "cohort", workers=0, keep_ids=True)
    (shard,) = [
        f for f in (tmp_path / "cohort" / "arrays").rglob("*") if f.is_file() and "p1" in str(f) and "image" in str(f)
        and f.name != "zarr.json"
    ]  # fmt: skip
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    message = refuse("cohort", "verify", tmp_path / "cohort")
    assert "1 of 3 recordings" in message and "p1" in message and "p2" not in message


def test_a_damaged_manifest(refuse: Refuse, tmp_path: Path, volumes: Path) -> None:
    cohort = shutil.copytree(volumes, tmp_path / "copy")
    (cohort / "recordings.parquet").write_bytes(b"no parquet")
    assert "copy" in refuse("cohort", "verify", cohort)
    (cohort / "cohort.json").write_text("{")
    assert "copy" in refuse("cohort", "info", cohort)
