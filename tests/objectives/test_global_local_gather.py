"""Two processes with half the volumes each learn what one process with all of them does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).with_name("global_local_worker.py")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    commands = [[sys.executable, str(WORKER), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints

    spec = importlib.util.spec_from_file_location("global_local_worker", WORKER)
    assert spec and spec.loader
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    one, other = (torch.load(tmp_path / f"found{rank}.pt", weights_only=True) for rank in range(2))
    for loss, mine, theirs in zip(worker.LOSSES, one, other, strict=True):
        assert torch.equal(mine, theirs)
        whole = worker.loss_and_gradient(loss, slice(0, worker.WORLD * worker.VOLUMES), parallel=False)
        torch.testing.assert_close(mine, whole, atol=1e-12, rtol=0)
