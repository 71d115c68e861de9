"""Heart-beat classes with few labelled patients: contrastive learning against training from scratch on MIT-BIH.

SOURCE is the folder of WFDB records (see the recipe ``mitbih``). Call it again after an interruption: what is finished
is kept. Few patients have beats of the rare classes, so mind the caveats of the report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Prepare → split → pre-train → evaluate → report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="folder with NNN.hea, NNN.dat and NNN.atr")
    parser.add_argument("out", type=Path, help="folder for cohort, run, study and report")
    parser.add_argument("--steps", type=int, default=400, help="of every fine-tuning; pre-training takes twice as many")
    parser.add_argument("--repeats", type=int, default=3, help="label draws; 5 or more for a claim")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    given = parser.parse_args()
    if not given.source.is_dir():
        sys.exit(f"the folder '{given.source}' does not exist; get it from https://physionet.org/content/mitdb/1.0.0/")
    from medssl.errors import MedSSLError

    try:
        run(given.source, given.out, steps=given.steps, repeats=given.repeats, jobs=given.jobs)
    except MedSSLError as error:
        sys.exit(str(error))


def run(source: Path, out: Path, *, steps: int, repeats: int, jobs: int) -> None:
    """The whole journey; every step leaves finished work alone."""
    from medssl.cohort.writer import prepare
    from medssl.encoders.resnet1d import ResNet1d
    from medssl.evaluation.study import evaluate
    from medssl.methods.contrastive import Contrastive
    from medssl.optim import Optim
    from medssl.report import report
    from medssl.splits import split
    from medssl.training.pretrain import pretrain, resume
    from medssl.training.run import is_finished
    from medssl.training.settings import FinetuneSettings, TrainSettings
    from medssl.views.signal import SignalViews

    cohort, contrastive, study = out / "cohort", out / "contrastive", out / "study"
    prepare("mitbih", source, cohort)
    split(cohort, test=0.33, stratify="aami")  # before pre-training, which then leaves the test patients out
    if (contrastive / "config.yaml").is_file():
        if not is_finished(contrastive):
            resume(contrastive)
    else:
        encoder = ResNet1d(in_channels=2, widths=(32, 64, 128, 192), blocks=1)
        method = Contrastive(encoder, SignalViews((600,)), projector=(256, 128), same_patient="negative")
        pretrain(method=method, cohort=[cohort], out=contrastive, trainer=TrainSettings(2 * steps, 64, workers=0))
    settings = FinetuneSettings(window_s=2.4, max_steps=steps, batch_size=64, optim=Optim(lr=1e-3, weight_decay=0.01))
    evaluate(
        cohort=cohort, task="classification", target="aami", budgets=["4", "10", "all"], repeats=repeats,
        encoders={"contrastive": str(contrastive), "scratch": "none"}, settings=settings, jobs=jobs, out=study,
    )  # fmt: skip
    print(report(study))


if __name__ == "__main__":  # worker processes import this file
    main()
