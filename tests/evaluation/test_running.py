"""Studies on a real cohort: frozen protocols, the simple baseline, and what is refused before the first step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medssl.cohort.writer import prepare
from medssl.encoders.base import InputSpec, save_encoder
from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import CheckpointError, ConfigError, SplitError
from medssl.evaluation.study import evaluate
from medssl.report import report
from medssl.splits import split as make_split
from medssl.synth.ecg import write_ecg
from medssl.training.settings import FinetuneSettings

SETTINGS = FinetuneSettings(window_s=0.8, max_steps=2, batch_size=8, test_batch=64, progress=False)
ENCODER = {"widths": (4, 8), "blocks": 1, "kernel": 3}


@pytest.fixture(scope="module")
def ecg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine synthetic patients with labelled beats, three of them for testing."""
    folder = tmp_path_factory.mktemp("ecg")
    key = folder / "key"
    key.write_text("0123456789abcdef" * 4)
    raw = write_ecg(folder / "raw", patients=9, seed=1, seconds=12, rate_hz=250)
    prepare("mitbih", raw, folder / "cohort", pseudonym_key=key, workers=0)
    make_split(folder / "cohort", test=3)
    return folder / "cohort"


@pytest.fixture(scope="module")
def run(ecg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported encoder, as pre-training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    inputs = InputSpec(kind="signal", channels=("MLII", "V"), size=(256,), rate_hz=250.0)
    save_encoder(ResNet1d(in_channels=2, **ENCODER), folder / "encoder", inputs, {"cohorts": [], "patients": {}})
    return folder


def study(ecg: Path, out: Path, **options: Any) -> dict[str, Any]:
    given = {"task": "classification", "target": "aami", "encoders": {}, "budgets": ["2", "all"], "repeats": 2}
    return evaluate(cohort=ecg, out=out, settings=SETTINGS, **(given | options))


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_frozen_protocols(ecg: Path, run: Path, tmp_path: Path, protocol: str) -> None:
    summary = study(ecg, tmp_path, encoders={"mine": str(run)}, protocol=protocol)
    assert list(summary["encoders"]) == ["untrained", "mine", "floor"]
    assert summary["baseline"] == "untrained" and not summary["failed"]
    assert {(c["encoder"], c["budget"]) for c in summary["comparisons"]} == {("mine", "2"), ("mine", "all")}
    tables = [pd.read_parquet(f) for f in sorted(tmp_path.glob("cells/*/all/0/predictions.parquet"))]
    assert len(tables) == 3
    for table in tables[1:]:
        pd.testing.assert_frame_equal(
            table[["patient", "onset_s", "y_true"]], tables[0][["patient", "onset_s", "y_true"]]
        )
    stored = np.load(tmp_path / "features" / "mine.npz", allow_pickle=False)["features"]
    assert stored.shape[1] == 2 * 8, "pooled features and those of the window's middle"


def test_a_frozen_study_continues_without_computing_features_again(ecg: Path, run: Path, tmp_path: Path) -> None:
    study(ecg, tmp_path, encoders={"mine": str(run)}, protocol="knn", budgets=["2"])
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.npz") if f.parent.name == "features"}
    study(ecg, tmp_path, encoders={"mine": str(run)}, protocol="knn", budgets=["2", "all"])
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert len(list(tmp_path.glob("cells/*/*/*/cell.json"))) == 12


def test_fine_tuning_compares_with_the_same_network_from_scratch(ecg: Path, run: Path, tmp_path: Path) -> None:
    summary = study(ecg, tmp_path, encoders={"mine": str(run)}, budgets=["all"], repeats=1)
    assert summary["architecture"]["class_path"].endswith("ResNet1d")
    assert summary["architecture"]["init_args"]["widths"] == [4, 8]
    assert list(summary["encoders"]) == ["scratch", "mine", "floor"] and summary["notes"] == []
    assert (tmp_path / "examples.npz").is_file()


@pytest.fixture(scope="module")
def wider(ecg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported encoder of another architecture."""
    folder = tmp_path_factory.mktemp("wider")
    inputs = InputSpec(kind="signal", channels=("MLII", "V"), size=(256,), rate_hz=250.0)
    network = ResNet1d(in_channels=2, **{**ENCODER, "widths": (4, 12)})
    save_encoder(network, folder / "encoder", inputs, {"cohorts": [], "patients": {}})
    return folder


def test_each_encoder_is_compared_with_the_baseline_of_its_own_architecture(
    ecg: Path, run: Path, wider: Path, tmp_path: Path
) -> None:
    encoders = {"mine": str(run), "wide": str(wider), "untrained": "untrained", "untrained-wide": f"untrained:{wider}"}
    summary = study(ecg, tmp_path, encoders=encoders, protocol="linear", budgets=["2"], repeats=1)
    pairs = {c["encoder"]: c["baseline"] for c in summary["comparisons"]}
    assert pairs == {"mine": "untrained", "wide": "untrained-wide"} and summary["notes"] == []
    features = {f.stem: np.load(f)["features"] for f in (tmp_path / "features").glob("*.npz")}
    assert features["untrained-wide"].shape == features["wide"].shape != features["untrained"].shape
    page = report(tmp_path).read_text()
    assert ">against<" in page and "<td>untrained-wide</td>" in page


def test_an_encoder_without_a_baseline_of_its_own_is_pointed_out(
    ecg: Path, run: Path, wider: Path, tmp_path: Path
) -> None:
    encoders = {"mine": str(run), "wide": str(wider)}
    summary = study(ecg, tmp_path, encoders=encoders, protocol="linear", budgets=["2"], repeats=1)
    assert {c["encoder"]: c["baseline"] for c in summary["comparisons"]} == dict.fromkeys(encoders, "untrained")
    (note,) = summary["notes"]
    assert note.startswith("wide differs from untrained in architecture")


def test_the_label_draws_are_nested_and_the_same_for_all_arms(ecg: Path, tmp_path: Path) -> None:
    summary = study(ecg, tmp_path, protocol="knn", budgets=["all", "2", "4"])
    assert [b["asked"] for b in summary["budgets"]] == ["2", "4", "all"]
    items = [[d["n_items"] for d in b["draws"]] for b in summary["budgets"]]
    for smaller, larger in pairwise(items):
        assert all(few <= many for few, many in zip(smaller, larger, strict=True))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "amai"}, ConfigError, "aami"),
        ({"task": "segmentation", "protocol": "knn"}, ConfigError, "use finetune or prompt for segmentation"),
        ({"encoders": {"a": "/nowhere"}}, CheckpointError, "a=/nowhere"),
        ({"encoders": {"../a": "none"}}, ConfigError, "cannot be the name"),
        ({"encoders": {"floor": "none"}}, ConfigError, "cannot be the name"),
        ({"encoders": {"a": "untrained"}}, ConfigError, "a=none"),
        ({"encoders": {"a": "untrained:run"}}, ConfigError, "a=none:run"),
        ({"encoders": {"a": "none:/nowhere"}}, CheckpointError, "/nowhere"),
        ({"budgets": ["999"]}, SplitError, "999"),
        ({"split": "other"}, SplitError, "other"),
        ({"repeats": 0}, ConfigError, "at least one"),
    ],
)
def test_what_cannot_work_is_refused_first(
    ecg: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        study(ecg, tmp_path / "study", **options)
    assert not (tmp_path / "study").exists(), "nothing was begun"
