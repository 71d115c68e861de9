"""Small cohorts of synthetic patients with labels, and untrained encoders, for ``embed`` and ``search``."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from toy_cohorts import ToyEncoder

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.encoders.base import InputSpec, save_encoder
from medssl.synth.ecg import write_ecg
from medssl.synth.volumes import write_volumes
from medssl.training.contract import settled_preparation


def volumes(folder: Path, *, patients: int = 9, shape: tuple[int, int, int] = (10, 12, 14), seed: int = 0) -> Path:
    """Torsos of several classes (label ``class``), two patients share a site of the disease (``findings``)."""
    raw = write_volumes(folder / "raw-volumes", patients=patients, seed=seed, shape=shape)
    with (raw / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = raw / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "recording", "label_class", "label_findings"])
        for i, row in enumerate(rows):
            findings = ["a;b", "b", "c"][i % 3] if i else "a;b;c"
            name = row["patient"]
            writer.writerow([f"imagesTr/{name}.nii.gz", f"p{i // 2}", name, "" if i == 8 else row["class"], findings])
    options = {"kind": "volume", "modality": "ct", "multilabel": ["findings"]}
    prepare("table", table, folder / "torsos", options=options, workers=0, keep_ids=True)
    return folder / "torsos"


def signals(folder: Path, *, patients: int = 8) -> Path:
    """Two records of each patient with the label ``rhythm``."""
    raw = write_ecg(folder / "raw-signals", patients=patients, seed=1, seconds=12, rate_hz=125, records_per_patient=2)
    with (raw / "records.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = raw / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "recording", "label_rhythm"])
        writer.writerows([f"{r['record']}.hea", r["patient_id"], r["record"], r["rhythm"]] for r in rows)
    options = {"kind": "signal", "modality": "ecg"}
    prepare("table", table, folder / "ecgs", options=options, workers=0, keep_ids=True)
    return folder / "ecgs"


def run_for(cohort: Path, folder: Path, *, seed: int = 1, broken: bool = False) -> Path:
    """An exported encoder that takes the recordings of a cohort."""
    opened = Cohort(cohort)
    info = opened.info
    dims = 1 if info.kind == "signal" else 3
    torch.manual_seed(seed)
    encoder = ToyEncoder(in_channels=len(info.channels), dims=dims)
    if broken:
        with torch.no_grad():
            next(encoder.parameters()).fill_(float("nan"))
    inputs = InputSpec(
        kind=info.kind, channels=info.channels, size=(64,) if dims == 1 else (8, 8, 8), rate_hz=info.rate_hz,
        spacing_mm=info.spacing_mm, preparation=settled_preparation(opened),
    )  # fmt: skip
    save_encoder(encoder, folder / "encoder", inputs, {"cohorts": [info.fingerprint], "patients": {}})
    return folder
