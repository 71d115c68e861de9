"""Tracings become masks and volumes."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.adapters.echo_tracing import disc_volume, ejection_fraction, polygon_mask, trace_mask
from medssl.synth.echo import draw_echo_patient, simulate_echo
from medssl.synth.echo_files import trace_rows


def test_a_polygon_holds_its_edge_and_its_corners():
    mask = polygon_mask([2, 2, 5, 5], [1, 4, 4, 1], (8, 8))
    assert mask.sum() == 4 * 4
    assert mask[2, 1] and mask[5, 4] and not mask[6, 4] and not mask[3, 5]


def test_a_polygon_is_cut_off_at_the_picture():
    np.testing.assert_array_equal(polygon_mask([-5, -5, 20, 20], [-5, 20, 20, -5], (6, 7)), np.ones((6, 7), bool))
    assert not polygon_mask([20, 20, 30], [0, 5, 5], (6, 7)).any()
    assert not polygon_mask([], [], (6, 7)).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_phantom_traced_is_the_phantom(seed):
    rng = np.random.default_rng(seed)
    echo = simulate_echo(rng, draw_echo_patient(rng), frames=60, rate_hz=50)
    volumes = []
    for frame in (echo.ed_frame, echo.es_frame):
        rows = trace_rows(echo, frame)
        mask, truth = trace_mask(rows, (112, 112)), echo.lv[frame]
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.96
        volumes.append(disc_volume(rows, echo.spacing_mm[0] / 10))
    assert volumes[0] == pytest.approx(echo.patient.edv_ml, rel=0.02)
    assert ejection_fraction(*volumes) == pytest.approx(echo.patient.ef, abs=1.0)


def test_what_is_no_tracing_is_refused():
    with pytest.raises(ValueError, match="two chords or more"):
        disc_volume(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="must be above 0"):
        ejection_fraction(0.0, 0.0)
