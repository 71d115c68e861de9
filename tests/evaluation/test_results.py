"""From predictions to the long table and back to counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medssl.evaluation.results import POOLED, TaskInfo, counts_of, failed_rows, prediction_rows, segmentation_rows

BEATS = TaskInfo("classification", "beat", ("N", "N/A", "A"))
FINDINGS = TaskInfo("classification", "findings", ("AF", "LBBB"), multilabel=True)


def beats() -> pd.DataFrame:
    truth = ["N", "N", "N/A", "A", "N"]
    answer = ["N", "A", "N/A", "N/A", "N"]
    shares = 0.1 + 0.7 * np.array([[c == a for c in BEATS.classes] for a in answer])
    frame = {"patient": ["p", "p", "p", "q", "q"], "y_true": truth, "y_pred": answer}
    return pd.DataFrame(frame | {f"p/{c}": shares[:, k] for k, c in enumerate(BEATS.classes)})


def findings() -> pd.DataFrame:
    return pd.DataFrame(
        {"patient": ["p", "q"], "y/AF": [1, 0], "y/LBBB": [1, 1], "p/AF": [0.9, 0.8], "p/LBBB": [0.2, 0.7]}
    )


def value(rows: pd.DataFrame, patient: str, metric: str, name: str = "") -> float:
    (found,) = rows[(rows["patient"] == patient) & (rows["metric"] == metric) & (rows["class"] == name)]["value"]
    return float(found)


def test_counts_survive_class_names_with_slashes() -> None:
    rows = prediction_rows(beats(), BEATS)
    tp, fp, fn = counts_of(rows, ["p", "q"], BEATS.classes)
    np.testing.assert_array_equal(tp, [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(fp, [[0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(fn, [[1, 0, 0], [0, 0, 1]])


def test_patients_and_the_pool_have_their_own_rows() -> None:
    rows = prediction_rows(beats(), BEATS)
    assert value(rows, "p", "accuracy") == pytest.approx(2 / 3)
    assert value(rows, POOLED, "accuracy") == pytest.approx(3 / 5)
    assert value(rows, POOLED, "prevalence", "N") == pytest.approx(3 / 5)


def test_labels_that_occur_together() -> None:
    rows = prediction_rows(findings(), FINDINGS)
    tp, fp, fn = counts_of(rows, ["p", "q"], FINDINGS.classes)
    np.testing.assert_array_equal(tp, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(fp, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(fn, [[0, 1], [0, 0]])
    assert value(rows, "q", "accuracy") == 0


@pytest.mark.parametrize(("frame", "info"), [(beats(), BEATS), (findings(), FINDINGS)], ids=["one class", "several"])
def test_a_failed_cell_finds_nothing(frame: pd.DataFrame, info: TaskInfo) -> None:
    rows = prediction_rows(frame, info)
    worst = failed_rows(rows, rows)
    before, after = (counts_of(r, ["p", "q"], info.classes) for r in (rows, worst))
    assert not after[0].any()
    np.testing.assert_array_equal(after[2], before[0] + before[2])
    assert value(worst, POOLED, "macro_f1") == 0
    assert set(worst["patient"]) == set(rows["patient"])


def test_a_failed_cell_gets_the_worst_distance_that_any_cell_had() -> None:
    cases = pd.DataFrame({"patient": ["p", "p", "q"], "metric": "hd95_mm", "label": "", "value": [2.0, 4.0, 5.0]})
    rows = segmentation_rows(cases)
    assert value(rows, "p", "hd95_mm") == 3 and rows["n_items"].tolist() == [2, 1]
    others = pd.concat([rows, rows.assign(value=[9.0, 1.0])])
    assert failed_rows(rows, others)["value"].tolist() == [9.0, 5.0]


def test_errors_are_averaged_within_patients_first() -> None:
    frame = pd.DataFrame({"patient": ["p", "p", "q"], "y_true": [10.0, 10, 20], "y_pred": [12.0, 14, 20]})
    rows = prediction_rows(frame, TaskInfo("regression", "age", training_mean=12))
    assert value(rows, "p", "mae") == 3 and value(rows, "q", "mae") == 0
    assert value(rows, POOLED, "mae") == 2
