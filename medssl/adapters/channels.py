"""Channel names and units of signals: one spelling each, and the map from what a file has to what a model wants.

A name is changed only in spelling (prefix, case, reference suffix), never in meaning: ``T3`` stays ``T3``, and only
:func:`match_channels` knows that it is today's ``T7``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError

__all__ = [
    "ECG_12_LEADS",
    "ChannelMatch",
    "channel_kind",
    "channel_name",
    "match_channels",
    "preferred_unit",
    "same_channel",
    "unique_names",
    "unit_name",
    "volts_per",
]

ECG_12_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

Policy = Literal["strict", "pad", "mask", "drop"]
Kind = Literal["ecg", "eeg", "eog", "emg", "resp", "stim", "other"]

_POLICIES = ("strict", "pad", "mask", "drop")
_EEG_ROWS = {
    "Fp": "1 z 2",
    "AF": "9 7 5 3 1 z 2 4 6 8 10",
    "F": "9 7 5 3 1 z 2 4 6 8 10",
    "FT": "9 7 8 10",
    "FC": "5 3 1 z 2 4 6",
    "T": "9 7 8 10 1 2 3 4 5 6",
    "C": "5 3 1 z 2 4 6",
    "TP": "9 7 8 10",
    "CP": "5 3 1 z 2 4 6",
    "P": "9 7 5 3 1 z 2 4 6 8 10",
    "PO": "9 7 5 3 1 z 2 4 6 8 10",
    "O": "9 1 z 2 10",
    "I": "1 z 2",
    "A": "1 2",
    "M": "1 2",
}
_EEG = {f"{row}{column}".upper(): f"{row}{column}" for row, columns in _EEG_ROWS.items() for column in columns.split()}
_EEG["NZ"] = "Nz"
_MORE_ECG = ("-aVR", "V", "MLI", "MLII", "MLIII", "MCL1", "V7", "V8", "V9", "V3R", "V4R", "V5R", "V6R", "V7R", "CM5")
_ECG = {name.upper(): name for name in (*ECG_12_LEADS, *_MORE_ECG, "VX", "VY", "VZ")}
# Each pair is one electrode position (or lead) under two names in use.
_ALIASES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8", "MLI": "I", "MLII": "II", "MLIII": "III"}
_COMMON_REFERENCE = re.compile(r"[-\s](?:REF\d*|LE|AVG?|AR|AVE|CAR|COMMON)(?:-\d+)?$", re.IGNORECASE)
_TYPE_PREFIX = re.compile(r"^(?:EEG|ECG|EKG|SEEG)[\s_:]+(?=\S)", re.IGNORECASE)
_MDC_LEAD = re.compile(r"^MDC_ECG_LEAD_", re.IGNORECASE)
_LEAD_WORD = re.compile(r"^lead\s+", re.IGNORECASE)
_PARENTHESIS = re.compile(r"\s*\([^)]*\)$")
_KIND_WORDS: tuple[tuple[Kind, str], ...] = (
    ("stim", r"^(?:STATUS|STI ?\d*|TRIG|MARKER|STIM)"),
    ("eog", r"\bEOG|^(?:ROC|LOC)\b"),
    ("emg", r"EMG|\bCHIN\b"),
    ("ecg", r"ECG|EKG"),
    ("resp", r"\bRESP|AIRFLOW|THOR|ABDO"),
    ("eeg", r"^S?EEG\b"),
)


def channel_name(label: str) -> str:
    """The one spelling of a channel label.

    >>> [channel_name(s) for s in ("EEG Fp1-Ref", "FPZ", "Fc5.", "MDC_ECG_LEAD_AVR", "Lead I (Einthoven)")]
    ['Fp1', 'Fpz', 'FC5', 'aVR', 'I']
    >>> [channel_name(s) for s in ("EEG Fpz-Cz", "EEG 001", "T3", "Resp oro-nasal")]
    ['Fpz-Cz', 'EEG 001', 'T3', 'Resp oro-nasal']
    """
    label = " ".join(label.replace("\x00", " ").split())
    core = _MDC_LEAD.sub("", label)
    core = _LEAD_WORD.sub("", core)
    core = _PARENTHESIS.sub("", core)
    core = _TYPE_PREFIX.sub("", core)
    core = _COMMON_REFERENCE.sub("", core).rstrip(".")
    known = _known(core)
    if known:
        return known
    sides = core.split("-")
    if len(sides) == 2 and all(side.upper() in _EEG for side in sides):
        return "-".join(_EEG[side.upper()] for side in sides)
    return label


def _known(core: str) -> str:
    upper = core.upper()
    if upper in _ECG:
        return _ECG[upper]
    if upper in _EEG:
        return _EEG[upper]
    return upper if upper in {"ECG", "EKG", "EOG", "EMG", "VEOG", "HEOG"} else ""


def channel_kind(name: str) -> Kind:
    """What sort of signal a (normalised or raw) channel name stands for; ``"other"`` when the name does not say.

    >>> [channel_kind(s) for s in ("aVR", "Fpz-Cz", "EOG horizontal", "Status", "PLETH")]
    ['ecg', 'eeg', 'eog', 'stim', 'other']
    """
    normal = channel_name(name.split("#")[0])
    if normal.upper() in _ECG:
        return "ecg"
    if all(side.upper() in _EEG for side in normal.split("-")):
        return "eeg"
    for kind, pattern in _KIND_WORDS:
        if re.search(pattern, normal, re.IGNORECASE):
            return kind
    return "other"


def unique_names(labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Normalises labels and keeps them distinct.

    Returns:
        The names (a repeated one becomes ``"F1#2"``, ``"F1#3"``, ...) and one note for each that changed.
    """
    seen: dict[str, int] = {}
    names: list[str] = []
    notes: list[str] = []
    for label in labels:
        base = channel_name(label) or "unnamed"
        seen[base] = seen.get(base, 0) + 1
        name = base if seen[base] == 1 else f"{base}#{seen[base]}"
        if seen[base] > 1:
            notes.append(f"channel label '{label}' is not unique; this one is read as '{name}'")
        elif name != label:
            notes.append(f"channel '{label}' read as '{name}'")
        names.append(name)
    return tuple(names), tuple(notes)


_UNIT_SPELLINGS = {
    "nv": "nV",
    "nanovolt": "nV",
    "nanovolts": "nV",
    "uv": "uV",
    "µv": "uV",
    "μv": "uV",
    "microv": "uV",
    "microvolt": "uV",
    "microvolts": "uV",
    "mv": "mV",
    "millivolt": "mV",
    "millivolts": "mV",
    "v": "V",
    "volt": "V",
    "volts": "V",
    "n/a": "",
    "na": "",
    "nu": "NU",
    "degc": "degC",
    "mmhg": "mmHg",
}
_VOLTS = {"nV": 1e-9, "uV": 1e-6, "mV": 1e-3, "V": 1.0}


def unit_name(unit: str) -> str:
    """The one spelling of a unit; unknown ones come back unchanged.

    >>> [unit_name(u) for u in ("µV", "MICROVOLTS", "mV", "mmHg", "n/a")]
    ['uV', 'uV', 'mV', 'mmHg', '']
    """
    unit = unit.replace("\x00", "").strip()
    return _UNIT_SPELLINGS.get(unit.lower(), unit)


def volts_per(unit: str) -> float | None:
    """Volts in one ``unit``; None when it is not a voltage."""
    return _VOLTS.get(unit_name(unit))


def preferred_unit(name: str, unit: str) -> str:
    """The unit a channel is handed over in: ECG leads in mV, other electrophysiology in uV, the rest as it stands.

    A voltage whose name says nothing stays in uV or mV when it is in one of them, and becomes uV otherwise.
    """
    unit = unit_name(unit)
    if unit not in _VOLTS:
        return unit
    kind = channel_kind(name)
    if kind == "ecg":
        return "mV"
    if kind in {"eeg", "eog", "emg"} or unit not in {"uV", "mV"}:
        return "uV"
    return unit


def same_channel(left: str, right: str) -> bool:
    """Whether two names mean one electrode position or lead (``T3`` and ``T7``, ``MLII`` and ``II``)."""
    return _key(left) == _key(right)


def _key(name: str) -> str:
    name = channel_name(name)
    return "-".join(_ALIASES.get(side, side) for side in name.split("-")).upper()


@dataclass(frozen=True)
class ChannelMatch:
    """How the channels of a recording fill the channels somebody wants.

    Attributes:
        have: names the recording has.
        want: names wanted, in order.
        source: for each row of the result the row of the recording it comes from, -1 for none.
        names: the rows of the result; equal to ``want`` except under policy ``"drop"``.
        missing: wanted, but not there.
        unused: there, but not wanted.
        policy: what is done about missing ones.
    """

    have: tuple[str, ...]
    want: tuple[str, ...]
    source: tuple[int, ...]
    names: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    policy: Policy

    @property
    def present(self) -> NDArray[np.bool_]:
        """(C,) True where the result holds recorded samples."""
        return np.asarray(self.source) >= 0

    def apply(self, data: NDArray[Any]) -> NDArray[Any]:
        """Reorders ``data`` (C_have, T) into (C, T); missing rows are 0 (``"pad"``) or NaN (``"mask"``).

        Raises:
            ValueError: when ``data`` does not have ``len(have)`` rows, or is of integers under ``"mask"``.
        """
        if data.shape[0] != len(self.have):
            raise ValueError(f"data have {data.shape[0]} rows, the match was made for {len(self.have)}")
        absent = ~self.present
        result = data[np.maximum(np.asarray(self.source, dtype=np.intp), 0)]
        if absent.any():
            if self.policy == "mask" and not np.issubdtype(data.dtype, np.floating):
                raise ValueError("policy 'mask' marks missing channels as NaN and needs floating point data")
            result[absent] = np.nan if self.policy == "mask" else 0
        return result

    def describe(self) -> str:
        """The map as lines one can print: ``T7 <- T3 (alias)``."""
        filler = {"pad": "0", "mask": "NaN"}.get(self.policy, "-")
        lines = []
        for name, row in zip(self.names, self.source, strict=True):
            if row < 0:
                lines.append(f"{name} <- {filler} (missing)")
            else:
                lines.append(f"{name} <- {self.have[row]}" + ("" if self.have[row] == name else " (alias)"))
        if self.policy == "drop" and self.missing:
            lines.append(f"left out: {', '.join(self.missing)}")
        if self.unused:
            lines.append(f"unused: {', '.join(self.unused)}")
        return "\n".join(lines)


def match_channels(have: Sequence[str], want: Sequence[str], *, policy: Policy = "strict") -> ChannelMatch:
    """Finds each wanted channel among those a recording has, by name, spelling and alias, never by position.

    Args:
        have: channel names of the recording.
        want: channel names in the order wanted.
        policy: about missing channels: ``"strict"`` refuses, ``"pad"`` fills with zeros, ``"mask"`` fills with
            NaN (and :attr:`ChannelMatch.present` says which), ``"drop"`` leaves them out.

    Returns:
        The match; print :meth:`ChannelMatch.describe`.

    Raises:
        ConfigError: unknown policy, nothing wanted, no overlap at all, or something missing under ``"strict"``.

    >>> print(match_channels(["T3", "Cz"], ["Cz", "T7", "Oz"], policy="pad").describe())
    Cz <- Cz
    T7 <- T3 (alias)
    Oz <- 0 (missing)
    """
    if policy not in _POLICIES:
        raise ConfigError(f"channel policy '{policy}' is unknown; use one of {', '.join(_POLICIES)}")
    if not want:
        raise ConfigError("no channels are wanted; name at least one")
    rows = _rows(have, want)
    missing = tuple(name for name, row in zip(want, rows, strict=True) if row < 0)
    if len(missing) == len(want):
        raise ConfigError(f"none of the wanted channels ({_list(want)}) is among those recorded ({_list(have)})")
    if missing and policy == "strict":
        raise ConfigError(
            f"channels {_list(missing)} are missing; recorded are {_list(have)}; "
            "choose other channels or a policy that allows gaps (pad, mask, drop)"
        )
    used = set(rows)
    pairs = [(n, r) for n, r in zip(want, rows, strict=True) if r >= 0 or policy != "drop"]
    return ChannelMatch(
        have=tuple(have),
        want=tuple(want),
        source=tuple(row for _, row in pairs),
        names=tuple(name for name, _ in pairs),
        missing=missing,
        unused=tuple(name for row, name in enumerate(have) if row not in used),
        policy=policy,
    )


def _rows(have: Sequence[str], want: Sequence[str]) -> list[int]:
    """The row of each wanted name: the same spelling first, then the same channel under another name."""
    exact = {name: row for row, name in reversed(list(enumerate(have)))}
    normal = {channel_name(name): row for row, name in reversed(list(enumerate(have)))}
    alias = {_key(name): row for row, name in reversed(list(enumerate(have)))}
    return [exact.get(name, normal.get(channel_name(name), alias.get(_key(name), -1))) for name in want]


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown}, ... ({len(names)} in all)"
