"""The whole journey on synthetic patients: raw files → cohort → pre-training → study → report → prediction.

Every step is the command that a user would type, run in a process of its own and printed before it runs.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from medssl.errors import MedSSLError, TrainingError

__all__ = ["demo"]


def demo(*, out: Path = Path("demo"), patients: int = 24, seed: int = 0) -> None:
    """Run everything on an embedded default: body-like volumes (segmentation) and 12-lead ECG (beat classes).

    Args:
        out: folder for raw files, cohorts, runs, studies and reports; finished steps in it are not repeated.
        patients: synthetic patients of each kind.
        seed: of the synthetic data.
    """
    from medssl.synth.ecg import write_ecg
    from medssl.synth.volumes import write_volumes

    start = time.monotonic()
    raw = {"volumes": out / "raw" / "volumes", "ecg": out / "raw" / "ecg"}
    if not raw["volumes"].is_dir():
        write_volumes(raw["volumes"], patients=patients, seed=seed)
    if not raw["ecg"].is_dir():
        write_ecg(raw["ecg"], patients=patients, seed=seed, seconds=30)
    studies = [_volumes(out, raw["volumes"]), _ecg(out, raw["ecg"])]
    print(f"\ndone in {time.monotonic() - start:.0f} s")
    for study in studies:
        verdict = json.loads((study / "summary.json").read_text(encoding="utf-8"))["verdict"]
        print(f"  {study / 'report.html'}\n    {verdict}")


def _volumes(out: Path, raw: Path) -> Path:
    cohort, run, study = out / "cohorts" / "volumes", out / "runs" / "voco", out / "studies" / "volumes"
    _medssl("prepare", "msd", raw, cohort, "--options", "modality=ct", done=cohort / "cohort.json")
    _medssl("cohort", "split", cohort, "--test", "0.33", done=cohort / "splits" / "default.json")
    _medssl("pretrain", "--config", "demo_voco", "--cohort", cohort, "--out", run, done=run / "summary.json")
    _medssl(
        "evaluate", "--config", "demo_segmentation", "--cohort", cohort, "--task", "segmentation", "--target", "labels",
        "--encoders", f"voco={run}", "scratch=none", "--budgets", "2", "all", "--repeats", "2", "--jobs", "2",
        "--out", study,
        done=study / "summary.json",
    )  # fmt: skip
    _medssl("report", study)
    model = next((study / "cells" / "voco").glob("all/*"))
    image = sorted((raw / "imagesTr").glob("*.nii.gz"))[0]
    _medssl("predict", model, image, out / "predictions" / "volumes")
    return study


def _ecg(out: Path, raw: Path) -> Path:
    cohort, run, study = out / "cohorts" / "ecg", out / "runs" / "contrastive", out / "studies" / "ecg"
    _medssl("prepare", "mitbih", raw, cohort, done=cohort / "cohort.json")
    _medssl("cohort", "split", cohort, "--test", "0.33", done=cohort / "splits" / "default.json")
    _medssl("pretrain", "--config", "demo_contrastive", "--cohort", cohort, "--out", run, done=run / "summary.json")
    _medssl(
        "evaluate", "--config", "demo_beats", "--cohort", cohort, "--task", "classification", "--target", "aami",
        "--encoders", f"contrastive={run}", "scratch=none", "--budgets", "4", "all", "--repeats", "2",
        "--jobs", "2", "--out", study,
        done=study / "summary.json",
    )  # fmt: skip
    _medssl("report", study)
    return study


def _medssl(*arguments: str | Path, done: Path | None = None) -> None:
    """Run one command, unless the file it leaves is there already."""
    words: Sequence[str] = [str(a) for a in arguments]
    print(f"\n$ medssl {shlex.join(words)}", flush=True)
    if done is not None and done.is_file():
        print(f"already done ({done})")
        return
    code = subprocess.run([sys.executable, "-m", "medssl", *words], check=False).returncode
    if code:
        raise _failed(words, code)


def _failed(words: Sequence[str], code: int) -> MedSSLError:
    return TrainingError(f"the demo stopped: `medssl {shlex.join(words)}` exited with {code}; see its message above")
