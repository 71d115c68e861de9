"""Two processes with half a batch each get the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

from medssl.objectives.gather import gather_integers, gather_views

WORKER = Path(__file__).with_name("gather_worker.py")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    commands = [[sys.executable, str(WORKER), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints

    spec = importlib.util.spec_from_file_location("gather_worker", WORKER)
    assert spec and spec.loader
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    whole = slice(0, worker.WORLD * worker.N)
    for index, both in enumerate(found):
        torch.testing.assert_close(both, worker.loss_and_gradient(index, whole), atol=1e-12, rtol=0)


def test_one_process_gathers_only_itself() -> None:
    views, integers = torch.randn(2, 3, 4), torch.arange(3)
    gathered = gather_views(views)
    assert gathered.views is views and gathered.offset == 0 and gathered.world == 1
    assert gather_integers(None) is None
    assert gather_integers(integers) is integers
