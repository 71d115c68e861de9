"""The encoder that is left behind is the one that looked best, without labels, also when the run was interrupted."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from toy_cohorts import toy_method
from toys import signal_encoder

from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError
from medssl.methods.base import Method
from medssl.methods.comet import COMET
from medssl.methods.contrastive import Contrastive
from medssl.training import pretrain as module
from medssl.training import quality
from medssl.training.best_look import best_of, score
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import pretrain, resume
from medssl.training.settings import TrainSettings
from medssl.views.signal import SignalViews

QUICK = TrainSettings(
    max_steps=6, batch_size=4, workers=0, log_every=1, checkpoint_every=4, keep_every=1, monitor_every=0,
    quality_every=1, progress=False, accelerator="cpu", keep_best="rankme",
)  # fmt: skip


def averaged() -> Method:
    encoder = TS2Vec(2, 4, out_dim=6, depth=1)
    return COMET(encoder, window=16, trial_s=4.0, windows=2)


def contrastive() -> Method:
    return Contrastive(signal_encoder(), SignalViews((64,), count=2), projector=(16, 8))


def exported(run: Path) -> tuple[int, dict[str, torch.Tensor]]:
    about = json.loads((run / "encoder" / "encoder.json").read_text())
    return about["provenance"]["step"], load_file(run / "encoder" / "encoder.safetensors")


def of_step(run: Path, step: int, part: str) -> dict[str, torch.Tensor]:
    """The encoder as a checkpoint of that step has it."""
    state = torch.load(run / "checkpoints" / f"step-{step:08d}.ckpt", weights_only=True)["state_dict"]
    return {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}


def planted(monkeypatch: pytest.MonkeyPatch, scores: Mapping[int, float]) -> None:
    """Looks whose scores are known: the n-th of the run."""
    real = quality.RepresentationMonitor._look

    def look(self: Any, trainer: Any, method: Any) -> dict[str, float]:
        return {**real(self, trainer, method), "quality_exported_rankme": scores[trainer.global_step]}

    monkeypatch.setattr(quality.RepresentationMonitor, "_look", look)


@pytest.mark.parametrize(("make", "part", "by"), [
    (averaged, "averaged", "rankme"), (contrastive, "encoder", "alignment_uniformity"),
])  # fmt: skip
def test_the_highest_score_is_kept(make: Any, part: str, by: Any, signals: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = pretrain(method=make(), cohort=[signals], out=run, trainer=replace(QUICK, keep_best=by))
    names = {"rankme": ("rankme",), "alignment_uniformity": ("alignment", "uniformity")}[by]
    sign = 1 if by == "rankme" else -1
    scores = {r["step"]: sign * sum(r[f"quality_exported_{n}"] for n in names) for r in read_metrics(run)}
    assert len(scores) == 6
    step, weights = exported(run)
    assert scores[step] == max(scores.values())
    assert summary["kept"] == {"by": by, "step": step, "score": scores[step], "looks": 6}
    wanted = of_step(run, step, part)
    assert wanted.keys() == weights.keys() and all(torch.equal(v, weights[k]) for k, v in wanted.items())


class Interrupt(Callback):
    """Stops the run during its fourth step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)


def test_the_choice_survives_an_interruption(signals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, {1: 2.0, 2: 5.0, 3: 1.0, 4: math.nan, 5: 5.0, 6: 4.0})
    run, real = tmp_path / "run", module.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_trainer", lambda out, calls, **o: real(out, [Interrupt(), *calls], **o))
        with pytest.raises(SystemExit):
            pretrain(method=toy_method("signal"), cohort=[signals], out=run, trainer=QUICK)
    before = exported(run)
    assert before[0] == 2
    kept = resume(run)["kept"]
    after = exported(run)
    assert kept == {"by": "rankme", "step": 2, "score": 5.0, "looks": 6}, "an equal score later changes nothing"
    assert after[0] == 2 and all(torch.equal(v, after[1][k]) for k, v in before[1].items())
    assert all(torch.equal(v, after[1][k]) for k, v in of_step(run, 2, "encoder").items())


def test_the_last_stands_by_default_and_until_there_is_a_look(signals: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, max_steps=2, keep_every=0)
    for name, changed in (("default", {"keep_best": "last"}), ("unseen", {"quality_every": 5})):
        summary = pretrain(
            method=toy_method("signal"), cohort=[signals], out=tmp_path / name, trainer=replace(settings, **changed)
        )
        assert exported(tmp_path / name)[0] == 2
        assert (summary["kept"] or {"step": None})["step"] is None


def test_scores() -> None:
    looks = [
        {"step": float(step), "quality_exported_rankme": rank, "quality_exported_uniformity": -1.0}
        for step, rank in enumerate([math.nan, 3.0, 7.0, 7.0])
    ]
    assert (
        best_of(looks, "rankme") is looks[2] and best_of(looks[:1], "rankme") is None and best_of([], "rankme") is None
    )
    assert best_of(looks, "alignment_uniformity") is None, "without views there is no alignment"
    assert (
        score({"quality_exported_alignment": 0.5, "quality_exported_uniformity": -2.0}, "alignment_uniformity") == 1.5
    )


def test_choices_that_cannot_be_made_are_refused(signals: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set quality_every"):
        TrainSettings(keep_best="rankme", monitor_every=0)
    with pytest.raises(ConfigError, match=r"ToyMethod does not have here; choose rankme"):
        pretrain(
            method=toy_method("signal"), cohort=[signals], out=tmp_path / "run",
            trainer=replace(QUICK, keep_best="alignment_uniformity"),
        )  # fmt: skip
