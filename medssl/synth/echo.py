"""Echocardiogram of a beating ventricle, with its volumes, its mask in every frame and everything burnt in known.

A left ventricle (prolate ellipsoid) inside a myocardium of constant area beats in a fan-shaped sector. Speckle is
multiplicative: the modulus of a complex Gaussian field, so Rayleigh distributed (Wagner et al., IEEE Trans. Sonics
Ultrason. 30:156, 1983), that follows the frames with some decorrelation; the envelope is log-compressed as scanners do.
Text, an ECG line with a moving cursor and a scale are burnt in, as in clips that were never de-identified.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError

__all__ = ["EchoPatient", "SyntheticEcho", "draw_echo_patient", "simulate_echo"]

HALF_ANGLE = np.deg2rad(35.0)
DYNAMIC_RANGE_DB = 50.0
# Digits of 3 x 5 pixels, a row an octal digit: enough for a record number and a date.
_DIGITS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71122", "75757", "75717")


@dataclass(frozen=True)
class EchoPatient:
    """What stays the same in all clips of one patient.

    Attributes:
        edv_ml: volume of the left ventricle at end diastole.
        ef: ejection fraction, per cent.
        heart_rate: beats a minute.
        tilt: of the long axis against the beam, radians.
        gain: brightness of the tissue, about 1.
    """

    edv_ml: float
    ef: float
    heart_rate: float
    tilt: float
    gain: float

    @property
    def esv_ml(self) -> float:
        """Volume at end systole."""
        return self.edv_ml * (1 - self.ef / 100)


@dataclass(frozen=True)
class SyntheticEcho:
    """A clip with its truth.

    Attributes:
        frames: (T, Y, X) uint8.
        rate_hz: frames a second.
        spacing_mm: of a pixel (y, x).
        sector: (Y, X) bool: where there is ultrasound.
        burnt: (Y, X) bool: pixels of the text, the ECG strip and the scale.
        lv: (T, Y, X) bool: the cavity of the left ventricle.
        axes_px: (T, 2) half length and half width of the cavity.
        centre_px: (T, 2) its middle (y, x).
        tilt: of its long axis, radians.
        ed_frame, es_frame: a frame of the largest and of the smallest cavity.
        ed_times_s: when it is largest: the R waves.
        patient: whose it is.
    """

    frames: NDArray[np.uint8]
    rate_hz: float
    spacing_mm: tuple[float, float]
    sector: NDArray[np.bool_]
    burnt: NDArray[np.bool_]
    lv: NDArray[np.bool_]
    axes_px: NDArray[np.float64]
    centre_px: NDArray[np.float64]
    tilt: float
    ed_frame: int
    es_frame: int
    ed_times_s: NDArray[np.float64]
    patient: EchoPatient


def draw_echo_patient(rng: np.random.Generator) -> EchoPatient:
    """A patient at random: a ventricle of 70 to 180 ml, an ejection fraction of 25 to 72 %."""
    return EchoPatient(
        edv_ml=float(rng.uniform(70, 180)),
        ef=float(rng.uniform(25, 72)),
        heart_rate=float(rng.uniform(55, 95)),
        tilt=float(rng.normal(0, 0.08)),
        gain=float(rng.uniform(0.85, 1.15)),
    )


def simulate_echo(
    rng: np.random.Generator,
    patient: EchoPatient,
    *,
    frames: int = 60,
    size: tuple[int, int] = (112, 112),
    rate_hz: float = 50.0,
    burnt_in: bool = True,
) -> SyntheticEcho:
    """A clip of a patient.

    Args:
        rng: of speckle and phase.
        patient: whose.
        frames: T.
        size: (Y, X), at least 64 each.
        rate_hz: frames a second.
        burnt_in: text, ECG and scale are in the picture, partly over the sector.

    Raises:
        ConfigError: no frame, a picture too small, or a rate that is not above 0.
    """
    if frames < 1 or min(size) < 64 or not rate_hz > 0:
        raise ConfigError(f"frames {frames}, size {size}, rate_hz {rate_hz}: at least 1 frame of 64x64 above 0 Hz")
    height, width = size
    depth_px = 0.84 * height
    mm = 150.0 / depth_px
    apex = (0.05 * height, width / 2)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    dy, dx = y - apex[0], x - apex[1]
    radius, angle = np.hypot(dy, dx), np.arctan2(dx, dy)
    sector = (radius <= depth_px) & (radius >= 0.03 * height) & (np.abs(angle) <= HALF_ANGLE)
    phase = (np.arange(frames) / rate_hz * patient.heart_rate / 60 + rng.random()) % 1.0
    systole = _contraction(phase)
    volumes = patient.edv_ml * (1 - patient.ef / 100 * systole) * 1000.0
    length = 0.5 * (6 * 2.2**2 * patient.edv_ml * 1000 / np.pi) ** (1 / 3) * (1 - 0.15 * systole)
    half = np.stack([length, np.sqrt(volumes / (4 / 3 * np.pi * length))], axis=1) / mm
    centre = np.stack([0.47 * height + 0.02 * height * systole, np.full(frames, width / 2)], axis=1)
    lv = np.empty((frames, height, width), dtype=bool)
    pictures = np.empty((frames, height, width), dtype=np.uint8)
    field = _speckle(rng, size)
    burnt, overlay = _overlay(size, sector) if burnt_in else (np.zeros(size, bool), np.zeros(size, np.uint8))
    for t in range(frames):
        inside, outside = _ventricle(y, x, centre[t], half[t], patient.tilt)
        lv[t] = inside & sector
        tissue = np.where(inside, 0.03, np.where(outside, 0.55, 0.22)) * patient.gain * np.exp(-radius / (2.5 * height))
        pictures[t] = _compressed(tissue * np.abs(field)) * sector
        field = 0.85 * field + np.sqrt(1 - 0.85**2) * _speckle(rng, size)
        if burnt_in:
            pictures[t][burnt] = overlay[burnt]
            _cursor(pictures[t], burnt, t / max(frames - 1, 1))
    times = np.arange(frames) / rate_hz
    beat = 60 / patient.heart_rate
    first = (-phase[0] % 1.0) * beat
    return SyntheticEcho(
        frames=pictures,
        rate_hz=rate_hz,
        spacing_mm=(mm, mm),
        sector=sector,
        burnt=burnt,
        lv=lv,
        axes_px=half,
        centre_px=centre,
        tilt=patient.tilt,
        ed_frame=int(np.argmin(systole)),
        es_frame=int(np.argmax(systole)),
        ed_times_s=np.arange(first, times[-1] + 1e-9, beat),
        patient=patient,
    )


def _contraction(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 at end diastole, 1 at end systole: contraction takes a third of the beat, filling the rest."""
    return np.where(phase < 1 / 3, np.sin(1.5 * np.pi * phase) ** 2, np.sin(0.75 * np.pi * (1 - phase)) ** 2)


def _ventricle(
    y: NDArray[np.float64], x: NDArray[np.float64], centre: NDArray[np.float64], half: NDArray[np.float64], tilt: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels of the cavity, and of the cavity with its wall (of constant area)."""
    along = (y - centre[0]) * np.cos(tilt) + (x - centre[1]) * np.sin(tilt)
    across = -(y - centre[0]) * np.sin(tilt) + (x - centre[1]) * np.cos(tilt)
    a, b = half
    wall = 0.5 * (np.sqrt((a + b) ** 2 + 0.12 * y.shape[0] ** 2) - (a + b))
    return (along / a) ** 2 + (across / b) ** 2 <= 1, (along / (a + wall)) ** 2 + (across / (b + wall)) ** 2 <= 1


def _speckle(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.complex128]:
    """A complex Gaussian field of unit power, correlated over about two pixels."""
    from scipy import ndimage

    parts = [ndimage.gaussian_filter(rng.standard_normal(size), (0.7, 1.0), mode="wrap") for _ in range(2)]
    field: NDArray[np.complex128] = parts[0] + 1j * parts[1]
    return np.asarray(field / np.sqrt((np.abs(field) ** 2).mean()))


def _compressed(envelope: NDArray[np.float64]) -> NDArray[np.uint8]:
    decibel = 20 * np.log10(np.maximum(envelope, 1e-6))
    return np.asarray(np.clip((decibel + DYNAMIC_RANGE_DB) / DYNAMIC_RANGE_DB * 230, 0, 230), dtype=np.uint8)


def _overlay(size: tuple[int, int], sector: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """What is burnt in: a record number in the corner, one in the sector, an ECG strip and a depth scale."""
    height, width = size
    burnt, values = np.zeros(size, bool), np.zeros(size, np.uint8)
    scale = max(1, height // 112)
    glyphs = [np.array([[int(row) >> 2 & 1, int(row) >> 1 & 1, int(row) & 1] for row in d], bool) for d in _DIGITS]

    def write(text: str, top: int, left: int) -> None:
        for place, digit in enumerate(text):
            glyph = np.kron(glyphs[int(digit)], np.ones((scale, scale), bool))
            box = np.s_[top : top + 5 * scale, left + 4 * scale * place : left + 4 * scale * place + 3 * scale]
            burnt[box] |= glyph
            values[box][glyph] = 255

    write("19610407", 2, 2)
    write("4711", int(0.74 * height), width // 2 - 8 * scale)
    strip = int(0.93 * height)
    trace = np.arange(width) % (width // 3) / (width // 3)
    wave = 0.6 * np.exp(-(((trace - 0.3) / 0.02) ** 2)) + 0.2 * np.exp(-(((trace - 0.6) / 0.06) ** 2))
    rows = (height - 2 - wave * (height - 3 - strip)).astype(int)
    burnt[rows, np.arange(width)] = True
    values[rows, np.arange(width)] = 200
    ticks = np.arange(int(0.1 * height), strip, max(height // 12, 2))
    burnt[ticks, -3:] = True
    values[ticks, -3:] = 255
    return burnt, values


def _cursor(picture: NDArray[np.uint8], burnt: NDArray[np.bool_], progress: float) -> None:
    """The moving cursor of the ECG strip."""
    height, width = picture.shape
    column = int(progress * (width - 1))
    picture[int(0.95 * height) :, column] = 255
    burnt[int(0.95 * height) :, column] = True
