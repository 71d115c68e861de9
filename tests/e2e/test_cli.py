"""The command line as people meet it: help is quick, mistakes get one sentence and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medssl.cli import VERBS, main


def stderr_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is printed for a mistake; it must be one line without a traceback, and exit with 2."""
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("verb", ["prepare", "cohort info", "list", "report", "doctor"])
def test_verbs_that_only_look_at_files_do_not_import_torch(verb: str) -> None:
    code = (
        "import sys; from medssl.cli import main\n"
        f"try: main({verb.split()!r} + ['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, medssl; print([m for m in ('torch', 'numpy', 'pandas', 'monai') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_a_misspelt_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'prepare'?" in stderr_of(capsys, "prepair")


def test_a_misspelt_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean 'mitbih'?" in stderr_of(capsys, "prepare", "mitbhi", str(tmp_path), str(tmp_path / "cohort"))


def test_a_misspelt_option_in_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "method: {class_path: VoCo, init_args: {encoder: {class_path: ResEnc, init_args: {sise: tiny}}}}\n"
    )
    message = stderr_of(
        capsys, "pretrain", "--config", str(config), "--cohort", "nowhere", "--out", str(tmp_path / "r")
    )
    assert "method.encoder.sise" in message
    assert "did you mean 'method.encoder.size'?" in message


def test_a_wrong_type(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = stderr_of(capsys, "resume", str(tmp_path), "--max-steps", "many")
    assert "max_steps" in message and "many" in message


def test_a_cohort_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no cohort at" in stderr_of(capsys, "cohort", "info", str(tmp_path / "none"))


def test_the_traceback_is_there_for_those_who_want_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from medssl.errors import CohortError

    monkeypatch.setenv("MEDSSL_DEBUG", "1")
    with pytest.raises(CohortError):
        main(["cohort", "info", str(tmp_path / "none")])
