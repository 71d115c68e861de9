"""Epochs from intervals, and cutting a recording in time."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.adapters.recording import Recording
from medssl.cohort.staging import cut_out, epochs_of
from medssl.errors import UnreadableRecording


def test_epochs_that_no_interval_covers_have_no_stage():
    assert epochs_of([(40.0, 50.0, "N1"), (95.0, 25.0, "W")], 30.0) == [None, None, "N1", None]
    assert epochs_of([(90.0, 30.0, "N2"), (0.0, 30.0, "W")], 30.0) == ["W", None, None, "N2"]


def test_cutting_keeps_whole_events_and_says_so():
    from medssl.adapters.recording import Event

    events = tuple(Event(t, 10.0, "stage", str(t)) for t in (0.0, 10.0, 20.0, 30.0))
    recording = Recording(np.arange(400)[None], "ct", rate_hz=10.0, events=events)
    cut = cut_out(recording, 5.0, 30.0)
    np.testing.assert_array_equal(cut.data[0], np.arange(50, 300))
    assert [(e.onset_s, e.value) for e in cut.events] == [(5.0, "10.0"), (15.0, "20.0")]
    assert cut.notes == ("cut to 5 to 30 s of 40 s",)
    assert cut_out(recording, -5.0, 90.0).notes == ()
    with pytest.raises(UnreadableRecording, match="nothing of it lies between"):
        cut_out(recording, 50.0, 60.0)
