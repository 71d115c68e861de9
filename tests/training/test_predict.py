"""Predicting raw files: masks come back on the source's own grid, tables name their files, bad files stop nobody."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from toy_cohorts import ToyEncoder

from medssl.cohort.writer import prepare
from medssl.encoders.resenc import ResEnc
from medssl.errors import CheckpointError, ConfigError, MedSSLError
from medssl.optim import Optim
from medssl.splits import split
from medssl.training.finetune import finetune
from medssl.training.predict import predict
from medssl.training.settings import FinetuneSettings

QUICK = FinetuneSettings(
    max_steps=40, batch_size=4, progress=False, accelerator="cpu", precision="32-true", augment=False, cache_gb=0.1,
    optim=Optim(lr=0.02),
)  # fmt: skip
FLIPPED = np.array([[-1.5, 0, 0, 40], [0, 0, 1.0, -3], [0, 2.0, 0, 7], [0, 0, 0, 1.0]])
"""x runs to the left, the second file axis is z: nothing a careless writer would get right."""


def body(number: int, affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A noisy volume with a bright ball of 6 mm radius, in file order, and its mask (label 5)."""
    rng = np.random.default_rng(number)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    millimetres = index @ affine[:3, :3].T + affine[:3, 3]
    centre = affine[:3, :3] @ (np.array(shape) / 2 + rng.uniform(-1, 1, 3)) + affine[:3, 3]
    inside = ((millimetres - centre) ** 2).sum(-1) < 36
    image = 100 + 10 * rng.standard_normal(shape) + 120 * inside
    return image.astype(np.float32), 5 * inside.astype(np.uint8)


def write(folder: Path, number: int, affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    image, mask = body(number, affine, shape)
    for name, array in (("images", image), ("masks", mask)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / name / f"p{number}.nii.gz")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds the ball, trained at 2 mm."""
    folder = tmp_path_factory.mktemp("segmenter")
    for number in range(6):
        write(folder / "raw", number, np.diag([1.0, 1.0, 1.0, 1.0]), (26, 24, 22))
    cohort = folder / "cohort"
    prepare(
        "folder", folder / "raw", cohort, workers=0, keep_ids=True, preparation={"spacing_mm": 2.0, "intensity": "mr"},
        options={"pattern": r"images/(?P<patient>\w+)\.nii\.gz", "masks": {"ball": "masks/{patient}.nii.gz"}},
        max_rejected=0.9,
    )  # fmt: skip
    split(cohort, test=1)
    summary = finetune(
        cohort=cohort, task="segmentation", target="ball", out=folder / "run", settings=QUICK,
        architecture=ResEnc(features=(8, 16), blocks=(1, 1), strides=(1, 2)),
    )  # fmt: skip
    assert summary["metrics"]["dice"] > 0.7
    return folder / "run"


def test_a_mask_lies_on_the_grid_of_its_source(segmenter: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw", 50, FLIPPED, (20, 16, 26))
    result = predict(run=segmenter, source=tmp_path / "raw" / "images" / "p50.nii.gz", out=tmp_path / "out")
    assert result["masks"] == ["p50.nii.gz"]
    written = nibabel.load(tmp_path / "out" / "p50.nii.gz")
    assert np.allclose(written.affine, FLIPPED)
    prediction = np.asarray(written.dataobj)
    reference = body(50, FLIPPED, (20, 16, 26))[1]
    assert set(np.unique(prediction)) <= {0, 5}  # the label values of the training masks
    assert 2 * ((prediction == 5) & (reference == 5)).sum() / ((prediction == 5).sum() + (reference == 5).sum()) > 0.7
    table = pd.read_csv(tmp_path / "out" / "masks.csv")
    assert table.filter(like="ml/").iloc[0, 0] > 0


def test_a_bad_file_is_listed_and_the_others_go_on(segmenter: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw", 1, FLIPPED, (20, 16, 26))
    (tmp_path / "raw" / "images" / "broken.nii.gz").write_bytes(b"not a volume")
    result = predict(run=segmenter, source=tmp_path / "raw" / "images", out=tmp_path / "out")
    assert (result["recordings"], result["rejected"]) == (1, 1)
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert rejected["source"].iloc[0].endswith("broken.nii.gz")


def test_nothing_predicted_is_an_error(segmenter: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "broken.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(MedSSLError, match=r"nothing of .* could be predicted"):
        predict(run=segmenter, source=raw, out=tmp_path / "out")
    assert (tmp_path / "out" / "rejected.csv").is_file()
    with pytest.raises(MedSSLError, match="does not exist"):
        predict(run=segmenter, source=tmp_path / "nowhere", out=tmp_path / "out")


def test_options_that_make_no_sense_are_refused(segmenter: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw", 1, FLIPPED, (20, 16, 26))
    with pytest.raises(ConfigError, match="does not write csv"):
        predict(run=segmenter, source=tmp_path / "raw", out=tmp_path / "out", format="csv")
    with pytest.raises(CheckpointError, match="no model"):
        predict(run=tmp_path, source=tmp_path / "raw", out=tmp_path / "out")


def test_weights_that_do_not_fit_are_refused(segmenter: Path, tmp_path: Path) -> None:
    about = json.loads((segmenter / "model" / "model.json").read_text())
    about["head"]["init_args"]["encoder"]["init_args"]["features"] = [4, 8]
    (tmp_path / "model.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes((segmenter / "model" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="do not fit"):
        predict(run=tmp_path, source=segmenter, out=tmp_path / "out")


def test_signals_give_a_table_with_probabilities_and_uncertainty(tmp_path: Path) -> None:
    time = np.arange(1000) / 50
    for number in range(10):
        fast = number % 2
        wave = np.sin(2 * np.pi * (4 if fast else 1) * time + number)
        name = tmp_path / "raw" / f"p{number}_{'fast' if fast else 'slow'}.npy"
        name.parent.mkdir(exist_ok=True)
        np.save(name, np.stack([wave, wave]).astype(np.float32))
    options = {
        "kind": "signal", "pattern": r"(?P<patient>p\d+)_(?P<label_rhythm>\w+)\.npy", "rate_hz": 50.0, "units": "mV",
        "channels": ["I", "II"],
    }  # fmt: skip
    prepare("folder", tmp_path / "raw", tmp_path / "cohort", options=options, workers=0, keep_ids=True)
    split(tmp_path / "cohort", test=2, stratify="rhythm")
    finetune(
        cohort=tmp_path / "cohort", task="classification", target="rhythm", out=tmp_path / "run", settings=QUICK,
        architecture=ToyEncoder(in_channels=2, dims=1),
    )  # fmt: skip
    (tmp_path / "new").mkdir()
    np.save(tmp_path / "new" / "a.npy", np.stack([np.sin(8 * np.pi * time)] * 2).astype(np.float32))
    with pytest.raises(MedSSLError, match="rate"):
        predict(run=tmp_path / "run", source=tmp_path / "new" / "a.npy", out=tmp_path / "out")
    declared = {k: options[k] for k in ("rate_hz", "units", "channels")}
    predict(run=tmp_path / "run", source=tmp_path / "new" / "a.npy", out=tmp_path / "out", options=declared)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["prediction"].tolist() == ["fast"]
    assert table["p/fast"].iloc[0] + table["p/slow"].iloc[0] == pytest.approx(1)
    assert 0 <= table["entropy_bits"].iloc[0] <= 1
