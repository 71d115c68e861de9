"""Small EDF and EDF+ files, written by the specification (Kemp et al., 1992; Kemp and Olivan, 2003)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def _field(value: object, width: int) -> bytes:
    return str(value)[:width].ljust(width).encode("ascii")


def _header(labels: Sequence[str], samples: Sequence[int], records: int, *, plus: bool, patient: str) -> bytes:
    count = len(labels)
    fixed = [("0", 8), (patient, 80), ("Startdate 01-JAN-2000 X X X", 80), ("01.01.00", 8), ("00.00.00", 8)]
    fixed += [(256 * (count + 1), 8), ("EDF+C" if plus else "", 44), (records, 8), (1, 8), (count, 4)]
    columns: list[tuple[Sequence[object], int]] = [
        (labels, 16), ([""] * count, 80), (["uV"] * count, 8), ([-3276.8] * count, 8), ([3276.7] * count, 8),
        ([-32768] * count, 8), ([32767] * count, 8), ([""] * count, 80), (samples, 8), ([""] * count, 32),
    ]  # fmt: skip
    return b"".join(_field(v, w) for v, w in fixed) + b"".join(_field(v, w) for vs, w in columns for v in vs)


def write_edf(
    path: Path, signals: Mapping[str, NDArray[np.floating]], rate_hz: int, *, patient: str = "X X X X"
) -> Path:
    """Channels in uV, whole seconds of them, in steps of 0.1 uV."""
    length = len(next(iter(signals.values()))) // rate_hz
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.stack([np.rint(s[: length * rate_hz] / 0.1).astype("<i2") for s in signals.values()])
    blocks = data.reshape(len(data), length, rate_hz).transpose(1, 0, 2)
    plus = patient != "X X X X"
    header = _header(list(signals), [rate_hz] * len(data), length, plus=plus, patient=patient)
    path.write_bytes(header + blocks.tobytes())
    return path


def write_annotations(path: Path, annotations: Sequence[tuple[float, float, str]]) -> Path:
    """An EDF+ file of (onset, duration, text) and no signal."""
    text = b"+0\x14\x14\x00" + b"".join(f"+{o:g}\x15{d:g}\x14{t}\x14\x00".encode() for o, d, t in annotations)
    text = text.ljust(len(text) + len(text) % 2, b"\x00")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_header(["EDF Annotations"], [len(text) // 2], 1, plus=True, patient="X X X X") + text)
    return path
