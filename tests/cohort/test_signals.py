"""Preparation of signals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medssl.adapters.recording import Event, Recording
from medssl.cohort.preparation import Preparation
from medssl.cohort.signals import SignalPreparation
from medssl.configurable import build, spec
from medssl.errors import ConfigError, UnreadableRecording

RATE = 200.0


def wave(
    channels=("C3", "C4", "Cz"), *, seconds: float = 10.0, rate_hz: float = RATE, units=None, **changes
) -> Recording:
    """Channel i holds a sine of i + 3 Hz and 20 (i + 1) uV over noise."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).normal(0, 1, (len(channels), len(t)))
    data = np.stack([20 * (i + 1) * np.sin(2 * np.pi * (i + 3) * t) for i in range(len(channels))]) + noise
    fields = {"axes": "ct", "rate_hz": rate_hz, "channels": tuple(channels), "units": units or ("uV",) * len(channels)}
    return Recording(data.astype(np.float32), source="wave.edf", **(fields | changes))


def physical(prepared) -> np.ndarray:
    return prepared.image * prepared.scale[:, None] + prepared.offset[:, None]


def network(prepared) -> np.ndarray:
    return (prepared.image * prepared.input_scale[:, None] + prepared.input_offset[:, None]).clip(*prepared.input_range)


def test_what_comes_out():
    prepared = SignalPreparation()(wave())
    assert prepared.image.dtype == np.int16
    assert prepared.image.shape == (3, 2000)
    assert prepared.channels == ("C3", "C4", "Cz")
    assert prepared.rate_hz == RATE
    np.testing.assert_allclose(physical(prepared), wave().data, atol=0.051)  # half of 0.1 uV
    np.testing.assert_allclose(np.median(network(prepared), axis=1), 0, atol=0.01)
    np.testing.assert_allclose(network(prepared).std(axis=1), 1, atol=0.05)
    assert prepared.notes == ()


def test_channels_are_found_by_name_and_alias_never_by_position():
    swapped = wave(("V5", "MLII"), units=("mV", "mV"))
    prepared = SignalPreparation(channels=("II", "V5"), units="mV")(swapped)
    assert prepared.channels == ("II", "V5")
    np.testing.assert_allclose(physical(prepared), swapped.data[::-1], atol=0.01)
    assert any("II <- MLII (alias)" in note for note in prepared.notes)


def test_a_missing_channel_is_refused_or_zero():
    with pytest.raises(UnreadableRecording, match="Oz"):
        SignalPreparation(channels=("C3", "Oz"))(wave())
    prepared = SignalPreparation(channels=("C3", "Oz"), missing="zero")(wave())
    assert not physical(prepared)[1].any()
    assert prepared.quality["missing_channels"] == 1
    assert any("Oz <- 0" in note for note in prepared.notes)


def test_no_channel_in_common_is_always_refused():
    with pytest.raises(UnreadableRecording, match="none of the wanted"):
        SignalPreparation(channels=("V1", "V2"), missing="zero")(wave())


def test_units_are_brought_together():
    mixed = wave(units=("uV", "mV", "V"))
    prepared = SignalPreparation(units="mV", resolution=1e-6)(mixed)
    assert prepared.units == ("mV",) * 3
    expected = mixed.data * np.array([[1e-3], [1.0], [1e3]])
    np.testing.assert_allclose(physical(prepared), expected, atol=np.abs(expected).max() / 30_000)
    with pytest.raises(UnreadableRecording, match="not a voltage"):
        SignalPreparation(units="mV")(wave(units=("uV", "degC", "uV")))
    untold = SignalPreparation(units="uV")(wave(units=("", "", "")))
    assert any("no unit" in note for note in untold.notes)


def test_an_adc_is_stored_sample_by_sample():
    codes = np.random.default_rng(0).integers(-1024, 1024, (2, 3600))
    recording = wave(("MLII", "V1"), units=("mV", "mV")).with_(data=(codes * 0.005).astype(np.float32))
    prepared = SignalPreparation()(recording)
    np.testing.assert_array_equal(prepared.image, codes)
    np.testing.assert_allclose(prepared.scale, 0.005, rtol=1e-4)


def test_a_large_offset_does_not_cost_resolution():
    data = wave().data + np.float32(20_000)
    prepared = SignalPreparation(resolution=0.05)(wave().with_(data=data))
    assert (prepared.scale <= 0.05).all()
    np.testing.assert_allclose(physical(prepared), data, atol=0.03)
    np.testing.assert_allclose(network(prepared).std(axis=1), 1, atol=0.05)


def test_resampling_keeps_events_in_time():
    spike = np.zeros((1, 2000), dtype=np.float32)
    spike[0, 1000] = 100.0
    recording = wave(("Cz",)).with_(data=spike, events=(Event(5.0, 0.0, "beat", "N"),))
    prepared = SignalPreparation(rate_hz=128.0)(recording)
    assert prepared.image.shape == (1, 1280)
    assert prepared.events == recording.events
    assert int(physical(prepared)[0].argmax()) == round(5.0 * 128)


def test_filters_take_out_what_they_should_and_delay_nothing():
    t = np.arange(6000) / RATE
    drift, beat, mains = (
        50 * np.sin(2 * np.pi * 0.1 * t),
        10 * np.sin(2 * np.pi * 8 * t),
        30 * np.sin(2 * np.pi * 50 * t),
    )
    recording = wave(("Cz",)).with_(data=(drift + beat + mains)[None].astype(np.float32))
    for options in ({"band_hz": (0.8, 30.0)}, {"band_hz": (0.8, None), "notch_hz": 50.0}):
        out = physical(SignalPreparation(**options)(recording))[0]
        np.testing.assert_allclose(out[1000:-1000], beat[1000:-1000], atol=1.0)


def test_a_filter_beyond_the_recordings_band_is_told_not_failed():
    prepared = SignalPreparation(band_hz=(0.5, 150.0), notch_hz=120.0)(wave())
    assert sum("200 Hz end below it" in note for note in prepared.notes) == 2


def test_a_short_recording_can_be_filtered():
    prepared = SignalPreparation(band_hz=(0.5, 40.0))(wave(seconds=0.2))
    assert prepared.image.shape == (3, 40)


def test_references():
    average = physical(SignalPreparation(reference="average")(wave()))
    np.testing.assert_allclose(average.mean(axis=0), 0, atol=0.2)
    against = physical(SignalPreparation(reference="Cz")(wave()))
    np.testing.assert_allclose(against[0], wave().data[0] - wave().data[2], atol=0.2)
    with pytest.raises(UnreadableRecording, match="'M1' is not among"):
        SignalPreparation(reference="M1")(wave())


def test_gaps_follow_the_stated_policy():
    clean = wave()
    data = clean.data.copy()
    data[0, 500:504] = np.nan
    data[1, :3] = np.inf
    holed = clean.with_(data=data)
    filled = SignalPreparation()(holed)
    np.testing.assert_allclose(physical(filled)[0, 500:504], clean.data[0, 500:504], atol=8)
    np.testing.assert_allclose(physical(filled)[1, :3], clean.data[1, 3], atol=0.1)
    assert filled.quality["nan_fraction"] == pytest.approx(7 / 6000)
    assert any("7 NaN samples interpolated in C3, C4" in note for note in filled.notes)
    assert not physical(SignalPreparation(nan="zero")(holed))[0, 500:504].any()
    with pytest.raises(UnreadableRecording, match="NaN"):
        SignalPreparation(nan="reject")(holed)
    data[2, :1500] = np.nan
    with pytest.raises(UnreadableRecording, match=r"75.0% of channel 'Cz'"):
        SignalPreparation()(clean.with_(data=data))


def test_lengths_are_never_cut_silently():
    with pytest.raises(UnreadableRecording, match="10 s are too short"):
        SignalPreparation(min_s=30.0)(wave())
    with pytest.raises(UnreadableRecording, match="10 s are too long"):
        SignalPreparation(max_s=4.0)(wave())
    marked = wave(events=(Event(1.0, 0, "beat", "N"), Event(9.0, 0, "beat", "V")))
    cut = SignalPreparation(max_s=4.0, long="cut")(marked)
    assert cut.image.shape == (3, 800)
    assert [event.value for event in cut.events] == ["N"]
    assert any("cut from 10 s" in note for note in cut.notes)
    assert any("1 events" in note for note in cut.notes)


def test_flat_and_saturated_channels_are_flagged():
    data = wave().data.copy()
    data[0] = 3.0
    data[1] = np.clip(data[1] * 2, -20, 20)
    prepared = SignalPreparation()(wave().with_(data=data))
    assert prepared.quality["flat_channels"] == 1
    assert any("flat channels: C3" in note for note in prepared.notes)
    assert prepared.quality["saturated"] > 0.1
    assert SignalPreparation()(wave()).quality["saturated"] == 0
    assert np.isfinite(network(prepared)).all()
    np.testing.assert_allclose(physical(prepared)[0], 3.0)
    with pytest.raises(UnreadableRecording, match="all channels are flat"):
        SignalPreparation()(wave().with_(data=np.zeros((3, 2000))))


def test_without_standardisation_the_network_sees_physical_units():
    prepared = SignalPreparation(standardise="none")(wave())
    np.testing.assert_allclose(network(prepared), physical(prepared), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rate_hz": None}, "rate is unknown"),
        ({"data": np.zeros((3, 0), np.float32)}, "no samples"),
        ({"data": np.zeros((3, 4, 5), np.float32), "axes": "zyx"}, "not those of a signal"),
    ],
)
def test_what_is_no_signal_is_refused(change, reason):
    with pytest.raises(UnreadableRecording, match=reason):
        SignalPreparation()(wave().with_(**change))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"missing": "guess"}, "missing"), ({"band_hz": (40.0, 1.0)}, "band_hz"), ({"rate_hz": 0.0}, "rate_hz")],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SignalPreparation(**options)


def test_settings_survive_being_written_down():
    made = SignalPreparation(rate_hz=128.0, channels=("C3", "Cz"), band_hz=(None, 40.0), units="uV")
    again = build(json.loads(json.dumps(spec(made))), Preparation)
    np.testing.assert_array_equal(made(wave()).image, again(wave()).image)
