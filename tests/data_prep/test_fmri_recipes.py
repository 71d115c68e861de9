"""Recipes of functional MRI, on synthetic files in the layouts of the data sets."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from toy_fmri import bold, labels, write_image

from medssl.adapters.recording import Rejected
from medssl.cohort import Cohort
from medssl.cohort.recipe import Item, load_recipe
from medssl.cohort.verify import cohort_info, cohort_verify
from medssl.cohort.writer import prepare
from medssl.errors import CohortError, ConfigError, RecipeError
from medssl.synth import FmriSite, write_abide, write_fmriprep


def find(name: str, source: Path, **options):
    """Recipe, items by recording, and reasons."""
    recipe = load_recipe(name, options)
    found = list(recipe.find(source))
    items = {f.ids.recording: f for f in found if isinstance(f, Item)}
    return recipe, items, [f.reason for f in found if isinstance(f, Rejected)]


def made(name: str, source: Path, cohort: Path, **options) -> Cohort:
    prepare(name, source, cohort, options=options, workers=0, keep_ids=True)
    cohort_verify(cohort)
    return Cohort(cohort)


@pytest.fixture(scope="module")
def abide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people at three sites; the last two sites resample."""
    return write_abide(tmp_path_factory.mktemp("abide"), patients=6, regions=12)


def rewrite(source: Path, to: Path, change) -> Path:
    """A copy with another table."""
    for file in source.rglob("*"):
        if file.is_file():
            (to / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(source)).write_bytes(file.read_bytes())
    with (to / "phenotypic.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows = [row for row in (change(row) for row in rows) if row]
    with (to / "phenotypic.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return to


def test_abide_turns_its_codes_into_words(abide):
    _, items, rejected = find("abide", abide)
    assert (len(items), rejected) == (6, [])
    first, second = items["NYU_0050950"], items["NYU_0050951"]
    assert (first.labels["diagnosis"], second.labels["diagnosis"]) == ("autism", "control")
    assert (first.labels["eyes"], second.labels["eyes"]) == ("open", "closed")
    assert first.labels["sex"] in ("M", "F")
    assert 0 < first.labels["mean_fd"] == first.mean_fd
    assert first.ids.patient == "50950"


def test_the_site_of_abide_is_that_of_the_table_and_gives_the_repetition_time(abide):
    _, items, _ = find("abide", abide)
    assert {name.rpartition("_")[0]: (i.site, i.tr_s) for name, i in items.items()} == {
        "NYU": ("NYU", 2.0),
        "UCLA_1": ("UCLA_1", 3.0),
        "Trinity": ("TRINITY", 2.0),
    }
    _, items, _ = find("abide", abide, site_tr_s={"Trinity": 2.2})
    assert items["Trinity_0050954"].tr_s == 2.2


def test_abide_becomes_one_rate_and_keeps_what_was_filtered(abide, tmp_path):
    cohort = made("abide", abide, tmp_path / "cohort")
    assert cohort.info.modality == "fmri"
    assert cohort.info.rate_hz == pytest.approx(1 / 3)
    assert cohort.info.channels == tuple(f"#{i}" for i in range(1, 13))
    settings = cohort.info.preparation["init_args"]
    assert (settings["filter"], settings["filtered_hz"], settings["regions"]) == ("none", [0.01, 0.1], 12)
    table = cohort.manifest.set_index("recording")
    assert table.quality_tr_s.to_dict()["UCLA_1_0050952"] == 3.0
    assert table.n_samples.to_dict() == {
        **{f"NYU_005095{i}": 118 for i in (0, 1)},
        **{f"UCLA_1_005095{i}": 116 for i in (2, 3)},
        **{f"Trinity_005095{i}": 98 for i in (4, 5)},
    }
    assert Counter(table.label_diagnosis) == {"autism": 3, "control": 3}
    assert cohort.info.ceilings["diagnosis"].value == 0.8 and set(cohort.info.ceilings) <= set(cohort.info.labels)


def test_sites_alike_in_rate_keep_it(abide, tmp_path):
    source = rewrite(abide, tmp_path / "source", lambda row: row if row["SITE_ID"] != "UCLA_1" else None)
    cohort = tmp_path / "cohort"
    prepare("abide", source, cohort, workers=0, keep_ids=True)
    assert Cohort(cohort).info.rate_hz == 0.5
    with pytest.raises(CohortError):  # another rate is another cohort
        prepare("abide", source, cohort, workers=0, keep_ids=True, preparation={"tr_s": 3.0})


def test_what_abide_rejects(abide, tmp_path):
    def change(row):
        if row["FILE_ID"] == "NYU_0050950":
            return None
        row |= {"SITE_ID": "ATLANTIS"} if row["FILE_ID"] == "NYU_0050951" else {}
        return row | ({"func_mean_fd": "0.9"} if row["FILE_ID"] == "UCLA_1_0050952" else {})

    source = rewrite(abide, tmp_path / "source", change)
    _, items, rejected = find("abide", source)
    assert len(items) == 4
    assert any("no row of the table has the FILE_ID NYU_0050950" in reason for reason in rejected)
    assert any("site 'ATLANTIS' is not known; declare it with site_tr_s" in reason for reason in rejected)
    prepare("abide", source, tmp_path / "cohort", workers=0, keep_ids=True)
    assert "mean framewise displacement 0.9 mm" in (tmp_path / "cohort" / "rejected.csv").read_text()


def test_folders_of_abide_choose_pipeline_and_strategy(abide, tmp_path):
    for strategy in ("filt_noglobal", "nofilt_noglobal"):
        place = tmp_path / "Outputs" / "cpac" / strategy / "rois_cc200"
        place.mkdir(parents=True)
        for file in abide.glob("NYU/*.1D"):
            (place / file.name).write_bytes(file.read_bytes())
    (tmp_path / "Phenotypic_V1_0b_preprocessed1.csv").write_bytes((abide / "phenotypic.csv").read_bytes())
    for strategy, filtering in (("filt_noglobal", "none"), ("nofilt_noglobal", "butterworth")):
        recipe, items, _ = find("abide", tmp_path, strategy=strategy)
        assert {i.path.parent.parent.name for i in items.values()} == {strategy}
        assert recipe.preparation_of(tmp_path).filter == filtering
    with pytest.raises(RecipeError, match="of ccs/filt_noglobal"):
        find("abide", tmp_path, pipeline="ccs")
    with pytest.raises(RecipeError, match="atlases there: cc200"):
        find("abide", tmp_path, atlas="aal")


def test_runs_that_raters_did_not_pass(abide, tmp_path):
    passed = dict.fromkeys(("qc_rater_1", "qc_anat_rater_3", "qc_func_rater_3"), "OK")

    def change(row):
        verdict = {"NYU_0050950": "maybe", "NYU_0050951": "fail"}.get(row["FILE_ID"], "OK")
        return row | passed | {"qc_anat_rater_2": "OK", "qc_func_rater_2": verdict}

    source = rewrite(abide, tmp_path, change)
    assert len(find("abide", source)[1]) == 6
    _, items, rejected = find("abide", source, quality_checked=True)
    assert (len(items), rejected) == (5, ["not passed by the raters (qc_func_rater_2)"])


def athena(folder: Path, subject: str, *, start: str = "sfnwmrda", rest: int = 1) -> None:
    rng = np.random.default_rng(int(subject))
    rows = ["File\tSub-brick\t" + "\t".join(f"Mean_{i}" for i in range(1, 9))]
    rows += [f"x.nii.gz\t{t}\t" + "\t".join(f"{v:.4f}" for v in rng.normal(size=8)) for t in range(120)]
    (folder / subject).mkdir(parents=True, exist_ok=True)
    (folder / subject / f"{start}{subject}_session_1_rest_{rest}_cc200_TCs.1D").write_text("\n".join(rows) + "\n")


def test_adhd200(tmp_path):
    source = tmp_path / "source"
    for subject in ("0010042", "1000804", "1019436"):
        athena(source, subject)
    athena(source, "0010042", rest=2)
    athena(source, "0010042", start="snwmrda")
    (source / "x_phenotypic.csv").write_text(
        "ScanDir ID,Site,Gender,Age,DX\n10042,5,1,9.5,3\n1000804,1,0,10.2,0\n1019436,8,1,11,pending\n"
    )
    _, items, rejected = find("adhd200", source)
    assert (len(items), rejected) == (4, [])
    first = items["0010042_session_1_rest_1"]
    assert first.labels == {"diagnosis": "adhd", "subtype": "inattentive", "age": 9.5, "sex": "M"}
    assert items["1000804_session_1_rest_1"].labels["diagnosis"] == "control"
    assert items["1019436_session_1_rest_1"].labels["diagnosis"] is None
    assert {i.site: i.tr_s for i in items.values()} == {"NYU": 2.0, "Peking": 2.0, "WashU": 2.5}
    cohort = made("adhd200", source, tmp_path / "cohort")
    assert (len(cohort), cohort.info.n_patients, cohort.info.rate_hz) == (4, 3, 0.4)
    assert cohort.info.channels[:2] == ("Mean_1", "Mean_2")
    recipe, items, _ = find("adhd200", source, filtered=False)
    assert (len(items), recipe.preparation_of(source).filter) == (1, "butterworth")


@pytest.fixture
def hcp(tmp_path: Path) -> Path:
    """Three subjects, of whom two are twins; one has two runs."""
    source = tmp_path / "source"
    for subject, run in (("100307", "LR"), ("100307", "RL"), ("100408", "LR"), ("101107", "LR")):
        (source / subject).mkdir(parents=True, exist_ok=True)
        series = np.random.default_rng(int(subject)).normal(size=(10, 400))
        np.save(source / subject / f"rfMRI_REST1_{run}.npy", series)
    (source / "subjects.csv").write_text(
        "Subject,Gender,Age_in_Yrs,Family_ID,PMAT24_A_CR\n100307,F,27,1_2,17\n100408,M,33,1_2,7\n101107,M,22,3_4,\n"
    )
    return source


def test_hcp(hcp, tmp_path):
    _, items, rejected = find("hcp", hcp, labels={"fluid": "PMAT24_A_CR"})
    assert (len(items), rejected) == (4, [])
    item = items["100307_rfMRI_REST1_LR"]
    assert (item.ids.patient, item.labels) == ("100307", {"sex": "F", "age": 27.0, "fluid": 17.0})
    cohort = made("hcp", hcp, tmp_path / "cohort")
    assert (len(cohort), cohort.info.n_patients) == (4, 3)
    assert cohort.info.rate_hz == pytest.approx(1 / 0.72)
    assert cohort.manifest.quality_volumes.tolist() == [400] * 4


def test_a_family_is_one_patient(hcp, tmp_path):
    cohort = made("hcp", hcp, tmp_path / "cohort", family="Family_ID")
    assert set(cohort.manifest.patient) == {"1_2", "3_4"}
    assert set(cohort.manifest.session) == {"100307", "100408", "101107"}
    with pytest.raises(RecipeError, match="no column Mother"):
        find("hcp", hcp, family="Mother")


def test_series_of_uk_biobank(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    np.savetxt(source / "1000011_25752_2_0.txt", np.random.default_rng(0).normal(size=(490, 6)))
    np.savetxt(source / "1000012_25752_2_0.txt", np.random.default_rng(1).normal(size=(490, 6)))
    (source / "ukb.tsv").write_text("eid\t31-0.0\t21003-2.0\n1000011\t0\t61\n")
    _, items, rejected = find("hcp", source, tr_s=0.735)
    assert items["1000011_25752_2_0"].labels == {"sex": "F", "age": 61.0}
    assert rejected == ["the table has no subject 1000012"]


@pytest.fixture(scope="module")
def fmriprep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = FmriSite("NYU", "NYU", 2.0, 180, 0.4, 0.1)
    return write_fmriprep(tmp_path_factory.mktemp("fmriprep"), patients=2, regions=8, site=site)


def copied(source: Path, to: Path) -> Path:
    for file in source.rglob("*"):
        if file.is_file():
            (to / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(source)).write_bytes(file.read_bytes())
    return to


def test_fmriprep(fmriprep, tmp_path):
    atlas = fmriprep / "atlas" / "blocks.nii.gz"
    cohort = made("fmriprep", fmriprep, tmp_path / "cohort", atlas=str(atlas))
    assert (len(cohort), cohort.info.rate_hz, cohort.info.channels[0]) == (2, 0.5, "block1")
    settings = cohort.info.preparation["init_args"]
    assert settings["atlas"].startswith("blocks ") and settings["regions"] == 8
    assert cohort.manifest.quality_confounds.tolist() == [26, 26]
    assert (cohort.manifest.quality_mean_fd > 0).all()
    assert "regions invalid in more than 10% of the recordings: none" in cohort_info(tmp_path / "cohort")
    derivatives, _, _ = find("fmriprep", fmriprep / "derivatives" / "fmriprep", atlas=str(atlas))
    assert {i.labels["group"] for i in derivatives.find(fmriprep / "derivatives" / "fmriprep")} == {"autism", "control"}


def test_what_fmriprep_lacks(fmriprep, tmp_path):
    source = copied(fmriprep, tmp_path)
    func = source / "derivatives" / "fmriprep" / "sub-01" / "func"
    (func / "sub-01_task-rest_desc-confounds_timeseries.tsv").unlink()
    assert find("fmriprep", source)[2] == ["no table of confounds sub-01_task-rest_desc-confounds_timeseries.tsv"]
    assert len(find("fmriprep", source, confounds="none")[1]) == 2
    next(source.rglob("sub-02*brain_mask*")).unlink()
    assert any("no brain mask" in reason for reason in find("fmriprep", source)[2])
    assert len(find("fmriprep", source, confounds="none", require_mask=False)[1]) == 2
    with pytest.raises(RecipeError, match=r"of task motor .*spaces there: MNI152NLin2009cAsym"):
        find("fmriprep", source, task="motor")
    with pytest.raises(ConfigError, match="neither a file nor"):
        prepare("fmriprep", fmriprep, tmp_path / "cohort", options={"atlas": "schaefer400"}, workers=0, keep_ids=True)


def test_confounds_that_changed_are_read_again(fmriprep, tmp_path):
    source = copied(fmriprep, tmp_path / "source")
    options = {"atlas": str(source / "atlas" / "blocks.nii.gz")}
    first = prepare("fmriprep", source, tmp_path / "cohort", options=options, workers=0, keep_ids=True).fingerprint
    table = next(source.rglob("sub-01*timeseries.tsv"))
    table.write_text(table.read_text().replace("0.0", "0.1"))
    assert (
        prepare("fmriprep", source, tmp_path / "cohort", options=options, workers=0, keep_ids=True).fingerprint != first
    )


def test_a_folder_of_images_with_motion_parameters(tmp_path):
    source = tmp_path / "source"
    for person in ("a", "b"):
        (source / person).mkdir(parents=True)
        write_image(source / person / "run1.nii.gz", bold(160).astype(np.float32), tr_s=2.0)
        write_image(source / person / "brain.nii.gz", np.ones((8, 7, 6), dtype=np.uint8))
        np.savetxt(source / person / "run1.par", 1e-4 * np.random.default_rng(0).normal(size=(160, 6)))
    (source / "b" / "run1.par").rename(source / "b" / "run2.par")
    cohort = made(
        "folder",
        source,
        tmp_path / "cohort",
        kind="fmri",
        glob="*/run*.nii.gz",
        pattern=r"(?P<patient>\w)/(?P<recording>run\d)\.nii\.gz",
        masks={"brain": "{patient}/brain.nii.gz"},
        confounds="{patient}/{recording}.par",
        motion="fsl",
        atlas=str(write_image(tmp_path / "atlas.nii.gz", labels())),
    )
    assert (len(cohort), cohort.info.kind, cohort.info.modality, cohort.info.rate_hz) == (1, "signal", "fmri", 0.5)
    assert cohort.manifest.quality_confounds.tolist() == [24]
    assert "its confounds are missing: no b/run1.par" in (tmp_path / "cohort" / "rejected.csv").read_text()


def test_a_folder_of_series(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for person in "abc":
        np.savetxt(
            source / f"{person}.1D", np.random.default_rng(ord(person)).normal(size=(160, 5 if person < "c" else 4))
        )
    cohort = made("folder", source, tmp_path / "cohort", kind="fmri", tr_s=2.0, atlas="mine")
    assert set(cohort.manifest.patient) == {"a", "b"}
    assert "4 regions, the atlas mine has 5" in (tmp_path / "cohort" / "rejected.csv").read_text()
    with pytest.raises(RecipeError, match="brain"):
        load_recipe("folder", {"kind": "fmri", "masks": {"tumour": "x"}})
