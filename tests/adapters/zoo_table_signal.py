"""Every file of the signal format zoo: what independent readers got, and what ``read_signal`` gets.

Run as a script with the zoo's folder for a Markdown table: ``python tests/adapters/zoo_table_signal.py FOLDER``.
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medssl.adapters.channels import channel_name, volts_per
from medssl.adapters.recording import Recording
from medssl.adapters.signal import read_signal
from medssl.errors import UnreadableRecording

# What the sheet's reader raised, as the reason we give.
REFUSALS = {
    "edf/SC4001EC-Hypnogram.edf": "annotations only, no signals",
    "wfdb/drive02.hea": "signal file drive02.dat is missing",
    "wfdb/multi-segment/p000878/3269321_layout.hea": "layout header without samples",
    "wfdb/multi-segment/p000878/p000878-2137-10-26-16-57.hea": "segments 3269321_0003 and 29 more are missing",
}
# Files of the zoo that no independent reader's row covers, with what we hold to be true of them.
UNLISTED = {
    "ant/test-ref.cnt": "64 x 1946 @ 500",
    "xml/philips_1.04_demo.xml": "12 x 5300 @ 500",
    "xml/philips_sierra_1.03_129DYPRG.xml": "12 x 5264 @ 500",
    "csv/testmusemonitor.csv": "37 x 26 @ 0.982743",
    "csv/heartpy_data.csv": "does not state its sampling rate",
    "csv/heartpy_data2.csv": "time of unknown unit",
}


@dataclass
class Row:
    """One file: what is expected, what came, and every difference."""

    file: str
    expected: str
    got: str
    faults: list[str] = field(default_factory=list)


def expected_rows(zoo: Path) -> list[dict[str, str]]:
    """The sheet of the zoo, a dictionary a file."""
    with (zoo / "expected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check(zoo: Path, row: dict[str, str]) -> Row:
    """Reads one file of the sheet and compares all the sheet says about it."""
    name = row["file"]
    if "raises" in row["note"]:
        return _check_refusal(zoo, name, row["note"], REFUSALS[name])
    recordings = read_signal(zoo / name).recordings
    result = Row(name, _summary(row), _shape(recordings[0]))
    if name.startswith("xml/"):
        _compare_sequences(result, row, recordings)
    else:
        _compare(result, row, recordings[0])
    return result


def check_unlisted(zoo: Path, name: str) -> Row:
    """Reads a file that the sheet leaves out."""
    truth = UNLISTED[name]
    if not re.match(r"\d+ x", truth):
        return _check_refusal(zoo, name, "no rate", truth)
    got = _shape(read_signal(zoo / name).recordings[0])
    return Row(name, truth, got, [] if got == truth else ["shape or rate"])


def _check_refusal(zoo: Path, name: str, expected: str, reason: str) -> Row:
    try:
        read_signal(zoo / name)
    except UnreadableRecording as error:
        return Row(name, expected, f"refused: {error.reason}", [] if reason in error.reason else ["reason"])
    return Row(name, expected, "was read", ["should have been refused"])


def _summary(row: dict[str, str]) -> str:
    if not row["n_channels"]:
        return row["note"][:60]
    return f"{row['n_channels']} x {row['n_samples']} @ {row['sfreq']}"


def _shape(recording: Recording) -> str:
    channels, samples = recording.data.shape
    return f"{channels} x {samples} @ {recording.rate_hz:g}"


def _compare(result: Row, row: dict[str, str], recording: Recording) -> None:
    data = recording.data
    first = data[0].astype(np.float64)
    # The sheet has MNE's values in volts, DICOM's in uV, WFDB's in the header's unit.
    reader = row["reader"].split()[0]
    volts = volts_per(recording.units[0])
    scale = {"mne": 1.0, "pydicom": 1e-6}.get(reader, volts) / volts if volts else 1.0
    label = re.sub(r"-0$", "", row["first_channel"])  # MNE's running number of a repeated label
    checks = {
        "channels": data.shape[0] == int(row["n_channels"]),
        "rate": recording.rate_hz == float(row["sfreq"]),
        "samples": data.shape[1] == int(row["n_samples"]),
        "annotations": not row["n_annotations"] or len(recording.events) == int(row["n_annotations"]),
        "NaNs": int(np.isnan(data).sum()) == int(row["n_nan"]),
        "first channel": recording.channels[0] == channel_name(label),
        "mean": np.isclose(
            np.nanmean(first), float(row["first_mean"]) * scale, rtol=2e-5, atol=1e-6 * np.nanstd(first)
        ),
        "std": np.isclose(np.nanstd(first), float(row["first_std"]) * scale, rtol=2e-5),
    }
    result.faults += [name for name, good in checks.items() if not good]


def _compare_sequences(result: Row, row: dict[str, str], recordings: list[Recording]) -> None:
    """XML rows list ``LEAD:samples`` of all waveforms of the file (the sheet cuts a long list short)."""
    stated = {(channel_name(lead), int(count)) for lead, count in re.findall(r"([A-Za-z_0-9]+):(\d+)\b", row["note"])}
    found = {(name, one.data.shape[1]) for one in recordings for name in one.channels}
    if not stated or not stated <= found:
        result.faults.append(f"sequences {sorted(stated - found)}")
    if row["sfreq"] and recordings[0].rate_hz != float(row["sfreq"]):
        result.faults.append("rate")


def main(zoo: Path) -> int:
    """Prints the table; 1 when something differs."""
    rows = [check(zoo, row) for row in expected_rows(zoo)] + [check_unlisted(zoo, name) for name in UNLISTED]
    print("| file | expected | got | ok |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.file} | {row.expected} | {row.got} | {'; '.join(row.faults) or 'ok'} |")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
