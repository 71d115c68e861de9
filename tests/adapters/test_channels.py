"""Channel names, units, and the map from recorded to wanted channels."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.adapters.channels import (
    ECG_12_LEADS,
    channel_kind,
    channel_name,
    match_channels,
    preferred_unit,
    same_channel,
    unique_names,
    unit_name,
    volts_per,
)
from medssl.errors import ConfigError


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("EEG Fp1-Ref", "Fp1"),
        ("EEG FP1-LE", "Fp1"),
        ("EEG F1-Ref-0", "F1"),
        ("FPZ", "Fpz"),
        ("Fc5.", "FC5"),
        ("Cz..", "Cz"),
        ("EEG Fpz-Cz", "Fpz-Cz"),
        ("EEG A2-A1", "A2-A1"),
        ("T3", "T3"),
        ("MDC_ECG_LEAD_AVR", "aVR"),
        ("MDC_ECG_LEAD_I", "I"),
        ("Lead I (Einthoven)", "I"),
        ("AVF", "aVF"),
        ("ECG II", "II"),
        ("v1", "V1"),
        ("MLII", "MLII"),
        ("ECG ECG", "ECG"),
        ("EEG 001", "EEG 001"),
        ("Resp oro-nasal", "Resp oro-nasal"),
        ("sig 0, fmt 8", "sig 0, fmt 8"),
        ("  PLETH \x00", "PLETH"),
    ],
)
def test_one_spelling_for_each_channel(label: str, name: str) -> None:
    assert channel_name(label) == name
    assert channel_name(name) == name, "a normal name must stay as it is"


def test_repeated_labels_stay_apart_and_changes_are_noted() -> None:
    names, notes = unique_names(["EEG F1-Ref", "EEG F2-Ref", "F1", "Status"])
    assert names == ("F1", "F2", "F1#2", "Status")
    assert "channel 'EEG F1-Ref' read as 'F1'" in notes
    assert any("'F1' is not unique" in note for note in notes)
    assert not any("Status" in note for note in notes)


def test_units_have_one_spelling_and_a_size() -> None:
    assert {unit_name(u) for u in ("uV", "µV", "μV", "UV", "MICROVOLTS")} == {"uV"}
    assert volts_per("mV") == pytest.approx(1e-3)
    assert volts_per("mmHg") is None
    assert unit_name("bpm") == "bpm"


@pytest.mark.parametrize(
    ("name", "unit", "preferred"),
    [("V1", "uV", "mV"), ("Fp1", "V", "uV"), ("col 0", "mV", "mV"), ("thing", "nV", "uV"), ("ABP", "mmHg", "mmHg")],
)
def test_ecg_in_millivolts_other_voltages_in_microvolts(name: str, unit: str, preferred: str) -> None:
    assert preferred_unit(name, unit) == preferred


def test_kind_of_a_channel() -> None:
    kinds = [channel_kind(n) for n in ("V1", "F7#2", "EMG submental", "STI 014", "Resp", "PLETH")]
    assert kinds == ["ecg", "eeg", "emg", "stim", "resp", "other"]


def test_reordering_goes_by_name_and_never_by_position() -> None:
    have = ["V5", "MLII"]  # record 114 of MIT-BIH has its two leads swapped
    data = np.array([[5.0, 5.0], [2.0, 2.0]], dtype=np.float32)
    match = match_channels(have, ["II", "V5"])
    np.testing.assert_array_equal(match.apply(data), [[2, 2], [5, 5]])
    assert match.describe().splitlines() == ["II <- MLII (alias)", "V5 <- V5"]


def test_the_same_spelling_wins_over_an_alias() -> None:
    assert match_channels(["T3", "T7"], ["T7", "T3"]).source == (1, 0)
    assert same_channel("T3", "T7")
    assert not same_channel("T3", "T4")


def test_missing_channels_follow_the_policy() -> None:
    data = np.ones((2, 3), dtype=np.float32)
    have, want = ["I", "II"], ["II", "V1"]
    with pytest.raises(ConfigError, match="V1 are missing"):
        match_channels(have, want)
    padded = match_channels(have, want, policy="pad")
    np.testing.assert_array_equal(padded.apply(data), [[1, 1, 1], [0, 0, 0]])
    masked = match_channels(have, want, policy="mask")
    assert np.isnan(masked.apply(data)[1]).all()
    assert masked.present.tolist() == [True, False]
    dropped = match_channels(have, want, policy="drop")
    assert dropped.names == ("II",)
    assert dropped.missing == ("V1",)
    assert dropped.apply(data).shape == (1, 3)
    assert "left out: V1" in dropped.describe()
    assert "unused: I" in dropped.describe()


def test_no_overlap_is_an_error_under_every_policy() -> None:
    for policy in ("strict", "pad", "mask", "drop"):
        with pytest.raises(ConfigError, match="none of the wanted channels"):
            match_channels(["Fp1", "Fp2"], ECG_12_LEADS, policy=policy)


def test_misuse_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy 'zero' is unknown"):
        match_channels(["I"], ["I"], policy="zero")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name at least one"):
        match_channels(["I"], [])
    with pytest.raises(ValueError, match="have 3 rows"):
        match_channels(["I"], ["I"]).apply(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="floating point"):
        match_channels(["I"], ["I", "II"], policy="mask").apply(np.zeros((1, 4), dtype=np.int16))
