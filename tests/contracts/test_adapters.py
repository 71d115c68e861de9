"""What every adapter promises of files it cannot read: an error of ours with a reason, never another exception."""

from __future__ import annotations

import gzip
import inspect
import pkgutil
import struct
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medssl.adapters
from medssl.adapters import echo, fmri, masks, signal, volume
from medssl.adapters.dicom import read_dicom
from medssl.adapters.echo_frames import read_frame_folder
from medssl.adapters.image_stack import read_image_stack
from medssl.adapters.recording import Read, Recording
from medssl.errors import MedSSLError, UnreadableRecording

Adapter = Callable[..., Any]
VOLUMES, SIGNALS = sorted(volume.VOLUME_SUFFIXES), sorted(signal.SIGNAL_SUFFIXES)
RUNS = sorted(fmri.FMRI_SUFFIXES | {".1D.gz", ".csv.xz"})
DICOM = [".dcm", ".dicom", ".ima", ""]

ENTRIES: dict[str, tuple[Adapter, list[str], dict[str, Any]]] = {
    "read_volume": (volume.read_volume, VOLUMES, {}),
    "read_mask": (masks.read_mask, VOLUMES, {}),
    "read_dicom": (read_dicom, DICOM, {}),
    "read_image_stack": (read_image_stack, [".png"], {}),
    "read_echo": (echo.read_echo, [*sorted(echo.VIDEO_SUFFIXES), ""], {}),
    "read_frame_folder": (read_frame_folder, [""], {}),
    "read_signal": (signal.read_signal, SIGNALS, {}),
    "read_signal-with-rate": (signal.read_signal, SIGNALS, {"rate_hz": 100.0, "units": "mV"}),
    "read_fmri": (fmri.read_fmri, RUNS, {"tr_s": 2.0, "atlas": "power_2011"}),
}
"""Where callers come in; a new modality adds its line here."""

INNER = {
    "read_array", "read_atlas", "read_confounds", "read_dataset", "read_dicom_waveforms", "read_echo_dicom",
    "read_edf_header", "read_header", "read_numbers", "read_png", "read_region_series", "read_segmentation",
    "read_series", "read_stream", "read_table", "read_wfdb", "read_with_mne", "read_xml_ecg",
}  # fmt: skip
"""Parts of the above, each for one format, which the above call."""

CASES = [(name, suffix) for name, (_, suffixes, _) in ENTRIES.items() for suffix in suffixes]
everywhere = pytest.mark.parametrize(("name", "suffix"), CASES)


HEADERLESS = {".nxe": "bare samples without a header: nothing in the file could tell"}


def garbage(seed: int, size: int = 3000) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


NIFTI = struct.pack("<i", 348) + bytes(340) + b"n+1\0"
WORDS = b"this is no recording, it is a letter\nof two lines\n"
CONTENTS = {
    "random bytes": garbage(0),
    "random bytes again": garbage(1, 40_000),
    "one byte": b"\0",
    "zeros": bytes(4096),
    "words": WORDS,
    "numbers without meaning": b"1,2\n3,x\n,,,,\n",
    "a NIfTI header without sense": NIFTI + garbage(2),
    "a DICOM preamble and no more": bytes(128) + b"DICM" + garbage(3),
    "gzip of noise": gzip.compress(garbage(4)),
    "gzip cut short": gzip.compress(garbage(5))[:1000],
    "an EDF header without sense": b"0       " + b"X" * 176 + b"bad     " + garbage(6),
    "a ZIP that is none": b"PK\x03\x04" + garbage(7),
    "a MATLAB header and noise": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + garbage(8),
    "NumPy that would unpickle": b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    "XML of something else": b"<?xml version='1.0'?><letter><to>you</to></letter>",
    "XML cut short": b"<?xml version='1.0'?><AnnotatedECG",
    "a WFDB header of a lost file": b"rec 1 360 1000\nrec.dat 212 200 11 1024 0 0 0 MLII\n",
    "an NRRD header without data": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n\n",
    "a MetaImage header of a lost file": b"NDims = 3\nDimSize = 4 4 4\nElementDataFile = no.raw\n",
    "a BrainVision header of a lost file": b"Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\n",
}


def refused(name: str, path: Path) -> str:
    """The reason why nothing of ``path`` was read."""
    adapter, _, options = ENTRIES[name]
    try:
        read: Read | Recording = adapter(path, **options)
    except MedSSLError as error:
        message = str(error)
    else:
        assert isinstance(read, Read) and not read.recordings, f"{name} made a recording of it"
        assert read.rejected
        message = "; ".join(f"{r.source}: {r.reason}" for r in read.rejected)
    assert message.strip()
    return message


def test_every_public_reader_is_an_entry_or_part_of_one() -> None:
    readers = set()
    for module in pkgutil.iter_modules(medssl.adapters.__path__):
        loaded = import_module(f"medssl.adapters.{module.name}")
        public = [n for n in getattr(loaded, "__all__", ()) if n.startswith("read_")]
        readers |= {n for n in public if inspect.isfunction(getattr(loaded, n))}
    assert {name.partition("-")[0] for name in ENTRIES} <= readers
    assert readers - INNER <= {name.partition("-")[0] for name in ENTRIES}


@everywhere
def test_what_is_not_there(name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableRecording, match="missing") as error:
        ENTRIES[name][0](tmp_path / f"missing{suffix}", **ENTRIES[name][2])
    assert error.value.path == str(tmp_path / f"missing{suffix}")


@everywhere
def test_an_empty_file(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"empty{suffix}"
    path.touch()
    assert path.name in refused(name, path)


@everywhere
def test_an_empty_folder(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    assert path.name in refused(name, path)


@everywhere
def test_a_folder_of_other_things(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    (path / "letter.odt").write_bytes(WORDS)
    refused(name, path)


@pytest.mark.filterwarnings("ignore:Exception ignored in.*mgh:pytest.PytestUnraisableExceptionWarning")  # nibabel's
@everywhere
def test_contents_that_are_not_what_the_name_says(name: str, suffix: str, tmp_path: Path) -> None:
    accepted = []
    for number, (what, content) in enumerate(CONTENTS.items()):
        path = tmp_path / f"damaged{number}{suffix}"
        path.write_bytes(content)
        try:
            reason = refused(name, path)
        except AssertionError:
            accepted.append(what)
            continue
        assert reason.count("\n") == 0, f"{what}: more than a sentence"
        assert len(reason) < 600, f"{what}: {reason}"
    if suffix not in HEADERLESS:
        assert not accepted, f"{name} took {suffix} with {', '.join(accepted)} for recordings"
