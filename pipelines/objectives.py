"""Which objective helps with few labels, and does RankMe tell? Nine objectives of five families against scratch.

SOURCE is a prepared cohort with a split. All share encoder, views, steps and batch. What is finished is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

WINDOWS = {"same_patient": "negative"}  # of one patient are told apart too
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "InfoNCE": ("Contrastive", WINDOWS), "DCL": ("Contrastive", WINDOWS), "MVDHEL": ("Contrastive", WINDOWS),
    "BYOL": ("SelfDistillation", {"momentum": 0.99}), "VICReg": ("RedundancyReduction", {}),
    "MixedBarlowTwins": ("RedundancyReduction", {}), "SwAV": ("Clustering", {}),
    "SimDINO": ("Clustering", {"momentum": 0.99}), "CoTAP": ("Dense", {"momentum": 0.99}),
}  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any], str, list[int], int]] = {
    "signal": ("ResNet1d", {"widths": [16, 32, 64, 96], "blocks": 1}, "SignalViews", [600], 32),
    "volume": ("ResEnc", {"size": "tiny", "features": [8, 16, 32, 64], "pool": "all"}, "VolumeViews", [24, 32, 24], 8),
}


def main() -> None:
    """Pre-train with every objective → evaluate → report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="prepared cohort")
    parser.add_argument("out", type=Path, help="folder for runs, study and report")
    parser.add_argument("--task", default="classification", help="or segmentation, regression")
    parser.add_argument("--target", default="aami:N,S,V,F", help="label, kind of event or mask")
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 300), help="of pre-training and of fine-tuning")
    parser.add_argument("--budgets", nargs="+", default=["4"], help="labelled patients")
    parser.add_argument("--repeats", type=int, default=3, help="label draws; 5 or more for a claim")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--only", nargs="+", help="just pre-train these, so that several calls can share the work")
    given = parser.parse_args()
    if not (given.source / "cohort.json").is_file():
        sys.exit(f"'{given.source}' is no prepared cohort; make one with `medssl prepare`")
    run(given)


def run(given: argparse.Namespace) -> None:
    """All runs, then one study; every step leaves finished work alone."""
    from medssl.cohort import Cohort
    from medssl.configurable import Configurable, build, discover
    from medssl.evaluation.study import evaluate
    from medssl.methods.base import Method
    from medssl.optim import Optim
    from medssl.report import report
    from medssl.training.pretrain import pretrain
    from medssl.training.settings import FinetuneSettings, TrainSettings

    for package in ("encoders", "views", "objectives", "methods"):
        discover(f"medssl.{package}", Configurable)
    info, runs = Cohort(given.source).info, {n: given.out / "runs" / n for n in given.only or OBJECTIVES}
    encoder, options, views, size, batch = NETWORKS[info.kind]
    shared = {
        "encoder": {"class_path": encoder, "init_args": options | {"in_channels": len(info.channels)}},
        "views": {"class_path": views, "init_args": {"size": size}}, "projector": [256, 128],
    }  # fmt: skip
    trainer = TrainSettings(max_steps=given.steps[0], batch_size=batch, workers=0)
    for name in (n for n, folder in runs.items() if not folder.is_dir()):
        family, own = OBJECTIVES[name]
        arguments = {**shared, **own, "objective": {"class_path": name}}
        method = build({"class_path": family, "init_args": arguments}, Method)  # type: ignore[type-abstract]
        pretrain(method=method, cohort=[given.source], out=runs[name], trainer=trainer)
    if not given.only:
        window_s, batch = (2.4, batch) if info.kind == "signal" else (None, 2)
        settings = FinetuneSettings(window_s=window_s, max_steps=given.steps[1], batch_size=batch, optim=Optim(lr=2e-3))
        evaluate(
            cohort=given.source, task=given.task, target=given.target, budgets=given.budgets, repeats=given.repeats,
            encoders={"scratch": "none"} | {n: str(r) for n, r in runs.items()}, settings=settings, jobs=given.jobs,
            out=given.out / "study",
        )  # fmt: skip
        print(report(given.out / "study"))


if __name__ == "__main__":  # worker processes import this file
    main()
