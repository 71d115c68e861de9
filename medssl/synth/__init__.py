"""Synthetic cohorts with known ground truth, for the demonstration and the tests."""

from __future__ import annotations

from medssl.synth.ecg import RHYTHMS, EcgPatient, SyntheticEcg, draw_patient, simulate_ecg, write_ecg
from medssl.synth.echo import EchoPatient, SyntheticEcho, draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echo_avi, write_echo_dicom, write_echonet
from medssl.synth.fmri import (
    FMRI_SITES,
    FmriPerson,
    FmriSite,
    FmriWorld,
    SyntheticFmri,
    draw_fmri_person,
    make_fmri_world,
    simulate_fmri,
)
from medssl.synth.fmri_files import write_abide, write_fmriprep
from medssl.synth.volumes import CLASSES, ORGANS, torso_volume, write_volumes

__all__ = [
    "CLASSES",
    "FMRI_SITES",
    "ORGANS",
    "RHYTHMS",
    "EcgPatient",
    "EchoPatient",
    "FmriPerson",
    "FmriSite",
    "FmriWorld",
    "SyntheticEcg",
    "SyntheticEcho",
    "SyntheticFmri",
    "draw_echo_patient",
    "draw_fmri_person",
    "draw_patient",
    "make_fmri_world",
    "simulate_ecg",
    "simulate_echo",
    "simulate_fmri",
    "torso_volume",
    "write_abide",
    "write_ecg",
    "write_echo_avi",
    "write_echo_dicom",
    "write_echonet",
    "write_fmriprep",
    "write_volumes",
]
