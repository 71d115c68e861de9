"""Which objective helps with few labels, and does RankMe tell? Nine objectives of five families against scratch.

SOURCE is a prepared cohort with a split. All share encoder, views, steps, batch; what is finished is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

OBJECTIVES = {
    **dict.fromkeys(("InfoNCE", "DCL", "MVDHEL"), ("Contrastive", {"same_patient": "negative"})),
    **dict.fromkeys(("VICReg", "MixedBarlowTwins"), ("RedundancyReduction", {})),
    "BYOL": ("SelfDistillation", {"momentum": 0.99}), "SwAV": ("Clustering", {}),
    "SimDINO": ("Clustering", {"momentum": 0.99}), "CoTAP": ("Dense", {"momentum": 0.99}),
}  # fmt: skip
NETWORKS = {
    "signal": ("ResNet1d", {"widths": [16, 32, 64, 96], "blocks": 1}, "SignalViews", [600], 32, {"window_s": 2.4}),
    "volume": ("ResEnc", {"features": [8, 16, 32, 64], "size": "tiny"}, "VolumeViews", [24, 32, 24], 8, {}),
}  # fmt: skip


def main() -> None:
    """Pre-train with every objective → evaluate → report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="prepared cohort")
    parser.add_argument("out", type=Path, help="folder for runs, study and report")
    parser.add_argument("--task", default=("classification", "aami:N,S,V,F"), nargs=2, help="with its target")
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 300), help="of pre-training and of fine-tuning")
    parser.add_argument("--budgets", nargs="+", default=["4"], help="labelled patients")
    parser.add_argument("--repeats", type=int, default=3, help="label draws; 5 or more for a claim")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), help="a part of them")
    given = parser.parse_args()
    from medssl.errors import MedSSLError

    try:
        run(given)
    except MedSSLError as error:
        sys.exit(str(error))


def run(given: argparse.Namespace) -> None:
    """All runs, then one study and its report."""
    from medssl.cohort import Cohort
    from medssl.configurable import Configurable, build, discover
    from medssl.evaluation.study import evaluate
    from medssl.methods.base import Method
    from medssl.optim import Optim
    from medssl.report import report
    from medssl.training.pretrain import pretrain, resume
    from medssl.training.run import is_finished
    from medssl.training.settings import FinetuneSettings, TrainSettings

    _ = [discover(f"medssl.{package}", Configurable) for package in ("encoders", "views", "objectives", "methods")]
    info, runs = Cohort(given.source).info, {n: given.out / "runs" / n for n in given.objectives}
    network, options, views, size, batch, window = NETWORKS[info.kind]
    encoder = {"class_path": network, "init_args": options | {"in_channels": len(info.channels)}}
    shared = {"encoder": encoder, "views": {"class_path": views, "init_args": {"size": size}}, "projector": [256, 128]}
    for name, folder in runs.items():
        arguments = {**shared, **OBJECTIVES[name][1], "objective": {"class_path": name}}
        if not (folder / "config.yaml").is_file():
            method = build({"class_path": OBJECTIVES[name][0], "init_args": arguments}, Method)
            pretrain(method=method, cohort=[given.source], out=folder, trainer=TrainSettings(given.steps[0], batch))
        elif not is_finished(folder):
            resume(folder)
    settings = FinetuneSettings(max_steps=given.steps[1], optim=Optim(lr=2e-3), **window)
    evaluate(
        cohort=given.source, task=given.task[0], target=given.task[1], budgets=given.budgets, repeats=given.repeats,
        encoders={"scratch": "none"} | {n: str(r) for n, r in runs.items()}, settings=settings, jobs=given.jobs,
        out=(study := given.out / "study"),
    )  # fmt: skip
    print(report(study))


if __name__ == "__main__":  # worker processes import this file
    main()
