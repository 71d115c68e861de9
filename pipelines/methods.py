"""Which method helps with few labels? Pre-trains with each of several configurations, then one study against scratch.

SOURCE is a prepared cohort with a split. All take the first's encoder unless --own-encoders; each of those is compared
with its own network from scratch. With --testing folds or sites every fold, or site, has an encoder of its own that has
not seen its patients. Finished work is kept.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

CONFIGS = ["voco_mri_laptop", "contrastive_mri_laptop", "spark_mri_laptop"]


def main() -> None:
    """Pre-train → evaluate → report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, text in (("source", "prepared cohort with a split"), ("out", "folder for runs, study and report")):
        parser.add_argument(name, type=Path, help=text)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="names in configs/ or files of your own")
    parser.add_argument("--own-encoders", action="store_true", help="every configuration keeps the encoder it names")
    parser.add_argument("--task", default=("segmentation", "labels"), nargs=2, help="with its target")
    parser.add_argument("--split", default="default", help="name of the split")
    parser.add_argument("--testing", choices=("holdout", "folds", "sites"), default="holdout")
    parser.add_argument("--protocol", choices=("finetune", "linear", "knn"), default="finetune")
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 600), help="of pre-training and of fine-tuning")
    parser.add_argument("--budgets", nargs="+", default=["2", "8", "all"], help="labelled patients")
    parser.add_argument("--repeats", type=int, default=3, help="label draws; 5 or more for a claim")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    from medssl.errors import MedSSLError

    try:
        run(parser.parse_args())
    except MedSSLError as error:
        sys.exit(str(error))


def run(given: argparse.Namespace) -> None:
    """All runs, then one study and its report."""
    from medssl.cohort import Cohort
    from medssl.evaluation.study import evaluate
    from medssl.optim import Optim
    from medssl.report import report
    from medssl.splits.parts import part_of, parts
    from medssl.training.settings import FinetuneSettings

    _, encoder, runs, scratch = Cohort(given.source).info, None, {}, {}  # no cohort: refused before anything is written
    for name in given.configs:
        arm, asked = Path(name).stem, encoder
        source = f"{given.out}/runs/{arm}" + ("" if given.testing == "holdout" else "-{fold}")
        for part in parts(given.source, given.split, given.testing):
            _, _, fold = part_of(given.source, part) or ("", "", "")
            encoder = pretrained(name, given, Path(source.replace("{fold}", fold)), asked, part)
        runs[arm] = source
        scratch.setdefault(str(encoder), (f"scratch-{arm}", f"none:{source}"))  # one an architecture
    settings = FinetuneSettings(max_steps=given.steps[1])
    if given.task[0] == "segmentation":
        settings = replace(settings, batch_size=2, optim=Optim(lr=2e-3))
    evaluate(
        cohort=given.source, task=given.task[0], target=given.task[1], budgets=given.budgets, repeats=given.repeats,
        encoders=dict(scratch.values()) | runs, split=given.split, testing=given.testing, protocol=given.protocol,
        settings=settings, jobs=given.jobs, out=(study := given.out / "study"),
    )  # fmt: skip
    print(report(study))


def pretrained(
    name: str, given: argparse.Namespace, folder: Path, encoder: dict[str, Any] | None, part: str
) -> dict[str, Any]:
    """Train as a configuration says without a part's test patients, or go on; returns its encoder's specification."""
    from medssl.training.configs import pretraining_of
    from medssl.training.pretrain import pretrain, resume
    from medssl.training.run import is_finished

    recipe = pretraining_of(name, given.source)
    if encoder and not given.own_encoders:
        recipe = recipe.with_encoder(encoder)
    if not (folder / "config.yaml").is_file():
        trainer = replace(recipe.trainer, max_steps=given.steps[0])
        pretrain(method=recipe.build(), cohort=[given.source], out=folder, trainer=trainer, exclude_split=part)
    elif not is_finished(folder):
        resume(folder)
    return recipe.encoder


if __name__ == "__main__":  # worker processes import this file
    main()
