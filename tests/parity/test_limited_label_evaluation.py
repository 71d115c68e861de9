"""Segmentation metrics, statistics and calibration against independent implementations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from medssl.evaluation import statistics as st
from medssl.evaluation.intervals import bootstrap_weights
from medssl.evaluation.metrics import expected_calibration_error, segmentation_metrics

Golden = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def vectors(golden: Callable[[str], Golden]) -> Golden:
    return golden("limited_label_evaluation")


def test_segmentation_metrics_on_every_mask_pair(vectors: Golden) -> None:
    pairs = sorted(k.removesuffix("_pred") for k in vectors if re.fullmatch(r"m\d+_pred", k))
    assert pairs
    for pair in pairs:
        for tolerance in (float(k.partition("nsd_t")[2]) for k in vectors if k.startswith(f"{pair}_eq_nsd_t")):
            rows = segmentation_metrics(
                vectors[f"{pair}_pred"],
                vectors[f"{pair}_ref"],
                spacing_mm=tuple(vectors["spacing"]),
                labels={1: "blob"},
                nsd_tolerance_mm=tolerance,
            )
            got = {row.key: row.value for row in rows}
            assert got["dice/1"] == pytest.approx(float(vectors[f"{pair}_dice"].item()), abs=1e-6)
            assert got["dice/1"] == pytest.approx(float(vectors[f"{pair}_mr_dsc"]), abs=1e-12)
            assert got["hd95_mm/1"] == pytest.approx(float(vectors[f"{pair}_eq_hd95_max"]), abs=1e-9)
            assert got["masd_mm/1"] == pytest.approx(float(vectors[f"{pair}_eq_masd"]), abs=1e-9)
            assert got["nsd/1"] == pytest.approx(float(vectors[f"{pair}_eq_nsd_t{tolerance}"]), abs=1e-12)


def test_sign_flip_and_wilcoxon(vectors: Golden) -> None:
    assert st.sign_flip(vectors["diffs"]) == pytest.approx(float(vectors["signflip_p"]), abs=1e-12)
    assert st.wilcoxon(vectors["diffs"]) == pytest.approx(float(vectors["wilcoxon_p"]), abs=1e-12)


def test_adjusted_p_values(vectors: Golden) -> None:
    np.testing.assert_allclose(st.holm(vectors["pvals"].tolist()), vectors["holm"], atol=1e-12)
    np.testing.assert_allclose(st.benjamini_hochberg(vectors["pvals"].tolist()), vectors["bh"], atol=1e-12)


def test_patient_bootstrap(vectors: Golden) -> None:
    means = st.cluster_means(vectors["boot_vals"], vectors["boot_patients"])
    assert means.mean() == pytest.approx(float(vectors["boot_mean"]), abs=1e-12)
    weights = bootstrap_weights(len(means), 2000, seed=71)
    resampled = weights @ means / len(means)
    np.testing.assert_allclose(np.percentile(resampled, [2.5, 97.5]), vectors["boot_ci"], atol=1e-12)


def test_calibration(vectors: Golden) -> None:
    got = expected_calibration_error(vectors["ece_conf"], vectors["ece_correct"])
    assert got == pytest.approx(float(vectors["ece15"]), abs=1e-12)
    brier = ((vectors["ece_conf"] - vectors["ece_correct"]) ** 2).mean()
    assert brier == pytest.approx(float(vectors["brier"]), abs=1e-12)
