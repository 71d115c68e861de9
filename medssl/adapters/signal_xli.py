"""Philips XLI, the compression of waveforms in Sierra/Philips ECG XML: LZW of second differences.

The format is undocumented by its maker; this follows the public description of the ``sierra-ecg-tools`` project.
Each lead is a chunk ``int32 size, int16 unused, int16 start`` and then 10-bit LZW codes (most significant bit first).
They decode to the high bytes of all samples followed by the low bytes.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["decompress_xli"]

_BITS = 10
_LAST_CODE = (1 << _BITS) - 2
_BIAS = 64


def decompress_xli(data: bytes) -> list[NDArray[np.int16]]:
    """The channels in ``data``, in order, each (T,) int16.

    Raises:
        ValueError: a chunk is cut or holds an impossible code.
    """
    leads: list[NDArray[np.int16]] = []
    offset = 0
    # Files end in a few padding bytes that are too short for another chunk.
    while offset + 8 < len(data):
        size, _, start = struct.unpack_from("<ihh", data, offset)
        chunk = data[offset + 8 : offset + 8 + size]
        if size <= 0 or len(chunk) < size:
            raise ValueError(f"XLI chunk {len(leads) + 1} is cut: {size} bytes announced, {len(chunk)} there")
        leads.append(_integrate(_lzw(chunk), start))
        offset += 8 + size
    return leads


def _lzw(chunk: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(chunk, dtype=np.uint8))
    count = bits.size // _BITS
    codes = bits[: count * _BITS].reshape(count, _BITS) @ (1 << np.arange(_BITS - 1, -1, -1))
    table = [bytes((value,)) for value in range(256)]
    out = bytearray()
    previous = b""
    for code in codes.tolist():
        if code > _LAST_CODE:
            break
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous:
            entry = previous + previous[:1]
        else:
            raise ValueError(f"XLI code {code} refers to nothing yet")
        out += entry
        if previous and len(table) <= _LAST_CODE:
            table.append(previous + entry[:1])
        previous = entry
    return bytes(out)


def _integrate(packed: bytes, start: int) -> NDArray[np.int16]:
    """From high bytes, low bytes of biased second differences to samples (16-bit arithmetic that wraps)."""
    if len(packed) % 2:
        packed += b"\0"
    half = len(packed) // 2
    if half < 2:
        raise ValueError("an XLI lead of less than two samples")
    high = np.frombuffer(packed[:half], dtype=np.uint8).astype(np.uint16)
    low = np.frombuffer(packed[half:], dtype=np.uint8)
    delta: NDArray[np.int64] = ((high << 8) | low).view(np.int16).astype(np.int64)
    # x[i] = 2 x[i-1] - x[i-2] - last[i], so the slope is a running sum and the signal the sum of the slope.
    last = np.concatenate(([start], delta[2:-1] - _BIAS)) if half > 2 else np.empty(0, dtype=np.int64)
    slope = np.cumsum(np.concatenate(([delta[1] - delta[0]], -last)))
    samples: NDArray[np.int64] = delta[0] + np.concatenate(([0], np.cumsum(slope)))
    return samples.astype(np.int16)
