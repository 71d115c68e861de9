"""Stages: clusters of earlier stages, batches of one cluster, and runs that build on runs."""

from __future__ import annotations

import itertools
import json
import signal as signals_of_the_system
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from toy_cohorts import ToyEncoder, make_cohort

from medssl.cohort import Cohort
from medssl.configurable import build, spec
from medssl.encoders.base import load_encoder
from medssl.encoders.concatenated import Concatenated
from medssl.errors import CheckpointError, CohortError, ConfigError, SplitError
from medssl.methods.base import Method
from medssl.methods.contrastive import Contrastive
from medssl.methods.pure_batches import UNKNOWN, composite_codes, merged, pure_order
from medssl.methods.stages import Stages, encoded, of_column, of_features, spread_starts
from medssl.splits import split
from medssl.training import pretrain as module
from medssl.training.data import Batches, Draws, MethodSource
from medssl.training.finetune import finetune
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import initialise, pretrain, resume
from medssl.training.settings import FinetuneSettings, TrainSettings
from medssl.views.signal import SignalViews

SETTINGS = TrainSettings(
    max_steps=5, batch_size=2, workers=0, log_every=1, checkpoint_every=2, monitor_every=0, progress=False,
    accelerator="cpu",
)  # fmt: skip


# --- codes and orders ---------------------------------------------------------------------------------------------


def test_codes_are_numbers_to_the_base_k_and_differ_wherever_a_stage_does() -> None:
    digits = np.array(list(itertools.product(range(3), repeat=3)))
    codes = composite_codes(digits, (3, 3, 3))
    assert codes.tolist() == [a * 9 + b * 3 + c for a, b, c in digits]
    uneven = np.array(list(itertools.product(range(2), range(5), range(3))))
    assert sorted(composite_codes(uneven, (2, 5, 3))) == list(range(30))
    assert composite_codes(np.array([[1, UNKNOWN]]), (2, 2)).tolist() == [UNKNOWN]


def apart(k: int) -> np.ndarray:
    return 1.0 - np.eye(k)


def test_clusters_that_are_large_enough_stay_as_they_are() -> None:
    digits = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [1, 0]])
    clusters = merged(digits, [apart(2), apart(2)], 2)
    assert clusters.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_small_cluster_joins_its_sibling_before_a_stranger() -> None:
    digits = np.array([[0, 0]] * 4 + [[0, 1]] + [[1, 1]] * 3)
    clusters = merged(digits, [apart(2), apart(2)], 3)
    assert clusters.tolist() == [0] * 5 + [1] * 3


def test_among_siblings_the_nearest_takes_it_in() -> None:
    digits = np.array([[0], [0], [1], [2], [2]])
    near_two = np.array([[0, 5, 9], [5, 0, 1], [9, 1, 0]])
    assert merged(digits, [near_two], 2).tolist() == [0, 0, 1, 1, 1]
    assert merged(digits, [near_two.max() - near_two], 2).tolist() == [0, 0, 0, 1, 1]


def test_merging_goes_on_until_every_cluster_fills_a_batch() -> None:
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 5, (200, 3))
    for least in (1, 7, 30, 150, 1000):
        clusters = merged(digits, [apart(5)] * 3, least)
        sizes = np.bincount(clusters)
        assert len(clusters) == 200 and (len(sizes) == 1 or sizes.min() >= least)
    assert len(np.unique(merged(digits, [apart(5)] * 3, 1))) == len(np.unique(digits, axis=0)), "nothing to merge"


def test_recordings_without_a_cluster_make_one_of_their_own() -> None:
    digits = np.array([[UNKNOWN], [0], [UNKNOWN], [0]])
    assert merged(digits, [apart(1)], 2).tolist() == [0, 1, 0, 1]
    assert len(np.unique(merged(digits, [apart(1)], 3))) == 1


def test_every_batch_is_pure_and_no_member_stands_twice_in_an_epoch() -> None:
    clusters = np.repeat([0, 1, 2], [7, 12, 4])
    epochs = [pure_order(clusters, 4, np.random.default_rng([3, epoch])) for epoch in range(20)]
    for order in epochs:
        assert len(order) == 4 + 12 + 4 and len(set(order.tolist())) == len(order)
        assert all(len(set(clusters[batch])) == 1 for batch in order.reshape(-1, 4))
    assert {i for order in epochs for i in order.tolist()} == set(range(23)), "another part is left out each time"
    visited = {tuple(clusters[order.reshape(-1, 4)[:, 0]]) for order in epochs}
    assert len(visited) > 3, "the clusters come in random order"
    again = pure_order(clusters, 4, np.random.default_rng([3, 0]))
    assert np.array_equal(again, epochs[0]), "all devices draw the same"


# --- clusters of a stage ------------------------------------------------------------------------------------------


def test_values_of_a_column_are_clusters_and_missing_ones_none() -> None:
    manifest = pd.DataFrame({"site": ["b", None, "a", "b"], "label_sex": [1.0, 0.0, np.nan, 1.0]})
    assert of_column(manifest, "site").digits.tolist() == [1, UNKNOWN, 0, 1]
    assert of_column(manifest, "sex").digits.tolist() == [1, 0, UNKNOWN, 1]
    assert of_column(manifest, "site").distances.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(CohortError, match=r"no column 'scanner'.*site"):
        of_column(manifest, "scanner")
    with pytest.raises(CohortError, match="nothing in the column 'age'"):
        of_column(manifest.assign(age=None), "age")


def test_features_are_clustered_by_direction() -> None:
    rng = np.random.default_rng(0)
    directions = np.eye(4)[[0, 1, 2]]
    group = rng.integers(0, 3, 60)
    lengths = rng.uniform(0.1, 50, (60, 1))
    features = ((directions[group] + 0.01 * rng.normal(size=(60, 4))) * lengths).astype(np.float32)
    found = of_features(features, 3)
    assert len({(a, b) for a, b in zip(group, found.digits, strict=True)}) == 3, "one cluster a direction"
    off = found.distances[~np.eye(3, dtype=bool)]
    np.testing.assert_allclose(off, np.sqrt(2), atol=0.05)
    assert of_features(features[:2], 10).distances.shape == (2, 2), "never more clusters than recordings"


def test_windows_reach_from_end_to_end() -> None:
    assert spread_starts((100,), (30,), 3) == [(0,), (35,), (70,)]
    assert spread_starts((100, 40, 40), (30, 30, 30), 8) == [(0, 5, 5), (23, 5, 5), (47, 5, 5), (70, 5, 5)]
    assert spread_starts((5, 40), (30, 30), 1) == [(-13, 5)]


# --- runs that build on runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), "signal", patients=8)


def method(stages: Stages | None = None, width: int = 4) -> Contrastive:
    return Contrastive(
        ToyEncoder(in_channels=2, dims=1, width=width), SignalViews((64,)), projector=(8, 4), stages=stages
    )


def source_of(made: Method, cohort: Path, batch: int = 2) -> MethodSource:
    source = MethodSource(made, [Cohort(cohort)], [np.arange(8)])
    made.prepare(source, batch=batch)
    source.refresh(made)
    return source


@pytest.fixture(scope="module")
def stage0(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stage0") / "run"
    pretrain(method=method(), cohort=[cohort], out=out, trainer=SETTINGS)
    return out


def test_features_of_a_recording_are_the_mean_over_its_windows(cohort: Path) -> None:
    torch.manual_seed(0)
    encoder, source = ToyEncoder(in_channels=2, dims=1, width=4), source_of(method(), cohort)
    found = encoded(encoder, source, (64,), windows=3, device=torch.device("cpu"))
    reader = Cohort(cohort).reader(5)
    fields = reader.input_fields()
    windows = np.stack([reader.read(start, (64,)) for start in spread_starts(reader.shape, (64,), 3)]).astype(float)
    scaled = windows * fields["input_scale"][:, None] + fields["input_offset"][:, None]
    x = torch.from_numpy(np.clip(scaled, *fields["input_range"])).float()
    with torch.no_grad():
        np.testing.assert_allclose(found[5], encoder(x).pooled.mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert found.shape == (8, 8)


def test_batches_are_pure_in_the_values_of_a_column(cohort: Path) -> None:
    source = source_of(method(Stages(columns=("rhythm",))), cohort)
    rhythm = source.manifest["label_rhythm"].to_numpy()
    for epoch in range(3):
        order = source.order(np.random.default_rng(epoch))
        assert sorted(order) == list(range(8))
        assert all(len(set(rhythm[pair])) == 1 for pair in order.reshape(-1, 2))
    assert source.method.exported is source.method.encoder, "a column brings no encoder"


def test_a_second_stage_draws_pure_batches_and_leaves_both_encoders_behind(
    cohort: Path, stage0: Path, tmp_path: Path
) -> None:
    stages = Stages(runs=(str(stage0),), clusters=3)
    source = source_of(made := method(stages), cohort)
    clusters = stages.cluster(source, stages.encoders(source), size=(64,), batch=2)
    assert len(set(clusters.tolist())) > 1
    order = source.order(np.random.default_rng(0))
    assert all(len(set(clusters[pair])) == 1 for pair in order.reshape(-1, 2))
    assert not any(p.requires_grad for p in made.earlier.parameters())

    out = tmp_path / "stage1"
    summary = pretrain(method=method(stages), cohort=[cohort], out=out, trainer=SETTINGS)
    assert summary["status"] == "finished"
    first, _ = load_encoder(stage0)
    both, inputs = load_encoder(out)
    assert isinstance(both, Concatenated) and both.out_dim == 2 * first.out_dim and inputs.size == (64,)
    both.check_input(2, (64,))
    kept = both.encoders[0].state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in first.state_dict().items()), "earlier stages are not trained"
    trained = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(v, trained[f"encoder.{k}"]) for k, v in both.encoders[1].state_dict().items())


def test_the_loss_sees_the_newest_encoder_alone(cohort: Path, stage0: Path) -> None:
    torch.manual_seed(0)
    plain = method()
    torch.manual_seed(0)
    staged = method(Stages(runs=(str(stage0),)))
    source = source_of(staged, cohort)
    drawn = {
        k: torch.from_numpy(np.stack([np.asarray(source.draw(i, np.random.default_rng(i))[k]) for i in range(4)]))
        for k in source.draw(0, np.random.default_rng(0))
    }
    losses = []
    for one in (plain, staged):
        one.generator.manual_seed(0)
        losses.append(one.loss({**drawn, "seed": 0}).total.item())
    assert losses[0] == losses[1]


def test_devices_that_share_a_batch_draw_from_one_cluster(cohort: Path) -> None:
    source = source_of(method(Stages(columns=("rhythm",))), cohort, batch=4)
    draws, rhythm = Draws(source, seed=0), source.manifest["label_rhythm"].to_numpy()
    ranks = [list(Batches(first=0, count=6, size=2, rank=rank, world=2)) for rank in range(2)]
    for step in zip(*ranks, strict=True):
        rows = [int(draws[position]["row"]) for positions in step for position in positions]
        assert len(set(rows)) == 4 and len(set(rhythm[rows])) == 1


def test_other_weights_to_start_from_leave_earlier_stages_alone(cohort: Path, stage0: Path) -> None:
    made = method(Stages(runs=(str(stage0),)), width=4)
    source_of(made, cohort)
    before = {k: v.clone() for k, v in made.earlier.state_dict().items()}
    with torch.no_grad():
        for parameter in made.encoder.parameters():
            parameter.zero_()
    initialise(made, stage0)
    assert all(torch.equal(v, before[f"0.{k}"]) for k, v in made.encoder.state_dict().items())
    with torch.no_grad():
        for parameter in made.earlier.parameters():
            parameter.add_(1)
    initialise(made, stage0)
    assert all(not torch.equal(v, before[k]) for k, v in made.earlier.state_dict().items())


def test_a_third_stage_names_both_and_keeps_three_encoders(cohort: Path, stage0: Path, tmp_path: Path) -> None:
    pretrain(method=method(Stages(runs=(str(stage0),))), cohort=[cohort], out=tmp_path / "stage1", trainer=SETTINGS)
    runs = (str(stage0), str(tmp_path / "stage1"))
    made = method(Stages(runs=runs, columns=("rhythm",), clusters=2))
    source = source_of(made, cohort)
    rhythm = source.manifest["label_rhythm"].to_numpy()
    order = source.order(np.random.default_rng(0)).reshape(-1, 2)
    assert all(len(set(rhythm[pair])) == 1 for pair in order)
    assert isinstance(made.exported, Concatenated) and made.exported.out_dim == 3 * made.encoder.out_dim
    with pytest.raises(CheckpointError, match="2 stages; name the runs of all"):
        source_of(method(Stages(runs=runs[1:])), cohort)


def test_both_stages_are_fine_tuned_unless_either_saw_the_test_patients(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, "signal", patients=12)
    split(cohort, test=4, stratify="rhythm")
    for name, exclude in (("clean", None), ("leaky", "none")):
        first, second = tmp_path / f"{name}0", tmp_path / f"{name}1"
        pretrain(method=method(), cohort=[cohort], out=first, trainer=SETTINGS, exclude_split=exclude)
        pretrain(method=method(Stages(runs=(str(first),))), cohort=[cohort], out=second, trainer=SETTINGS)
    settings = FinetuneSettings(max_steps=2, batch_size=4, progress=False, accelerator="cpu", precision="32-true")
    for target in ("rhythm", "beat"):
        found = finetune(
            cohort=cohort, task="classification", target=target, out=tmp_path / target,
            encoder=str(tmp_path / "clean1"), settings=settings,
        )  # fmt: skip
        assert found["architecture"] == "Concatenated"
    with pytest.raises(SplitError, match="test patients"):
        finetune(
            cohort=cohort, task="classification", target="rhythm", out=tmp_path / "refused",
            encoder=str(tmp_path / "leaky1"), settings=settings,
        )  # fmt: skip


class Interrupt(Callback):
    """The scheduler wants its node back during the third step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            signals_of_the_system.raise_signal(signals_of_the_system.SIGTERM)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if "loss" in row]


def test_a_stage_that_was_stopped_continues_as_if_it_had_not_been(
    cohort: Path, stage0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(runs=(str(stage0),), clusters=3)
    pretrain(method=method(stages), cohort=[cohort], out=tmp_path / "whole", trainer=SETTINGS)
    real = module.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_trainer", lambda run, calls, **o: real(run, [Interrupt(), *calls], **o))
        with pytest.raises(SystemExit):
            pretrain(method=method(stages), cohort=[cohort], out=tmp_path / "stopped", trainer=SETTINGS)
    resume(run=tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    a, b = (load_encoder(tmp_path / name)[0].state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_clusters_are_kept_and_taken_from_where_they_were_kept(
    cohort: Path, stage0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(runs=(str(stage0),), clusters=4)
    source = source_of(method(stages), cohort)
    order = source.order(np.random.default_rng(0))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr("medssl.methods.stages.encoded", refuse)
    again = source_of(method(stages), cohort)
    assert np.array_equal(again.order(np.random.default_rng(0)), order)
    with pytest.raises(AssertionError, match="again"):
        source_of(method(Stages(runs=(str(stage0),), clusters=5)), cohort)


def test_a_run_that_cannot_be_written_to_still_serves(
    cohort: Path, stage0: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("medssl.methods.stages.np.savez", full)
    source_of(method(Stages(runs=(str(stage0),), clusters=6)), cohort)
    assert "no space left" in capsys.readouterr().err


def test_settings_and_cohorts_that_do_not_fit_are_refused(cohort: Path, stage0: Path) -> None:
    with pytest.raises(ConfigError, match="runs of earlier stages, or columns"):
        Stages()
    with pytest.raises(ConfigError, match="at least 2 clusters"):
        Stages(columns=("site",), clusters=1)
    with pytest.raises(ConfigError, match="batch of 9 is more than the 8 recordings"):
        source_of(method(Stages(columns=("rhythm",))), cohort, batch=9)
    with pytest.raises(CheckpointError, match="no exported encoder"):
        source_of(method(Stages(runs=("nowhere",))), cohort)
    info = SimpleNamespace(kind="signal", channels=("I", "V1"), rate_hz=50.0, spacing_mm=None)
    with pytest.raises(ConfigError, match="trained with channels"):
        Stages(runs=(str(stage0),)).encoders(SimpleNamespace(cohorts=[SimpleNamespace(info=info)]))  # type: ignore[arg-type]


def test_specification_with_stages_builds_the_same_method(stage0: Path) -> None:
    made = method(Stages(runs=(str(stage0),), columns=("rhythm",)))
    written = json.loads(json.dumps(spec(made)))
    assert spec(build(written, Method)) == spec(made)  # type: ignore[type-abstract]
