"""``prepare``: what is written, that nothing is dropped silently, and that the way there leaves no trace."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.errors import CohortError, ConfigError, RecipeError

Make = Callable[..., Cohort]


def rejects(cohort: Path) -> dict[str, str]:
    with (cohort / "rejected.csv").open(newline="") as file:
        return {Path(row["source"]).name: row["reason"] for row in csv.DictReader(file)}


def bytes_of(cohort: Path) -> dict[str, str]:
    """Digest of every file but the working folder."""
    files = (f for f in sorted(cohort.rglob("*")) if f.is_file() and ".prepare" not in f.parts)
    return {str(f.relative_to(cohort)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_manifest(make: Make, volumes: Path) -> None:
    cohort = make(volumes)
    frame = cohort.manifest
    assert frame["recording"].tolist() == [f"{p}-{r}" for p in ("anna", "bert", "carl") for r in ("one", "two")]
    row = frame.iloc[0].to_dict()
    assert row["shape"] == [20, 33, 40] and row["channels"] == ["c0", "c1"] and row["spacing_mm"] == [2.0, 1.0, 1.0]
    assert row["position"] == -1 and row["fill"] == -1000 and row["masks"] == ["bright"]
    assert (row["modality"], row["site"], row["session"]) == ("toy", "here", "first")
    assert (row["label_age"], row["label_sex"], row["label_tags"]) == (4.0, "f", ["one"])
    bright = int((np.round(np.load(volumes / "anna_one.npy")[0]) > 500).sum())
    assert json.loads(row["mask_voxels"]) == {"bright": {"1": bright}}
    assert str(volumes) not in frame.to_csv()
    assert row["notes"] == ["read from (source)"]
    info = cohort.info
    assert (info.n_recordings, info.n_patients, info.n_rejected) == (6, 3, 0)
    assert dict(info.labels) == {"age": "number", "sex": "class", "tags": "multilabel"}
    assert info.masks == {"bright": {"1": "1"}}
    assert info.preparation["init_args"]["threshold"] == 500.0


def test_statistics_describe_network_input(make: Make, volumes: Path) -> None:
    images = np.stack([np.round(np.load(f)) for f in sorted(volumes.iterdir())])
    wanted = np.clip(images[:, 1] * 0.001 + 1.0, -3, 3)
    found = make(volumes).info.statistics["c1"]
    np.testing.assert_allclose(
        [found[k] for k in ("mean", "std", "min", "max")],
        [wanted.mean(), wanted.std(), wanted.min(), wanted.max()],
        rtol=1e-5,
    )


def test_workers_and_order_leave_no_trace(make: Make, volumes: Path) -> None:
    alone = make(volumes, "alone", workers=0)
    one = make(volumes, "one", workers=1)
    two = make(volumes, "two", workers=2)
    assert alone.info.fingerprint == one.info.fingerprint == two.info.fingerprint
    assert bytes_of(alone.path) == bytes_of(one.path) == bytes_of(two.path)


def test_dask_gives_the_same_cohort(make: Make, volumes: Path) -> None:
    pytest.importorskip("distributed")
    assert make(volumes, "dask", workers=1, scheduler="local").info.fingerprint == make(volumes).info.fingerprint


def test_fingerprint_follows_content_not_names_or_places(make: Make, volumes: Path, tmp_path: Path) -> None:
    first = make(volumes, "first").info.fingerprint
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(volumes, moved)
    assert make(moved, "second").info.fingerprint == first
    assert make(volumes, "hidden", keep_ids=False).info.fingerprint == first
    assert make(volumes, "settings", preparation={"threshold": 400.0}).info.fingerprint != first
    (moved / "carl_two.npy").rename(moved / "anna_three.npy")  # same values, but another patient's
    assert make(moved, "third").info.fingerprint != first


def test_pseudonyms_by_default(make: Make, volumes: Path, key: Path) -> None:
    cohort = make(volumes, keep_ids=False)
    frame = cohort.manifest
    assert frame["patient"].str.fullmatch("P[0-9a-f]{10}").all()
    assert frame["recording"].str.fullmatch("R[0-9a-f]{14}").all()
    assert frame["patient"].nunique() == 3
    assert key.stat().st_mode & 0o077 == 0
    everything = b"".join(f.read_bytes() for f in cohort.path.rglob("*") if f.is_file() and f.name != "rejected.csv")
    assert not any(name in everything for name in (b"anna", b"bert", b"carl"))
    assert not any("anna" in str(f) for f in cohort.path.rglob("*"))


def test_every_bad_input_is_rejected_with_its_reason(make: Make, volumes: Path) -> None:
    (volumes / "bad_text.npy").write_text("no array at all")
    (volumes / "notes.txt").write_text("hello")
    np.save(volumes / "bad_nan.npy", np.full((1, 4, 4, 4), np.nan))
    np.save(volumes / "bad_empty.npy", np.zeros((1, 0, 4, 4)))
    cohort = make(volumes)
    reasons = rejects(cohort.path)
    assert reasons["notes.txt"] == "not a .npy file"
    assert reasons["bad_nan.npy"] == "it has values that are not finite"
    assert reasons["bad_text.npy"].startswith("ValueError: ")
    assert "non-empty" in reasons["bad_empty.npy"]
    assert len(cohort) == 6 and cohort.info.n_rejected == 4


def test_a_killed_worker_costs_one_input(make: Make, volumes: Path) -> None:
    np.save(volumes / "bert_killer.npy", np.zeros((1, 4, 4, 4)))
    cohort = make(volumes, workers=2)
    assert len(cohort) == 6
    assert "killed" in rejects(cohort.path)["bert_killer.npy"]


OWN_ITEM = """
from dataclasses import dataclass
from pathlib import Path

from medssl.cohort.recipe import Item, Recipe, load_recipe

TOY = load_recipe(Path({toy!r}))


@dataclass(frozen=True)
class OwnItem(Item):
    extra: object = None

    {more}


class Own(Recipe):
    kind = "volume"

    def find(self, source):
        return [OwnItem(i.path, i.ids, labels=i.labels, extra={extra}) for i in TOY.find(source)]

    def read(self, item):
        assert type(item) is OwnItem
        return TOY.read(item)

    def preparation(self):
        return TOY.preparation()
"""


def own_recipe(folder: Path, toy: Path, *, more: str = "", extra: str = "1") -> Path:
    """A recipe of the user's own, with items of a class that its file defines."""
    file = folder / "own.py"
    file.write_text(OWN_ITEM.format(toy=str(toy), more=more, extra=extra))
    return file


def test_items_may_be_of_a_class_that_the_recipe_file_defines(toy: Path, volumes: Path, tmp_path: Path) -> None:
    info = prepare(own_recipe(tmp_path, toy), volumes, tmp_path / "out", workers=1, keep_ids=True)
    assert (info.n_recordings, info.n_rejected) == (6, 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"extra": "lambda: 0"}, "(?i)pickle"),
        ({"more": "def __reduce__(self): return divmod, (1, 0)"}, "ZeroDivisionError"),
    ],
)
def test_items_that_cannot_reach_a_worker_are_rejected_with_the_true_reason(
    toy: Path, volumes: Path, tmp_path: Path, options: dict[str, str], reason: str
) -> None:
    recipe = own_recipe(tmp_path, toy, **options)
    with pytest.raises(CohortError, match="all 6 inputs were rejected"):
        prepare(recipe, volumes, tmp_path / "out", workers=1, keep_ids=True)
    reasons = set(rejects(tmp_path / "out").values())
    assert len(reasons) == 1 and re.search(reason, reasons.pop())
    assert all("cannot be sent to another process" in r for r in rejects(tmp_path / "out").values())
    assert prepare(recipe, volumes, tmp_path / "out", workers=0, keep_ids=True).n_recordings == 6


def test_too_many_rejects_is_an_error_that_keeps_the_rest(make: Make, volumes: Path, tmp_path: Path) -> None:
    for i in range(7):
        (volumes / f"x_{i}.npy").write_text("broken")
    with pytest.raises(CohortError, match="7 of 13 inputs"):
        make(volumes)
    assert len(Cohort(tmp_path / "cohort")) == 6
    assert len(make(volumes, max_rejected=0.6)) == 6


def test_nothing_readable_is_an_error_with_the_first_reasons(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "broken"
    source.mkdir()
    with pytest.raises(CohortError, match="found nothing"):
        make(source)
    (source / "a_1.npy").write_text("broken")
    with pytest.raises(CohortError, match=r"all 1 inputs were rejected \(a_1.npy: ValueError"):
        make(source)
    assert list(rejects(tmp_path / "cohort")) == ["a_1.npy"]
    with pytest.raises(CohortError, match="interrupted"):
        Cohort(tmp_path / "cohort")


def test_second_recording_of_an_id_is_rejected(make: Make, volumes: Path) -> None:
    (volumes / "again").mkdir()
    shutil.copy(volumes / "anna_one.npy", volumes / "again" / "anna_one.npy")
    cohort = make(volumes)
    assert len(cohort) == 6 and cohort.info.n_rejected == 1
    assert "earlier input" in rejects(cohort.path)["anna_one.npy"]


def test_several_recordings_in_one_file(make: Make, volumes: Path) -> None:
    stack = np.stack([np.load(volumes / "anna_one.npy"), np.load(volumes / "anna_two.npy")])
    np.save(volumes / "dora_both.npy", stack)
    cohort = make(volumes)
    assert cohort.manifest["recording"].tolist()[-2:] == ["dora-both-1", "dora-both-2"]
    for i in range(2):
        np.testing.assert_array_equal(cohort.reader(6 + i).read_all(), np.round(stack[i]).astype(np.int16))
        assert len(cohort.reader(6 + i).foreground("bright", 1)) == 50


def test_new_files_are_added_and_lost_ones_leave(make: Make, volumes: Path) -> None:
    first = make(volumes)
    kept = (first.path / "arrays" / "bert-one" / "image" / "zarr.json").stat().st_mtime_ns
    np.save(volumes / "dora_one.npy", np.zeros((2, 20, 33, 40)))
    (volumes / "anna_one.npy").rename(volumes.parent / "aside.npy")
    second = make(volumes)
    assert second.manifest["recording"].tolist() == [
        *("anna-two", "bert-one", "bert-two", "carl-one", "carl-two", "dora-one")
    ]
    assert (first.path / "arrays" / "bert-one" / "image" / "zarr.json").stat().st_mtime_ns == kept
    assert not (first.path / "arrays" / "anna-one").exists()
    (volumes.parent / "aside.npy").rename(volumes / "anna_one.npy")
    (volumes / "dora_one.npy").unlink()
    third = make(volumes)
    assert third.info.fingerprint == first.info.fingerprint
    assert third.reader(0).read_all().any()


def test_new_signals_join_the_packed_ones(make: Make, signals: Path) -> None:
    (signals / "p0_r0.npy").rename(signals.parent / "aside.npy")
    make(signals, stored="signal")
    (signals.parent / "aside.npy").rename(signals / "p0_r0.npy")
    grown, fresh = make(signals, stored="signal"), make(signals, "fresh", stored="signal")
    assert grown.info.fingerprint == fresh.info.fingerprint
    assert bytes_of(grown.path) == bytes_of(fresh.path)


def test_a_changed_file_is_prepared_again(make: Make, volumes: Path) -> None:
    before = make(volumes).info.fingerprint
    np.save(volumes / "anna_one.npy", np.zeros((2, 20, 33, 40), np.float32))
    cohort = make(volumes)
    assert cohort.info.fingerprint != before
    assert not cohort.reader(0).read_all().any()


def test_other_settings_need_overwrite(make: Make, volumes: Path) -> None:
    make(volumes)
    with pytest.raises(CohortError, match=r"other settings \(preparation\..*threshold: .* --overwrite"):
        make(volumes, preparation={"threshold": 100.0})
    assert make(volumes, preparation={"threshold": 100.0}, overwrite=True).info.n_recordings == 6
    with pytest.raises(CohortError, match="pseudonym_key"):
        make(volumes, preparation={"threshold": 100.0}, keep_ids=False)


def test_a_folder_of_other_files_is_left_alone(make: Make, volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CohortError, match="not empty"):
            make(volumes, overwrite=overwrite)
    assert [f.name for f in (tmp_path / "cohort").iterdir()] == ["thesis.tex"]


def test_two_runs_at_once_are_refused(make: Make, volumes: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    cohort = make(volumes)
    with (cohort.path / ".prepare" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CohortError, match="another `medssl prepare`"):
            make(volumes)


def test_wrong_settings_are_refused_before_any_data_are_touched(
    make: Make, toy: Path, volumes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        make(volumes, preparation={"treshold": 1.0})
    with pytest.raises(RecipeError, match="does not exist"):
        make(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="has no option colour; it takes"):
        prepare(toy, volumes, tmp_path / "cohort", options={"colour": "red"}, keep_ids=True)
    assert not (tmp_path / "cohort").exists()


def test_a_full_disk_stops_with_a_sentence(
    make: Make, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medssl.cohort.worker.write_recording", full)
    with pytest.raises(CohortError, match="No space left on device"):
        make(volumes)
    monkeypatch.undo()
    assert len(make(volumes)) == 6


def test_a_memory_cap_of_nothing_still_gets_the_work_done(make: Make, volumes: Path) -> None:
    assert len(make(volumes, workers=2, memory_gb=0.0)) == 6


def test_dry_run_says_what_would_happen_and_touches_nothing(
    toy: Path, volumes: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (volumes / "bad_text.npy").write_text("no array at all")
    before = sorted(tmp_path.rglob("*"))
    info = prepare(toy, volumes, tmp_path / "cohort", workers=0, dry_run=True, pseudonym_key=key)
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert f"take\t{volumes / 'anna_one.npy'}\tczyx 2x20x33x40, 2x1x1 mm" in said
    assert f"reject\t{volumes / 'bad_text.npy'}\tValueError: " in said
    assert "label_sex" in said and "6 recordings of 3 patients, 1 inputs rejected; nothing written" in said
    assert (info.n_recordings, info.n_rejected, info.fingerprint) == (6, 1, "")
