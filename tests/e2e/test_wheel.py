"""The wheel, installed into a clean folder and used outside the checkout: everything it promises is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl import resources
from medssl.cli import VERBS

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
WITH_TORCH = ("finetune", "evaluate", "predict", "resume", "import")  # like pretrain, with torch's seconds of importing


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel (its dependencies stay where they are)."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(REPO)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


@pytest.fixture
def medssl(installed: Path, tmp_path: Path) -> Run:
    """Runs the installed console script from an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, str(installed / "bin" / "medssl"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import medssl; print(medssl.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] if verb in WITH_TORCH else []) for verb in ("", *VERBS)]
)
def test_every_verb_answers_help(medssl: Run, verb: str) -> None:
    done = medssl(*verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert f"medssl {verb}".strip() in done.stdout


@pytest.mark.parametrize(
    ("what", "kind"), [("recipes", "data_prep"), ("configs", "configs"), ("pipelines", "pipelines")]
)
def test_what_ships_beside_the_package_is_found(medssl: Run, what: str, kind: str) -> None:
    listed = {line.split()[0] for line in medssl("list", what).stdout.splitlines()}
    assert listed == set(resources.names(kind))


def test_doctor_calls_it_sound(medssl: Run) -> None:
    done = medssl("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this installation is sound" in done.stdout
