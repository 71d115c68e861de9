"""Synthetic ECG: beats are where they are said to be, and are what they are said to be."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medssl.adapters.signal import read_signal
from medssl.errors import ConfigError
from medssl.synth.ecg import LEADS, RHYTHMS, SyntheticEcg, draw_patient, simulate_ecg, write_ecg

RATE = 250


def make(seed: int, rhythm: str = "normal", seconds: float = 60) -> SyntheticEcg:
    patient = draw_patient(np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1000)
    return simulate_ecg(rng, patient, rhythm=rhythm, seconds=seconds, rate_hz=RATE)  # type: ignore[arg-type]


def beats(ecg: SyntheticEcg, lead: str, half_s: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2 half) samples about each complete beat, and the symbols."""
    half = int(half_s * ecg.rate_hz)
    inside = (ecg.beats >= half) & (ecg.beats < ecg.data.shape[1] - half)
    index = ecg.beats[inside][:, None] + np.arange(-half, half)
    return ecg.data[LEADS.index(lead)][index], np.array(ecg.symbols)[inside]


@pytest.mark.parametrize("rhythm", RHYTHMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_annotated_beat_is_the_steepest_place_about_it(seed: int, rhythm: str) -> None:
    ecg = make(seed, rhythm)
    vector = np.abs(np.diff(ecg.data[[0, 1, 6, 10]], axis=1)).sum(axis=0)
    smooth = np.convolve(vector, np.ones(7) / 7, mode="same")
    half = int(0.15 * RATE)
    offsets = []
    for beat, symbol in zip(ecg.beats, ecg.symbols, strict=True):
        if half <= beat < len(smooth) - half and symbol != "V":
            offsets.append(np.argmax(smooth[beat - half : beat + half]) - half)
    assert len(offsets) > 30
    assert np.mean(np.abs(offsets) <= 0.04 * RATE) > 0.97


def test_no_beat_goes_without_an_annotation() -> None:
    from scipy.signal import find_peaks

    ecg = make(4)
    vector = np.abs(np.diff(ecg.data[[0, 1, 6, 10]], axis=1)).sum(axis=0)
    smooth = np.convolve(vector, np.ones(9) / 9, mode="same")
    peaks, _ = find_peaks(smooth, height=0.6 * np.quantile(smooth, 0.995), distance=int(0.3 * RATE))
    assert abs(len(peaks) - len(ecg.beats)) <= 1


def test_limb_leads_obey_einthoven_and_goldberger() -> None:
    lead = dict(zip(LEADS, make(3, "pvc").data, strict=True))
    np.testing.assert_allclose(lead["III"], lead["II"] - lead["I"], atol=1e-6)
    np.testing.assert_allclose(lead["aVR"] + lead["aVL"] + lead["aVF"], 0, atol=1e-6)


def test_amplitudes_and_rates_are_a_humans() -> None:
    for seed in range(10):
        ecg = make(seed)
        rate = 60 * (len(ecg.beats) - 1) * RATE / (ecg.beats[-1] - ecg.beats[0])
        assert 42 < rate < 120
        assert 0.4 < np.ptp(np.quantile(ecg.data[LEADS.index("V5")], [0.001, 0.999])) < 6


def test_ventricular_beats_are_early_wide_and_without_their_normal_shape() -> None:
    ecg = make(7, "pvc", seconds=240)
    symbols = np.array(ecg.symbols)
    rr = np.diff(ecg.beats) / RATE
    early = np.flatnonzero(symbols[1:] == "V")
    assert len(early) > 10
    assert (rr[early] < 0.85 * np.median(rr)).all()
    following = early[early + 1 < len(rr)] + 1
    assert np.median(rr[following]) > 1.2 * np.median(rr), "a compensatory pause follows"
    shapes, kinds = beats(ecg, "II")
    mean = {k: shapes[kinds == k].mean(axis=0) for k in "NV"}
    width = {k: (np.abs(m - np.median(m)) > 0.5 * np.abs(m - np.median(m)).max()).sum() for k, m in mean.items()}
    assert width["V"] > 1.5 * width["N"]


def test_supraventricular_beats_are_early_but_narrow() -> None:
    ecg = make(8, "pac", seconds=240)
    symbols = np.array(ecg.symbols)
    rr = np.diff(ecg.beats) / RATE
    assert (rr[np.flatnonzero(symbols[1:] == "S")] < 0.9 * np.median(rr)).all()
    shapes, kinds = beats(ecg, "V5", 0.06)
    assert np.corrcoef(shapes[kinds == "S"].mean(axis=0), shapes[kinds == "N"].mean(axis=0))[0, 1] > 0.95


def test_fibrillation_is_irregular_and_has_no_p_wave() -> None:
    spread = {}
    for rhythm in ("normal", "af"):
        ecg = make(9, rhythm)
        rr = np.diff(ecg.beats)
        spread[rhythm] = rr.std() / rr.mean()
    assert spread["af"] > 2 * spread["normal"]
    assert spread["normal"] < 0.12
    # The averaged beat shows the P wave only where it is locked to the QRS.
    height = {}
    for rhythm in ("normal", "af"):
        shapes, _ = beats(make(9, rhythm, seconds=240), "II", 0.25)
        before = shapes.mean(axis=0)[: int(0.18 * RATE)]
        height[rhythm] = before.max() - np.median(before)
    assert height["normal"] > 2 * height["af"]


def test_a_patient_resembles_himself_more_than_others() -> None:
    within, between = [], []
    means = []
    for seed in range(6):
        patient = draw_patient(np.random.default_rng(seed))
        pair = []
        for take in (0, 1):
            ecg = simulate_ecg(np.random.default_rng(100 * seed + take), patient, seconds=40, rate_hz=RATE)
            pair.append(np.concatenate([beats(ecg, lead)[0].mean(axis=0) for lead in ("I", "II", "V1", "V5")]))
        within.append(np.linalg.norm(pair[0] - pair[1]))
        means.append(pair[0])
    between = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[:i]]
    assert max(within) < min(between)


def test_same_seed_same_signal_other_seed_other_signal() -> None:
    first, again, other = make(5), make(5), make(6)
    np.testing.assert_array_equal(first.data, again.data)
    assert first.symbols == again.symbols
    assert not np.array_equal(first.data, other.data)


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(ConfigError, match="normal, pvc, pac, af"):
        make(0, "flutter")
    with pytest.raises(ConfigError, match="at least 3 s"):
        make(0, seconds=1)


def test_written_records_read_back_with_their_beats(tmp_path: Path) -> None:
    folder = write_ecg(tmp_path / "ecg", patients=4, records_per_patient=2, seconds=20, rate_hz=RATE, seed=11)
    with (folder / "records.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rhythm"] for row in rows[::2]] == list(RHYTHMS)
    assert len({row["patient_id"] for row in rows}) == 4
    for row in rows:
        recording = read_signal(folder / f"{row['record']}.hea").recordings[0]
        assert recording.data.shape == (12, 20 * RATE)
        assert recording.channels == LEADS
        assert recording.units == ("mV",) * 12
        assert recording.labels["age"] == float(row["age"])
        assert recording.labels["sex"] == row["sex"]
        found = Counter(e.value for e in recording.events if e.kind == "beat")
        assert {s: found[s] for s in "NVS"} == {s: int(row[f"n_{s}"]) for s in "NVS"}
        rhythm = [e.value for e in recording.events if e.kind == "rhythm"]
        assert rhythm == ["(AFIB" if row["rhythm"] == "af" else "(N"]


def test_the_same_seed_writes_the_same_bytes_whatever_the_number(tmp_path: Path) -> None:
    options = {"seconds": 10.0, "rate_hz": float(RATE)}
    few = write_ecg(tmp_path / "few", patients=1, seed=2, **options)  # type: ignore[arg-type]
    many = write_ecg(tmp_path / "many", patients=2, seed=2, **options)  # type: ignore[arg-type]
    other = write_ecg(tmp_path / "other", patients=1, seed=3, **options)  # type: ignore[arg-type]
    for name in ("p001_1.hea", "p001_1.dat", "p001_1.atr"):
        assert (few / name).read_bytes() == (many / name).read_bytes()
    assert (few / "p001_1.dat").read_bytes() != (other / "p001_1.dat").read_bytes()
    with pytest.raises(ConfigError, match="at least one"):
        write_ecg(tmp_path / "none", patients=0, seed=2)
