"""What is wrong with runs of fMRI, on the command line: each ends in ``rejected.csv`` with its reason."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from toy_fmri import bold, labels, write_image

from medssl.cli import main
from medssl.cohort import Cohort

VOLUMES = 160


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pseudonym key of this test alone."""
    file = tmp_path / "pseudonym.key"
    file.write_text("0123456789abcdef" * 4)
    file.chmod(0o600)
    monkeypatch.setenv("MEDSSL_PSEUDONYM_KEY", str(file))


def series(seed: int, *, regions: int = 6, volumes: int = VOLUMES) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(volumes, regions))


def reasons(cohort: Path) -> dict[str, str]:
    with (cohort / "rejected.csv").open(newline="") as file:
        return {Path(row["source"]).name: row["reason"] for row in csv.DictReader(file)}


def prepare(source: Path, cohort: Path, *options: str) -> int:
    words = ["prepare", "folder", str(source), str(cohort), "--workers", "0", "--keep-ids", "true"]
    return main([*words, "--max-rejected", "0.9", "--options", "kind=fmri", *options])


def test_bad_series_are_refused_one_by_one_and_good_ones_taken(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    made = {
        "good": series(0),
        "good2": series(1),
        "nan_region": series(2),
        "constant_region": series(3),
        "five_volumes": series(4, volumes=5),
        "other_atlas": series(5, regions=9),
        "all_zero": 0 * series(6),
        "connectivity": np.corrcoef(series(7).T),
    }
    made["nan_region"][:, 2] = np.nan
    made["constant_region"][:, 2] = 3.0
    for name, values in made.items():
        np.savetxt(source / f"{name}.1D", values)
    (source / "comma.1D").write_text("0,1\t0,2\n0,3\t0,4\n")
    (source / "cut.1D").write_text("1 2 3\n4 5\n")
    assert prepare(source, tmp_path / "cohort", "tr_s=2") == 0
    found = reasons(tmp_path / "cohort")
    expected = {
        "five_volumes.1D": "too short",
        "other_atlas.1D": "9 regions, the atlas",
        "all_zero.1D": "6 of 6 regions are invalid",
        "connectivity.1D": "connectivity",
        "comma.1D": "decimal commas",
        "cut.1D": "row 2 has 2 cells",
    }
    assert found.keys() == expected.keys()
    assert all(words in found[name] for name, words in expected.items())
    table = Cohort(tmp_path / "cohort").manifest.set_index("recording")
    assert table.quality_invalid_regions.to_dict() == {"constant_region": 1, "good": 0, "good2": 0, "nan_region": 1}
    assert all(table.input_scale[name][2] == 0 for name in ("nan_region", "constant_region"))


def test_a_region_that_many_runs_lack_is_named_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, whole, smaller = tmp_path / "source", tmp_path / "whole", tmp_path / "smaller"
    source.mkdir()
    for run in range(4):
        values = series(run)
        values[:, 2] *= run > 0
        np.savetxt(source / f"{run}.1D", values)
    assert prepare(source, whole, "tr_s=2") == 0
    assert main(["cohort", "info", str(whole)]) == 0
    assert "of the recordings: 1: #3 (25%); to leave them out" in capsys.readouterr().out
    setting = ("--preparation", 'drop_regions=["#3"]')
    assert prepare(source, smaller, "tr_s=2", *setting) == 0
    assert main(["cohort", "info", str(smaller)]) == 0
    said = capsys.readouterr().out
    assert "recordings: none" in said and "regions left out of all recordings (drop_regions): #3" in said
    before, after = Cohort(whole), Cohort(smaller)
    assert after.info.channels == ("#1", "#2", "#4", "#5", "#6")
    for row in range(4):
        kept = before.reader(row).read_all("image")[[0, 1, 3, 4, 5]]
        np.testing.assert_array_equal(after.reader(row).read_all("image"), kept)
    assert prepare(source, smaller, "tr_s=2", *setting) == 0, "a second call goes on with the same settings"


def test_series_without_a_repetition_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    np.savetxt(source / "a.1D", series(0))
    assert prepare(source, tmp_path / "cohort") == 2
    assert "declare it with tr_s" in capsys.readouterr().err
    assert reasons(tmp_path / "cohort")["a.1D"].endswith("declare it with tr_s")


def test_images_with_a_wrong_header_and_confounds_of_another_length(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, tr_s, rows in (("good", 2.0, VOLUMES), ("zero_tr", 0.0, VOLUMES), ("long_table", 2.0, VOLUMES + 3)):
        write_image(source / f"{name}.nii.gz", bold(VOLUMES).astype(np.float32), tr_s=tr_s)
        np.savetxt(source / f"{name}.par", 1e-4 * np.random.default_rng(0).normal(size=(rows, 6)))
    cut = (source / "good.nii.gz").read_bytes()
    (source / "cut.nii.gz").write_bytes(cut[: len(cut) // 2])
    (source / "cut.par").write_bytes((source / "good.par").read_bytes())
    atlas = write_image(tmp_path / "atlas.nii.gz", labels())
    options = [f"atlas={atlas}", "motion=fsl", "pattern=(?P<patient>.*)\\.nii\\.gz", "confounds={patient}.par"]
    assert prepare(source, tmp_path / "cohort", "glob=*.nii.gz", *options) == 0
    found = reasons(tmp_path / "cohort")
    assert found.keys() == {"zero_tr.nii.gz", "long_table.nii.gz", "cut.nii.gz"}
    assert "repetition time of 0 s" in found["zero_tr.nii.gz"]
    assert "163 rows ('trans_x'), the run 160 volumes" in found["long_table.nii.gz"]
    assert "cut short" in found["cut.nii.gz"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [("filter=fir", "fir"), ("band_hz=[0.1,0.01]", "empty"), ("tr_s=40", "repetition time"), ("speed=3", "speed")],
)
def test_settings_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    np.savetxt(source / "a.1D", series(0))
    assert prepare(source, tmp_path / "cohort", "tr_s=2", "--preparation", setting) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
