"""Contrastive: what it makes of patients, weightings and settings that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, signal, signal_encoder

from medssl.errors import ConfigError
from medssl.methods.contrastive import Contrastive
from medssl.objectives.base import Given, LossOutput, Objective
from medssl.objectives.weighting import PairWeighting
from medssl.views.signal import SignalViews


class Recorder(PairWeighting):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, losses: Tensor, index: Tensor) -> Tensor:
        self.seen.append(index.tolist())
        return torch.zeros_like(losses)


class WholeBatch(Objective):
    """Has no loss of single samples."""

    family = "contrastive"

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        return LossOutput(views.square().mean(), {})


def method(**options: Any) -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(signal_encoder(), SignalViews((128,)), **({"projector": (16, 8)} | options))


def batch(of: Contrastive, patients: list[str]) -> dict[str, Any]:
    readers = [signal(i) for i in range(len(patients))]
    for reader, patient in zip(readers, patients, strict=True):
        reader.patient = patient
    samples = [of.draw(r, np.random.default_rng(i)) for i, r in enumerate(readers)]  # type: ignore[arg-type]
    return collate(samples, seed=0)


def total(of: Contrastive, drawn: dict[str, Any]) -> float:
    of.generator.manual_seed(drawn["seed"])
    return of.loss(drawn).total.item()


def test_recordings_of_one_patient_carry_one_number() -> None:
    patient = batch(method(), ["A", "B", "A"])["patient"]
    assert patient[0] == patient[2] != patient[1]
    assert patient.dtype == torch.int64 and (patient >= 0).all()


def test_same_patient_changes_the_loss_only_where_a_patient_comes_twice() -> None:
    for patients, different in ((["A", "B", "A"], 3), (["A", "B", "C"], 1)):
        values = {
            round(total(method(same_patient=mode), batch(method(), patients)), 6)
            for mode in ("ignore", "negative", "positive")
        }
        assert len(values) == different


def test_weighting_sees_dataset_rows_and_only_acts_in_training() -> None:
    weighting = Recorder()
    of = method(weighting=weighting)
    drawn = batch(of, ["A", "B", "C"])
    assert total(of, drawn) == 0
    assert weighting.seen == [[0, 1, 2]]
    of.eval()
    assert total(of, drawn) > 0
    assert len(weighting.seen) == 1


def test_settings_that_do_not_fit_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="count"):
        Contrastive(signal_encoder(), SignalViews((128,), count=1))
    with pytest.raises(ConfigError, match="no loss of single pairs"):
        method(objective=WholeBatch(), weighting=Recorder())
    with pytest.raises(ConfigError, match="raise the batch size"):
        total(method(), batch(method(), ["A"]))
    assert total(method(objective=WholeBatch()), batch(method(), ["A"])) > 0


def test_more_than_two_views_are_compared_in_pairs() -> None:
    of = Contrastive(signal_encoder(), SignalViews((128,), count=4), projector=(16, 8))
    drawn = batch(of, ["A", "B", "C"])
    assert drawn["x"].shape[1] == 4
    losses = of.loss(drawn)
    assert torch.isfinite(losses.total) and losses.embeddings is not None and losses.embeddings.shape == (12, 8)
