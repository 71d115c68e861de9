"""Pseudonyms: stable with the key, meaningless without it, and the key stays out of the cohort."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medssl.adapters.recording import Ids
from medssl.cohort.pseudonyms import KEY_VARIABLE, Pseudonyms, default_key_file, load_key
from medssl.errors import CohortError

ONE, OTHER = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)


def test_same_patient_same_pseudonym() -> None:
    assert ONE.patient("Müller, Anna") == ONE.patient("  müller, anna ") == ONE.patient("Mu\u0308ller, Anna")
    assert ONE.patient("17") != ONE.patient("71")
    assert ONE.patient("17") != OTHER.patient("17")


def test_every_level_has_its_letter_and_its_own_hash() -> None:
    ids = ONE.ids(Ids("7", "7", "7", "7"))
    assert [v[0] for v in (ids.patient, ids.session, ids.recording)] == ["P", "S", "R"]
    assert len({v[1:11] for v in (ids.patient, ids.session, ids.recording)}) == 3
    assert ids.trial == "7"
    assert ONE.ids(Ids("7")).session == ""
    assert ONE.ids(Ids("7", trial="Doe^Jane")).trial.startswith("T")


def test_ids_can_be_kept() -> None:
    assert Pseudonyms(None).ids(Ids(" A 1 ", "s", "r", "t")) == Ids("A 1", "s", "r", "t")


def test_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "key"
    key = load_key(file, tmp_path / "cohort")
    assert len(key) == 32 and load_key(file, tmp_path / "cohort") == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [f.name for f in file.parent.iterdir()] == ["key"]


def test_key_inside_the_cohort_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cohort")
    for file in (tmp_path / "cohort" / "sub" / "key", tmp_path / "link" / "key"):
        with pytest.raises(CohortError, match="inside the cohort"):
            load_key(file, tmp_path / "cohort")


@pytest.mark.parametrize("text", ["", "abc", "not hexadecimal " * 9])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(CohortError, match="pseudonym key"):
        load_key(tmp_path / "key", tmp_path / "cohort")


def test_a_dry_run_makes_no_key(tmp_path: Path) -> None:
    assert len(load_key(tmp_path / "key", tmp_path / "cohort", create=False)) == 32
    assert not (tmp_path / "key").exists()


def test_where_the_key_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "k"))
    assert default_key_file() == tmp_path / "k"
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_file() == tmp_path / "medssl" / "pseudonym.key"
