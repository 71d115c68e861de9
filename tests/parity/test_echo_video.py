"""Echo video against stored reference values (published rules, evaluated with NumPy, scikit-image and pydicom)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from medssl.adapters.echo_colour import ybr_full_to_rgb
from medssl.adapters.echo_tracing import disc_volume, ejection_fraction, trace_mask
from medssl.adapters.sector import wedge_mask
from medssl.evaluation.clip_dice import frame_counts, pooled
from medssl.evaluation.metrics import segmentation_metrics
from medssl.views.clip_sampling import clip_length, clip_starts, padded_frames

Golden = Callable[[str], Mapping[str, np.ndarray]]
Vectors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Vectors:
    """All arrays of the file."""
    return golden("echo_video")


def test_clip_arithmetic(vectors: Vectors) -> None:
    cases = vectors["clip_cases_F_length_period_max_len_paddedF_nstarts"].tolist()
    assert len(cases) > 3
    for frames, length, period, most, effective, padded, n_starts in cases:
        got = clip_length(frames, None if length < 0 else length, period, most=most or None)
        assert got == effective
        assert padded_frames(frames, got, period) == padded
        assert len(clip_starts(frames, got, period)) == n_starts


@pytest.mark.parametrize("size", [112, 64])
def test_wedge(vectors: Vectors, size: int) -> None:
    np.testing.assert_array_equal(wedge_mask(size), vectors[f"sector_{size}"])


@pytest.mark.parametrize("number", range(4))
def test_a_tracing_becomes_the_mask_and_the_volume_by_discs(vectors: Vectors, number: int) -> None:
    rows, size = vectors[f"trace{number}_rows"], int(vectors[f"trace{number}_size"])
    np.testing.assert_array_equal(trace_mask(rows, (size, size)), vectors[f"trace{number}_mask"])
    assert disc_volume(rows) == pytest.approx(float(vectors[f"trace{number}_volume_px3"]), rel=1e-12)


def test_ejection_fraction_whatever_comes_first(vectors: Vectors) -> None:
    volumes = [disc_volume(vectors[f"trace{i}_rows"]) for i in (0, 1)]
    wanted = float(vectors["ef_from_trace0_trace1"])
    assert ejection_fraction(*volumes) == pytest.approx(wanted, rel=1e-12)
    assert ejection_fraction(*volumes[::-1]) == pytest.approx(wanted, rel=1e-12)


def test_full_range_chrominance(vectors: Vectors) -> None:
    np.testing.assert_array_equal(ybr_full_to_rgb(vectors["ybr_full"]), vectors["ybr_full_to_rgb"])


def test_dice(vectors: Vectors) -> None:
    prediction, reference = vectors["dice_pred"], vectors["dice_gt"]
    found = [
        segmentation_metrics(mask, traced, spacing_mm=(1, 1), labels={1: "left ventricle"})[0]
        for mask, traced in zip(prediction, reference, strict=True)
    ]
    assert {row.metric for row in found} == {"dice"}
    np.testing.assert_allclose([row.value for row in found], vectors["dice_per_frame"], rtol=1e-12)
    assert pooled(frame_counts(prediction, reference)) == pytest.approx(float(vectors["dice_pooled"]), rel=1e-12)
