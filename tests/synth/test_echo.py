"""Synthetic echocardiograms: the heart beats as stated, speckle is speckle, and everything burnt in is on the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medssl.errors import ConfigError
from medssl.synth.echo import SyntheticEcho, draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echonet


def make(seed: int, **options) -> SyntheticEcho:
    rng = np.random.default_rng(seed)
    return simulate_echo(rng, draw_echo_patient(rng), **{"frames": 80, **options})


def volumes_ml(echo: SyntheticEcho) -> np.ndarray:
    """Of the ellipsoid, every frame."""
    length, width = echo.axes_px.T * echo.spacing_mm[0]
    return 4 / 3 * np.pi * length * width**2 / 1000


@pytest.mark.parametrize("seed", range(4))
def test_volumes_and_ejection_fraction_are_those_of_the_patient(seed: int) -> None:
    echo = make(seed)
    volumes = volumes_ml(echo)
    assert volumes[echo.ed_frame] == pytest.approx(echo.patient.edv_ml, rel=0.02)
    fraction = (volumes.max() - volumes.min()) / volumes.max() * 100
    assert fraction == pytest.approx(echo.patient.ef, abs=1.0)


def test_r_waves_stand_where_the_cavity_is_largest() -> None:
    echo = make(1)
    frames = np.round(echo.ed_times_s * echo.rate_hz).astype(int)
    assert len(frames) >= 1
    assert (volumes_ml(echo)[frames] > 0.97 * echo.patient.edv_ml).all()


def test_the_mask_is_the_dark_cavity_and_lies_in_the_sector() -> None:
    echo = make(2, burnt_in=False)
    assert not echo.lv[:, ~echo.sector].any()
    cavity = np.mean([f[m].mean() for f, m in zip(echo.frames, echo.lv, strict=True)])
    tissue = np.mean([f[echo.sector & ~m].mean() for f, m in zip(echo.frames, echo.lv, strict=True)])
    assert cavity < 0.8 * tissue
    assert not echo.frames[:, ~echo.sector].any() and not echo.burnt.any()


def test_speckle_changes_from_frame_to_frame_but_not_all_at_once() -> None:
    frames = make(3, burnt_in=False).frames[:, 60:80, 20:40].astype(float)
    near = np.corrcoef(frames[10].ravel(), frames[11].ravel())[0, 1]
    far = np.corrcoef(frames[10].ravel(), frames[60].ravel())[0, 1]
    assert 0.5 < near < 0.98
    assert abs(far) < 0.3


def test_what_is_burnt_in_is_on_the_map() -> None:
    echo = make(4)
    lit = echo.frames.max(axis=0) > 0
    assert not (lit & ~echo.sector & ~echo.burnt).any()
    assert (echo.burnt & echo.sector).any(), "part of the text lies over the sector"


def test_the_same_seed_gives_the_same_files_and_patients_do_not_depend_on_their_number(tmp_path: Path) -> None:
    few, more = (write_echonet(tmp_path / str(n), patients=n, frames=16) for n in (1, 2))
    name = "Videos/0X0000000000000001.avi"
    assert (few / name).read_bytes() == (more / name).read_bytes()
    lines = [(f / "FileList.csv").read_text().splitlines() for f in (few, more)]
    assert lines[0] == lines[1][:2]


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 frame"):
        make(0, frames=0)
    with pytest.raises(ConfigError, match="at least one"):
        write_echonet(tmp_path, patients=0)
