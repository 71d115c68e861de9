"""Preparation of fMRI runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medssl.adapters.fmri_confounds import MOTION
from medssl.adapters.recording import Recording
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.fmri_cleaning import clean
from medssl.cohort.preparation import Preparation
from medssl.configurable import build, spec
from medssl.errors import ConfigError, UnreadableRecording

TR = 2.0


def run(regions: int = 6, volumes: int = 200, *, tr_s: float = TR, seed: int = 0, **changes) -> Recording:
    """Noise around 1000, as raw BOLD is."""
    data = 1000 + 10 * np.random.default_rng(seed).normal(size=(regions, volumes))
    names = tuple(f"r{i}" for i in range(regions))
    fields = {"axes": "ct", "rate_hz": 1 / tr_s, "channels": names, "source": "run.1D"}
    return Recording(data, **(fields | changes))


def motion(volumes: int = 200, *, jumps=(), size_mm: float = 1.0) -> dict[str, np.ndarray]:
    """A head that lies still but for some jumps along x, of which each spoils one volume."""
    rng = np.random.default_rng(1)
    columns = {name: 1e-3 * rng.normal(size=volumes) for name in MOTION[:3]}
    columns |= {name: 1e-5 * rng.normal(size=volumes) for name in MOTION[3:]}
    for at in jumps:
        columns["trans_x"][at:] += size_mm
    return columns


def network(prepared) -> np.ndarray:
    return (prepared.image * prepared.input_scale[:, None] + prepared.input_offset[:, None]).clip(*prepared.input_range)


def plain(**settings) -> FmriPreparation:
    return FmriPreparation(**({"confounds": "none"} | settings))


def test_what_comes_out():
    prepared = plain()(run())
    assert (prepared.image.dtype, prepared.image.shape, prepared.axes) == (np.int16, (6, 200), "ct")
    assert (prepared.rate_hz, prepared.channels[0], set(prepared.units), prepared.fill) == (0.5, "r0", {"z"}, 0)
    found = network(prepared)
    np.testing.assert_allclose(found, clean(run().data.T, tr_s=TR).T, atol=0.0003)  # half a step
    np.testing.assert_allclose(found.std(axis=1, ddof=1), 1, atol=1e-3)
    assert prepared.quality["volumes"] == 200
    assert prepared.quality["tr_s"] == TR
    assert prepared.quality["minutes"] == pytest.approx(200 * TR / 60)


def test_a_spec_survives_json():
    settings = plain(band_hz=(0.008, 0.09), regions=6, tr_s=3.0)
    again = build(json.loads(json.dumps(spec(settings))), Preparation)
    np.testing.assert_array_equal(again(run()).image, settings(run()).image)


@pytest.mark.parametrize("what", ["NaN in one volume", "NaN throughout", "constant", "zeros"])
def test_a_region_that_says_nothing_is_stored_as_zeros_and_marked_invalid(what):
    recording = run()
    if what == "NaN in one volume":
        recording.data[2, 17] = np.nan
    else:
        recording.data[2] = {"NaN throughout": np.nan, "constant": 7.5, "zeros": 0.0}[what]
    prepared = plain()(recording)
    assert not prepared.image[2].any()
    assert prepared.input_scale[2] == 0
    assert (prepared.input_scale[[0, 1, 3, 4, 5]] > 0).all()
    assert prepared.quality["invalid_regions"] == 1
    assert any("r2" in note for note in prepared.notes)
    np.testing.assert_array_equal(network(prepared)[0], network(plain()(run()))[0])  # the others do not care


def test_a_region_that_the_confounds_explain_is_invalid():
    recording = run(confounds={"csf": run().data[3] * 2 + 5, "other": np.random.default_rng(5).normal(size=200)})
    prepared = FmriPreparation(confounds=("csf", "other"))(recording)
    assert prepared.input_scale[3] == 0
    assert prepared.quality["invalid_regions"] == 1


def test_dropped_regions_are_as_if_the_atlas_had_never_had_them():
    recording = run()
    recording.data[2] = 0.0
    prepared = plain(regions=6, drop_regions=("r4", "r2"))(recording)
    assert prepared.channels == ("r0", "r1", "r3", "r5") and len(prepared.units) == 4
    assert prepared.quality["invalid_regions"] == 0
    assert "2 regions left out (drop_regions)" in prepared.notes
    np.testing.assert_array_equal(prepared.image, plain()(run()).image[[0, 1, 3, 5]])
    unnamed = plain(drop_regions=("#1",))(run(channels=()))
    assert unnamed.channels == ("#2", "#3", "#4", "#5", "#6")


@pytest.mark.parametrize(
    ("names", "message"), [(("r9",), "no region 'r9'.*r0, r1"), (tuple(f"r{i}" for i in range(6)), "all of its")]
)
def test_regions_to_drop_must_be_there_and_leave_some(names, message):
    with pytest.raises(UnreadableRecording, match=message):
        plain(drop_regions=names)(run())


def test_too_many_invalid_regions_refuse_the_run():
    recording = run()
    recording.data[:4] = 0
    with pytest.raises(UnreadableRecording, match="4 of 6 regions are invalid"):
        plain()(recording)
    assert plain(max_invalid=0.8)(recording).quality["invalid_regions"] == 4
    recording.data[:] = np.nan
    with pytest.raises(UnreadableRecording, match="6 of 6 regions"):
        plain(max_invalid=1.0)(recording)


def test_another_atlas_is_refused():
    with pytest.raises(UnreadableRecording, match=r"6 regions, the atlas cc200 has 200"):
        plain(atlas="cc200", regions=200)(run())


@pytest.mark.parametrize("tr_s", [0.0, 0.1, 30.0, None])
def test_no_plausible_repetition_time(tr_s):
    rate = {0.0: None, None: None}.get(tr_s) if not tr_s else 1 / tr_s
    with pytest.raises(UnreadableRecording, match="declare tr_s"):
        plain()(run(rate_hz=rate))


def test_five_volumes_are_too_short_and_say_so():
    with pytest.raises(UnreadableRecording, match=r"5 volumes of 2 s are 0.17 minutes: too short \(at least 4\)"):
        plain()(run(volumes=5))
    with pytest.raises(UnreadableRecording, match=r"degrees of freedom|too few"):
        plain(min_minutes=0.0)(run(volumes=5))
    with pytest.raises(UnreadableRecording, match="too few to be filtered"):
        plain(min_minutes=0.0, min_degrees=-100)(run(volumes=5))


def test_moved_volumes_are_cut_out_and_counted():
    recording = run(confounds=motion(jumps=(60, 120)))
    recording.data[:, 60] += 900
    prepared = FmriPreparation(confounds="motion")(recording)
    assert prepared.image.shape[1] == 198
    assert prepared.quality["censored"] == pytest.approx(0.01)
    assert prepared.quality["minutes"] == pytest.approx(198 * TR / 60)
    assert prepared.quality["max_fd"] == pytest.approx(1.0, abs=0.02)
    assert prepared.quality["confounds"] == 24
    assert np.abs(network(prepared)).max() < 6  # the spike is not among what is stored
    assert any("2 of 200 volumes censored" in note for note in prepared.notes)
    kept = FmriPreparation(confounds="motion", max_fd_mm=None)(recording)
    assert kept.image.shape[1] == 200


def test_fragments_between_moved_volumes_go_too():
    prepared = FmriPreparation(confounds="motion")(run(confounds=motion(jumps=(60, 64))))
    assert prepared.image.shape[1] == 200 - 2 - 3
    assert any("3 of them in stretches of fewer than 5" in note for note in prepared.notes)


def test_runs_that_moved_too_much_are_refused():
    with pytest.raises(UnreadableRecording, match=r"too much motion: mean framewise displacement 0.6"):
        FmriPreparation(confounds="motion")(run(confounds=motion(jumps=range(1, 200), size_mm=0.6)))
    spoilt = run(confounds=motion(jumps=range(10, 190, 3)))
    with pytest.raises(UnreadableRecording, match="volumes are censored for motion"):
        FmriPreparation(confounds="motion")(spoilt)
    with pytest.raises(UnreadableRecording, match=r"minutes after 21% were censored: too short"):
        FmriPreparation(confounds="motion", min_minutes=6)(
            run(confounds=motion(jumps=range(10, 190, 30)[:1])).with_(confounds=motion(jumps=range(1, 42)))
        )


def test_rotations_in_degrees_are_suspected():
    degrees = motion()
    degrees["rot_x"] = np.random.default_rng(2).normal(size=200) * 0.3
    with pytest.raises(UnreadableRecording, match="in degrees"):
        FmriPreparation(confounds="motion")(run(confounds=degrees))


def test_a_mean_displacement_from_a_table_counts_where_there_are_no_parameters():
    assert plain()(run(quality={"mean_fd": 0.3})).quality["mean_fd"] == 0.3
    with pytest.raises(UnreadableRecording, match=r"0.7 mm \(at most 0.5\)"):
        plain()(run(quality={"mean_fd": 0.7}))
    assert plain(max_mean_fd_mm=None)(run(quality={"mean_fd": 0.7})).quality["mean_fd"] == 0.7


def test_the_column_of_dvars_censors_when_asked():
    dvars = np.ones(200)
    dvars[50] = 2.0
    table = {"std_dvars": dvars, "csf": np.random.default_rng(0).normal(size=200)}
    assert FmriPreparation(confounds=("csf",), max_dvars=1.5)(run(confounds=table)).image.shape[1] == 199
    assert FmriPreparation(confounds=("csf",))(run(confounds=table)).image.shape[1] == 200
    with pytest.raises(UnreadableRecording, match="std_dvars"):
        plain(max_dvars=1.5)(run())


def test_scrubbing_without_motion_is_refused():
    table = {name: np.random.default_rng(0).normal(size=200) for name in ("csf", "white_matter")}
    with pytest.raises(UnreadableRecording, match="no motion"):
        FmriPreparation(confounds="scrubbing")(run(confounds=table))
    with pytest.raises(ConfigError, match="max_fd_mm"):
        FmriPreparation(confounds="scrubbing", max_fd_mm=None)


def test_too_few_degrees_of_freedom_are_refused_and_few_are_noted():
    with pytest.raises(UnreadableRecording, match=r"130 volumes leave 16 degrees of freedom after 24"):
        FmriPreparation(confounds="motion", band_hz=(0.0125, 0.09))(run(volumes=130, confounds=motion(130)))
    prepared = FmriPreparation(confounds="motion")(run(confounds=motion()))
    assert prepared.quality["degrees_of_freedom"] == pytest.approx(200 * 0.36 - 24)
    assert any("only 48 degrees" in note for note in prepared.notes)


def test_a_missing_confound_names_itself():
    with pytest.raises(UnreadableRecording, match="csf"):
        FmriPreparation()(run(confounds=motion()))
    with pytest.raises(UnreadableRecording, match="trans_x"):
        FmriPreparation()(run())


def test_what_is_filtered_already_is_not_filtered_again():
    with pytest.raises(ConfigError, match="filtered already"):
        FmriPreparation(filtered_hz=(0.01, 0.1))
    prepared = plain(filter="none", filtered_hz=(0.01, 0.1))(run())
    np.testing.assert_allclose(network(prepared), clean(run().data.T, tr_s=TR, filter="none").T, atol=3e-4)
    assert prepared.quality["degrees_of_freedom"] == pytest.approx(200 * 0.36)


def test_volumes_before_the_steady_state_are_dropped_with_their_confounds():
    marks = {"non_steady_state_outlier00": np.eye(200)[0], "non_steady_state_outlier01": np.eye(200)[1]}
    recording = run(confounds=motion() | marks)
    recording.data[:, :2] += 500
    late = run(confounds={n: c[2:] for n, c in motion().items()}).with_(data=run().data[:, 2:])
    found, wanted = (FmriPreparation(confounds="motion")(r) for r in (recording, late))
    np.testing.assert_array_equal(found.image, wanted.image)
    assert found.image.shape[1] == 198
    assert FmriPreparation(confounds="motion", drop_volumes=3)(recording).image.shape[1] == 195


def test_nothing_left_after_the_first_volumes():
    with pytest.raises(UnreadableRecording, match="12 volumes are too few when the first 12 are dropped"):
        plain(drop_volumes=12)(run(volumes=12))


def slow(tr_s: float, seconds: float = 600.0) -> np.ndarray:
    """(4, T) sines within the band, as they are seen at that repetition time."""
    time = np.arange(0, seconds, tr_s)
    return np.stack([np.sin(2 * np.pi * hz * time + i) for i, hz in enumerate((0.02, 0.035, 0.05, 0.08))])


@pytest.mark.parametrize("own", [1.5, 2.0, 2.5, 0.72])
def test_all_runs_come_to_one_repetition_time(own):
    recording = run(4, tr_s=own).with_(data=100 + slow(own))
    prepared = plain(tr_s=3.0, filter="none", detrend=False)(recording)
    assert prepared.rate_hz == pytest.approx(1 / 3)
    assert prepared.image.shape[1] == np.ceil(recording.data.shape[1] * own / 3)
    wanted = slow(3.0, 3.0 * prepared.image.shape[1])
    middle = slice(20, -20)
    for found, true in zip(network(prepared), wanted, strict=True):
        assert np.corrcoef(found[middle], true[middle])[0, 1] > 0.999
    assert any(f"from a repetition time of {own:g} s to 3 s" in note for note in prepared.notes)


def test_what_the_new_rate_cannot_hold_is_not_folded_into_it():
    fast = np.sin(2 * np.pi * 0.22 * TR * np.arange(300))  # at 3 s it would look like 0.113 Hz
    recording = run(3, 300).with_(data=np.stack([fast + 0.2 * row for row in slow(TR)[:3]]))
    prepared = plain(tr_s=3.0, filter="none")(recording)
    spectrum = np.abs(np.fft.rfft(network(prepared)[0])) ** 2
    frequency = np.fft.rfftfreq(200, 3.0)
    assert spectrum[abs(frequency - 0.113) < 0.01].sum() < 0.01 * spectrum.sum()


def test_censored_volumes_stay_out_when_the_rate_changes():
    recording = run(4, 300, confounds=motion(300, jumps=(90,))).with_(data=100 + slow(TR))
    recording.data[:, 90] += 50
    prepared = FmriPreparation(confounds="none", filter="none", tr_s=3.0, detrend=False)(recording)
    assert prepared.image.shape[1] == 199
    wanted = np.delete(slow(3.0), 60, axis=1)
    assert np.corrcoef(network(prepared)[0], wanted[0])[0, 1] > 0.999


def test_runs_can_be_cut_to_one_length():
    prepared = plain(max_minutes=5.0)(run(volumes=200))
    assert prepared.image.shape[1] == 150
    np.testing.assert_allclose(network(prepared).std(axis=1, ddof=1), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"confounds": "everything"}, "everything"),
        ({"filter": "fir"}, "fir"),
        ({"band_hz": (0.1, 0.01)}, "empty"),
        ({"filter": "cosine", "band_hz": (None, 0.1)}, "high-pass"),
        ({"tr_s": 20.0}, "repetition time"),
        ({"min_segment": 0}, "min_segment"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ConfigError, match=words):
        FmriPreparation(**settings)


def test_an_image_in_time_is_no_region_series():
    with pytest.raises(UnreadableRecording, match="an atlas makes them"):
        plain()(Recording(np.zeros((4, 3, 3, 3), np.float32), axes="tzyx", rate_hz=0.5))
