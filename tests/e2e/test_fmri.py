"""From region series of several sites to a diagnosis, by the command line."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl import resources
from medssl.cli import main
from medssl.synth.fmri_files import write_abide

SHORT = ["--settings.max-steps", "4", "--settings.batch-size", "4", "--settings.workers", "0",
         "--settings.progress", "false"]  # fmt: skip


def medssl(*arguments: str | Path) -> None:
    """Run one command and insist that it succeeds."""
    assert main([str(a) for a in arguments]) == 0, arguments


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abide")
    raw = write_abide(folder / "raw", patients=18, seed=3, regions=16)
    with pytest.MonkeyPatch.context() as patch:
        key = folder / "pseudonym.key"
        key.write_text("0123456789abcdef" * 4)
        key.chmod(0o600)
        patch.setenv("MEDSSL_PSEUDONYM_KEY", str(key))
        medssl("prepare", "abide", raw, folder / "cohort", "--workers", "0")
    medssl("cohort", "split", folder / "cohort", "--test", "0.33", "--stratify", "diagnosis")
    return folder / "cohort"


def test_a_model_without_an_encoder_sees_the_connectivity_of_whole_runs(cohort: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    medssl(
        "finetune", "--cohort", cohort, "--task", "classification", "--target", "diagnosis", "--encoder", "none",
        "--budget", "all", "--out", run, *SHORT,
    )  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["architecture"] == "ConnectivityMLP"
    model = json.loads((run / "model" / "model.json").read_text())
    volumes = np.median([shape[0] for shape in pd.read_parquet(cohort / "recordings.parquet")["shape"]])
    assert model["testing"]["size"] == [int(volumes)]
    assert model["head"]["init_args"]["augmentation"] is None, "noise in other signals is connectivity here"


@pytest.mark.slow
def test_a_study_stands_beside_connectivity_without_a_network(cohort: Path, tmp_path: Path) -> None:
    medssl(
        "pretrain", "--config", "graph_mae_fmri_laptop", "--cohort", cohort, "--out", tmp_path / "mae",
        "--trainer.max-steps", "3", "--trainer.batch-size", "4", "--trainer.progress", "false",
    )  # fmt: skip
    medssl(
        "evaluate", "--cohort", cohort, "--task", "classification", "--target", "diagnosis", "--encoders",
        f"mae={tmp_path / 'mae'}", "scratch=none", "--protocol", "linear", "--budgets", "6", "all", "--repeats", "2",
        "--out", tmp_path / "study", *SHORT,
    )  # fmt: skip
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert not summary["failed"] and "tangent" in summary["floor"]
    with np.load(tmp_path / "study" / "examples.npz") as kept:
        assert str(kept["kind_0"]) == "picture" and kept["picture_0"].shape == (16, 16, 3), "connectivity, not 10 s"
        assert {str(kept[f"true_{n}"][0]) for n in range(6)} == {"autism", "control"}
        assert str(kept["prediction_0/floor/all"][0]) in {"autism", "control"}
    medssl("report", tmp_path / "study")


@pytest.mark.slow
def test_every_site_is_tested_with_an_encoder_that_has_not_seen_it(cohort: Path, tmp_path: Path) -> None:
    medssl("cohort", "split", cohort, "--test", "0", "--folds", "2", "--name", "all")
    script, out = resources.find("pipelines", "methods"), tmp_path / "sites"
    arguments = [
        cohort, out, "--configs", "graph_mae_fmri_laptop", "--task", "classification", "diagnosis", "--split", "all",
        "--testing", "sites", "--protocol", "linear", "--steps", "3", "3", "--budgets", "all", "--repeats", "1",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *(str(a) for a in arguments)])
        runpy.run_path(str(script), run_name="__main__")
    manifest = pd.read_parquet(cohort / "recordings.parquet")
    sites = set(manifest["site"])
    assert {f.name for f in (out / "runs").iterdir()} == {f"graph_mae_fmri_laptop-{site}" for site in sites}
    for site in sites:
        seen = json.loads((out / "runs" / f"graph_mae_fmri_laptop-{site}" / "encoder" / "encoder.json").read_text())
        learnt_from = next(iter(seen["provenance"]["patients"].values()))
        others = manifest.loc[manifest["site"] != site, "patient"].nunique()
        assert len(learnt_from) == others < manifest["patient"].nunique(), "the study itself refuses any overlap"
    summary = json.loads((out / "study" / "summary.json").read_text())
    assert not summary["failed"] and summary["split"]["n_test_patients"] == manifest["patient"].nunique()
    assert set(summary["encoders"]) == {"scratch-graph_mae_fmri_laptop", "graph_mae_fmri_laptop", "floor"}
