"""COMET: which windows meet in a batch, what each level sees, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases_comet import Halves, comet
from toys import ToyReader, collate, info, signal, signal_encoder

from medssl.encoders.base import Encoder
from medssl.errors import CohortError, ConfigError
from medssl.methods.comet import COMET, LevelWeights
from medssl.methods.step_wise import encode_steps
from medssl.objectives.hierarchical import (
    id_loss,
    mean_over_scales,
    observation_losses,
    pyramid,
    same,
    sample_losses,
)
from medssl.training.data import Draws


@dataclass
class Trial(ToyReader):
    """A recording that is one trial."""

    @property
    def record(self) -> dict[str, Any]:
        return {**super().record, "trial": "7"}


def made(**options: Any) -> COMET:
    method = comet(**options).make()
    assert isinstance(method, COMET)
    return method


def batch_of(method: COMET, readers: list[ToyReader], seed: int = 0) -> dict[str, Any]:
    samples = [method.draw(r, np.random.default_rng([seed, i])) for i, r in enumerate(readers)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


def losses_of(method: COMET, batch: dict[str, Any]) -> Any:
    method.generator.manual_seed(batch["seed"])
    return method.loss(batch)


def manifest(lengths: list[int], patients: list[str] | None = None, trials: list[str] | None = None) -> pd.DataFrame:
    n = len(lengths)
    columns: dict[str, Any] = {
        "recording": [f"R{i}" for i in range(n)],
        "patient": patients or [f"P{i}" for i in range(n)],
        "shape": [[length] for length in lengths],
        "rate_hz": [100.0] * n,
    }
    return pd.DataFrame(columns if trials is None else {**columns, "trial": trials})


def prepared(method: COMET, frame: pd.DataFrame, batch: int = 4) -> COMET:
    method.prepare(SimpleNamespace(places=range(len(frame)), cohorts=[], manifest=frame), batch=batch)  # type: ignore[arg-type]
    return method


# --- what is drawn


def test_windows_of_several_trials_of_a_recording() -> None:
    method, reader = made(trials=3, windows=2), signal(1, 950)  # nine trials of 100 samples, 25 left out at each end
    seen = set()
    for seed in range(40):
        drawn = method.draw(reader, np.random.default_rng(seed))  # type: ignore[arg-type]
        trials = (drawn["starts"] - 25) // 100
        assert drawn["x"].shape == (6, 2, 16)
        assert sorted(np.unique(drawn["trial"], return_counts=True)[1]) == [2, 2, 2]
        assert len({*zip(trials, drawn["trial"], strict=True)}) == 3, "ids name the trials"
        assert ((drawn["starts"] - 25) % 100 <= 84).all(), "windows stay inside their trial"
        assert all(abs(a - b) >= 8 for t in set(trials) for a, b in [drawn["starts"][trials == t]])
        for start, x in zip(drawn["starts"], drawn["x"], strict=True):
            np.testing.assert_array_equal(x, reader.data[:, start : start + 16])
        seen |= set(trials)
    assert seen == set(range(9))


@pytest.mark.parametrize("length", [100, 180])
def test_a_recording_of_one_trial_gives_more_windows_of_it(length: int) -> None:
    drawn = made(trials=3, windows=2).draw(signal(0, length), np.random.default_rng(0))  # type: ignore[arg-type]
    assert drawn["x"].shape == (6, 2, 16) and len(set(drawn["trial"])) == 1


def test_a_recording_with_a_trial_id_is_one_trial() -> None:
    plain = signal(0, 900)
    trial = Trial(plain.data, row=0, rate_hz=None, input_range=plain.input_range)
    method = made()
    drawn = [method.draw(trial, np.random.default_rng(s)) for s in range(30)]  # type: ignore[arg-type]
    assert len({t for d in drawn for t in d["trial"]}) == 1
    assert max(d["starts"].max() for d in drawn) > 700
    plain.rate_hz = None
    with pytest.raises(CohortError, match=r"recording R0 has no rate, so trial_s means nothing"):
        method.draw(plain, np.random.default_rng(0))  # type: ignore[arg-type]


def test_ids_tell_recordings_and_patients_apart() -> None:
    method = made()
    batch = batch_of(method, [signal(0), signal(1)])
    assert batch["patient"].unique().numel() == 2 and batch["trial"].unique().numel() == 4


def test_standardised_trials_have_mean_zero_and_unit_variance() -> None:
    method = made(standardise=True, trials=1, windows=2)
    seen: list[torch.Tensor] = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    reader = signal(0, 100)
    reader.data[0] = 7  # a lead that fell off
    batch = batch_of(method, [reader])
    losses_of(method, batch)
    values = reader.data / np.float32(1000)
    for x, start in zip(seen[0], batch["starts"][0].tolist(), strict=True):
        wanted = (values[1] - values[1].mean()) / values[1].std()
        np.testing.assert_allclose(x[1], wanted[start : start + 16], atol=1e-5)
        np.testing.assert_allclose(x[0], 0, atol=1e-6)


def test_published_windows_stand_on_a_grid() -> None:
    method = made(reference=True)
    starts = [method.draw(signal(0, 100), np.random.default_rng(s))["starts"] for s in range(20)]  # type: ignore[arg-type]
    assert set(np.concatenate(starts)) == set(range(0, 85, 8))


# --- which recordings meet


class Rows:
    """A source of windows for ``Draws``."""

    def __init__(self, method: COMET, frame: pd.DataFrame, lengths: list[int]) -> None:
        self.method, self.frame = method, frame
        self.readers = [signal(i, n) for i, n in enumerate(lengths)]
        for reader, patient in zip(self.readers, frame["patient"], strict=True):
            reader.patient = patient

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return self.method.order(self.frame, rng)

    def draw(self, item: int, rng: np.random.Generator) -> dict[str, Any]:
        return self.method.draw(self.readers[item], rng)  # type: ignore[arg-type]

    def name(self, item: int) -> str:
        return str(item)


def test_every_full_batch_holds_positives_on_both_levels() -> None:
    """Recordings too short for two trials: only the order brings trials of a patient together."""
    lengths = [90] * 14
    frame = manifest(lengths, patients=["A", "A", "B", "B", "C", "C", "D", "D", "E", "F", "G", "H", "I", "J"])
    method = prepared(made(trials=2, windows=1, levels=("patient", "sample")), frame, batch=3)
    trials = prepared(made(), frame, batch=3)
    draws = Draws(Rows(method, frame, lengths), seed=3)
    for first in range(0, 36, 3):  # three epochs of four batches
        rows = [draws[p] for p in range(first, first + 3)]
        batch = collate(rows, seed=0)
        whose = trials._whose(batch)
        assert (whose.trial & ~whose.left_out).any()
        assert (whose.patient & ~whose.trial).any()


def test_recordings_of_a_patient_are_spread_without_a_manifest_of_patients() -> None:
    method = prepared(made(), manifest([400] * 6), batch=4)
    order = method.order(pd.DataFrame({"recording": list("abcdef")}), np.random.default_rng(0))
    assert sorted(order) == list(range(6))


def test_positives_that_cannot_exist_are_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match=r"level patient has nothing.*leave patient out of levels"):
        prepared(made(), manifest([150, 150]))
    with pytest.raises(ConfigError, match=r"leave patient out of levels"):
        prepared(made(trials=1), manifest([900, 900]))
    with pytest.raises(ConfigError, match=r"leave patient out of levels"):
        prepared(made(), manifest([150, 150], patients=["A", "A"]), batch=1)
    with pytest.raises(ConfigError, match=r"holds two windows of 16 samples.*leave trial out of levels"):
        prepared(made(), manifest([20, 18], patients=["A", "A"]))
    prepared(made(levels=("trial", "sample")), manifest([150, 150]))
    prepared(made(levels=("sample", "patient")), manifest([20, 18], patients=["A", "A"]))
    prepared(made(), manifest([150, 900]))
    prepared(made(), manifest([900, 900], patients=["A", "A"], trials=["1", "2"]))
    with pytest.raises(ConfigError, match=r"leave patient out of levels"):
        prepared(made(), manifest([900, 900], trials=["1", "2"]))
    with pytest.raises(ConfigError, match=r"trial of 0.1 s has 10 samples at 100 Hz, fewer than a window of 16"):
        made(trial_s=0.1).check(SimpleNamespace(kind="signal", rate_hz=100.0, channels=("a", "b")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ("sample", "day")}, "one or more of patient, trial, sample, observation; got day"),
        ({"levels": ()}, "got none"),
        ({"windows": 1}, "set windows to 2 or more"),
        ({"reference": True, "symmetric_ids": True}, "excludes symmetric_ids"),
        ({"mask": "half"}, "COMET's mask is one of none"),
        ({"id_mask": "half"}, "COMET's id_mask is one of none"),
        ({"weights": LevelWeights(trial=-1)}, "weights of 0 or more"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**options)


def test_encoders_without_a_vector_of_every_step_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ResNet1d has no map of the signal's full length; choose TS2Vec"):
        COMET(signal_encoder(), window=16)


# --- what the levels see


def passes(method: COMET) -> int:
    count: list[int] = []
    hook = method.encoder.register_forward_hook(lambda *_: count.append(1))
    losses_of(method, batch_of(method, [signal(0), signal(1)]))
    hook.remove()
    return len(count)


def test_two_levels_share_their_passes() -> None:
    assert [passes(made(**options)) for options in (
        {}, {"share_passes": False}, {"reference": True}, {"levels": ("trial", "sample")}, {"levels": ("observation",)},
        {"id_mask": "continuous"},
    )] == [4, 8, 8, 4, 2, 2]  # fmt: skip


def test_the_loss_is_the_weighted_sum_of_the_four() -> None:
    weights = LevelWeights(patient=2.0, trial=3.0, sample=0.5, observation=0.7)
    method = made(mask="none", weights=weights).eval()
    batch = batch_of(method, [signal(0), signal(1), signal(2)])
    found = losses_of(method, batch)
    x = (batch["x"].float() / 1000).flatten(0, 1)
    z = method.encoder(x).maps[0].mT
    patient, trial = batch["patient"].repeat_interleave(4), batch["trial"].flatten()
    start = batch["starts"].flatten()
    close = same(trial) & ((start[:, None] - start).abs() < 8)
    wanted = {
        "patient": id_loss(z, z, same(patient), left_out=close),
        "trial": id_loss(z, z, same(trial), left_out=close),
        "sample": mean_over_scales(pyramid(z, z), sample_losses).mean(),
        "observation": mean_over_scales(pyramid(z, z), observation_losses).mean(),
    }
    for level, loss in wanted.items():
        torch.testing.assert_close(found.terms[level], loss.detach())
    total = sum(getattr(weights, level) * loss for level, loss in wanted.items())
    torch.testing.assert_close(found.total, total)
    assert found.terms["trial_positives"] == 1 and found.terms["patient_positives"] == 1


def test_windows_that_are_too_close_are_neither_drawn_nor_compared() -> None:
    method = made(min_gap=3.0, trials=1, windows=2)
    apart = batch_of(method, [signal(0, 100)])["starts"][0]
    assert (apart[1] - apart[0]).abs() >= 48
    without_room = batch_of(method, [signal(0, 50), signal(1, 50)])
    found = losses_of(method, without_room).terms
    assert found["trial_positives"] == 0 and found["trial"] == 0


def test_steps_are_hidden_behind_the_input_layer_or_in_the_input() -> None:
    x, mask = torch.randn(3, 2, 16), torch.rand(3, 16) > 0.5
    own = made().encoder.eval()
    torch.testing.assert_close(encode_steps(own, x, mask).maps[0], own(x, mask=mask).maps[0])

    class Without(Encoder):
        in_channels, dims, out_dim, channels = 2, 1, 6, (6,)
        strides, divisor, minimum = ((1,),), (1,), (1,)

        def forward(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(maps=[x], pooled=x.amax(-1))

    seen = encode_steps(Without(), x, mask).maps[0]
    torch.testing.assert_close(seen, torch.where(mask.unsqueeze(1), x, 0.0))


def test_recordings_are_weighed_on_the_level_sample() -> None:
    plain, weighed = made(levels=("sample",)), made(levels=("sample",), weighting=Halves())
    weighed.encoder.load_state_dict(plain.encoder.state_dict())
    batch = batch_of(plain, [signal(0), signal(4), signal(2)])
    whole, half = losses_of(plain, batch).total, losses_of(weighed, batch).total
    torch.testing.assert_close(half, whole / 2)
    losses, index = weighed.weighting.seen[0]  # type: ignore[union-attr]
    assert losses.shape == (3,) and not losses.requires_grad and index.tolist() == [0, 4, 2]
    torch.testing.assert_close(0.25 * losses.mean(), whole.detach())
    torch.testing.assert_close(losses_of(weighed.eval(), batch).total, losses_of(plain.eval(), batch).total)
    with pytest.raises(ConfigError, match="level sample"):
        made(levels=("trial",), weighting=Halves())


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("comet_worker.py")
    commands = [[sys.executable, str(worker), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=500)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    for rank in range(2):
        found = torch.load(tmp_path / f"found{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_other_kinds_of_recordings_are_refused() -> None:
    with pytest.raises(ConfigError, match="volume"):
        made().check(info("volume", 1))
