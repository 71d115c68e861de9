"""The baseline of fMRI learns from training patients alone, and finds what is in the connectivity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.evaluation import probes
from medssl.evaluation.connectivity_floor import ConnectivityFloor, connectivity_rows, plain_edges
from medssl.evaluation.floor import describe_floor, floor_features, floor_predict, unfitted
from medssl.evaluation.study import evaluate
from medssl.splits import split
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target, resolve_target

N = 6
EDGES, ENTRIES = N * (N - 1) // 2, N * (N + 1) // 2
OPTIONS = {"moments": False, "connectivity": True, "seed": 0}


def runs(count: int = 40, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Runs (n, N, T) of two kinds, that differ in one connection, and their kinds."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.standard_normal((count, N, 100))
    x[:, 0] += 1.5 * y[:, None] * x[:, 1]
    return x, y


def test_rows_are_correlations_with_their_gaps_and_the_shrinkage() -> None:
    x, _ = runs(3)
    x[1, 2] = 4.0
    x[:, :, 90:] = 0
    rows = connectivity_rows(x)
    assert rows.shape == (3, EDGES + 1) and rows.dtype == np.float32
    np.testing.assert_allclose(rows[0, :-1], np.corrcoef(x[0, :, :90])[np.tril_indices(N, -1)], atol=1e-6)
    assert np.isnan(rows[1]).sum() == N - 1 and (plain_edges(rows)[1] == 0).sum() == N - 1
    assert ((rows[:, -1] > 0) & (rows[:, -1] <= 1)).all() and rows[1, -1] < 1


def test_features_are_centred_edges_and_tangent_vectors_that_count_alike() -> None:
    rows = connectivity_rows(runs()[0])
    x = ConnectivityFloor.fit(rows, np.arange(len(rows)))(rows)
    assert x.shape == (len(rows), EDGES + ENTRIES)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    for part in (x[:, :EDGES], x[:, EDGES:]):
        assert np.square(part).sum(1).mean() == pytest.approx(1, rel=1e-5)


def test_what_is_missing_is_the_mean_of_the_training_items() -> None:
    x, _ = runs()
    fitted = ConnectivityFloor.fit(connectivity_rows(x), np.arange(len(x)))
    gone = x[:1].copy()
    gone[:, 2] = np.nan
    features = fitted(connectivity_rows(gone))[0]
    low, column = np.tril_indices(N, -1)
    at = (low == 2) | (column == 2)
    assert (features[:EDGES][at] == 0).all()
    np.testing.assert_allclose(features[:EDGES][~at], fitted(connectivity_rows(x[:1]))[0, :EDGES][~at], atol=1e-5)
    low, column = np.tril_indices(N)
    assert (features[EDGES:][(low == 2) | (column == 2)] == 0).all()


def test_nothing_is_learnt_from_test_items() -> None:
    """Other test patients leave what was fitted, and the answers for those that stay, as they were."""
    x, y = runs(60)
    train, test, others = (connectivity_rows(part) for part in (x[:40], x[40:], 5 * runs(20, seed=9)[0] ** 3))
    owners = np.arange(40)
    fitted = ConnectivityFloor.fit(train, owners)
    expected = floor_predict(train, y[:40], owners, test, task="classification", classes=2, **OPTIONS)
    mixed = np.concatenate([test[:10], others])
    again = floor_predict(train, y[:40], owners, mixed, task="classification", classes=2, **OPTIONS)
    np.testing.assert_array_equal(fitted(mixed)[:10], fitted(test)[:10])
    np.testing.assert_allclose(again[:10], expected[:10], rtol=1e-12)
    moved = ConnectivityFloor.fit(np.concatenate([train, others]), np.arange(60))
    assert np.abs(moved.reference - fitted.reference).max() > 1e-3, "had they been fitted on, it would show"
    assert np.abs(moved.mean - fitted.mean).max() > 1e-3


def test_a_connection_is_found_and_ages_are_predicted() -> None:
    x, y = runs(80)
    rows, owners = connectivity_rows(x), np.arange(60)
    p = floor_predict(rows[:60], y[:60], owners, rows[60:], task="classification", classes=2, **OPTIONS)
    assert (p.argmax(1) == y[60:]).mean() > 0.95
    age = rows[:, 0] * 30 + 40  # of the connection
    values = floor_predict(rows[:60], age[:60], owners, rows[60:], task="regression", classes=0, **OPTIONS)
    assert np.corrcoef(values, age[60:])[0, 1] > 0.9


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_training_items_are_enough(count: int) -> None:
    x, y = runs(8)
    rows = connectivity_rows(x)
    p = floor_predict(rows[:count], y[:count], np.arange(count), rows, task="classification", classes=2, **OPTIONS)
    assert np.isfinite(p).all() and p.shape == (8, 2)


def test_coordinates_in_the_space_of_the_training_rows_give_the_same_answer() -> None:
    rng = np.random.default_rng(0)
    train, test, y = rng.normal(size=(30, 200)) / 14, rng.normal(size=(9, 200)) / 14, np.arange(30) % 2
    found = probes.linear_predict(train, y, np.arange(30), test, task="classification", classes=2, scaled=True)
    likeliest = min(
        (np.abs(LogisticRegression(C=s, max_iter=5000).fit(train, y).predict_proba(test) - found).max(), s)
        for s in probes.STRENGTHS
    )
    assert likeliest[0] < 1e-3, "one of the strengths, fitted on all 200 columns"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fmri")
    source = folder / "source"
    source.mkdir()
    for number in range(24):
        (source / f"P{number}-{number}.txt").touch()
    prepare(str(Path(__file__).parent / "toy_fmri_recipe.py"), source, folder / "cohort", workers=0, keep_ids=True)
    split(folder / "cohort", test=8, stratify="group")
    return folder / "cohort"


def target(cohort: Path, task: str = "classification", name: str = "group") -> Target:
    return resolve_target(Cohort(cohort), task, name)


def test_it_is_the_baseline_of_cohorts_of_fmri(cohort: Path) -> None:
    groups, ages = target(cohort), target(cohort, "regression", "age")
    assert groups.has_connectivity and ages.has_connectivity and groups.are_runs
    expected = "Fisher z of the functional connectivity, its tangent vectors and logistic regression"
    assert describe_floor(groups, "recording") == expected
    assert describe_floor(ages, "recording") == expected.replace("logistic", "ridge")
    assert describe_floor(groups, "recording", fitted=False) == "Fisher z of the functional connectivity"
    rows = floor_features(groups)
    assert rows.shape == (24, 8 * 7 // 2 + 1)
    np.testing.assert_array_equal(floor_features(ages), rows)
    np.testing.assert_array_equal(unfitted(groups, rows), plain_edges(rows))


@pytest.mark.parametrize(
    ("task", "name", "metric", "least"),
    [("classification", "group", "accuracy", 0.9), ("regression", "age", "r2", 0.3)],
)
def test_a_study_has_it_beside_its_encoders(
    cohort: Path, tmp_path: Path, task: str, name: str, metric: str, least: float
) -> None:
    summary = evaluate(
        cohort=cohort, task=task, target=name, budgets=["all"], repeats=1, protocol="linear", out=tmp_path,
        encoders={"bare": "untrained"},
        settings=FinetuneSettings(max_steps=2, progress=False, accelerator="cpu", precision="32-true"),
    )  # fmt: skip
    assert not summary["failed"]
    of_floor = {r["metric"]: r["mean"] for r in summary["results"] if r["encoder"] == "floor" and r["class"] == ""}
    assert of_floor[metric] > least, of_floor
