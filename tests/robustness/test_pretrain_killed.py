"""``kill -9`` in the middle of pre-training costs the steps since the last checkpoint, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from training.toy_cohorts import make_cohort

from medssl.encoders.base import load_encoder
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import resume

TESTS = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from training.toy_cohorts import toy_method
from medssl.training.pretrain import pretrain
from medssl.training.settings import TrainSettings

if __name__ == "__main__":
    settings = TrainSettings(
        max_steps=int(sys.argv[4]), batch_size=4, workers=0, log_every=1, checkpoint_every=20, progress=False,
        accelerator="cpu",
    )
    pretrain(method=toy_method("volume"), cohort=[Path(sys.argv[2])], out=Path(sys.argv[3]), trainer=settings)
"""
STEPS = 3000


def start(cohort: Path, run: Path, steps: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", SCRIPT, str(TESTS), str(cohort), str(run), str(steps)]
    return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def wait_for(file: Path, process: subprocess.Popen[bytes], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, f"{file.name} did not appear"
        time.sleep(0.01)


def losses(run: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run) if "loss" in row]


def test_killed_and_resumed_gives_the_same_loss_curve(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    cohort, run = make_cohort(tmp_path, "volume", patients=6), tmp_path / "killed"
    process = start(cohort, run, STEPS)
    try:
        wait_for(run / "checkpoints" / "last.ckpt", process)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = int(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["medssl"]["step"])
    assert done % 20 == 0
    assert not (run / "checkpoints" / ".lock").exists()
    assert json.loads((run / "summary.json").read_text())["status"] == "running" if (run / "summary.json").exists() else True
    load_encoder(run)  # a killed run leaves a usable encoder
    total = done + 25
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"max_steps: {STEPS}", f"max_steps: {total}"))
    resume(run=run)

    whole = tmp_path / "whole"
    uninterrupted = start(cohort, whole, STEPS)
    try:
        wait_for(whole / "checkpoints" / "last.ckpt", uninterrupted)
        while (len(losses(whole)) < total or not losses(whole)) and uninterrupted.poll() is None:
            time.sleep(0.05)
    finally:
        uninterrupted.send_signal(signal.SIGKILL)
        uninterrupted.wait()
    assert [step for step, _ in losses(run)] == list(range(1, total + 1))
    assert losses(run)[:done] == losses(whole)[:done]
