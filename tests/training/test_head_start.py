"""Where a last layer starts: from a probe of the training windows, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from toy_cohorts import ToyEncoder, make_cohort

from medssl.cohort import Cohort
from medssl.evaluation import probes
from medssl.heads.classification import ClassificationHead
from medssl.splits import split
from medssl.training import inference
from medssl.training.finetune import finetune
from medssl.training.head_start import LEAST_BIAS, MOST_CHANGE, gentle_share, start_head
from medssl.training.heads import make_head, resolved_start
from medssl.training.models import load_model
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target, resolve_target
from medssl.training.windows import Recordings, fixed_starts

SIZES = {"signal": (400,), "volume": (8, 8, 8)}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Twelve patients with signals and twelve with volumes; four of each for testing."""
    folder = tmp_path_factory.mktemp("cohorts")
    made = {kind: make_cohort(folder, kind, patients=12) for kind in SIZES}
    split(made["signal"], test=4, stratify="rhythm")
    split(made["volume"], test=4, stratify="group")
    return made


class Started:
    """A head that began with the items of the first eight patients (of one class, if asked for), and what it saw."""

    def __init__(
        self, cohort: Path, task: str, name: str, *, start: str = "probe", only: int | None = None,
        augment: bool = False, **settings: Any,
    ) -> None:  # fmt: skip
        self.target: Target = resolve_target(Cohort(cohort), task, name)  # type: ignore[arg-type]
        self.items = self.target.items_of([f"P{i}" for i in range(8)])
        if only is not None:
            self.items = self.items[self.target.y[self.items] == only]
        self.size = SIZES[self.target.cohort.info.kind]
        self.recordings = Recordings(self.target.cohort, channels=None, rows=np.unique(self.target.rows), cache_gb=0.1)
        network = ToyEncoder(in_channels=len(self.target.cohort.info.channels), dims=len(self.size))
        chosen = FinetuneSettings(head_start=start, progress=False, augment=augment, **settings)  # type: ignore[arg-type]
        torch.manual_seed(0)
        self.head: Any = make_head(
            network, self.target, self.items, size=self.size, settings=chosen, pretrained=False
        )  # fmt: skip
        self.before = self.head.output.weight.detach().clone()
        testing = inference.Testing(size=self.size, overlap=0.5, windows=2, batch=5, precision="32-true")
        start_head(self.head, self.target, self.items, self.recordings, testing, probe=start == "probe")
        self.head.eval()

    def windows(self) -> tuple[torch.Tensor, np.ndarray]:
        """Network input of the windows of labelled recordings, and the truth of each."""
        out, owners = [], []
        for item in self.items:
            row = int(self.target.rows[item])
            for at in fixed_starts(self.recordings.shape(row), self.size, 2):
                out.append(self.recordings.network_input(row, self.recordings.read(row, at, self.size)))
                owners.append(item)
        return torch.from_numpy(np.stack(out)), self.target.y[owners]

    def scaled(self, x: torch.Tensor) -> np.ndarray:
        """The features of windows, standardised by hand."""
        with torch.no_grad():
            found = self.head.features(self.head.encode(x)).double().numpy()
        varies = found.std(0) > 1e-6
        return np.where(varies, (found - found.mean(0)) / np.where(varies, found.std(0), 1), 0)

    def answers(self, x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            out: np.ndarray = self.head.probabilities(self.head(x)).numpy()
        return out


def test_a_classifier_begins_as_scikit_learn_s_probe_of_its_features(
    cohorts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (0.1,))
    began = Started(cohorts["signal"], "classification", "rhythm")
    x, y = began.windows()
    probe = LogisticRegression(C=0.1, max_iter=2000).fit(began.scaled(x), y)
    np.testing.assert_allclose(began.answers(x), probe.predict_proba(began.scaled(x)), atol=2e-3)


def test_a_regressor_begins_as_ridge_in_the_unit_of_the_target(
    cohorts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (0.1,))
    began = Started(cohorts["volume"], "regression", "radius")
    x, y = began.windows()
    expected = Ridge(alpha=10).fit(began.scaled(x), y).predict(began.scaled(x))
    np.testing.assert_allclose(began.answers(x), expected, rtol=2e-3)


def test_a_regressor_s_ridge_is_no_weaker_than_its_dropout(
    cohorts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weaker one has weights that cancel each other, and training with dropout begins with noise."""
    monkeypatch.setattr(probes, "STRENGTHS", (1e4,))
    began = Started(cohorts["volume"], "regression", "radius", dropout=0.5)
    x, y = began.windows()
    expected = Ridge(alpha=len(x)).fit(began.scaled(x), y).predict(began.scaled(x))
    np.testing.assert_allclose(began.answers(x), expected, rtol=2e-3)
    noise = [((began.head.train()(x) - began.head.eval()(x)) / began.head.std).std() for _ in range(8)]
    assert torch.stack(noise).mean() < 1


def test_the_start_is_that_of_windows_as_training_sees_them(cohorts: dict[str, Path]) -> None:
    plain = Started(cohorts["signal"], "classification", "rhythm", start="scaled")
    began = Started(cohorts["signal"], "classification", "rhythm", start="scaled", augment=True)
    assert not torch.allclose(plain.head.standardise.mean, began.head.standardise.mean)
    x, _ = began.windows()
    with torch.no_grad():
        seen = torch.cat([began.head.augment(x, x)[0] for _ in range(20)])
        scaled = began.head.standardise(began.head.features(began.head.encode(seen)))
    varies = began.head.standardise.scale > 0
    assert scaled.mean(0)[varies].abs().max() < 0.5 and (scaled.std(0)[varies] - 1).abs().max() < 0.5
    again = Started(cohorts["signal"], "classification", "rhythm", start="scaled", augment=True)
    assert torch.equal(again.head.standardise.scale, began.head.standardise.scale), "drawn from the seed alone"


def test_the_first_steps_of_the_encoder_leave_a_regressor_near_its_start(cohorts: dict[str, Path]) -> None:
    began = Started(cohorts["volume"], "regression", "radius")
    x, _ = began.windows()
    head = began.head
    assert 0 < head.encoder_lr <= 1
    head.encoder_lr, head.frozen_steps = 1000.0, 3  # an encoder that would move the answer far, once it learns
    share = gentle_share(head, x)
    assert share < 1
    head.frozen_steps = 0
    before = head(x).mean()
    gradients = torch.autograd.grad(before / head.std, list(head.encoder.parameters()), allow_unused=True)
    with torch.no_grad():  # a step of Adam at its start: every weight by the rate, all in the worst direction
        for weight, gradient in zip(head.encoder.parameters(), gradients, strict=True):
            if gradient is not None:
                weight += share * head.encoder_lr * head.optim.lr * gradient.sign()
        moved = float((head(x).mean() - before) / head.std)
    assert moved == pytest.approx(MOST_CHANGE, rel=0.2), "to first order"


def test_labels_that_occur_together_begin_one_by_one(cohorts: dict[str, Path]) -> None:
    began = Started(cohorts["signal"], "classification", "findings")
    x, truth = began.windows()
    shares = began.answers(x)
    constant, varies = (list(began.target.classes).index(name) for name in "ab")
    assert (shares[:, constant] > 0.99).all()  # every training recording has it
    assert shares[truth[:, varies] == 1, varies].min() > shares[truth[:, varies] == 0, varies].max()


def test_events_begin_from_the_features_around_them(cohorts: dict[str, Path]) -> None:
    began = Started(cohorts["signal"], "classification", "beat")
    assert began.head.centre and not torch.equal(began.head.output.weight, began.before)
    assert torch.isfinite(began.head.output.weight).all()


def test_a_class_without_training_items_begins_as_unlikely_but_can_be_learnt(cohorts: dict[str, Path]) -> None:
    began = Started(cohorts["signal"], "classification", "rhythm", only=0)
    assert began.head.output.bias.tolist() == [0, LEAST_BIAS]


def test_scaled_fixes_the_scale_and_leaves_the_layer_random(cohorts: dict[str, Path]) -> None:
    began = Started(cohorts["signal"], "classification", "rhythm", start="scaled")
    torch.testing.assert_close(began.head.output.weight, began.before)
    x, _ = began.windows()
    with torch.no_grad():
        seen = began.head.standardise(began.head.features(began.head.encode(x))).double().numpy()
    np.testing.assert_allclose(seen, began.scaled(x), atol=1e-3)


@pytest.mark.parametrize(
    ("task", "name", "start"),
    [
        ("regression", "radius", "probe"),
        ("classification", "group", "scaled"),
        ("classification", "rhythm", "scaled"),
        ("classification", "beat", "random"),
    ],
)
def test_what_is_started_from_follows_from_the_target_or_from_the_setting(
    task: str, name: str, start: str, cohorts: dict[str, Path]
) -> None:
    cohort = Cohort(cohorts["volume" if name in ("radius", "group") else "signal"])
    target = resolve_target(cohort, task, name)  # type: ignore[arg-type]
    assert resolved_start(target, FinetuneSettings()) == start
    assert resolved_start(target, FinetuneSettings(head_start="probe")) == "probe"


@pytest.mark.parametrize("start", ["auto", "random", "scaled", "probe"])
def test_a_model_keeps_its_scale_on_disk(start: str, cohorts: dict[str, Path], tmp_path: Path) -> None:
    settings = FinetuneSettings(
        max_steps=2, batch_size=4, progress=False, accelerator="cpu", precision="32-true", window_s=2.0,
        head_start=start,  # type: ignore[arg-type]
    )  # fmt: skip
    finetune(
        cohort=cohorts["signal"], task="classification", target="rhythm", out=tmp_path / "run",
        architecture=ToyEncoder(in_channels=2, dims=1), settings=settings,
    )  # fmt: skip
    head = load_model(tmp_path / "run").head
    assert isinstance(head, ClassificationHead) and (head.standardise is not None) == (start != "random")
    assert head.standardise is None or (head.standardise.mean != 0).any()
