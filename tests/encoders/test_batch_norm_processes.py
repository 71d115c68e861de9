"""Two processes with some graphs of a batch each normalise as one process with all of them does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).with_name("batch_norm_worker.py")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    commands = [[sys.executable, str(WORKER), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints

    spec = importlib.util.spec_from_file_location("batch_norm_worker", WORKER)
    assert spec and spec.loader
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    both = [torch.load(tmp_path / f"found{rank}.pt", weights_only=True) for rank in range(2)]
    for absent in worker.ABSENT:
        whole = worker.steps(absent, slice(0, worker.GRAPHS), parallel=False)
        for name, wanted in whole.items():
            one, other = (found[absent][name] for found in both)
            if name.split()[-1].isdigit():  # of graphs, the others are of all
                torch.testing.assert_close(torch.cat([one, other]), wanted, rtol=1e-9, atol=1e-9)
            else:
                torch.testing.assert_close(one, other, rtol=0, atol=0)
                torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-9)
        assert (whole["norm1.running_mean"] != 0).any() == (absent != "one")
