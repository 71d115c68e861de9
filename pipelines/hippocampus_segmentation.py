"""Hippocampus segmentation with few labels: VoCo against training from scratch on MSD Task04.

SOURCE is the folder of Task04_Hippocampus (see the recipe ``msd``). Call it again after an interruption: what is
finished is kept. ``--steps 50 --repeats 1`` is a first look at whether everything works, not at the method.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Prepare → split → pre-train → evaluate → report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="folder with imagesTr, labelsTr and dataset.json")
    parser.add_argument("out", type=Path, help="folder for cohort, run, study and report")
    parser.add_argument("--steps", type=int, default=600, help="of pre-training, and of every fine-tuning")
    parser.add_argument("--repeats", type=int, default=3, help="label draws; 5 or more for a claim")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    given = parser.parse_args()
    if not given.source.is_dir():
        sys.exit(f"the folder '{given.source}' does not exist; get Task04_Hippocampus from http://medicaldecathlon.com")
    from medssl.errors import MedSSLError

    try:
        run(given.source, given.out, steps=given.steps, repeats=given.repeats, jobs=given.jobs)
    except MedSSLError as error:
        sys.exit(str(error))


def run(source: Path, out: Path, *, steps: int, repeats: int, jobs: int) -> None:
    """The whole journey; every step leaves finished work alone."""
    from medssl.cohort.writer import prepare
    from medssl.encoders.resenc import ResEnc
    from medssl.evaluation.study import evaluate
    from medssl.methods.voco import VoCo
    from medssl.optim import Optim
    from medssl.report import report
    from medssl.splits import split
    from medssl.training.pretrain import pretrain, resume
    from medssl.training.run import is_finished
    from medssl.training.settings import FinetuneSettings, TrainSettings

    cohort, voco, study = out / "cohort", out / "voco", out / "study"
    prepare("msd", source, cohort)
    split(cohort, test=0.25, stratify="labels")  # before pre-training, which then leaves the test patients out
    if (voco / "config.yaml").is_file():
        if not is_finished(voco):
            resume(voco)
    else:
        method = VoCo(
            ResEnc(size="tiny"),
            crop=(16, 16, 16), grid=(2, 3, 2), crops=4, fit="resize", projector=(256, 128),
            optim=Optim(lr=1e-3, weight_decay=0.01),
        )  # fmt: skip
        pretrain(method=method, cohort=[cohort], out=voco, trainer=TrainSettings(steps, 4, workers=0))
    settings = FinetuneSettings(max_steps=steps, batch_size=2, optim=Optim(lr=2e-3, weight_decay=0.01))
    evaluate(
        cohort=cohort, task="segmentation", target="labels", encoders={"voco": str(voco), "scratch": "none"},
        budgets=["2", "8", "all"], repeats=repeats, settings=settings, jobs=jobs, out=study,
    )  # fmt: skip
    print(report(study))


if __name__ == "__main__":  # worker processes import this file
    main()
