"""Two processes with half a batch each get the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medssl.objectives.gather import gather_integers, gather_views

WORKER = Path(__file__).with_name("gather_worker.py")


def load_worker() -> Any:
    spec = importlib.util.spec_from_file_location("gather_worker", WORKER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gather_worker"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


worker = load_worker()
WHOLE = slice(0, worker.WORLD * worker.N)
TRIALS = worker.trials()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("gather")
    commands = [[sys.executable, str(WORKER), str(rank), str(folder)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=200)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints
    loaded: dict[str, Any] = torch.load(folder / "found.pt", weights_only=True)
    return loaded


@pytest.mark.parametrize("index", range(5))
def test_info_nce_with_groups_labels_and_weights(found: dict[str, Any], index: int) -> None:
    wanted = worker.loss_and_gradient(index, WHOLE)
    torch.testing.assert_close(found["info_nce"][index], wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(TRIALS))
def test_two_processes_equal_one(found: dict[str, Any], name: str) -> None:
    """Loss, gradients of the embeddings and of the objective's own weights, and memory, over two steps."""
    wanted = worker.two_steps(TRIALS[name], WHOLE)
    if not torch.equal(wanted["loss"], worker.two_steps(TRIALS[name], WHOLE, seed=6)["loss"]):
        pytest.skip("draws random numbers, and every process draws its own")
    two = found["objectives"][name]
    assert wanted["gradient of embeddings"].abs().sum() > 0
    for key, value in two.items():
        if key.endswith("difference of the processes"):
            assert value == 0, f"{key}: {value}"
        else:
            torch.testing.assert_close(value, wanted[key], atol=1e-9, rtol=1e-7, msg=lambda m, k=key: f"{k}: {m}")


def test_one_process_gathers_only_itself() -> None:
    views, integers = torch.randn(2, 3, 4), torch.arange(3)
    gathered = gather_views(views)
    assert gathered.views is views and gathered.offset == 0 and gathered.world == 1
    assert gather_integers(None) is None
    assert gather_integers(integers) is integers
