"""Synthetic trunks: the truth they claim is the truth they show."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medssl.errors import ConfigError
from medssl.synth.volumes import CLASSES, ORGANS, torso_volume, write_volumes

SHAPE = (24, 32, 32)
PATIENTS = range(12)


def centres(seed: int, organ: str) -> np.ndarray:
    return np.array(torso_volume(np.random.default_rng(seed))[2]["centres"][organ])


@pytest.mark.parametrize("seed", PATIENTS)
def test_organs_keep_their_order_in_every_patient(seed: int) -> None:
    """Axes point to head, front, right: lungs above liver above kidneys, spine behind, liver on the right."""
    _, _, truth = torso_volume(np.random.default_rng(seed))
    at = {name: np.array(centre) for name, centre in truth["centres"].items()}
    head, front, right = 0, 1, 2
    assert at["lung_right"][head] > at["liver"][head] > at["kidney_right"][head]
    assert at["heart"][head] > at["spleen"][head]
    assert at["spine"][front] < at["liver"][front]
    assert at["spine"][front] < at["heart"][front]
    assert at["liver"][right] > at["spine"][right] > at["spleen"][right]
    assert at["lung_right"][right] > at["heart"][right] > at["lung_left"][right]
    assert at["kidney_right"][right] > at["kidney_left"][right]


def test_patients_differ_but_by_less_than_organs_do() -> None:
    livers = np.stack([centres(seed, "liver") for seed in PATIENTS])
    spread = livers.std(axis=0)
    assert (spread > 0.2).all()
    apart = np.linalg.norm(centres(0, "liver") - centres(0, "spleen"))
    assert spread.max() < apart / 4


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_image_and_mask_describe_the_same_body(modality: str) -> None:
    image, mask, truth = torso_volume(np.random.default_rng(1), modality=modality)  # type: ignore[arg-type]
    assert image.shape == mask.shape == (48, 64, 64)
    assert (image.dtype, mask.dtype) == (np.int16, np.uint8)
    lungs = np.isin(mask, [ORGANS.index("lung_left") + 1, ORGANS.index("lung_right") + 1])
    liver = mask == ORGANS.index("liver") + 1
    assert np.median(image[lungs]) < np.median(image[liver])
    millilitres = liver.sum() * np.prod(truth["spacing_mm"]) / 1000
    assert truth["volumes_ml"]["liver"] == pytest.approx(millilitres)
    np.testing.assert_allclose(truth["centres"]["liver"], np.argwhere(liver).mean(axis=0))
    if modality == "ct":
        assert np.median(image[lungs]) == pytest.approx(-780, abs=40)
    else:
        assert image.min() >= 0


def test_the_class_can_be_seen_in_the_mask_and_the_image() -> None:
    spleens, lesions, contrasts = {}, {}, []
    for kind in CLASSES:
        made = [torso_volume(np.random.default_rng(s), kind=kind, age=50, sex="F") for s in PATIENTS]  # type: ignore[arg-type]
        spleens[kind] = [truth["volumes_ml"]["spleen"] for _, _, truth in made]
        lesions[kind] = [truth["volumes_ml"].get("lesion", 0) for _, _, truth in made]
        if kind == "liver_lesion":
            for image, mask, _ in made:
                liver, lesion = (image[mask == ORGANS.index(name) + 1] for name in ("liver", "lesion"))
                contrasts.append(np.median(liver) - np.median(lesion))
    assert min(spleens["large_spleen"]) > max(spleens["normal"])
    assert max(lesions["normal"]) == max(lesions["large_spleen"]) == 0
    assert min(lesions["liver_lesion"]) > 2
    assert np.median(contrasts) > 15


def test_age_is_written_in_the_bone() -> None:
    ages, density = [], []
    for seed in range(20):
        image, mask, truth = torso_volume(np.random.default_rng(seed))
        ages.append(truth["age"])
        density.append(np.median(image[mask == ORGANS.index("spine") + 1]))
    assert np.corrcoef(ages, density)[0, 1] < -0.9


def test_same_seed_same_volume_other_seed_other_volume() -> None:
    first, again, other = (torso_volume(np.random.default_rng(s), shape=SHAPE) for s in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[2] == again[2]
    assert (first[0] != other[0]).mean() > 0.5


def test_wrong_wishes_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="normal, large_spleen, liver_lesion"):
        torso_volume(rng, kind="tumour")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use ct or mr"):
        torso_volume(rng, modality="us")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="too small"):
        torso_volume(rng, shape=(4, 32, 32))


def test_written_cohort_has_the_decathlon_layout(tmp_path: Path) -> None:
    import nibabel

    folder = write_volumes(tmp_path / "out", patients=4, seed=3, shape=SHAPE)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["numTraining"] == len(description["training"]) == 4
    assert description["labels"]["5"] == ORGANS[4]
    for pair in description["training"]:
        image, label = (nibabel.load(folder / pair[part]) for part in ("image", "label"))
        assert image.shape == label.shape == SHAPE[::-1]
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(np.asarray(label.dataobj))) <= set(range(len(ORGANS) + 1))
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*CLASSES, CLASSES[0]]
    assert all(20 <= float(row["age"]) <= 90 for row in rows)
    liver = np.argwhere(np.asarray(nibabel.load(folder / "labelsTr/torso_001.nii.gz").dataobj) == 5).mean(axis=0)
    assert liver[0] > SHAPE[2] / 2, "the liver is on the right, and x grows to the right"


def test_the_same_seed_writes_the_same_bytes_whatever_the_number(tmp_path: Path) -> None:
    few = write_volumes(tmp_path / "few", patients=1, seed=3, shape=SHAPE)
    many = write_volumes(tmp_path / "many", patients=2, seed=3, shape=SHAPE)
    other = write_volumes(tmp_path / "other", patients=1, seed=4, shape=SHAPE)
    name = "imagesTr/torso_001.nii.gz"
    assert (few / name).read_bytes() == (many / name).read_bytes()
    assert (few / name).read_bytes() != (other / name).read_bytes()
    with pytest.raises(ConfigError, match="at least one"):
        write_volumes(tmp_path / "none", patients=0, seed=3)
