"""``kill -9`` in the middle of pre-training costs the steps since the last checkpoint, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_cohorts import make_cohort, toy_method

from medssl.encoders.base import load_encoder
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import pretrain, resume
from medssl.training.run import is_finished
from medssl.training.settings import TrainSettings

TOYS = Path(__file__).resolve().parent.parent / "training"
SETTINGS = TrainSettings(
    max_steps=60, batch_size=4, workers=0, log_every=1, checkpoint_every=20, progress=False, accelerator="cpu"
)
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy_cohorts import toy_method
from medssl.training.pretrain import pretrain
from medssl.training.settings import TrainSettings

settings = TrainSettings(
    max_steps=60, batch_size=4, workers=0, log_every=1, checkpoint_every=20, progress=False, accelerator="cpu"
)
pretrain(
    method=toy_method("volume", pause_s=0.01), cohort=[Path(sys.argv[2])], out=Path(sys.argv[3]), trainer=settings
)
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kill_when_there(file: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    try:
        while not file.exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < end, f"{file.name} did not appear"
            time.sleep(0.01)
        time.sleep(0.2)  # some steps further
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def losses(run: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run)]


@pytest.mark.usefixtures("one_thread")
def test_killed_and_resumed_gives_the_same_loss_curve(tmp_path: Path) -> None:
    cohort, killed, whole = make_cohort(tmp_path, "volume", patients=6), tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(TOYS), str(cohort), str(killed)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    kill_when_there(killed / "checkpoints" / "last.ckpt", process)
    assert process.returncode == -signal.SIGKILL
    assert not is_finished(killed)
    load_encoder(killed)  # a killed run leaves a usable encoder
    resume(run=killed)
    pretrain(method=toy_method("volume"), cohort=[cohort], out=whole, trainer=SETTINGS)
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == 60
    a, b = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (killed, whole))
    assert all(torch.equal(a[name], b[name]) for name in b)
