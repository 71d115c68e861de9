"""Synthetic cohorts with known ground truth, for the demonstration and the tests."""

from __future__ import annotations

from medssl.synth.ecg import RHYTHMS, EcgPatient, SyntheticEcg, draw_patient, simulate_ecg, write_ecg
from medssl.synth.echo import EchoPatient, SyntheticEcho, draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echo_avi, write_echo_dicom, write_echonet
from medssl.synth.volumes import CLASSES, ORGANS, torso_volume, write_volumes

__all__ = [
    "CLASSES",
    "ORGANS",
    "RHYTHMS",
    "EcgPatient",
    "EchoPatient",
    "SyntheticEcg",
    "SyntheticEcho",
    "draw_echo_patient",
    "draw_patient",
    "simulate_ecg",
    "simulate_echo",
    "torso_volume",
    "write_ecg",
    "write_echo_avi",
    "write_echo_dicom",
    "write_echonet",
    "write_volumes",
]
