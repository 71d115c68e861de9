"""Head motion: displacement, and the volumes it spoils."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.adapters.fmri_confounds import MOTION
from medssl.cohort.fmri_confounds import CONFOUND_SETS, confound_matrix, displacement_of, non_steady_volumes
from medssl.cohort.fmri_motion import censored, expanded, framewise_displacement, long_enough
from medssl.errors import ConfigError


def table(volumes: int = 30, **more: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = (
        *MOTION,
        "csf",
        "white_matter",
        "global_signal",
        "a_comp_cor_00",
        "a_comp_cor_01",
        "cosine00",
        "c_comp_cor_00",
    )
    return {name: rng.normal(size=volumes) for name in names} | more


def test_displacement_adds_all_six_and_takes_rotations_as_arcs_of_50_mm():
    motion = np.zeros((3, 6))
    motion[1] = [0.1, -0.2, 0.3, 0.001, -0.002, 0.003]
    np.testing.assert_allclose(framewise_displacement(motion), [0, 0.9, 0.9])


def test_degrees_taken_for_radians_make_57_times_the_motion():
    motion = np.zeros((2, 6))
    motion[1, 3] = 0.1
    right = motion * [1, 1, 1, np.pi / 180, np.pi / 180, np.pi / 180]
    assert framewise_displacement(motion)[1] / framewise_displacement(right)[1] == pytest.approx(57.3, abs=0.01)


def test_24_regressors():
    motion = np.random.default_rng(0).normal(size=(20, 6))
    found = expanded(motion)
    assert found.shape == (20, 24)
    np.testing.assert_allclose(found[:, 6:12], np.vstack([np.zeros(6), np.diff(motion, axis=0)]))
    np.testing.assert_allclose(found[:, 18:], found[:, 6:12] ** 2)


def test_either_measure_censors():
    displacement, dvars = np.array([0, 0.6, 0.1]), np.array([0, 1.0, 2.0])
    assert censored(displacement, dvars, max_fd_mm=0.5, max_dvars=1.5).tolist() == [False, True, True]
    assert censored(displacement, None, max_fd_mm=0.5, max_dvars=1.5).tolist() == [False, True, False]
    assert not censored(displacement, dvars, max_fd_mm=None, max_dvars=None).any()


def test_short_stretches_go_at_the_ends_too():
    kept = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1], dtype=bool)
    assert np.flatnonzero(long_enough(kept, 5)).tolist() == [3, 4, 5, 6, 7]
    assert long_enough(np.ones(3, dtype=bool), 5).all()  # nothing is censored, so nothing is a fragment


def test_every_set_has_the_regressors_that_it_is_known_for():
    sizes = {name: confound_matrix(table(), name)[0].shape[1] for name in CONFOUND_SETS}
    assert sizes == {"none": 0, "motion": 24, "simple": 26, "scrubbing": 32, "compcor": 26, "gsr": 27}


def test_cosines_are_left_to_the_filter():
    assert not [n for which in CONFOUND_SETS for n in confound_matrix(table(), which)[1] if "cosine" in n]


def test_columns_by_name():
    values, names = confound_matrix(table(), ("csf", "cosine00"))
    assert names == ("csf", "cosine00")
    np.testing.assert_array_equal(values[:, 0], table()["csf"])


def test_a_set_without_its_columns_says_which():
    lacking = {
        name: column for name, column in table().items() if name not in ("csf", "a_comp_cor_00", "a_comp_cor_01")
    }
    with pytest.raises(ConfigError, match="csf"):
        confound_matrix(lacking, "simple")
    with pytest.raises(ConfigError, match="a_comp_cor_00"):
        confound_matrix(lacking, "compcor")
    with pytest.raises(ConfigError, match="trans_x"):
        confound_matrix({"csf": np.zeros(5)}, "motion")


def test_displacement_comes_from_parameters_before_the_tables_own():
    own = table(framewise_displacement=np.full(30, 9.0))
    assert displacement_of(own).max() != 9.0
    assert displacement_of({"framewise_displacement": np.full(3, 9.0)}).tolist() == [9.0] * 3
    assert displacement_of({"csf": np.zeros(3)}) is None


def test_volumes_before_the_steady_state():
    marks = {f"non_steady_state_outlier0{i}": np.eye(10)[i] for i in range(2)}
    assert non_steady_volumes(table(10) | marks) == 2
    assert non_steady_volumes(table(10)) == 0
