"""Weights of other programs become an encoder that every verb takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_cohorts import toy_method

from medssl.cli import main
from medssl.encoders.base import load_encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.swin_unetr import SwinUNETREncoder
from medssl.encoders.video_vit import VideoViT
from medssl.errors import CheckpointError, ConfigError
from medssl.training.finetune import finetune
from medssl.training.importing import import_encoder
from medssl.training.pretrain import pretrain
from medssl.training.settings import FinetuneSettings, TrainSettings

SMALL = {"features": (4, 8), "blocks": (1, 1), "strides": (1, 2)}
WORDS = ["--architecture", "ResEnc", "--architecture.features", "[4,8]", "--architecture.blocks", "[1,1]"]
WORDS += ["--architecture.strides", "[1,2]"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as another program leaves it."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("foreign") / "weights.pt"
    state = {f"module.encoder.{k}": v for k, v in ResEnc(1, **SMALL).state_dict().items()}  # type: ignore[arg-type]
    torch.save({"network_weights": state | {"decoder.seg_layers.0.bias": torch.zeros(2)}, "epoch": 4}, file)
    return file


def test_from_the_command_line(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "encoder"
    assert main(["import", "--weights", str(foreign), *WORDS, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "weights.pt: 100% of the encoder's tensors" in shown and "skipped: decoder.seg_layers.0.bias" in shown
    encoder, inputs = load_encoder(out)
    torch.manual_seed(3)
    wanted = ResEnc(1, **SMALL).state_dict()  # type: ignore[arg-type]
    assert all(torch.equal(value, wanted[name]) for name, value in encoder.state_dict().items())
    assert (inputs.kind, inputs.channels, inputs.size, inputs.spacing_mm) == ("volume", ("image",), (), None)
    about = (out / "encoder.json").read_text()
    assert json.loads(about)["provenance"]["imported_from"] == "weights.pt" and str(foreign.parent) not in about
    assert main(["import", "--weights", str(foreign), *WORDS, "--out", str(out)]) == 2
    assert "holds an encoder already" in capsys.readouterr().err


def test_swin_of_four_channels_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SwinUNETREncoder(1, 12, window=3)
    torch.save(source.state_dict(), tmp_path / "VoCo_B_SSL_head.pt")
    words = ["import", "--weights", str(tmp_path / "VoCo_B_SSL_head.pt"), "--out", str(tmp_path / "voco")]
    words += ["--architecture", "SwinUNETREncoder", "--architecture.feature_size", "12", "--architecture.window", "3"]
    assert main([*words, "--channels", "t1", "t1ce", "t2", "flair", "--spacing-mm", "1.5", "1.5", "1.5"]) == 0
    assert "142 loaded, 3 adapted" in capsys.readouterr().out
    encoder, inputs = load_encoder(tmp_path / "voco")
    assert inputs.channels == ("t1", "t1ce", "t2", "flair") and inputs.spacing_mm == (1.5, 1.5, 1.5)
    assert isinstance(encoder, SwinUNETREncoder)
    kernel, before = encoder.swinViT.patch_embed.proj.weight, source.swinViT.patch_embed.proj.weight
    torch.testing.assert_close(kernel.sum(1, keepdim=True), before)


def test_what_came_in_is_fine_tuned_and_pre_trained_further(foreign: Path, volumes: Path, tmp_path: Path) -> None:
    from medssl.splits import split

    encoder = import_encoder(weights=foreign, architecture=ResEnc(1, **SMALL), out=tmp_path / "in")  # type: ignore[arg-type]
    cohort = tmp_path / "cohort"  # a split in the shared one would be looked at by the other tests
    shutil.copytree(volumes, cohort)
    split(cohort, test=2)
    settings = FinetuneSettings(max_steps=1, batch_size=2, progress=False, accelerator="cpu", size=(8, 8, 8))
    summary = finetune(
        cohort=cohort, task="segmentation", target="organs", encoder=str(encoder), budget="2", out=tmp_path / "tuned",
        settings=settings,
    )  # fmt: skip
    assert summary["status"] == "finished" and summary["architecture"] == "ResEnc"
    method = toy_method("volume")
    method = type(method)(ResEnc(1, **SMALL))  # type: ignore[arg-type]
    one = TrainSettings(max_steps=1, batch_size=2, workers=0, progress=False, accelerator="cpu", monitor_every=0)
    pretrain(method=method, cohort=[cohort], out=tmp_path / "run", trainer=one, init_from=encoder)
    before, after = load_encoder(encoder)[0].state_dict(), load_encoder(tmp_path / "run")[0].state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items()), "one step of warm-up has learning rate 0"


def test_an_imported_encoder_is_an_arm_of_a_study(foreign: Path, tmp_path: Path) -> None:
    from medssl.evaluation.arms import make_arms

    encoder = import_encoder(weights=foreign, architecture=ResEnc(1, **SMALL), out=tmp_path / "in")  # type: ignore[arg-type]
    arm = make_arms({"voco": str(encoder)}, "finetune")[0]
    assert arm.about is not None and arm.about["provenance"]["imported_from"] == "weights.pt"


def test_what_cannot_be_imported_is_refused(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the channels"):
        import_encoder(weights=foreign, architecture=ResEnc(2, **SMALL), out=tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="volumes and signals"):
        import_encoder(weights=foreign, architecture=ResEnc(1, dims=2, **SMALL), out=tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="at least 50%"):
        other = SwinUNETREncoder(1, 12, window=3)
        import_encoder(weights=foreign, architecture=other, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_encoder_of_video_says_so(tmp_path: Path) -> None:
    architecture = VideoViT(1, (4, 16, 16), patch=(2, 8, 8), width=12, depth=1, heads=2)
    torch.save(architecture.state_dict(), tmp_path / "weights.pt")
    given = {"weights": tmp_path / "weights.pt", "architecture": architecture, "rate_hz": 50.0}
    _, inputs = load_encoder(import_encoder(out=tmp_path / "video", kind="video", **given))  # type: ignore[arg-type]
    assert (inputs.kind, inputs.rate_hz, inputs.channels) == ("video", 50.0, ("image",))
    with pytest.raises(ConfigError, match="3 axes, which signals have not"):
        import_encoder(out=tmp_path / "signal", kind="signal", **given)  # type: ignore[arg-type]
