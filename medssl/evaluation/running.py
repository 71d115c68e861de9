"""How one cell of a study is run: fine-tuning, a probe on frozen features, or the simple baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError
from medssl.evaluation.cells import Cell
from medssl.evaluation.floor import floor_features, floor_predict
from medssl.evaluation.planning import FLOOR, Plan, budget_patients
from medssl.evaluation.probes import features, knn_predict, linear_predict

if TYPE_CHECKING:
    from medssl.training.targets import Target

__all__ = ["prepare_features", "run_cell"]


def run_cell(cell: Cell) -> None:
    """Run one cell and leave its tables and ``summary.json`` in ``cell.folder``."""
    if cell.source == FLOOR or cell.options["protocol"] != "finetune":
        _frozen(cell)
    else:
        _finetune(cell)


def _finetune(cell: Cell) -> None:
    from medssl.configurable import build, discover
    from medssl.encoders.base import Encoder
    from medssl.training.finetune import finetune
    from medssl.training.settings import FinetuneSettings, from_plain

    options = cell.options
    discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
    wanted = options["architecture"] if cell.source == "none" else None
    finetune(
        cohort=Path(options["cohort"]), task=options["task"], target=options["target"], out=cell.folder,
        encoder=cell.source, architecture=build(wanted, Encoder) if wanted else None,  # type: ignore[type-abstract]
        budget=cell.budget, split=options["split"], draw=cell.repeat, seed=cell.repeat,
        settings=from_plain(FinetuneSettings, {**options["settings"], "progress": False}),
    )  # fmt: skip


def prepare_features(plan: Plan) -> None:
    """Compute what frozen cells read, once an arm: ``STUDY/features/ARM.npz``. Finished ones are kept."""
    done: set[str] = set()
    for cell in plan.cells:
        frozen = cell.source == FLOOR or cell.options["protocol"] != "finetune"
        if frozen and cell.encoder not in done and not (cell.folder / "predictions.parquet").is_file():
            done.add(cell.encoder)
            _stored_features(cell)


def _stored_features(cell: Cell) -> NDArray[np.float32]:
    """(n, D) features of every item of the target, from the file if it was made of the same encoder and data."""
    file = _features_file(cell)
    key = _features_key(cell)
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                known: NDArray[np.float32] = stored["features"]
                return known
    print(f"computing what '{cell.encoder}' reads, once for all its cells", flush=True)
    target = _target(cell)
    x = floor_features(target) if cell.source == FLOOR else _encoded(cell, target)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part.npz")
    np.savez(beside, features=x, key=np.array(key))
    beside.replace(file)
    return x


def _features_file(cell: Cell) -> Path:
    return cell.folder.parents[3] / "features" / f"{cell.encoder}.npz"


def _features_key(cell: Cell) -> str:
    names = ("cohort_fingerprint", "task", "target", "architecture", "settings")
    parts = [cell.source if cell.source in (FLOOR, "none", "untrained") else "run", cell.fingerprint]
    text = json.dumps([*parts, *(cell.options[n] for n in names)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _target(cell: Cell) -> Target:
    from medssl.cohort import Cohort
    from medssl.training.targets import resolve_target

    return resolve_target(Cohort(Path(cell.options["cohort"])), cell.options["task"], cell.options["target"])


def _encoded(cell: Cell, target: Target) -> NDArray[np.float32]:
    import torch

    from medssl.configurable import build, discover
    from medssl.encoders.base import Encoder, load_encoder
    from medssl.training import finetune
    from medssl.training.contract import match_input
    from medssl.training.fitting import is_cpu
    from medssl.training.heads import choose_size, default_encoder
    from medssl.training.seeding import seed_all
    from medssl.training.settings import FinetuneSettings, from_plain

    options = cell.options
    settings = from_plain(FinetuneSettings, options["settings"])
    info = target.cohort.info
    if cell.source in ("none", "untrained"):
        seed_all(0)
        discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
        wanted = options["architecture"]
        if wanted:
            fitting = {**wanted, "init_args": {**wanted["init_args"], "in_channels": len(info.channels)}}
            encoder = build(fitting, Encoder)  # type: ignore[type-abstract]
        else:
            encoder = default_encoder(info, len(info.channels), target)
        inputs = None
    else:
        split = finetune.load_split(target.cohort.path, options["split"])
        finetune.check_leak(Path(cell.source), target.cohort, split)
        encoder, inputs = load_encoder(cell.source)
    matched = match_input(inputs, info, allow_mismatch=settings.allow_mismatch)
    size = choose_size(encoder, target, settings)
    encoder.check_input(len(matched.names), size)
    device = "cpu" if is_cpu(settings.accelerator) or not torch.cuda.is_available() else "cuda"
    return features(
        encoder, target, np.arange(len(target)), size=size, channels=matched.channels, windows=settings.test_windows,
        batch=settings.test_batch, device=device,
    )  # fmt: skip


def _frozen(cell: Cell) -> None:
    """A probe, or the simple baseline, on stored features of the budget's patients; tested on the test patients."""
    from medssl.training.finetune import load_split
    from medssl.training.run import write_json

    target, x = _target(cell), _stored_features(cell)
    split = load_split(target.cohort.path, cell.options["split"])
    drawn = budget_patients(target, cell.options["target"], split, cell.budget, cell.repeat)
    # a probe chooses its strength by cross-validation inside the budget, so it needs no validation patients of its own
    train = target.items_of((*drawn.train, *drawn.validation))
    test = target.items_of(split.test)
    given = (x[train], target.y[train], target.patients[train], x[test])
    classes = len(target.classes)
    if cell.source == FLOOR:
        answers = floor_predict(*given, task=target.task, source=target.source, classes=classes, seed=cell.repeat)
    elif target.task == "segmentation":
        raise ConfigError(f"the {cell.options['protocol']} protocol does not serve segmentation")
    elif cell.options["protocol"] == "linear":
        answers = linear_predict(*given, task=target.task, classes=classes, seed=cell.repeat)
    else:
        answers = knn_predict(given[0], given[1], given[3], task=target.task, classes=classes)
    _write_predictions(cell.folder / "predictions.parquet", target, test, answers)
    write_json(cell.folder / "summary.json", {
        "status": "finished", "n_patients": drawn.n_patients, "n_train_items": len(train),
        "n_test_items": len(test), "features": int(x.shape[1]),
    })  # fmt: skip


def _write_predictions(file: Path, target: Target, items: Iterable[Any], answers: NDArray[np.float64]) -> None:
    """The same columns as fine-tuning leaves."""
    import pandas as pd

    items = np.asarray(items)
    manifest = target.cohort.manifest
    frame: dict[str, Any] = {
        "group": "test",
        "patient": target.patients[items].astype(str),
        "recording": manifest["recording"].to_numpy(dtype=object)[target.rows[items]],
        "onset_s": None if target.onset_s is None else target.onset_s[items],
    }
    if target.task == "regression":
        frame |= {"y_true": target.y[items].astype(np.float64), "y_pred": answers}
    else:
        names = np.array(target.classes, dtype=object)
        if target.multilabel:
            frame |= {f"y/{c}": target.y[items][:, k].astype(np.int64) for k, c in enumerate(target.classes)}
        else:
            frame |= {"y_true": names[target.y[items]], "y_pred": names[answers.argmax(1)]}
        frame |= {f"p/{c}": answers[:, k] for k, c in enumerate(target.classes)}
    pd.DataFrame(frame).to_parquet(file, index=False)
