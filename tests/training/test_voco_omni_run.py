"""A run that learns from masks: which ones, what is said of it, and that it continues across the first pseudo-mask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_cohorts import ToyEncoder, make_cohort

from medssl.cohort import Cohort
from medssl.evaluation.arms import make_arms, notes_on
from medssl.methods.voco import VoCo
from medssl.methods.voco_omni import VoCoOmni
from medssl.splits import split
from medssl.training.export import patient_marks
from medssl.training.finetune import finetune
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import pretrain, resume
from medssl.training.settings import FinetuneSettings, TrainSettings

QUICK = TrainSettings(
    max_steps=4, batch_size=4, workers=0, log_every=1, checkpoint_every=2, monitor_every=0, progress=False,
    accelerator="cpu",
)  # fmt: skip


def omni() -> VoCoOmni:
    return VoCoOmni(ToyEncoder(), "organs", 3, crop=(8, 8, 8), grid=(1, 2, 2), crops=2, projector=(16, 8))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients, six of them with a mask; three are test patients."""
    made = make_cohort(tmp_path_factory.mktemp("half"), "half_masked", patients=12)
    split(made, test=3, stratify="organs")
    return made


def test_masks_of_development_patients_alone_are_learnt_from_and_named(cohort: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = pretrain(method=omni(), cohort=[cohort], out=run, trainer=QUICK)
    manifest = Cohort(cohort).manifest
    test = set(json.loads((cohort / "splits" / "default.json").read_text())["test"])
    masked = manifest[[len(m) > 0 for m in manifest["masks"]]]
    wanted = masked[~masked["patient"].isin(test)]
    assert len(wanted) == 3 < len(masked) == 6
    used = summary["labels_used"]
    assert used == {"n_recordings": 3, "n_patients": 3, "recordings": list(wanted["recording"])}
    about = json.loads((run / "encoder" / "encoder.json").read_text())
    fingerprint = Cohort(cohort).info.fingerprint
    marks = patient_marks(fingerprint, wanted["patient"])
    assert about["provenance"]["labelled"] == {fingerprint: sorted(marks.values())}

    rows = read_metrics(run)
    assert ["pseudo" in row for row in rows] == [False, False, True, True]
    settings = FinetuneSettings(max_steps=1, batch_size=2, progress=False, accelerator="cpu", size=(8, 8, 8))
    tuned = finetune(
        cohort=cohort, task="segmentation", target="organs", encoder=str(run), budget="2", out=tmp_path / "tuned",
        settings=settings,
    )  # fmt: skip
    assert any("pre-trained with the labels of 3 patients" in note for note in tuned["notes"])
    assert tuned["decoder"]["loaded"] > 0, "fine-tuning starts from the decoder too"
    arms = make_arms({"omni": str(run)}, "finetune")
    assert notes_on(arms, about["encoder"], {})[0].startswith("omni was pre-trained with the labels")

    later = VoCo(ToyEncoder(), crop=(8, 8, 8), grid=(1, 2, 2), crops=2, projector=(16, 8))
    summary = pretrain(method=later, cohort=[cohort], out=tmp_path / "later", trainer=QUICK, init_from=run)
    assert not summary["labels_used"], "none in this run, but what it began with had"
    again = json.loads((tmp_path / "later" / "encoder" / "encoder.json").read_text())
    assert again["provenance"]["labelled"] == about["provenance"]["labelled"]


def test_a_run_continues_across_the_first_pseudo_masks_as_if_it_had_not_stopped(cohort: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretrain(method=omni(), cohort=[cohort], out=whole, trainer=QUICK)
    pretrain(method=omni(), cohort=[cohort], out=stopped, trainer=QUICK)
    # as a kill in the fourth step leaves it: the checkpoint is that of the third, which has pseudo-masks already
    three = TrainSettings(**{**QUICK.__dict__, "checkpoint_every": 3, "keep_every": 3})
    pretrain(method=omni(), cohort=[cohort], out=tmp_path / "three", trainer=three)
    (tmp_path / "three" / "checkpoints" / "step-00000003.ckpt").replace(stopped / "checkpoints" / "last.ckpt")
    (stopped / "summary.json").write_text('{"status": "running"}')
    resume(run=stopped)
    a, b = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (whole, stopped))
    assert a["labeller_made"] and all(torch.equal(value, b[name]) for name, value in a.items())
