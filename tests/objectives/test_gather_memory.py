"""Two processes remember the same, and what one process with the whole batch remembers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).with_name("gather_memory_worker.py")


def test_two_processes_equal_one_over_two_steps(tmp_path: Path) -> None:
    commands = [[sys.executable, str(WORKER), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints

    spec = importlib.util.spec_from_file_location("gather_memory_worker", WORKER)
    assert spec and spec.loader
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    first, second = (torch.load(tmp_path / f"found{rank}.pt", weights_only=True) for rank in range(2))
    for name in worker.OBJECTIVES:
        alone = worker.two_steps(name, slice(0, worker.WORLD * worker.N), lambda part: part)
        for found in (first[name], second[name]):
            torch.testing.assert_close(found, alone, atol=1e-12, rtol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
