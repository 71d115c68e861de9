"""Every shipped pre-training config for a laptop runs on the synthetic cohort of its modality, as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medssl import resources
from medssl.cli import main
from medssl.synth.ecg import write_ecg
from medssl.synth.echo_files import write_echonet
from medssl.synth.fmri_files import write_abide
from medssl.synth.volumes import write_volumes

SHORT = [
    "--trainer.max-steps",
    "2",
    "--trainer.batch-size",
    "4",
    "--trainer.workers",
    "0",
    "--trainer.progress",
    "false",
]


def described(name: str) -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load(resources.find("configs", name).read_text(encoding="utf-8"))
    return loaded


OF_SIGNALS = ("SignalViews", " on ECG", " on EEG")
OF_VIDEO = "ClipViews"

NAMES = [n for n in resources.names("configs") if "method" in described(n) and not n.endswith("_gpu")]


def kinds_of(name: str) -> list[str]:
    """Which of the cohorts a configuration is for."""
    text = resources.find("configs", name).read_text(encoding="utf-8")
    if "ViewsByKind" in text:
        return ["volume", "video"]
    if " fMRI" in text:
        return ["fmri"]
    return ["video" if OF_VIDEO in text else "signal" if any(word in text for word in OF_SIGNALS) else "volume"]


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One synthetic cohort a modality, prepared by the command line."""
    folder = tmp_path_factory.mktemp("synthetic")
    volumes = write_volumes(folder / "volumes", patients=5, seed=1, shape=(24, 32, 32))
    ecg = write_ecg(folder / "ecg", patients=5, seed=1, seconds=12, rate_hz=250)
    echo = write_echonet(folder / "echo", patients=5, seed=1, frames=24)
    fmri = write_abide(folder / "abide", patients=5, seed=1, regions=24)
    with pytest.MonkeyPatch.context() as patch:
        key = folder / "pseudonym.key"
        key.write_text("0123456789abcdef" * 4)
        key.chmod(0o600)
        patch.setenv("MEDSSL_PSEUDONYM_KEY", str(key))
        for recipe, raw, name, *options in (
            ("msd", volumes, "volume", "--options", "modality=ct"),
            ("mitbih", ecg, "signal"),
            ("echonet_dynamic", echo, "video"),
            ("abide", fmri, "fmri"),
        ):
            assert main(["prepare", recipe, str(raw), str(folder / name), *options, "--workers", "0"]) == 0
    return {name: folder / name for name in ("volume", "signal", "video", "fmri")}


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str, cohorts: dict[str, Path], tmp_path: Path) -> None:
    chosen, out = [str(cohorts[kind]) for kind in kinds_of(name)], tmp_path / "run"
    assert main(["pretrain", "--config", name, "--cohort", *chosen, "--out", str(out), *SHORT]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["steps"] == 2 and summary["skipped_steps"] == 0
    assert (out / "encoder" / "encoder.safetensors").is_file()


def test_another_objective_is_one_option_away(cohorts: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["pretrain", "--config", "contrastive_ecg_laptop", "--cohort", str(cohorts["signal"]), "--out", str(out)]
    assert main([*words, "--method.objective", "DCL", "--method.projector", "32", "16", *SHORT]) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["method"]["init_args"]["objective"]["class_path"].endswith(".DCL")
    assert config["method"]["init_args"]["projector"] == [32, 16]
