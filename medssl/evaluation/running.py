"""How one cell of a study is run: fine-tuning, a probe on frozen features, the simple baseline, label-free measures."""

from __future__ import annotations

from pathlib import Path

from medssl.errors import ConfigError
from medssl.evaluation.arms import WITHOUT_LABELS
from medssl.evaluation.cells import BARE, Cell
from medssl.evaluation.floor import floor_predict
from medssl.evaluation.frozen import decisions_of, item_features, write_predictions
from medssl.evaluation.planning import FLOOR, Plan, budget_patients
from medssl.evaluation.probes import knn_predict, linear_predict
from medssl.evaluation.prompt import prompt_cell
from medssl.evaluation.quality import measure_cell
from medssl.evaluation.retrieval import retrieve_cell

__all__ = ["prepare_features", "run_cell"]


def run_cell(cell: Cell) -> None:
    """Run one cell and leave its tables and ``summary.json`` in ``cell.folder``."""
    if cell.options["protocol"] == "representation":
        measure_cell(cell)
    elif cell.options["protocol"] == "retrieval":
        retrieve_cell(cell)
    elif cell.options["protocol"] == "prompt":
        prompt_cell(cell)
    elif cell.source == FLOOR or cell.options["protocol"] != "finetune":
        _frozen(cell)
    else:
        _finetune(cell)


def _finetune(cell: Cell) -> None:
    from medssl.configurable import build, discover
    from medssl.encoders.base import Encoder
    from medssl.training.finetune import train_and_test
    from medssl.training.settings import FinetuneSettings, from_plain

    options = cell.options
    discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
    wanted = options["architecture"] if cell.source == "none" else None
    train_and_test(
        cohort=Path(options["cohort"]), task=options["task"], target=options["target"], out=cell.folder,
        encoder=cell.source, architecture=build(wanted, Encoder) if wanted else None,  # type: ignore[type-abstract]
        budget=cell.budget, split=options["split"], draw=cell.repeat, seed=cell.repeat,
        settings=from_plain(FinetuneSettings, {**options["settings"], "progress": False}),
    )  # fmt: skip


def prepare_features(plan: Plan) -> None:
    """Compute what frozen cells read, once an arm: ``STUDY/features/ARM.npz``. Finished ones are kept.

    An arm has one cell of retrieval or of prompts, which does so itself.
    """
    if plan.facts["protocol"] in WITHOUT_LABELS:
        return
    done: set[tuple[str, int]] = set()
    for cell in plan.cells:
        frozen = cell.source == FLOOR or cell.options["protocol"] != "finetune"
        arm = (cell.encoder, cell.fold if cell.in_parts and cell.source not in (FLOOR, *BARE) else 0)
        if frozen and arm not in done and not (cell.folder / "predictions.parquet").is_file():
            done.add(arm)
            item_features(cell)


def _frozen(cell: Cell) -> None:
    """A probe, or the simple baseline, on stored features of the budget's patients; tested on the test patients."""
    from medssl.splits import Split
    from medssl.training.run import write_json

    decisions, x = decisions_of(cell), item_features(cell)
    target = decisions.parts
    split = Split.load(target.cohort.path, cell.options["split"])
    drawn = budget_patients(target, cell.options["target"], split, cell.budget, cell.repeat)
    # a probe chooses its strength by cross-validation inside the budget, so it needs no validation patients of its own
    train = target.items_of((*drawn.train, *drawn.validation))
    decided = decisions.target.items_of(split.test)
    test = decisions.parts_of(decided)
    given = (x[train], target.y[train], target.patients[train], x[test])
    classes = len(target.classes)
    if cell.source == FLOOR:
        answers = floor_predict(
            *given, task=target.task, moments=target.are_moments, classes=classes, seed=cell.repeat,
            connectivity=target.has_connectivity,
        )  # fmt: skip
    elif target.task == "segmentation":
        raise ConfigError(f"the {cell.options['protocol']} protocol does not serve segmentation")
    elif cell.options["protocol"] == "linear":
        answers = linear_predict(*given, task=target.task, classes=classes, seed=cell.repeat)
    else:
        answers = knn_predict(given[0], given[1], given[3], task=target.task, classes=classes)
    answers = decisions.joined_probabilities(answers, decided)
    write_predictions(cell.folder / "predictions.parquet", decisions.target, decided, answers)
    write_json(cell.folder / "summary.json", {
        "status": "finished", "n_patients": drawn.n_patients, "n_train_items": len(train),
        "n_test_items": len(decided), "level": decisions.target.level, "features": int(x.shape[1]),
        "training_mean": float(target.y[train].mean()) if target.task == "regression" else None,
    })  # fmt: skip
