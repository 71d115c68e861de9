"""Real recordings through the command line: what is taken and why not, that masks still lie on what they outline."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from medssl.adapters.dicom import read_dicom
from medssl.adapters.masks import read_mask
from medssl.cli import main
from medssl.cohort import Cohort

STUDY = """
settings: {max_steps: 2, batch_size: 1, size: [16, 16, 16], progress: false, accelerator: cpu}
architecture: {class_path: ResEnc, init_args: {features: [4, 8], blocks: [1, 1], strides: [1, 2]}}
"""


def write_key(folder: Path) -> Path:
    file = folder / "pseudonym.key"
    file.write_text("0123456789abcdef" * 4)
    file.chmod(0o600)
    return file


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pseudonym key of this test alone, so that the real one is never touched."""
    monkeypatch.setenv("MEDSSL_PSEUDONYM_KEY", str(write_key(tmp_path)))


def medssl(*arguments: str | Path) -> None:
    """Run one command and insist that it succeeds."""
    assert main([str(a) for a in arguments]) == 0, arguments


def rejected(cohort: Path) -> dict[str, str]:
    with (cohort / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {Path(row[0]).name: " ".join(row[1:]) for row in rows[1:]}


@pytest.fixture(scope="module")
def hippocampus(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the task's folder, the orphans beside the pairs included."""
    folder = tmp_path_factory.mktemp("hippocampus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSSL_PSEUDONYM_KEY", str(write_key(folder)))
        medssl("prepare", "msd", shared_data / "msd_task04_hippocampus", folder / "cohort", "--workers", "0")
    return folder / "cohort"


def test_every_hippocampus_is_taken_and_every_orphan_named(hippocampus: Path) -> None:
    cohort = Cohort(hippocampus)
    assert (cohort.info.n_recordings, cohort.info.n_patients, cohort.info.n_rejected) == (200, 200, 3)
    assert all(list(masks) == ["labels"] for masks in cohort.manifest["masks"])
    assert not cohort.manifest["patient"].str.contains("hippocampus").any(), "ids are pseudonyms"
    assert dict(cohort.info.masks["labels"]) in ({1: "Anterior", 2: "Posterior"}, {"1": "Anterior", "2": "Posterior"})
    reasons = rejected(hippocampus)
    assert reasons["hippocampus_118.nii.gz"].startswith("image without label")
    assert "label without image" in reasons["hippocampus_010.nii.gz"]
    assert "a copy of the label of hippocampus_011" in reasons["hippocampus_010.nii.gz"]
    assert "512x512x94" in reasons["hippocampus_281.nii.gz"]
    medssl("cohort", "info", hippocampus)


def test_a_mask_still_outlines_the_hippocampus(hippocampus: Path, shared_data: Path) -> None:
    """Volumes of masks are kept by preparation: compared with the raw files as a sorted list, since ids are hidden."""
    labels = sorted((shared_data / "msd_task04_hippocampus" / "labelsTr").glob("*.nii.gz"))
    raw = sorted(int(np.count_nonzero(np.asarray(nibabel.load(f).dataobj))) for f in labels)
    cohort = Cohort(hippocampus)
    ours = sorted(int(np.count_nonzero(cohort.reader(i).read_all("mask:labels"))) for i in range(len(cohort)))
    assert ours == raw


@pytest.fixture(scope="module")
def model(hippocampus: Path) -> Path:
    """Two steps: it has learnt nothing, but it is a whole model."""
    run, settings = hippocampus.parent / "model", hippocampus.parent / "settings.yaml"
    settings.write_text(STUDY)
    medssl("cohort", "split", hippocampus, "--test", "2")
    medssl(
        "finetune", "--config", settings, "--cohort", hippocampus, "--task", "segmentation", "--target", "labels",
        "--budget", "2", "--out", run,
    )  # fmt: skip
    return run


def test_a_mask_for_a_nifti_lies_on_its_grid(model: Path, shared_data: Path, tmp_path: Path) -> None:
    source = sorted((shared_data / "msd_task04_hippocampus" / "imagesTr").glob("*.nii.gz"))[0]
    medssl("predict", model, source, tmp_path / "out")
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    image, mask = nibabel.load(source), nibabel.load(written)
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}


@pytest.mark.parametrize("form", ["auto", "nifti"])
def test_a_mask_for_a_dicom_series_lies_on_its_grid(model: Path, shared_data: Path, tmp_path: Path, form: str) -> None:
    series = shared_data / "dicom_zoo" / "series" / "mr_hippocampus_crop_derived"
    medssl("predict", model, series, tmp_path / "out", "--format", form)
    table = pd.read_csv(tmp_path / "out" / "masks.csv")
    mask = read_mask(tmp_path / "out" / table["mask"].iloc[0])
    source = read_dicom(series).recordings[0]
    assert mask.data.shape == source.data.shape[-3:]
    assert mask.affine is not None and source.affine is not None
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in mask.data.shape), 1]], dtype=float).T
    np.testing.assert_allclose(mask.affine @ corners, source.affine @ corners, atol=1e-2)


def test_ixi_is_upright_and_its_masks_with_it(shared_data: Path, tmp_path: Path) -> None:
    cohort_path = tmp_path / "cohort"
    medssl("prepare", "ixi", shared_data / "ixi_t1_2mm", cohort_path, "--workers", "0", "--keep-ids")
    cohort = Cohort(cohort_path)
    assert (cohort.info.n_recordings, cohort.info.n_patients, cohort.info.n_rejected) == (40, 40, 0)
    assert set(cohort.manifest["label_sex"]) == {"F", "M"}
    ages = cohort.manifest["label_age"]
    assert 20 < ages.min() < ages.max() < 80
    for row in range(0, len(cohort), 8):
        reader = cohort.reader(row)
        assert reader.affine is not None
        axes = reader.affine[:3, :3]
        assert [int(np.abs(axes[:, i]).argmax()) for i in range(3)] == [2, 1, 0]
        assert all(axes[[2, 1, 0][i], i] > 0 for i in range(3)), "z, y, x point up, front, right"
        image, mask = reader.read_all()[0].astype(np.float32), reader.read_all("mask:structures")[0]
        inside = {value: float(np.median(image[mask == value])) for value in (2, 7)}
        outside = float(np.median(image[mask == 0]))
        assert inside[2] > 1.5 * inside[7], "white matter is bright and ventricles dark: the mask lies on the image"
        assert inside[2] > outside
        centre = {v: np.argwhere(mask == v).mean(axis=0) for v in (1, 9, 11)}
        assert centre[11][0] < centre[1][0], "the brain stem is below the cortex"
        assert centre[9][1] < centre[1][1], "the cerebellum is behind"


def test_mitbih_patients_and_beats(shared_data: Path, tmp_path: Path) -> None:
    cohort_path = tmp_path / "cohort"
    medssl("prepare", "mitbih", shared_data / "ecg_mitbih_excerpt", cohort_path, "--workers", "0", "--keep-ids")
    cohort = Cohort(cohort_path)
    assert (cohort.info.n_recordings, cohort.info.n_patients, cohort.info.n_rejected) == (36, 35, 0)
    beats = cohort.events[cohort.events["kind"] == "aami"]
    assert beats["value"].value_counts().to_dict() == {"N": 22434, "Q": 1970, "V": 1713, "S": 572, "F": 164}
    of = cohort.manifest.set_index("recording")["patient"]
    assert of["201"] == of["202"]
    seconds = cohort.manifest["n_samples"] / cohort.manifest["rate_hz"]
    assert seconds.round(2).unique().tolist() == [600.0]
    medssl("cohort", "split", cohort_path, "--test", "8", "--stratify", "aami")
    split = json.loads((cohort_path / "splits" / "default.json").read_text())
    assert not set(split["test"]) & set(split["development"])


def test_cpsc_leads_and_diagnoses(shared_data: Path, tmp_path: Path) -> None:
    cohort_path = tmp_path / "cohort"
    medssl("prepare", "cpsc2018", shared_data / "ecg_cpsc2018_12lead", cohort_path, "--workers", "0")
    cohort = Cohort(cohort_path)
    assert (cohort.info.n_recordings, cohort.info.n_patients, cohort.info.n_rejected) == (73, 73, 0)
    assert cohort.info.channels == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    counts = cohort.manifest["label_dx"].explode().value_counts().to_dict()
    assert counts == {
        "RBBB": 19, "AF": 13, "Normal": 10, "PVC": 8, "STD": 8, "STE": 5, "PAC": 5, "I-AVB": 4, "LBBB": 4
    }  # fmt: skip
    assert cohort.manifest["label_sex"].value_counts().to_dict() == {"F": 38, "M": 35}
    for row in range(0, len(cohort), 10):
        reader = cohort.reader(row)
        scale = np.array(reader.record["scale"], dtype=np.float64)[:, None]
        lead = reader.read_all() * scale
        np.testing.assert_allclose((lead[0] + lead[2] - lead[1])[250:-250], 0, atol=0.02)  # Einthoven: I + III = II
