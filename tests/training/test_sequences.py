"""Sequences of epochs: never across a gap, every epoch answered once, and context that pays."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_cohorts import ToyEncoder, make_cohort

from medssl.cohort import Cohort
from medssl.encoders.base import InputSpec, save_encoder
from medssl.errors import ConfigError, MedSSLError
from medssl.heads.sequence import OUTSIDE, SequenceHead
from medssl.optim import Optim
from medssl.splits import Split, split
from medssl.training import inference
from medssl.training.data import collate
from medssl.training.finetune import finetune
from medssl.training.models import load_model
from medssl.training.predict import predict
from medssl.training.sequences import (
    LabelledSequences,
    epoch_spacing,
    in_sequences,
    runs_of,
    sequence_starts,
    unbroken,
)
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target, resolve_target
from medssl.training.windows import Recordings

RECIPE = str(Path(__file__).parent / "toy_night_recipe.py")
QUICK = {
    "max_steps": 3, "batch_size": 4, "progress": False, "accelerator": "cpu", "precision": "32-true", "sequence": 8,
    "context_width": 16,
}  # fmt: skip
SHORT = "P4-4"


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients with a night of 24 epochs each, but one of a single epoch; three of them for testing."""
    cohort = make_cohort(tmp_path_factory.mktemp("nights"), "night", patients=10, short=SHORT)
    split(cohort, test=3, seed=1)
    return cohort


@pytest.fixture(scope="module")
def target(nights: Path) -> Target:
    return resolve_target(Cohort(nights), "classification", "stage:A,B,C")


def tuned(nights: Path, out: Path, **changes: object) -> dict[str, object]:
    options = {k: changes.pop(k) for k in ("encoder", "budget") if k in changes}
    network = {} if "encoder" in options else {"architecture": ToyEncoder(dims=1)}
    return finetune(
        cohort=nights, task="classification", target="stage:A,B,C", out=out, **network, **options,  # type: ignore[arg-type]
        settings=FinetuneSettings(**{**QUICK, **changes}),  # type: ignore[arg-type]
    )  # fmt: skip


def test_runs_end_at_gaps_and_hold_every_epoch_once(target: Target) -> None:
    assert epoch_spacing(target) == 2.0
    runs = runs_of(target, 2.0)
    assert sorted(np.concatenate(runs).tolist()) == list(range(len(target)))
    for run in runs:
        assert len(set(target.rows[run])) == 1
        assert all(b - a == 2.0 for a, b in pairwise(target.onset_s[run]))  # type: ignore[index]
    # epoch 12 was not scored and epoch 20 is of a class that was left out
    assert [len(r) for r in runs if target.rows[r[0]] == 0] == [12, 7, 3]


def test_events_that_are_no_epochs_are_refused(signals: Path, tmp_path: Path) -> None:
    beats = resolve_target(Cohort(signals), "classification", "beat")
    uneven = Target(**{**beats.__dict__, "onset_s": np.cumsum(np.random.default_rng(0).uniform(0.5, 2, len(beats)))})
    with pytest.raises(ConfigError, match="sequence needs events of equal length"):
        epoch_spacing(uneven)
    one_each = Target(**{**beats.__dict__, "rows": np.arange(len(beats))})
    with pytest.raises(ConfigError, match="0% do"):
        epoch_spacing(one_each)


def test_a_moment_later_is_no_gap_and_a_repeated_time_is_one() -> None:
    assert [p.tolist() for p in unbroken(np.array([0.0, 2.01, 4.0, 4.0]), 2.0)] == [[0, 1, 2], [3]]
    assert unbroken(np.array([]), 2.0) == []


@pytest.mark.parametrize("most", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("length", [1, 2, 7, 20])
def test_sequences_cover_every_epoch(length: int, most: int) -> None:
    starts = sequence_starts(length, most)
    covered = {s + i for s in starts for i in range(min(most, length))}
    assert covered == set(range(length)) and len(set(starts)) == len(starts)


def test_overlapping_answers_are_averaged_and_nothing_crosses_a_gap() -> None:
    class Place(SequenceHead):
        """Answers with the mean feature of the sequence, to see what came together."""

        def decide(self, features: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
            assert known.all()
            return features.mean(1, keepdim=True).expand(-1, features.shape[1], 2)

    head = Place(ToyEncoder(dims=1), context="none", width=4)
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [100.0]])
    runs = [np.array([4, 3, 2, 1, 0]), np.array([5])]  # the order is that of time
    found = in_sequences(head, features, runs, most=4, batch=2)[:, 0]
    # sequences 4 3 2 1 (mean 2.5) and 3 2 1 0 (mean 1.5), and the lonely one
    assert found.tolist() == [1.5, 2.0, 2.0, 2.0, 2.5, 100.0]


def test_training_sequences_are_neighbours_in_time(target: Target) -> None:
    recordings = Recordings(target.cohort, channels=None, rows=np.unique(target.rows), cache_gb=1)
    items = np.arange(len(target))
    source = LabelledSequences(target, items, recordings, size=(64,), balance=True, sequence=8, spacing_s=2.0)
    rng = np.random.default_rng(0)
    seen = set()
    for item in source.order(rng)[:60]:
        sample = source.draw(int(item), rng)
        n = int(sample["known"].sum())
        assert sample["x"].shape == (8, 1, 64) and sample["known"][:n].all()
        assert (sample["y"][n:] == OUTSIDE).all() and not sample["x"][n:].any()
        assert target.y[item] in sample["y"][:n]
        whole = recordings.whole(int(target.rows[item]))[0]
        assert any(
            np.array_equal(np.concatenate(sample["x"][:n, 0]), whole[s : s + 64 * n]) for s in range(0, 1536, 64)
        )
        seen.add(n)
    assert {8, 7, 3} <= seen


def test_context_tells_apart_what_looks_the_same(nights: Path, tmp_path: Path) -> None:
    """A and C are the same waves; 0.5 is the F1 that guessing between them gives at best."""
    learn = {"max_steps": 50, "optim": Optim(lr=0.02), "augment": False, "validate_every": 50}
    together = tuned(nights, tmp_path / "a", **learn)
    alone = tuned(nights, tmp_path / "b", context="none", **learn)
    assert together["metrics"]["macro_f1"] > 0.9  # type: ignore[index]
    assert alone["metrics"]["macro_f1"] < 0.8  # type: ignore[index]
    assert {"kappa", "f1/A", "f1/B", "f1/C"} <= set(together["metrics"])  # type: ignore[arg-type]
    assert together["level"] == "window" and "sequences of at most 8" in str(together["aggregation"])


def test_every_labelled_epoch_is_answered_once_and_the_same_by_predict(nights: Path, tmp_path: Path) -> None:
    tuned(nights, tmp_path / "run", context="attention")
    tested = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert not tested.duplicated(["recording", "onset_s"]).any()
    held = set(Split.load(nights, "default").test)
    events = Cohort(nights).events
    scored = events[events["recording"].str.split("-").str[0].isin(held) & (events["value"] != "?")]
    assert len(tested) == len(scored)
    predict(
        run=tmp_path / "run",
        source=nights.parent / "night-source",
        out=tmp_path / "out",
        recipe=RECIPE,
        options={"short": SHORT},
    )
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index(["recording", "time_s"])
    # before the first gap both see the same epochs; after it predict also has the epoch scored "?"
    before = tested[tested["onset_s"] < 24].set_index(["recording", "onset_s"])
    np.testing.assert_allclose(table.loc[before.index, "p/B"], before["p/B"], atol=1e-4)


def test_a_file_without_stages_is_cut_into_epochs(nights: Path, tmp_path: Path) -> None:
    tuned(nights, tmp_path / "run", max_steps=1)
    np.save(tmp_path / "new.npy", np.random.default_rng(0).normal(size=(1, 32 * 7)).astype(np.float32))
    np.save(tmp_path / "tiny.npy", np.random.default_rng(1).normal(size=(1, 40)).astype(np.float32))
    options = {"rate_hz": 32.0, "units": "uV", "channels": ["C3"]}
    predict(run=tmp_path / "run", source=tmp_path / "new.npy", out=tmp_path / "out", options=options)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["time_s"].tolist() == [0.0, 2.0, 4.0]  # the last second is no epoch
    with pytest.raises(MedSSLError, match=r"shorter than one epoch of 2 s"):
        predict(run=tmp_path / "run", source=tmp_path / "tiny.npy", out=tmp_path / "out2", options=options)


def frozen(folder: Path) -> str:
    torch.manual_seed(0)
    spec = InputSpec(kind="signal", channels=("C3",), size=(64,), rate_hz=32.0)
    save_encoder(ToyEncoder(dims=1), folder / "encoder", spec, {})
    return str(folder)


def test_a_frozen_encoder_sees_every_epoch_once(nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = inference.predict_windows

    def count(head: object, windows: list[np.ndarray], batch: int) -> torch.Tensor:
        seen.append(len(windows))
        return real(head, windows, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(inference, "predict_windows", count)
    summary = tuned(
        nights, tmp_path / "run", encoder=frozen(tmp_path), freeze=True, max_steps=40, validate_every=5,
        optim=Optim(lr=0.01),
    )  # fmt: skip
    target = resolve_target(Cohort(nights), "classification", "stage:A,B,C")
    assert sum(seen) == len(target)  # training, eight looks at the validation patients, and the test patients
    assert summary["n_validation_patients"] == 1
    kept, before = load_model(tmp_path / "run").head.encoder.state_dict(), ToyEncoder(dims=1)
    torch.manual_seed(0)
    before = ToyEncoder(dims=1)
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in kept.items())


def test_only_the_parameters_that_are_named_learn(nights: Path, tmp_path: Path) -> None:
    tuned(nights, tmp_path / "run", encoder=frozen(tmp_path), encoder_trains=("second.*",))
    kept = load_model(tmp_path / "run").head.encoder
    torch.manual_seed(0)
    before = ToyEncoder(dims=1)
    assert torch.equal(kept.first.weight, before.first.weight)
    assert not torch.equal(kept.second.weight, before.second.weight)
    with pytest.raises(ConfigError, match=r"'blocks\.\*' fits no parameter of ToyEncoder"):
        tuned(nights, tmp_path / "other", encoder=frozen(tmp_path), encoder_trains=("blocks.*",))


def test_a_patient_with_a_single_epoch_is_tested_and_sequences_may_be_longer_than_any_night(
    nights: Path, tmp_path: Path
) -> None:
    assert "P4" in Split.load(nights, "default").test
    summary = tuned(nights, tmp_path / "run", batch_size=1, sequence=64)
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert table.loc[table["patient"] == "P4", "onset_s"].tolist() == [0.0]
    assert summary["n_test_items"] == len(table) and np.isfinite(table["p/A"]).all()


def test_a_single_epoch_is_a_batch_that_one_can_learn_from(target: Target) -> None:
    recordings = Recordings(target.cohort, channels=None, rows=np.unique(target.rows), cache_gb=1)
    lonely = np.flatnonzero(target.patients == "P4")
    source = LabelledSequences(target, lonely, recordings, size=(64,), balance=False, sequence=4, spacing_s=2.0)
    batch = collate([(0, 0), source.draw(int(lonely[0]), np.random.default_rng(0))])
    assert batch["known"].tolist() == [[True, False, False, False]]
    head = SequenceHead(ToyEncoder(dims=1), ("A", "B", "C"), context="lstm", width=8)
    loss, _ = head.train().loss(batch)
    loss.backward()
    assert torch.isfinite(loss) and head.norm.num_batches_tracked == 0
