"""Twelve-lead ECG from a dynamical model, with the beats, the rhythm and the patient known.

ECGSYN (McSharry et al., IEEE TBME 50:289, 2003) with a heart vector in place of its single lead (Sameni et al., 2007):
Gaussian waves P, Q, R, S, T push a dipole (x, y, z) that relaxes towards a breathing baseline,

    dz/dt = d/dt sum_i A_i exp(-(t - t_R - c_i)^2 / 2 b_i^2) - (z - z0(t)) / 1 s,

and Dower's matrix projects it on the leads. The equation is linear, so it is integrated exactly by a first-order
filter instead of a step loop. Wave positions and widths of repolarisation follow the square root of the RR interval,
as in ECGSYN; premature beats are inserted into the tachogram, wide and pointing elsewhere when they are ventricular.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError

__all__ = ["LEADS", "RHYTHMS", "EcgPatient", "SyntheticEcg", "draw_patient", "simulate_ecg", "write_ecg"]

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
RHYTHMS = ("normal", "pvc", "pac", "af")
"""Sinus rhythm, with frequent ventricular (V) or supraventricular (S) premature beats, and atrial fibrillation."""

Rhythm = Literal["normal", "pvc", "pac", "af"]

# Dower et al., 1980: leads I, II, V1..V6 from the vector (x to the left, y to the feet, z to the back).
_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# P, Q, R, S, T: centre (s from R), width (s), amplitude as a vector (mV).
_CENTRES = np.array([-0.170, -0.030, 0.0, 0.030, 0.300])
_WIDTHS = np.array([0.022, 0.009, 0.011, 0.010, 0.050])
_VECTORS = np.array(
    [[0.07, 0.10, -0.02], [-0.12, 0.02, -0.10], [0.95, 0.75, 0.25], [-0.10, -0.20, 0.35], [0.24, 0.20, -0.14]]
)
_T = 4
_RELAXATION_S = 1.0


@dataclass(frozen=True)
class EcgPatient:
    """What stays the same in all recordings of one patient.

    Attributes:
        age: years; slower conduction, a flatter T wave and less variability come with it.
        sex: ``"M"`` or ``"F"``.
        heart_rate: beats a minute at rest.
        variability: standard deviation of RR over its mean.
        vectors: (5, 3) mV, the P, Q, R, S, T vectors turned to this heart's axis.
        ectopic: (3,) unit vector of the ventricular focus.
        pr_s: seconds from the P to the R peak.
        noise_mv: standard deviation of muscle noise.
        wander_mv: amplitude of the breathing baseline.
        mains_mv: amplitude of the 50 Hz pick-up.
    """

    age: float
    sex: str
    heart_rate: float
    variability: float
    vectors: NDArray[np.float64]
    ectopic: NDArray[np.float64]
    pr_s: float
    noise_mv: float
    wander_mv: float
    mains_mv: float


@dataclass(frozen=True)
class SyntheticEcg:
    """A recording with its truth.

    Attributes:
        data: (12, T) float32 in mV, leads as in :data:`LEADS`.
        rate_hz: samples a second.
        beats: (N,) sample of each R peak, rising.
        symbols: the class of each beat: ``"N"``, ``"V"`` or ``"S"``.
        rhythm: one of :data:`RHYTHMS`.
    """

    data: NDArray[np.float32]
    rate_hz: float
    beats: NDArray[np.int64]
    symbols: tuple[str, ...]
    rhythm: str


def draw_patient(rng: np.random.Generator) -> EcgPatient:
    """A patient at random: age, heart axis, sizes of the waves, and how good the electrodes sit."""
    age = float(rng.uniform(20, 90))
    sex = ("M", "F")[rng.integers(2)]
    old = (age - 55) / 35
    vectors = _VECTORS * rng.normal(1, 0.12, (5, 1)).clip(0.7, 1.3) * rng.lognormal(0, 0.15)
    vectors[_T] *= (1 - 0.3 * old) * (1.0 if sex == "M" else 0.8)
    frontal, horizontal = np.deg2rad(rng.normal([-15 * old, 0], [12, 10]))
    turn = np.array([[np.cos(frontal), -np.sin(frontal), 0], [np.sin(frontal), np.cos(frontal), 0], [0, 0, 1]])
    swing = np.array(
        [[np.cos(horizontal), 0, -np.sin(horizontal)], [0, 1, 0], [np.sin(horizontal), 0, np.cos(horizontal)]]
    )
    focus = np.array([0.4, -0.8, 0.7]) + rng.normal(0, 0.35, 3)
    return EcgPatient(
        age=age,
        sex=sex,
        heart_rate=float(np.clip(rng.normal(70 + 3 * (sex == "F"), 9), 48, 105)),
        variability=float(0.05 * (1 - 0.4 * old) * rng.lognormal(0, 0.2)),
        vectors=vectors @ (swing @ turn).T,
        ectopic=focus / np.linalg.norm(focus),
        pr_s=float(0.165 + 0.025 * old + rng.normal(0, 0.008)),
        noise_mv=float(rng.uniform(0.005, 0.03)),
        wander_mv=float(rng.uniform(0.02, 0.15)),
        mains_mv=float(rng.choice([0.0, rng.uniform(0.002, 0.02)])),
    )


def simulate_ecg(
    rng: np.random.Generator,
    patient: EcgPatient,
    *,
    rhythm: Rhythm = "normal",
    seconds: float = 60,
    rate_hz: float = 500,
) -> SyntheticEcg:
    """One recording of a patient.

    Args:
        rng: source of rhythm and noise.
        patient: see :func:`draw_patient`.
        rhythm: one of :data:`RHYTHMS`.
        seconds: length, at least 3 s.
        rate_hz: at least 100 Hz, so that the QRS complex is sampled.

    Raises:
        ConfigError: an unknown rhythm, or too short or too slow a recording.
    """
    if rhythm not in RHYTHMS:
        raise ConfigError(f"rhythm '{rhythm}' is unknown; use one of {', '.join(RHYTHMS)}")
    if seconds < 3 or rate_hz < 100:
        raise ConfigError(f"{seconds} s at {rate_hz} Hz: at least 3 s and 100 Hz are needed")
    times, symbols = _tachogram(rng, patient, rhythm, seconds)
    n = round(seconds * rate_hz)
    drive = _drive(patient, times, symbols, n, rate_hz, atria=rhythm != "af")
    if rhythm == "af":
        drive += _fibrillation(rng, n, rate_hz)
    data = _project(_relax(drive, rate_hz), n)
    data += _disturbances(rng, patient, n, rate_hz)
    samples = np.rint(times * rate_hz).astype(np.int64)
    seen = (samples >= 0) & (samples < n)
    return SyntheticEcg(
        data=data.astype(np.float32),
        rate_hz=float(rate_hz),
        beats=samples[seen],
        symbols=tuple(symbols[seen].tolist()),
        rhythm=rhythm,
    )


def _tachogram(
    rng: np.random.Generator, patient: EcgPatient, rhythm: str, seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Times of the R peaks (s, from before the start to past the end) and the class of each beat."""
    mean = 60 / patient.heart_rate * (0.75 if rhythm == "af" else 1.0)
    count = int(1.8 * seconds / mean) + 8
    index = np.arange(count)
    if rhythm == "af":
        rr = mean * rng.lognormal(0, 0.2, count).clip(0.55, 2.0)
    else:
        # Baroreflex (0.1 Hz) and breathing (0.25 Hz), as the two peaks of ECGSYN's spectrum.
        phase = rng.uniform(0, 2 * np.pi, 2)
        swing = sum(np.sin(2 * np.pi * f * index * mean + p) for f, p in zip((0.1, 0.25), phase, strict=True))
        rr = mean * (1 + patient.variability * (0.8 * swing + 0.6 * rng.standard_normal(count)))
    rate_v, rate_s = {"normal": (0.002, 0.003), "pvc": (0.14, 0.003), "pac": (0.002, 0.14), "af": (0.01, 0.0)}[rhythm]
    draw = rng.random(count)
    symbols = np.where(draw < rate_v, "V", np.where(draw < rate_v + rate_s, "S", "N"))
    # Two early beats never follow one another: couplets are left to real data.
    early = symbols != "N"
    symbols[1:][early[1:] & early[:-1]] = "N"
    early = symbols != "N"
    symbols[:2], early[:2] = "N", False
    prematurity = rng.uniform(0.58, 0.75, count)
    usual = rr.copy()
    rr = np.where(early, usual * prematurity, rr)
    after = np.flatnonzero(early[:-1]) + 1
    # A ventricular beat leaves the sinus node alone (full compensatory pause), an atrial one resets it.
    pause = np.where(symbols[after - 1] == "V", 2 - prematurity[after - 1], 1.08)
    rr[after] = usual[after] * pause
    times = np.cumsum(rr) - rr[:2].sum() + rng.uniform(0, mean)
    keep = times < seconds + 2 * mean
    return times[keep], symbols[keep]


def _drive(
    patient: EcgPatient, times: NDArray[np.float64], symbols: NDArray[np.str_], n: int, rate_hz: float, *, atria: bool
) -> NDArray[np.float64]:
    """(T, 3): the sum of all waves of all beats, each sample looking at the beats before, at and after it."""
    before = np.diff(times, prepend=times[0] - np.median(np.diff(times)))
    stretch = np.sqrt(np.clip(before, 0.4, 1.6))
    centres, widths, vectors = _waves(patient, symbols, stretch, atria)
    clock = np.arange(n) / rate_hz
    following = np.searchsorted(times, clock, side="right")
    total = np.zeros((n, 3))
    for offset in (-2, -1, 0, 1):
        beat = np.clip(following + offset, 0, len(times) - 1)
        there = (following + offset == beat)[:, None]
        lag = (clock - times[beat])[:, None] - centres[beat]
        height = np.exp(-0.5 * (lag / widths[beat]) ** 2) * there
        total += np.einsum("tw,twd->td", height, vectors[beat])
    return total


def _waves(
    patient: EcgPatient, symbols: NDArray[np.str_], stretch: NDArray[np.float64], atria: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres (N, 5), widths (N, 5) and vectors (N, 5, 3) of the waves of each beat."""
    count = len(symbols)
    centres = np.tile(_CENTRES, (count, 1))
    widths = np.tile(_WIDTHS, (count, 1))
    vectors = np.tile(patient.vectors, (count, 1, 1))
    centres[:, 0] = -patient.pr_s
    centres[:, _T] *= stretch
    widths[:, _T] *= stretch
    if not atria:
        vectors[:, 0] = 0
    atrial = symbols == "S"
    vectors[atrial, 0] *= np.array([0.8, -0.8, 1.0])  # the wave starts low in the atria and runs upwards
    centres[atrial, 0] += 0.03
    ventricular = symbols == "V"
    vectors[ventricular, 0] = 0
    widths[ventricular, 1:_T] *= 2.6
    centres[ventricular, 1], centres[ventricular, 3] = -0.06, 0.07
    size = 1.5 * np.linalg.norm(patient.vectors[2])
    shape = np.array([0.12, 1.0, 0.25])[:, None] * patient.ectopic * size
    vectors[ventricular, 1:_T] = shape
    vectors[ventricular, _T] = -0.35 * size * patient.ectopic  # repolarisation against the main deflection
    widths[ventricular, _T] *= 1.25
    return centres, widths, vectors


def _fibrillation(rng: np.random.Generator, n: int, rate_hz: float) -> NDArray[np.float64]:
    """(T, 3) f waves: an oscillation of 4 to 8 Hz whose frequency and size wander."""
    clock = np.arange(n) / rate_hz
    base = rng.uniform(4.5, 7.5)
    wobble = 0.6 * np.sin(2 * np.pi * rng.uniform(0.1, 0.3) * clock + rng.uniform(0, 6.28))
    phase = 2 * np.pi * np.cumsum(base + wobble) / rate_hz
    size = 0.05 * (1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * clock + rng.uniform(0, 6.28)))
    saw = np.sin(phase) + 0.35 * np.sin(2 * phase)
    direction = np.array([0.1, 0.8, -0.6]) * rng.uniform(0.7, 1.3, 3)
    return (size * saw)[:, None] * direction


def _relax(drive: NDArray[np.float64], rate_hz: float) -> NDArray[np.float64]:
    """Solves dz/dt = d(drive)/dt - z / 1 s, sample to sample."""
    from scipy.signal import lfilter

    decay = np.exp(-1 / (rate_hz * _RELAXATION_S))
    return np.asarray(lfilter([1.0, -1.0], [1.0, -decay], drive, axis=0, zi=-drive[:1])[0])


def _project(vector: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """(12, T) from (T, 3): eight leads by Dower's matrix, the other limb leads by Einthoven and Goldberger."""
    eight = _DOWER @ vector.T
    one, two = eight[0], eight[1]
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limb, eight[2:]]).reshape(12, n)


def _disturbances(rng: np.random.Generator, patient: EcgPatient, n: int, rate_hz: float) -> NDArray[np.float64]:
    """(12, T): breathing baseline, drifting electrodes, muscle noise and mains, consistent between limb leads."""
    clock = np.arange(n) / rate_hz
    breath = np.sin(2 * np.pi * rng.uniform(0.18, 0.32) * clock + rng.uniform(0, 6.28))
    drift = np.sin(2 * np.pi * rng.uniform(0.03, 0.1, (8, 1)) * clock + rng.uniform(0, 6.28, (8, 1)))
    gain = rng.normal(0, 1, (8, 1))
    eight = patient.wander_mv * (0.6 * gain * breath + 0.5 * drift)
    eight += patient.noise_mv * rng.standard_normal((8, n))
    eight += patient.mains_mv * rng.normal(0, 1, (8, 1)) * np.sin(2 * np.pi * 50 * clock + rng.uniform(0, 6.28))
    one, two = eight[0], eight[1]
    return np.concatenate([np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]), eight[2:]])


def write_ecg(
    folder: str | Path,
    *,
    patients: int,
    seed: int,
    records_per_patient: int = 1,
    seconds: float = 60,
    rate_hz: float = 500,
) -> Path:
    """Writes WFDB records (``.hea``, ``.dat``, beats and rhythm in ``.atr``) and ``records.csv``.

    The table has ``record, patient_id, rhythm, age, sex, n_N, n_V, n_S``; rhythms come in turn over the patients and a
    patient keeps theirs.

    Args:
        folder: made if missing.
        patients: how many.
        seed: the same seed gives the same bytes; a patient does not depend on how many there are.
        records_per_patient: recordings of each.
        seconds, rate_hz: of each recording.

    Returns:
        The folder.

    Raises:
        ConfigError: less than one patient or record.
    """
    if patients < 1 or records_per_patient < 1:
        raise ConfigError(
            f"patients={patients}, records_per_patient={records_per_patient}: at least one of each is needed"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        patient = draw_patient(rng)
        rhythm: Rhythm = ("normal", "pvc", "pac", "af")[number % 4]
        for part in range(records_per_patient):
            ecg = simulate_ecg(rng, patient, rhythm=rhythm, seconds=seconds, rate_hz=rate_hz)
            name = f"p{number + 1:03d}_{part + 1}"
            _write_record(folder, name, ecg, patient)
            counts = {f"n_{symbol}": ecg.symbols.count(symbol) for symbol in "NVS"}
            identity = {"record": name, "patient_id": f"p{number + 1:03d}", "rhythm": rhythm}
            rows.append({**identity, "age": round(patient.age), "sex": patient.sex, **counts})
    with (folder / "records.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _write_record(folder: Path, name: str, ecg: SyntheticEcg, patient: EcgPatient) -> None:
    import wfdb

    # 1000 units a mV; a 16-bit integer then spans +-32 mV, and -32768 stays free as WFDB's mark of no sample.
    digital = np.clip(np.rint(ecg.data.T * 1000), -32767, 32767).astype(np.int64)
    wfdb.wrsamp(
        name,
        fs=ecg.rate_hz,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        d_signal=digital,
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        comments=[f"Age: {round(patient.age)}", f"Sex: {patient.sex}", f"Rhythm: {ecg.rhythm}"],
        write_dir=str(folder),
    )
    rhythm = "(AFIB" if ecg.rhythm == "af" else "(N"
    wfdb.wrann(
        name,
        "atr",
        # WFDB wants rising samples; the rhythm is stated at the very start.
        sample=np.concatenate([[0], np.maximum(ecg.beats, 1)]),
        symbol=["+", *ecg.symbols],
        aux_note=[rhythm, *[""] * len(ecg.beats)],
        fs=ecg.rate_hz,
        write_dir=str(folder),
    )
