"""Reading signals: formats written here, byte by byte known, so that every promise can be checked."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medssl.adapters.recording import Recording
from medssl.adapters.signal import read_signal
from medssl.errors import ConfigError, UnreadableRecording

RATE = 100


def sine(channels: int = 2, seconds: float = 10, rate: float = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([50 * np.sin(2 * np.pi * (2 + c) * time) + c for c in range(channels)])


def only(path: Path, **options: object) -> Recording:
    recordings, rejected = read_signal(path, **options)  # type: ignore[arg-type]
    assert rejected == []
    assert len(recordings) == 1
    return recordings[0]


@pytest.fixture
def edf(tmp_path: Path) -> Callable[..., Path]:
    """Writes an EDF+ of two EEG channels in uV and one ECG channel in mV, with one annotation."""
    import edfio

    def write(seconds: float = 10, **patient: object) -> Path:
        data = sine(3, seconds)
        labels = [("EEG Fp1-Ref", "uV"), ("EEG T3-Ref", "uV"), ("ECG ECG", "mV")]
        signals = [
            edfio.EdfSignal(row, RATE, label=label, physical_dimension=unit, physical_range=(-60, 60))
            for row, (label, unit) in zip(data, labels, strict=True)
        ]
        notes = [edfio.EdfAnnotation(3.5, 2.0, "Sleep stage W"), edfio.EdfAnnotation(5.25, None, "blink")]
        edfio.Edf(
            signals,
            annotations=notes,
            data_record_duration=1,
            patient=edfio.Patient(**patient),
            recording=edfio.Recording(startdate=datetime.date(2020, 6, 1)),
        ).write(tmp_path / "a.edf")
        return tmp_path / "a.edf"

    return write


def test_edf_comes_in_its_units_with_names_events_and_demographics(edf: Callable[..., Path]) -> None:
    path = edf(sex="F", birthdate=datetime.date(1990, 6, 1), name="Jane_Doe", code="MRN-77")
    recording = only(path)
    assert recording.axes == "ct"
    assert recording.data.dtype == np.float32
    assert recording.channels == ("Fp1", "T3", "ECG")
    assert recording.units == ("uV", "uV", "mV")
    assert recording.rate_hz == RATE
    np.testing.assert_allclose(recording.data, sine(3), atol=120 / 65535)
    stage, blink = recording.events
    assert (stage.onset_s, stage.duration_s, stage.kind, stage.value) == (3.5, 2.0, "stage", "Sleep stage W")
    assert (blink.onset_s, blink.kind) == (5.25, "annotation")
    assert recording.labels == {"age": 30.0, "sex": "F"}
    assert "channel 'EEG Fp1-Ref' read as 'Fp1'" in recording.notes
    assert len(recording.source_sha256) == 64


def test_nothing_names_the_patient(edf: Callable[..., Path]) -> None:
    recording = only(edf(name="Jane_Doe", code="MRN-77"))
    assert recording.ids.patient == ""
    text = repr(recording.with_(data=np.zeros((1, 1))))
    assert "Doe" not in text
    assert "MRN" not in text


def test_channels_are_chosen_by_name_or_alias_in_the_order_asked(edf: Callable[..., Path]) -> None:
    recording = only(edf(), channels=["ECG", "T7"])
    assert recording.channels == ("ECG", "T3")
    np.testing.assert_allclose(recording.data, sine(3)[[2, 1]], atol=120 / 65535)
    with pytest.raises(UnreadableRecording, match="channel 'Oz' is not among its channels: Fp1, T3, ECG"):
        read_signal(edf(), channels=["Oz"])


def test_voltages_in_one_unit_when_asked(edf: Callable[..., Path]) -> None:
    recording = only(edf(), units="mV")
    assert recording.units == ("mV", "mV", "mV")
    np.testing.assert_allclose(recording.data[0] * 1000, sine(3)[0], atol=2e-3)
    with pytest.raises(ConfigError, match="not a voltage"):
        read_signal(edf(), units="mmHg")


def test_a_declared_rate_must_agree_with_the_file(edf: Callable[..., Path]) -> None:
    assert only(edf(), rate_hz=RATE).rate_hz == RATE
    with pytest.raises(UnreadableRecording, match="says 100 Hz, rate_hz=250 was declared"):
        read_signal(edf(), rate_hz=250)
    with pytest.raises(ConfigError, match="rate_hz=-1"):
        read_signal(edf(), rate_hz=-1)


def test_discontinuous_edf_is_cut_where_time_jumps(edf: Callable[..., Path]) -> None:
    path = edf(seconds=7)
    raw = path.read_bytes()
    for second in (6, 5, 4):  # these records start 3 s later than they would
        stamp = b"+%d\x14\x14\x00" % second
        assert raw.count(stamp) == 1
        raw = raw.replace(stamp, b"+%d\x14\x14\x00" % (second + 3))
    path.write_bytes(raw[:192] + b"EDF+D" + raw[197:])
    first, second_part = read_signal(path).recordings
    assert first.data.shape == (3, 400)
    np.testing.assert_allclose(first.data, sine(3)[:, :400], atol=120 / 65535)
    np.testing.assert_allclose(second_part.data, sine(3)[:, 400:700], atol=120 / 65535)
    assert "stretch 2 of 2, from 7 s" in second_part.notes[0]
    assert [e.value for e in first.events] == ["Sleep stage W"]
    assert "1 events inside the gaps are left out" in first.notes, "the blink at 5.25 s fell into the gap"


def test_truncated_edf_is_read_to_its_end_with_a_note(edf: Callable[..., Path]) -> None:
    path = edf()
    path.write_bytes(path.read_bytes()[:-700])
    recording = only(path)
    assert recording.data.shape[1] < 1000
    assert any("shorter than its header says" in note for note in recording.notes)


@pytest.mark.parametrize("content", [b"", b"not an EDF at all" * 40, b"0       " + b" " * 300])
def test_broken_edf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.edf"
    path.write_bytes(content)
    with pytest.raises(UnreadableRecording, match=r"empty|not an EDF"):
        read_signal(path)


def write_wfdb(folder: Path, **options: object) -> Path:
    import wfdb

    data = (sine(2).T / 50).astype(np.float64)
    data[5, 0] = np.nan
    wfdb.wrsamp(
        "rec",
        fs=RATE,
        units=["mV", "mV"],
        sig_name=["MLII", "V1"],
        p_signal=data,
        fmt=["16", "16"],
        comments=["Age: 300", "Sex: Male", "Dx: AF,PVC"],
        write_dir=str(folder),
    )
    wfdb.wrann(
        "rec",
        "atr",
        sample=np.array([10, 100, 250, 400, 500]),
        symbol=["+", "N", "V", "~", "+"],
        aux_note=["(N\x00", "", "", "", "(AFIB\x00"],
        write_dir=str(folder),
    )
    return folder / "rec.hea"


def test_wfdb_record_with_beats_rhythms_and_a_missing_sample(tmp_path: Path) -> None:
    recording = only(write_wfdb(tmp_path))
    assert recording.channels == ("MLII", "V1")
    assert recording.units == ("mV", "mV")
    assert np.argwhere(np.isnan(recording.data)).tolist() == [[0, 5]]
    np.testing.assert_allclose(recording.data[1], sine(2)[1] / 50, atol=1e-4)
    found = [(e.kind, e.value, e.onset_s, e.duration_s) for e in recording.events]
    assert found == [
        ("rhythm", "(N", 0.1, 4.9),
        ("beat", "N", 1.0, 0.0),
        ("beat", "V", 2.5, 0.0),
        ("annotation", "~", 4.0, 0.0),
        ("rhythm", "(AFIB", 5.0, 5.0),
    ]
    assert recording.labels == {"sex": "M", "dx": ["AF", "PVC"]}, "age 300 hides an age over 89 and is no age"


def test_a_wfdb_record_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path)
    digests = {only(path).source_sha256 for path in (header, tmp_path / "rec.dat", tmp_path / "rec")}
    assert len(digests) == 1
    header.with_suffix(".atr").unlink()
    assert only(header).events == ()


def test_wfdb_without_its_signal_file_says_which_is_missing(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path)
    (tmp_path / "rec.dat").unlink()
    with pytest.raises(UnreadableRecording, match=r"signal file rec\.dat is missing"):
        read_signal(header)


def save_array(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, x=array)
    elif path.suffix == ".mat":
        from scipy.io import savemat

        savemat(path, {"x": array})
    elif path.suffix == ".h5":
        import h5py

        with h5py.File(path, "w") as file:
            file["group/x"] = array
    else:
        import pandas as pd

        frame = pd.DataFrame(array.T, columns=["Fp1", "Cz"])
        writers = {
            ".csv": frame.to_csv,
            ".parquet": frame.to_parquet,
            ".tsv": lambda p, **k: frame.to_csv(p, sep="\t", **k),
        }
        writers[path.suffix](path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".csv", ".tsv", ".parquet"])
def test_bare_numbers_need_a_rate_and_come_back_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = save_array(tmp_path / f"a{suffix}", sine(2))
    with pytest.raises(UnreadableRecording, match="declare it with rate_hz"):
        read_signal(path)
    recording = only(path, rate_hz=RATE, units="uV", channels=["Fp1", "Cz"])
    np.testing.assert_allclose(recording.data, sine(2), rtol=1e-6, atol=1e-5)
    assert recording.channels == ("Fp1", "Cz")
    assert recording.units == ("uV", "uV")


def test_integers_stay_integers(tmp_path: Path) -> None:
    path = save_array(tmp_path / "a.npy", sine(2).astype(np.int16))
    recording = only(path, rate_hz=RATE)
    assert recording.data.dtype == np.int16
    assert recording.channels == ("0", "1")
    assert recording.units == ("", "")
    assert recording.notes == ()


def test_time_by_channel_is_turned_with_a_note(tmp_path: Path) -> None:
    recording = only(save_array(tmp_path / "a.npy", sine(2).T), rate_hz=RATE)
    assert recording.data.shape == (2, 1000)
    assert "longer axis is taken as time" in recording.notes[0]


def test_channel_names_decide_which_axis_is_time(tmp_path: Path) -> None:
    short = sine(20, seconds=0.1)  # 20 channels, 10 samples: the longer axis is not time
    path = save_array(tmp_path / "a.npy", short)
    names = [f"E{i}" for i in range(20)]
    np.testing.assert_allclose(only(path, rate_hz=RATE, channels=names).data, short, rtol=1e-6)
    with pytest.raises(UnreadableRecording, match="3 channels were named, the array is 20 x 10"):
        read_signal(path, rate_hz=RATE, channels=["a", "b", "c"])


def test_a_square_array_is_not_guessed(tmp_path: Path) -> None:
    path = save_array(tmp_path / "a.npy", np.ones((8, 8)))
    with pytest.raises(UnreadableRecording, match="which axis of 8 x 8 is time"):
        read_signal(path, rate_hz=RATE)


def test_three_axes_are_trials(tmp_path: Path) -> None:
    path = save_array(tmp_path / "a.npy", np.stack([sine(2), 2 * sine(2)]))
    first, second = read_signal(path, rate_hz=RATE).recordings
    assert (first.ids.trial, second.ids.trial) == ("1", "2")
    np.testing.assert_allclose(second.data, 2 * first.data, rtol=1e-6)


def test_several_arrays_need_a_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=sine(2), other=sine(3))
    with pytest.raises(UnreadableRecording, match=r"several arrays .*one.*other.*choose one with key"):
        read_signal(tmp_path / "a.npz", rate_hz=RATE)
    assert only(tmp_path / "a.npz", rate_hz=RATE, key="other").data.shape == (3, 1000)
    with pytest.raises(UnreadableRecording, match="no numeric array 'third'"):
        read_signal(tmp_path / "a.npz", rate_hz=RATE, key="third")


def test_pickled_objects_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableRecording, match="never unpickled"):
        read_signal(tmp_path / "evil.npy", rate_hz=RATE)


def test_matlab_7_3_axes_are_matlabs(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.stack([sine(2), 2 * sine(2)]).T  # MATLAB writes (trial, channel, time) column-major
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(128))
    first, second = read_signal(path, rate_hz=RATE).recordings
    np.testing.assert_allclose(first.data, sine(2), rtol=1e-6)
    np.testing.assert_allclose(second.data, 2 * sine(2), rtol=1e-6)


def write_table(path: Path, header: list[str], columns: list[np.ndarray]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))
    return path


def test_a_regular_time_column_of_plain_unit_tells_the_rate(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", ["time_ms", "C3"], [np.arange(50) * 4.0, sine(1)[0][:50]])
    recording = only(path)
    assert recording.rate_hz == 250
    assert recording.channels == ("C3",)
    assert "taken from column 'time_ms'" in recording.notes[0]
    with pytest.raises(UnreadableRecording, match="says 250 Hz, rate_hz=100 was declared"):
        read_signal(path, rate_hz=100)


def test_a_time_column_that_does_not_tell_is_refused_or_overruled(tmp_path: Path) -> None:
    vague = write_table(tmp_path / "vague.csv", ["time", "C3"], [np.arange(50.0), sine(1)[0][:50]])
    with pytest.raises(UnreadableRecording, match="unknown unit; declare rate_hz"):
        read_signal(vague)
    assert only(vague, rate_hz=RATE).channels == ("C3",)
    jumpy = write_table(tmp_path / "jumpy.csv", ["time_s", "C3"], [np.arange(50.0) ** 2, sine(1)[0][:50]])
    with pytest.raises(UnreadableRecording, match="not regular in time"):
        read_signal(jumpy)


def test_text_cells_and_columns_are_noted(tmp_path: Path) -> None:
    values: list[object] = [*sine(1)[0][:50]]
    values[3] = "off"
    path = write_table(tmp_path / "a.csv", ["C3", "comment"], [np.array(values, dtype=object), np.array(["x"] * 50)])
    recording = only(path, rate_hz=RATE)
    assert recording.channels == ("C3",)
    assert np.flatnonzero(np.isnan(recording.data[0])).tolist() == [3]
    assert len([n for n in recording.notes if "'C3': 1 cells" in n or "'comment' is not numeric" in n]) == 2


def test_european_tables_and_compressed_text(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "a.csv"
    path.write_text("C3;C4\n" + "\n".join(f"{i},5;{-i},25" for i in range(20)), encoding="utf-8")
    recording = only(path, rate_hz=RATE)
    np.testing.assert_allclose(recording.data[:, 3], [3.5, -3.25])
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(b"\n".join(b"%d" % i for i in range(30))))
    assert only(packed, rate_hz=RATE).data.tolist() == [list(range(30))]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xyz", b"1234", "format '.xyz' is not known"),
        ("a.xml", b"<RestingECG>", "not well-formed"),
        ("a.xml", b"<note/>", "XML of kind 'note'"),
        ("a.xml", b'<!DOCTYPE x [<!ENTITY a "b">]><RestingECG/>', "declares entities"),
        ("a.xml", b"<RestingECG/>", "holds no waveforms"),
        ("a.dcm", b"nothing", "not a readable DICOM waveform"),
        ("a.npy", b"\x93NUMPY broken", "not a readable .npy"),
        ("a.mat", b"MATLAB broken", "not a readable .mat"),
        ("a.fif", b"broken" * 30, "MNE cannot read it"),
        ("a.vhdr", b"broken", "MNE cannot read it"),
        ("a.set", b"broken" * 30, "MNE cannot read it"),
        ("a.hea", b"", "empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableRecording, match=reason):
        read_signal(path, rate_hz=RATE)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRecording, match="no such file"):
        read_signal(tmp_path / "gone.edf")
    with pytest.raises(UnreadableRecording, match="a folder"):
        read_signal(tmp_path)
    with pytest.raises(ConfigError, match="channels is empty"):
        read_signal(tmp_path / "gone.edf", channels=[])


def test_importing_the_adapter_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = ("torch", "mne", "wfdb", "pandas", "scipy", "pydicom", "h5py")
    code = f"import sys, medssl.adapters.signal; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
