"""Errors a user can cause share one root and say what to do."""

from __future__ import annotations

import medssl.errors as errors


def test_every_error_has_the_same_root() -> None:
    classes = [getattr(errors, n) for n in errors.__all__ if isinstance(getattr(errors, n), type)]
    assert all(issubclass(c, errors.MedSSLError) for c in classes)


def test_an_unreadable_recording_names_its_path_and_reason() -> None:
    error = errors.UnreadableRecording("slice 4 is missing", "ct/12")
    assert (error.reason, error.path) == ("slice 4 is missing", "ct/12")
    assert str(error) == "ct/12: slice 4 is missing"


def test_the_nearest_name_comes_first() -> None:
    assert "did you mean 'ixi'?" in errors.unknown_name("recipe", "ixy", ["msd", "ixi"])
    assert "did you mean" not in errors.unknown_name("recipe", "qqq", ["msd", "ixi"])
