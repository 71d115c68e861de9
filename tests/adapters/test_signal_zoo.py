"""Every file of the signal format zoo against the values of independent readers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medssl.adapters.signal import read_signal


def _load_table() -> ModuleType:
    path = Path(__file__).with_name("zoo_table_signal.py")
    spec = importlib.util.spec_from_file_location("zoo_table_signal", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo_table_signal"] = module
    spec.loader.exec_module(module)
    return module


table = _load_table()


@pytest.fixture(scope="session")
def zoo(shared_data: Path) -> Path:
    return shared_data / "signal_zoo"


def test_every_listed_file_gives_what_independent_readers_got(zoo: Path, subtests: pytest.Subtests) -> None:
    rows = table.expected_rows(zoo)
    assert len(rows) >= 42
    for row in rows:
        with subtests.test(file=row["file"]):
            assert table.check(zoo, row).faults == []


@pytest.mark.parametrize("name", table.UNLISTED)
def test_files_the_sheet_leaves_out(zoo: Path, name: str) -> None:
    result = table.check_unlisted(zoo, name)
    assert result.faults == [], result.got


def test_no_file_of_the_zoo_is_forgotten(zoo: Path) -> None:
    known = {row["file"] for row in table.expected_rows(zoo)} | set(table.UNLISTED)
    parts = {".eeg", ".vmrk", ".fdt", ".head", ".dat"}
    files = {
        str(path.relative_to(zoo))
        for path in zoo.rglob("*")
        if path.is_file() and path.parent != zoo and path.suffix not in parts and not path.suffix.startswith(".d")
    }
    assert files - known == set()


def test_brainvision_and_fif_of_one_recording_agree(zoo: Path) -> None:
    left = read_signal(zoo / "brainvision/test.vhdr").recordings[0]
    right = read_signal(zoo / "fif/test_bin_raw.fif").recordings[0]
    assert left.rate_hz == right.rate_hz
    volts = [i for i, unit in enumerate(left.units) if unit == "uV" and right.units[i] == "uV"]
    assert len(volts) > 20
    np.testing.assert_allclose(left.data[volts], right.data[volts], atol=1e-3)


def test_units_of_brainvision_channels_are_their_own(zoo: Path) -> None:
    recording = read_signal(zoo / "brainvision/test_units.vhdr").recordings[0]
    assert set(recording.units) == {"uV", "C", "S", ""}  # MNE knows no unit "ARU" or "BS" and says so
    plain = read_signal(zoo / "brainvision/test.vhdr").recordings[0]
    assert recording.data[1].std() / plain.data[1].std() == pytest.approx(1.0, rel=1e-3)


def test_mixed_rates_are_upsampled_with_a_note_or_kept_when_read_alone(zoo: Path) -> None:
    path = zoo / "edf/test_uneven_samp.edf"
    assert any("upsampled to 100 Hz" in note for note in read_signal(path).recordings[0].notes)
    alone = read_signal(path, channels=["0.2Hz Blk 1/0uV"]).recordings[0]
    assert (alone.rate_hz, alone.data.shape) == (12.8, (1, 1408))
    assert alone.data.max() == pytest.approx(1.0, abs=0.02)  # a block signal of 1 uV


def test_wfdb_channels_with_one_rate_keep_it(zoo: Path) -> None:
    path = zoo / "wfdb/mixedsignals.hea"
    assert any("averaged to the frame rate" in note for note in read_signal(path).recordings[0].notes)
    ecg = read_signal(path, channels=["II", "V"]).recordings[0]
    assert ecg.data.shape == (2, 4 * 14400)
    assert ecg.rate_hz == pytest.approx(4 * 62.4725)


def test_physical_dimensions_that_are_not_voltages_keep_their_unit(zoo: Path) -> None:
    recording = read_signal(zoo / "edf/short_psg.edf").recordings[0]
    units = dict(zip(recording.channels, recording.units, strict=True))
    assert (units["Temp rectal"], units["Fpz-Cz"], units["Event marker"]) == ("degC", "uV", "")
    body = recording.data[recording.channels.index("Temp rectal")]
    assert 30 < np.median(body) < 40


def test_einthovens_law_holds_in_every_decoded_ecg(zoo: Path) -> None:
    """III = II - I checks amplitude, order and (for Philips) the decompression at once."""
    for name, tolerance_mv in (
        ("xml/philips_1.04_demo.xml", 0.0051),
        ("xml/philips_sierra_1.03_129DYPRG.xml", 0.0101),
        ("xml/hl7_aecg_example.xml", 0.0051),
        ("xml/ge_muse_12lead_scrubbed.xml", 1e-5),
        ("dicom/waveform_ecg_scrubbed.dcm", 0.0051),
    ):
        recording = read_signal(zoo / name).recordings[0]
        lead = dict(zip(recording.channels, recording.data, strict=True))
        assert set(recording.units) == {"mV"}
        assert np.abs(lead["III"] - (lead["II"] - lead["I"])).max() <= tolerance_mv, name
        assert 0.3 < np.ptp(lead["V2"]) < 6, name


def test_dicom_and_xml_give_the_rhythm_first_then_the_median_beat(zoo: Path) -> None:
    for name in ("dicom/waveform_ecg_scrubbed.dcm", "xml/hl7_aecg_example.xml", "xml/ge_muse_12lead_scrubbed.xml"):
        first, second = read_signal(zoo / name).recordings
        assert first.ids.recording.lower() == "rhythm"
        assert first.data.shape[1] > 4 * second.data.shape[1]
        assert first.labels["sex"] in "MF"


def test_philips_calibration_pulse_is_cut_and_noted(zoo: Path) -> None:
    recording = read_signal(zoo / "xml/philips_1.04_demo.xml").recordings[0]
    assert recording.notes == ("calibration pulse cut off the end (0.4 s)",)


def test_dicom_fiducials_are_events(zoo: Path) -> None:
    rhythm = read_signal(zoo / "dicom/waveform_ecg_scrubbed.dcm").recordings[0]
    onsets = [event.onset_s for event in rhythm.events if event.value == "QRS Onset"]
    assert len(onsets) > 5
    assert 0.438 in [event.onset_s for event in rhythm.events if event.value == "P Offset"]


def test_dicom_padding_samples_become_missing(zoo: Path, tmp_path: Path) -> None:
    import pydicom

    dataset = pydicom.dcmread(zoo / "dicom/waveform_ecg_scrubbed.dcm")
    group = dataset.WaveformSequence[0]
    group.add_new("WaveformPaddingValue", "OW", group.WaveformData[:2])  # the very first sample of lead I
    dataset.save_as(tmp_path / "padded.dcm")
    padded = read_signal(tmp_path / "padded.dcm").recordings[0]
    assert np.isnan(padded.data[0, 0])
    assert f"{int(np.isnan(padded.data).sum())} padding samples read as NaN" in padded.notes
    plain = read_signal(zoo / "dicom/waveform_ecg_scrubbed.dcm").recordings[0]
    kept = ~np.isnan(padded.data)
    np.testing.assert_array_equal(padded.data[kept], plain.data[kept])
    assert (plain.data[~kept] == plain.data[0, 0]).all()


def test_events_of_edf_keep_utf8_text_and_times(zoo: Path) -> None:
    events = read_signal(zoo / "edf/test_utf8_annotations.edf").recordings[0].events
    assert [event.value for event in events] == ["RECORD START", "仰卧"]


def test_duplicate_labels_stay_apart(zoo: Path) -> None:
    recording = read_signal(zoo / "edf/duplicate_channel_labels.edf").recordings[0]
    assert recording.channels == ("F1", "F2", "F1#2")
    assert any("not unique" in note for note in recording.notes)
    assert not np.array_equal(recording.data[0], recording.data[2])


def test_discontinuous_flag_without_gaps_is_noted(zoo: Path) -> None:
    recording = read_signal(zoo / "nihonkohden/MB0400FU.EDF").recordings[0]
    assert any("EDF+D" in note for note in recording.notes)
    assert recording.channels[0] == "Fp2"


def test_table_script_prints_a_row_for_every_file(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(zoo) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(table.expected_rows(zoo)) + len(table.UNLISTED)
