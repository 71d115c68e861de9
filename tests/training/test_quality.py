"""Looks at the representation during training: always at the same recordings, and without a trace in the training."""

from __future__ import annotations

import contextlib
import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from toy_cohorts import ToyEncoder, ToyMethod, make_cohort, toy_method
from toys import signal_encoder, volume_encoder

from medssl.cohort import Cohort
from medssl.errors import TrainingError
from medssl.evaluation.sampling import spread
from medssl.methods.base import Losses, Method
from medssl.methods.contrastive import Contrastive
from medssl.methods.voco import VoCo
from medssl.training import monitor_set, quality
from medssl.training import pretrain as module
from medssl.training.data import MethodSource
from medssl.training.metrics_log import read_metrics
from medssl.training.monitor_set import MonitorSet
from medssl.training.pretrain import pretrain, resume
from medssl.training.quality import RepresentationMonitor, problem_of, undisturbed
from medssl.training.settings import TrainSettings
from medssl.views.base import Batch
from medssl.views.resized import read_resized
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews

QUICK = TrainSettings(
    max_steps=6, batch_size=4, workers=0, log_every=1, checkpoint_every=2, monitor_every=3, progress=False,
    accelerator="cpu", quality_every=2,
)  # fmt: skip


def contrastive_signals() -> Method:
    return Contrastive(signal_encoder(), SignalViews((64,), count=2), projector=(16, 8))


def contrastive_volumes() -> Method:
    return Contrastive(volume_encoder(), VolumeViews((8, 8, 8), count=3), projector=(16, 8), momentum=0.9)


def voco() -> Method:
    return VoCo(volume_encoder(), crop=(8, 8, 8), grid=(1, 2, 2), projector=(16, 8))


METHODS = pytest.mark.parametrize(
    ("kind", "make"),
    [("signal", contrastive_signals), ("volume", contrastive_volumes), ("volume", voco),
     ("signal", lambda: toy_method("signal"))],
    ids=["contrastive of signals", "with a teacher", "voco", "only an encoder"],
)  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def split_metrics(run: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Rows without looks and timing, and the looks alone."""
    rows, untimed = read_metrics(run), {"samples_per_s", "data_wait"}
    plain = [{k: v for k, v in r.items() if k not in untimed and not k.startswith("quality_")} for r in rows]
    looks = [{k: v for k, v in r.items() if k == "step" or k.startswith("quality_")} for r in rows]
    return plain, [r for r in looks if len(r) > 1]


def source_of(method: Method, cohort: Path, rows: int | None = None) -> MethodSource:
    opened = Cohort(cohort)
    return MethodSource(method, [opened], [np.arange(rows or len(opened))])


@METHODS
def test_looking_changes_nothing_and_writes_its_columns(
    kind: str, make: Callable[[], Method], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cohort = request.getfixturevalue(f"{kind}s")
    pretrain(method=make(), cohort=[cohort], out=tmp_path / "without", trainer=replace(QUICK, quality_every=0))
    summary = pretrain(method=make(), cohort=[cohort], out=tmp_path / "with", trainer=QUICK)
    plain, looks = split_metrics(tmp_path / "with")
    assert plain == split_metrics(tmp_path / "without")[0]
    before, after = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert [r["step"] for r in looks] == [2, 4, 6]
    assert {"quality_encoder_rankme", "quality_encoder_rankme_centred", "quality_encoder_std"} <= set(looks[0])
    joint = hasattr(make(), "embed")
    assert ("quality_projector_rankme" in looks[0]) == ("quality_alignment" in looks[0]) == joint
    assert summary["quality"]["step"] == 6 and summary["quality"]["quality_rows"] == 8
    assert summary["quality"]["quality_encoder_rankme"] == looks[-1]["quality_encoder_rankme"]


def test_the_numbers_are_those_of_the_middle_of_each_recording(signals: Path) -> None:
    method = contrastive_signals()
    monitor = RepresentationMonitor(None, source_of(method, signals), every=1, batch=3)  # type: ignore[arg-type]
    plain = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext))
    now = monitor._look(plain, method)  # type: ignore[arg-type]
    assert monitor._look(plain, method) == now, "the same recordings, views and weights give the same numbers"  # type: ignore[arg-type]
    readers = [Cohort(signals).reader(row) for row in range(8)]
    starts = [(r.shape[0] - 64) // 2 for r in readers]
    stored = [r.read((s,), (64,)).astype(np.float32) for r, s in zip(readers, starts, strict=True)]
    fields = [r.input_fields() for r in readers]
    x = np.stack([
        (a * f["input_scale"][:, None] + f["input_offset"][:, None]).clip(*f["input_range"])
        for a, f in zip(stored, fields, strict=True)
    ])  # fmt: skip
    with torch.no_grad():
        features = method.eval().encoder(torch.from_numpy(x)).pooled
    singular = np.linalg.svd(features.double().numpy(), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    assert now["quality_encoder_rankme"] == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-4)
    assert now["quality_encoder_width"] == features.shape[1] and now["quality_projector_width"] == 8
    assert now["quality_alignment"] > 0 and now["quality_not_finite"] == 0


class Interrupt(Callback):
    """The scheduler wants its node back during the fourth step."""

    def on_train_batch_start(self, trainer: Any, pl_module: object, batch: object, batch_idx: int) -> None:
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("every", [2, "auto"])
def test_looks_go_on_after_a_stop_as_if_there_had_been_none(
    every: Any, signals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, quality_every=every, monitor_every=1, max_steps=8)
    monkeypatch.setattr(quality, "SHARE", 0.2)  # auto: 8·3 passes of a look over 0.2·3·8 of a step are 5 steps
    pretrain(method=contrastive_signals(), cohort=[signals], out=tmp_path / "whole", trainer=settings)
    real = module.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_trainer", lambda run, calls, **o: real(run, [Interrupt(), *calls], **o))
        with pytest.raises(SystemExit):
            pretrain(method=contrastive_signals(), cohort=[signals], out=tmp_path / "stopped", trainer=settings)
    resume(run=tmp_path / "stopped")
    assert split_metrics(tmp_path / "stopped") == split_metrics(tmp_path / "whole")
    states = [torch.load(tmp_path / r / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
              ["RepresentationMonitor"] for r in ("whole", "stopped")]  # fmt: skip
    assert states[0] == states[1]
    assert [h["step"] for h in states[0]["history"]] == ([2, 4, 6, 8] if every == 2 else [5])


def test_looks_are_as_seldom_as_two_percent_of_the_training_allow(signals: Path) -> None:
    method = contrastive_signals()
    monitor = RepresentationMonitor(None, source_of(method, signals), at_least=10)  # type: ignore[arg-type]
    every = monitor._spacing(method, passes=8)
    look, step = 8 * (1 + 2), 3 * 8
    assert every % 10 == 0
    assert look / (step * every) <= 0.02 < look / (step * (every - 10))
    assert RepresentationMonitor(None, source_of(method, signals), every=7).every == 7  # type: ignore[arg-type]


def test_everything_is_put_back(signals: Path) -> None:
    method = contrastive_signals().train()
    method.encoder.eval()  # a part that is frozen must not be set to training
    method.generator.manual_seed(3)
    modes = [m.training for m in method.modules()]
    buffers = {k: v.clone() for k, v in method.state_dict().items()}
    random.seed(1), np.random.seed(2), torch.manual_seed(3)

    def drawn() -> tuple[Any, ...]:
        return random.random(), np.random.rand(), torch.rand(1), torch.rand(1, generator=method.generator)

    states = method.generator.get_state()
    expected = drawn()
    random.seed(1), np.random.seed(2), torch.manual_seed(3), method.generator.set_state(states)
    with pytest.raises(OSError, match="gone"), undisturbed(method):
        assert not any(m.training for m in method.modules())
        assert not torch.is_grad_enabled()
        drawn(), torch.nn.functional.dropout(torch.ones(9)), method.encoder(torch.randn(4, 2, 64))
        raise OSError("gone")
    assert drawn() == expected
    assert [m.training for m in method.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in buffers.items())


def test_the_set_is_spread_over_patients_and_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort(tmp_path, "signal", patients=4, per_patient=3)
    method = contrastive_signals()
    few = MonitorSet(method, source_of(method, cohort), rows=6)
    assert len(few) == 6 and few.n_patients == 4
    assert few.items.tolist() == MonitorSet(method, source_of(method, cohort), rows=6).items.tolist()
    assert len(MonitorSet(method, source_of(method, cohort), rows=99)) == 12
    each = (1 + 2) * 2 * 64 * 2 + 200  # a window and two views of two channels of int16, and the fields
    monkeypatch.setattr(monitor_set, "MEMORY", 5 * each)
    assert len(MonitorSet(method, source_of(method, cohort), rows=99)) in (4, 5)


def test_crops_in_millimetres_are_resized_as_the_views_do(volumes: Path) -> None:
    method = Contrastive(volume_encoder(), VolumeViews((8, 8, 8), size_mm=(16.0, 16.0, 16.0)), projector=(16, 8))
    kept = MonitorSet(method, source_of(method, volumes), rows=8)
    (x,) = kept.centred(8, torch.device("cpu"))
    (views,) = kept.augmented(8, torch.device("cpu"))
    assert x.shape == (8, 1, 8, 8, 8) and views.shape == (2, 8, 1, 8, 8, 8)
    reader = Cohort(volumes).reader(3)
    start = [(n - 16) // 2 for n in reader.shape]
    stored = torch.from_numpy(read_resized(reader, start, [16] * 3, (8, 8, 8)).astype(np.float32))
    fields = reader.input_fields()
    expected = stored * float(fields["input_scale"][0]) + float(fields["input_offset"][0])
    torch.testing.assert_close(x[3], expected.clamp(*fields["input_range"].tolist()))


def test_items_go_round_the_patients() -> None:
    patients = np.array(["a"] * 50 + ["b"] * 3 + ["c"])
    for most, counts in ((3, (1, 1, 1)), (5, (2, 2, 1)), (10, (6, 3, 1)), (99, (50, 3, 1))):
        chosen = patients[spread(patients, most, seed=4)]
        assert tuple((chosen == p).sum() for p in "abc") == counts
    assert (spread(patients, 20, seed=1) != spread(patients, 20, seed=2)).any()


HEALTHY = {
    "quality_not_finite": 0.0, "quality_encoder_std": 0.1, "quality_encoder_width": 32.0,
    "quality_encoder_rankme_centred": 20.0, "quality_projector_width": 16.0, "quality_projector_rankme": 12.0,
    "quality_projector_std": 0.2, "quality_projector_top1_share": 0.2, "quality_projector_uniformity": -2.5,
    "quality_alignment": 0.3, "quality_strangers": 1.9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"quality_not_finite": 3.0}, "3 of 64 embeddings are not finite"),
        ({"quality_projector_std": 0.01}, "complete collapse"),
        ({"quality_projector_rankme": 0.5}, "dimensional collapse"),
        ({"quality_projector_rankme": 5.0}, "lost half of their directions"),
        ({"quality_projector_top1_share": 0.8}, "one direction carries 80%"),
        ({"quality_projector_uniformity": -0.2}, "crowd together"),
        ({"quality_alignment": 1.2}, "views of a recording drift apart"),
        ({"quality_alignment": 1.2, "quality_strangers": 4.0}, None),
        ({"quality_encoder_std": 1e-4}, "features are nearly the same"),
        ({"quality_encoder_rankme_centred": 8.0}, "the encoder's features lost half of their directions (20.0 → 8.0)"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(change: dict[str, float], said: str | None) -> None:
    found = problem_of({**HEALTHY, **change}, [HEALTHY] * 2, rows=64)
    assert found is None if said is None else said in (found or "")


def test_a_fall_counts_within_three_looks_only() -> None:
    before, now = {**HEALTHY, "quality_encoder_rankme_centred": 30.0}, {**HEALTHY, "quality_encoder_rankme_centred": 12}
    assert problem_of(now, [before, HEALTHY, HEALTHY], rows=64)
    assert problem_of(now, [before, HEALTHY, HEALTHY, HEALTHY], rows=64) is None


class Collapsing(ToyMethod):
    """Its encoder forgets everything after the first step."""

    def loss(self, batch: Batch) -> Losses:
        with torch.no_grad():
            self.encoder.second.weight.zero_()
        return super().loss(batch)


@pytest.mark.filterwarnings("ignore::medssl.training.monitor.CollapseWarning")
def test_a_collapsed_run_ends_when_asked_to(signals: Path, tmp_path: Path) -> None:
    method = Collapsing(ToyEncoder(in_channels=2, dims=1), size=(64,))
    settings = replace(QUICK, max_steps=60, quality_every=1, monitor_every=0, log_every=10, fail_on_collapse=True)
    with pytest.raises(TrainingError, match=r"3 looks in a row.*complete collapse"):
        pretrain(method=method, cohort=[signals], out=tmp_path / "run", trainer=settings)
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written["status"] == "failed" and "complete collapse" in written["error"]
    assert split_metrics(tmp_path / "run")[1][-1]["step"] == 53, "two looks of grace after 50 steps of warm-up"


def test_undefined_measures_are_left_out_of_the_file(signals: Path, tmp_path: Path) -> None:
    method = Collapsing(ToyEncoder(in_channels=2, dims=1), size=(64,))
    pretrain(method=method, cohort=[signals], out=tmp_path / "run", trainer=QUICK)
    looks = split_metrics(tmp_path / "run")[1]
    assert all(math.isfinite(v) for look in looks for v in look.values())
    assert looks[0]["quality_encoder_rankme"] == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_two_processes_look_once_and_do_not_wait_for_each_other_forever(signals: Path, tmp_path: Path) -> None:
    worker = Path(__file__).with_name("quality_worker.py")
    for name, every in (("with", "2"), ("without", "0")):
        command = [sys.executable, str(worker), str(signals), str(tmp_path / name), every]
        subprocess.run(command, check=True, timeout=300, capture_output=True)
    plain, looks = split_metrics(tmp_path / "with")
    assert plain == split_metrics(tmp_path / "without")[0] and [r["step"] for r in looks] == [2, 4]
    before, after = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert all(torch.equal(v, after[k]) for k, v in before.items())
