"""Synthetic cohorts with known ground truth, for the demonstration and the tests."""

from __future__ import annotations

from medssl.synth.ecg import RHYTHMS, EcgPatient, SyntheticEcg, draw_patient, simulate_ecg, write_ecg
from medssl.synth.volumes import CLASSES, ORGANS, torso_volume, write_volumes

__all__ = [
    "CLASSES",
    "ORGANS",
    "RHYTHMS",
    "EcgPatient",
    "SyntheticEcg",
    "draw_patient",
    "simulate_ecg",
    "torso_volume",
    "write_ecg",
    "write_volumes",
]
