"""Two stages of pre-training, then fine-tuning that starts from encoder and decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_cohorts import make_cohort, toy_method

from medssl.encoders.base import load_encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import CheckpointError
from medssl.heads.decoder import Decoder
from medssl.methods.global_local_contrast import GlobalLocalContrast
from medssl.splits import split
from medssl.training import finetune as module
from medssl.training.export import fill_decoder
from medssl.training.finetune import finetune
from medssl.training.models import load_model
from medssl.training.pretrain import pretrain, resume
from medssl.training.settings import FinetuneSettings, TrainSettings

QUICK = TrainSettings(max_steps=2, batch_size=3, workers=0, progress=False, accelerator="cpu", log_every=1)
LABELLED = FinetuneSettings(
    size=(2, 16, 16), max_steps=1, batch_size=2, progress=False, accelerator="cpu", precision="32-true"
)
BLOCKS = 1


def method(**options: Any) -> GlobalLocalContrast:
    encoder = ResEnc(1, dims=2, features=(4, 6, 8), blocks=(1, 1, 1), strides=(1, 2, 2))
    return GlobalLocalContrast(
        encoder, size=(1, 16, 16), projector=(8, 8), decoder_blocks=BLOCKS, **options
    )  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_cohort(tmp_path_factory.mktemp("volumes"), "volume", patients=8)
    split(made, test=3)
    return made


@pytest.fixture(scope="module")
def stages(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of both stages."""
    first, second = tmp_path_factory.mktemp("runs") / "first", tmp_path_factory.mktemp("runs") / "second"
    pretrain(method=method(), cohort=[cohort], out=first, trainer=QUICK)
    pretrain(
        method=method(stage="decoder", region=1), cohort=[cohort], out=second, trainer=QUICK, init_from=first
    )  # fmt: skip
    return first, second


def encoder_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "encoder.safetensors")


def test_the_second_stage_hands_the_encoder_on_and_adds_a_decoder(stages: tuple[Path, Path]) -> None:
    first, second = stages
    assert not (first / "encoder" / "decoder.safetensors").exists()
    before, after = encoder_weights(first), encoder_weights(second)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    encoder, _ = load_encoder(second)
    assert isinstance(encoder, SliceWise)
    exported = load_file(second / "encoder" / "decoder.safetensors")
    part = Decoder(encoder, None, blocks=BLOCKS)
    part.load_state_dict(exported)
    checkpoint = torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(checkpoint[f"decoder.{k}"], v) for k, v in exported.items())


def test_the_second_stage_has_seen_the_patients_of_the_first(
    stages: tuple[Path, Path], cohort: Path, tmp_path: Path
) -> None:
    first, out = stages[0], tmp_path / "run"
    other = make_cohort(tmp_path / "other", "volume", patients=3)
    pretrain(method=method(stage="decoder", region=1), cohort=[other], out=out, trainer=QUICK, init_from=first)

    def seen(run: Path) -> dict[str, list[str]]:
        marks: dict[str, list[str]] = json.loads((run / "encoder" / "encoder.json").read_text())["provenance"][
            "patients"
        ]
        return marks

    assert seen(first).items() <= seen(out).items() and len(seen(out)) == 2
    resume(run=out, max_steps=3)
    assert seen(first).items() <= seen(out).items()


def test_segmentation_starts_from_the_decoder(
    stages: tuple[Path, Path], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    started: list[dict[str, torch.Tensor]] = []
    real = module._Job.train_head

    def spy(job: Any, out: Path) -> dict[str, Any]:
        started.append({k: v.clone() for k, v in job.head.state_dict().items()})
        return real(job, out)

    monkeypatch.setattr(module._Job, "train_head", spy)
    second = stages[1]
    summary = finetune(
        cohort=cohort, task="segmentation", target="organs", out=tmp_path / "run", encoder=str(second),
        settings=LABELLED,
    )  # fmt: skip
    exported = load_file(second / "encoder" / "decoder.safetensors")
    assert all(torch.equal(started[0][f"decoder.{k}"], v) for k, v in exported.items())
    own = [k for k in started[0] if k.startswith("decoder.")]
    assert summary["decoder"] == {"loaded": len(exported), "fresh": len(own) - len(exported)}
    note = f"{len(exported)} tensors of the decoder come from pre-training"
    assert any(note in n for n in summary["notes"]) and note in capsys.readouterr().err
    assert load_model(tmp_path / "run").head.decoder.slice_wise

    off = replace(LABELLED, pretrained_decoder=False)
    summary = finetune(
        cohort=cohort, task="segmentation", target="organs", out=tmp_path / "off", encoder=str(second), settings=off
    )  # fmt: skip
    assert summary["decoder"] is None and not any("decoder" in n for n in summary["notes"])
    assert any(not torch.equal(started[1][f"decoder.{k}"], v) for k, v in exported.items())


def test_without_a_decoder_nothing_is_said(stages: tuple[Path, Path], cohort: Path, tmp_path: Path) -> None:
    for task, target, run in (("segmentation", "organs", stages[0]), ("classification", "group", stages[1])):
        summary = finetune(
            cohort=cohort, task=task, target=target, out=tmp_path / task, encoder=str(run), settings=LABELLED,  # type: ignore[arg-type]
        )  # fmt: skip
        assert summary["decoder"] is None


def test_what_does_not_fit_stays_fresh(stages: tuple[Path, Path], tmp_path: Path) -> None:
    encoder, _ = load_encoder(stages[1])
    wide = Decoder(encoder, 2, channels=(4, 12))
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    filled = fill_decoder(wide, stages[1])
    assert filled is not None and filled.loaded == () and filled.fresh == tuple(before)
    assert all(torch.equal(v, before[k]) for k, v in wide.state_dict().items())
    whole = Decoder(encoder, 2)
    save_file(whole.state_dict(), tmp_path / "decoder.safetensors")
    filled = fill_decoder(Decoder(encoder, 2), tmp_path)
    assert filled is not None and all(name.startswith("outputs.") for name in filled.fresh) and filled.loaded
    (tmp_path / "decoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors' is damaged"):
        fill_decoder(whole, tmp_path)
    assert fill_decoder(whole, tmp_path / "nowhere") is None


def test_a_frozen_encoder_with_random_weights_is_pointed_out(cohort: Path, tmp_path: Path, capsys: Any) -> None:
    pretrain(method=method(stage="decoder", region=1), cohort=[cohort], out=tmp_path / "run", trainer=QUICK)
    assert "--init-from RUN" in capsys.readouterr().err
    pretrain(method=toy_method("volume"), cohort=[cohort], out=tmp_path / "other", trainer=QUICK)
    assert "--init-from" not in capsys.readouterr().err
