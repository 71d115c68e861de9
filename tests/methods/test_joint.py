"""What all methods share that compare embeddings: labels from the manifest, the teacher, refusals before training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toys import signal, signal_encoder

from medssl.errors import CohortError, ConfigError
from medssl.methods.contrastive import Contrastive
from medssl.methods.self_distillation import SelfDistillation
from medssl.objectives.continuous_weights import LabelCWCL
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.distillation import BYOL
from medssl.views.signal import SignalViews


def contrastive(**options: Any) -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(signal_encoder(), SignalViews((128,)), projector=(16, 8), **options)


class Labelled:
    """A toy recording with chosen manifest columns."""

    def __init__(self, **columns: Any) -> None:
        self.toy, self.record = signal(0), {"patient": "P0", **columns}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.toy, name)


class Source:
    """Recordings as far as ``prepare`` looks at them: the manifest."""

    def __init__(self, **columns: list[Any]) -> None:
        self.manifest = pd.DataFrame({"recording": ["R0", "R1", "R2"], **columns})
        self.places = [(0, row) for row in range(3)]


def drawn_label(method: Contrastive, **columns: Any) -> Any:
    return method.draw(Labelled(**columns), np.random.default_rng(0))["label"]  # type: ignore[arg-type]


def test_recordings_with_one_value_of_a_column_belong_together() -> None:
    by_site, by_class = contrastive(label="site"), contrastive(label="finding")
    assert drawn_label(by_site, site="A") == drawn_label(by_site, site="A") != drawn_label(by_site, site="B")
    assert drawn_label(by_class, label_finding=1) == drawn_label(by_class, label_finding=1.0), "gaps make floats of 1"
    assert drawn_label(by_class, label_finding=0.5) != drawn_label(by_class, label_finding=0.25)
    assert drawn_label(by_class, label_finding=True).dtype == np.int64


def test_a_numeric_column_is_a_number_where_the_objective_wants_one() -> None:
    method = contrastive(objective=LabelCWCL(), label="age")
    assert drawn_label(method, label_age=61) == np.float32(61)
    with pytest.raises(CohortError, match="no number"):
        drawn_label(method, label_age="old")


@pytest.mark.parametrize("column", ["finding", "label_finding"])
def test_missing_labels_are_found_before_the_first_step(column: str) -> None:
    method = contrastive(label="finding")
    method.prepare(Source(**{column: [1, 0, 1]}), batch=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"2 of 3 recordings have no 'finding' \(first: R1\)"):
        method.prepare(Source(**{column: [1.0, None, np.nan]}), batch=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no column 'finding'; its labels are: age"):
        method.prepare(Source(label_age=[1, 2, 3]), batch=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [{}, {"label_finding": None}, {"label_finding": float("nan")}])
def test_a_recording_without_the_label_is_named_with_what_there_is(value: dict[str, Any]) -> None:
    with pytest.raises(CohortError, match=r"R0 has no 'finding'.*age"):
        drawn_label(contrastive(label="finding"), label_age=3, **value)


def test_a_teacher_starts_as_the_student_and_follows_it_with_its_buffers() -> None:
    method = contrastive(momentum=0.75)
    student, teacher = method.encoder, method.teacher_encoder
    before = [p.clone() for p in teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
        for buffer in student.buffers():
            buffer += 1
    method.follow()
    for parameter, old in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old + 0.25)
    assert all(torch.equal(a, b) for a, b in zip(teacher.buffers(), student.buffers(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())


def test_what_cannot_work_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="BYOL is an objective of the distillation family"):
        contrastive(objective=BYOL())
    with pytest.raises(ConfigError, match="contrastive family"):
        SelfDistillation(signal_encoder(), SignalViews((128,)), objective=InfoNCE(), projector=(16, 8))
    with pytest.raises(ConfigError, match="momentum"):
        contrastive(momentum=1.0)
    with pytest.raises(ConfigError, match="needs a teacher"):
        SelfDistillation(signal_encoder(), SignalViews((128,)), objective=BYOL(), projector=(16, 8), momentum=0.0)
    with pytest.raises(ConfigError, match="numeric column"):
        contrastive(objective=LabelCWCL())
