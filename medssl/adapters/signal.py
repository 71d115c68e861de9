"""Signals (EEG, ECG, polysomnography, ...) of every format, as recordings with names, units, rate and events.

Physical values come in microvolts (EEG, EOG, EMG) or millivolts (ECG); other quantities keep the unit their file
states. Channel names are brought to one spelling, and ``notes`` say which were changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.adapters.recording import Read, sha256_of
from medssl.adapters.signal_array import ARRAY_SUFFIXES, TABLE_SUFFIXES, read_array, read_table
from medssl.adapters.signal_common import Decoded, finish
from medssl.adapters.signal_dicom import read_dicom_waveforms
from medssl.adapters.signal_mne import MNE_FOLDERS, MNE_SUFFIXES, read_with_mne
from medssl.adapters.signal_wfdb import read_wfdb, wfdb_files
from medssl.adapters.signal_xml import read_xml_ecg
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["SIGNAL_SUFFIXES", "read_signal"]

SIGNAL_SUFFIXES = frozenset(MNE_SUFFIXES | MNE_FOLDERS | ARRAY_SUFFIXES | TABLE_SUFFIXES | {".hea", ".dcm", ".xml"})
"""Every suffix :func:`read_signal` knows; text tables may carry ``.gz`` or ``.xz`` in addition."""

_SIDECARS = {
    ".vhdr": (".eeg", ".dat", ".vmrk"),
    ".eeg": (".vhdr", ".vmrk", ".pnt", ".log", ".21e"),
    ".set": (".fdt",),
    ".data": (".head",),
    ".cdt": (".cdt.dpa", ".cdt.cef"),
    ".lay": (".dat",),
}


def read_signal(
    path: str | Path,
    *,
    rate_hz: float | None = None,
    units: str | None = None,
    channels: Sequence[str] | None = None,
    key: str | None = None,
) -> Read:
    """Reads every signal a file holds.

    Args:
        path: EDF/EDF+/BDF, GDF, BrainVision, EEGLAB, FIF, Neuroscan and ANT CNT, Nicolet, Nihon Kohden, EGI, Persyst,
            Curry (through MNE); WFDB (``.hea``, or ``.dat``/``.mat`` beside one, or the record's name); DICOM
            waveforms; ECG XML (HL7 aECG, GE MUSE, Philips); or bare numbers in NumPy, MATLAB, HDF5, CSV, Parquet.
        rate_hz: sampling rate of bare numbers, which is never guessed; where a file states its own, the two must
            agree.
        units: the unit of all voltages in the result. What states its unit is converted; bare numbers are taken to
            be in it. None: mV for ECG leads, uV for other voltages, ``""`` for bare numbers.
        channels: names of the channels to keep, in this order (aliases such as T3/T7 are understood); for bare
            numbers without a header, a name a channel.
        key: which array of a ``.npz``, ``.mat`` or HDF5 file.

    Returns:
        Recordings with axes ``"ct"``; several for DICOM multiplex groups, XML with a median beat, EDF+D with gaps, or
        trials. ``rejected`` is empty: a file is read as a whole or refused.

    Raises:
        UnreadableRecording: what cannot be read faithfully, with the reason.
        ConfigError: an option that no file could satisfy.

    Example:
        ``read_signal("night.edf", channels=["C3", "C4"]).recordings[0].data`` is (2, T) float32 in uV.
    """
    if rate_hz is not None and not rate_hz > 0:
        raise ConfigError(f"rate_hz={rate_hz} is not possible; give samples a second, e.g. rate_hz=250")
    if channels is not None and not channels:
        raise ConfigError("channels is empty; leave it out for all channels")
    source = _locate(Path(path))
    decoded, files = _decode(source, rate_hz, units, channels, key)
    digest = sha256_of(*files)
    bare = _suffix(source) in ARRAY_SUFFIXES | TABLE_SUFFIXES and source.suffix != ".hea"
    return Read(
        [
            finish(
                one,
                path,
                sha256=digest,
                rate_hz=None if bare else rate_hz,
                units=None if bare else units,
                channels=None if bare else channels,
            )
            for one in decoded
        ],
        [],
    )


def _locate(path: Path) -> Path:
    """The file to read: the ``.hea`` of a WFDB record however it was named, else the path itself."""
    header = path.with_suffix(".hea")
    if path.suffix.lower() in {".dat", ".mat", ".atr"} and header.is_file():
        return header
    if not path.exists() and Path(f"{path}.hea").is_file():
        return Path(f"{path}.hea")
    if not path.exists():
        raise UnreadableRecording("no such file", path)
    if path.is_dir() and path.suffix.lower() not in MNE_FOLDERS:
        raise UnreadableRecording("a folder, not a signal file", path)
    if path.is_file() and path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    return path


def _suffix(path: Path) -> str:
    """The suffix that says the format, past ``.gz``/``.xz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-2:] in (["fif", ".gz"], [".fif", ".gz"], [".cdt", ".dpa"]):
        return "".join(suffixes[-2:])
    if len(suffixes) > 1 and suffixes[-1] in {".gz", ".xz"} and suffixes[-2] in TABLE_SUFFIXES:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def _decode(
    path: Path, rate_hz: float | None, units: str | None, channels: Sequence[str] | None, key: str | None
) -> tuple[list[Decoded], list[Path]]:
    suffix = _suffix(path)
    if suffix == ".hea":
        return [read_wfdb(path, channels=channels)], wfdb_files(path)
    if suffix == ".xml":
        return read_xml_ecg(path), [path]
    if suffix in ARRAY_SUFFIXES:
        return read_array(path, rate_hz=rate_hz, units=units, channels=channels, key=key), [path]
    if suffix in TABLE_SUFFIXES:
        return [read_table(path, rate_hz=rate_hz, units=units, channels=channels)], [path]
    if suffix in MNE_SUFFIXES or suffix in MNE_FOLDERS:
        return read_with_mne(path, channels=channels), _files(path, suffix)
    if suffix in {".dcm", ".dicom"} or _is_dicom(path):
        return read_dicom_waveforms(path), [path]
    raise UnreadableRecording(f"format '{suffix or 'without suffix'}' is not known as a signal", path)


def _files(path: Path, suffix: str) -> list[Path]:
    """The file and those that belong to it, for the digest."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    beside = [path.with_suffix(extra) for extra in _SIDECARS.get(suffix, ())]
    return [path, *(file for file in beside if file.is_file())]


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
