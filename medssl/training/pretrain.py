"""Self-supervised pre-training, and its exact continuation."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from medssl.cohort import Cohort, CohortInfo
from medssl.configurable import Configurable, build, discover, spec
from medssl.encoders.base import InputSpec, encoder_folder
from medssl.errors import CheckpointError, ConfigError, SplitError, TrainingError
from medssl.methods.base import Method
from medssl.training.best_look import BestLook
from medssl.training.callbacks import Checkpoints, GradientGuard, PoliteStop
from medssl.training.contract import settled_preparation
from medssl.training.data import Draws, MethodSource
from medssl.training.export import export_encoder, joined_marks, patient_marks
from medssl.training.fitting import StepData, fit, make_trainer, to_channels_last
from medssl.training.metrics_log import MetricsLog
from medssl.training.monitor import CollapseMonitor
from medssl.training.progress import FitProgress
from medssl.training.quality import RepresentationMonitor
from medssl.training.run import (
    environment,
    is_finished,
    locked,
    read_config,
    read_summary,
    refuse_existing,
    write_config,
    write_json,
)
from medssl.training.seeding import seed_all
from medssl.training.settings import TrainSettings, from_plain

__all__ = ["held_out_patients", "initialise", "pretrain", "resume"]

_DEFAULTS = TrainSettings()


def pretrain(
    *,
    method: Method,
    cohort: list[Path],
    out: Path,
    trainer: TrainSettings = _DEFAULTS,
    init_from: Path | None = None,
    exclude_split: str | None = None,
) -> dict[str, Any]:
    """Pre-train an encoder on unlabelled recordings.

    Args:
        method: what is learnt, with its encoder, views and objective. Its weights are drawn anew from the run's seed.
        cohort: one or several prepared cohorts; of the same kind, unless the method's views are ``ViewsByKind``.
        out: folder of the run; it must not hold another run.
        trainer: how training runs.
        init_from: start from the weights of this run's encoder, or of a checkpoint file (weights only; to continue a
            run use `medssl resume`).
        exclude_split: leave out the test patients of this split (or part of it: ``cv-fold0``) only; "none" leaves out
            nobody. Without it the test patients of every split in COHORT/splits are left out.

    Returns:
        What stands in RUN/summary.json.

    Raises:
        MedSSLError: the cohort does not suit the method, the folder is taken, or training has to stop.
    """
    arguments = {
        "method": method, "cohort": cohort, "out": out, "trainer": trainer,
        "init_from": init_from, "exclude_split": exclude_split,
    }  # fmt: skip
    if _is_main():
        refuse_existing(out, verb="pretrain")
    with locked(out) if _is_main() else nullcontext():
        job = _Job(spec(method), cohort, out, trainer, exclude_split, init_from)
        if init_from is not None:
            initialise(job.method, init_from)
        elif _is_main() and not any(p.requires_grad for p in job.method.encoder.parameters()):
            print(
                "this stage leaves the encoder as it is, and it has only random weights; give the run of the stage "
                "before with --init-from RUN",
                file=sys.stderr,
            )
        if _is_main():
            write_config(out, arguments)
        return job.run(checkpoint=None)


def resume(run: Path, *, max_steps: int | None = None) -> dict[str, Any]:
    """Continue a run exactly where it stopped: weights, optimiser, schedule, random states and data order.

    Args:
        run: folder of the run.
        max_steps: train up to this many steps in all; may extend a finished run. The learning-rate schedule then spans
            the new total, so the rate rises again where it had decayed.

    Returns:
        What stands in RUN/summary.json.

    Raises:
        MedSSLError: there is nothing to continue, or the cohort changed since.
    """
    config = read_config(run)
    if "method" not in config:
        raise CheckpointError(f"'{run}' is no pre-training run; `medssl resume` continues those only")
    settings = from_plain(TrainSettings, config["trainer"])
    wanted = max_steps or settings.max_steps
    if _is_main() and is_finished(run) and wanted <= (done := int(read_summary(run)["steps"])):
        raise TrainingError(f"'{run}' is finished with {done} steps; give --max-steps above that to extend it")
    with locked(run) if _is_main() else nullcontext():
        for package in ("medssl.encoders", "medssl.views", "medssl.objectives", "medssl.methods"):
            discover(package, Configurable)
        job = _Job(
            config["method"], [Path(c) for c in config["cohort"]], run,
            replace(settings, max_steps=wanted), config["exclude_split"],
            Path(config["init_from"]) if config.get("init_from") else None,
        )  # fmt: skip
        job.check_unchanged()
        checkpoint = run / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file() and config.get("init_from"):  # killed before the first checkpoint
            initialise(job.method, Path(config["init_from"]))
        if _is_main() and wanted != settings.max_steps:
            config["trainer"]["max_steps"] = wanted
            write_config(run, config)
        return job.run(checkpoint=checkpoint if checkpoint.is_file() else None)


def held_out_patients(cohort: Path, exclude_split: str | None) -> tuple[set[str], dict[str, str]]:
    """Patients that pre-training must not see, and the splits (name → hash) that say so.

    Raises:
        SplitError: no split of that name.
    """
    from medssl.splits import Split

    if exclude_split == "none":
        return set(), {}
    names = [exclude_split] if exclude_split else sorted(f.stem for f in (cohort / "splits").glob("*.json"))
    splits = {name: Split.load(cohort, name) for name in names}
    patients = {p for s in splits.values() for group in (s.test, *s.external.values(), s.excluded) for p in group}
    return patients, {name: s.sha256 for name, s in splits.items()}


def initialise(method: Method, source: Path) -> None:
    """Load the weights of a run's encoder, or of a checkpoint file, into the method's encoder and its teacher."""
    from medssl.encoders.importing import load_weights

    folder = encoder_folder(source)
    file = folder / "encoder.safetensors" if folder.is_dir() else folder
    if not file.is_file():
        raise CheckpointError(f"--init-from '{source}' has no weights; give a pre-training run or a checkpoint file")
    report = load_weights(method.encoder, file)
    print(f"initialised from {source}: {report}", file=sys.stderr)
    left_behind = set(method.exported.modules())  # encoders of earlier stages among them, which keep their weights
    for module in method.modules():  # a teacher starts as a copy of its student; one of another shape is none
        same = type(module) is type(method.encoder) and spec(module) == spec(method.encoder)
        if module not in left_behind and same:
            module.load_state_dict(method.encoder.state_dict())


class _Job:
    """One pre-training run, from specification to summary.

    The method is built anew under the run's seed, so that the run follows from its config.yaml alone.
    """

    def __init__(
        self, method: Mapping[str, Any], paths: Sequence[Path], out: Path, settings: TrainSettings,
        exclude: str | None, init_from: Path | None,
    ) -> None:  # fmt: skip
        self.out = out
        self.settings = settings
        self.cohorts = [Cohort(p) for p in paths]
        seed_all(settings.seed)
        self.method = build(method, Method)  # type: ignore[type-abstract]
        self.method.optim = settings.optim or self.method.optim
        _check(self.method, self.cohorts)
        self.held_out = [held_out_patients(Path(p), exclude) for p in paths]
        rows = [_allowed_rows(c, patients) for c, (patients, _) in zip(self.cohorts, self.held_out, strict=True)]
        if _is_main() and exclude != "none" and not any(splits for _, splits in self.held_out):
            print(
                "no split file in the cohort, so every patient is used for pre-training; to keep test patients out, "
                "write one first with `medssl cohort split`",
                file=sys.stderr,
            )
        self.source = MethodSource(self.method, self.cohorts, rows)
        self.method.prepare(self.source, batch=settings.batch_size * _processes(settings))
        self.source.refresh(self.method)
        marks = {
            c.info.fingerprint: patient_marks(c.info.fingerprint, set(c.manifest["patient"].iloc[r])).values()
            for c, r in zip(self.cohorts, rows, strict=True)
        }
        before = [*self.method.built_on, *_described(init_from), *_described(out)]
        self.marks = joined_marks(marks, before)
        self.labelled = joined_marks(_labelled_marks(self.source, self.method.labels_used), before, "labelled")
        self.draws = Draws(self.source, seed=settings.seed)
        first, *others = (self._inputs_of(cohort) for cohort in self.cohorts)
        self.inputs = replace(first, others=tuple(others) if self.method.mixes else ())

    def _inputs_of(self, cohort: Cohort) -> InputSpec:
        info = cohort.info
        shape = tuple(cohort.manifest["shape"].iloc[0])
        return InputSpec(
            kind=info.kind, channels=info.channels, size=self.method.size_for(info.kind, shape),
            spacing_mm=info.spacing_mm, rate_hz=info.rate_hz, preparation=settled_preparation(cohort),
        )  # fmt: skip

    def environment(self) -> dict[str, Any]:
        """Contents of environment.json."""
        splits = {name: sha for _, found in self.held_out for name, sha in found.items()}
        return environment([(c.path, c.info) for c in self.cohorts], splits=splits)

    def check_unchanged(self) -> None:
        """Refuse to continue on other data than the run began with."""
        file = self.out / "environment.json"
        if not file.is_file():
            return
        before = [c["fingerprint"] for c in json.loads(file.read_text(encoding="utf-8"))["cohorts"]]
        if before != [c.info.fingerprint for c in self.cohorts]:
            raise CheckpointError(
                f"the cohort of '{self.out}' was prepared anew since the run began; start another run with "
                f"`medssl pretrain --config {self.out}/config.yaml --out ANOTHER`"
            )

    def run(self, checkpoint: Path | None) -> dict[str, Any]:
        """Train, and write what came of it."""
        settings, out = self.settings, self.out
        if settings.channels_last:
            to_channels_last(self.method)
        if settings.compile:
            self.method.encoder.compile()
        guard = GradientGuard(clip=settings.clip, max_bad_share=settings.max_bad_share)
        log = MetricsLog(out, every=settings.log_every, guard=guard)
        monitors = self.monitors(log)
        best = self.best_look(monitors)
        stop = PoliteStop()
        callbacks: list[Callback] = [guard, stop, log, *monitors]
        if settings.progress:
            callbacks.append(FitProgress(log, what="pre-training", workers=settings.workers))
        callbacks.append(
            Checkpoints(
                out / "checkpoints",
                every=settings.checkpoint_every,
                keep_every=settings.keep_every,
                export=self.export if best is None else best.checkpointed,
            )
        )
        trainer = make_trainer(
            out, callbacks, max_steps=settings.max_steps, precision=settings.precision, accumulate=settings.accumulate,
            accelerator=settings.accelerator, devices=settings.devices, num_nodes=settings.num_nodes,
            strategy=settings.strategy, deterministic=settings.deterministic, loggers=settings.loggers,
        )  # fmt: skip
        if _is_main() and checkpoint is None:
            write_json(out / "environment.json", self.environment())
        data = StepData(self.draws, batch_size=settings.batch_size, workers=settings.workers)
        with self.status() as summary:
            fit(trainer, self.method, data, checkpoint)
            summary |= self.outcome(trainer, log, monitors, guard)
            summary["kept"] = None if best is None else best.facts()
            summary["status"] = "stopped" if stop.exit_code else "finished"
        if stop.exit_code:
            print(f"stopped at step {summary['steps']}; continue with: medssl resume {out}", file=sys.stderr)
            raise SystemExit(stop.exit_code)
        if _is_main():
            print(f"{out}: {summary['steps']} steps, loss {log.latest.get('loss', float('nan')):.4g}; encoder exported")
        return summary

    def monitors(self, log: MetricsLog) -> list[CollapseMonitor | RepresentationMonitor]:
        """What watches over the embeddings; none where it is switched off."""
        settings = self.settings
        found: list[CollapseMonitor | RepresentationMonitor] = []
        if settings.monitor_every:
            found.append(CollapseMonitor(log, every=settings.monitor_every, fail=settings.fail_on_collapse))
        if settings.looks:
            found.append(
                RepresentationMonitor(
                    log, self.source, every=settings.quality_every, at_least=settings.monitor_every or 1,
                    rows=settings.quality_rows, batch=settings.batch_size, fail=settings.fail_on_collapse,
                    exported=settings.keep_best != "last",
                )
            )  # fmt: skip
        return found

    def best_look(self, monitors: Sequence[CollapseMonitor | RepresentationMonitor]) -> BestLook | None:
        """What chooses the encoder that is left behind; None where that is the last."""
        by, looking = self.settings.keep_best, [m for m in monitors if isinstance(m, RepresentationMonitor)]
        return None if by == "last" else BestLook(by, looking[0], self.export, self.method)

    def export(self, step: int) -> None:
        """Write the encoder as it is at ``step``."""
        self.method.finish()
        provenance = {
            "method": spec(self.method), "step": step, "seed": self.settings.seed,
            "cohorts": [c.info.fingerprint for c in self.cohorts], "patients": self.marks,
            "labelled": self.labelled,
        }  # fmt: skip
        export_encoder(
            self.method.exported, self.out / "encoder", self.inputs, provenance, self.method.decoder_exported
        )

    @contextmanager
    def status(self) -> Iterator[dict[str, Any]]:
        """Keep summary.json true whatever happens."""
        before = read_summary(self.out)
        summary: dict[str, Any] = {"status": "running"}
        started = time.monotonic()
        try:
            yield summary
        except BaseException as error:
            summary |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            if isinstance(error, SystemExit):  # Lightning turns a second Ctrl-C into this
                raise KeyboardInterrupt from error
            raise
        finally:
            summary["seconds"] = before.get("seconds", 0.0) + time.monotonic() - started
            if _is_main():
                write_json(self.out / "summary.json", summary)

    def outcome(
        self,
        trainer: lightning.Trainer,
        log: MetricsLog,
        monitors: Sequence[CollapseMonitor | RepresentationMonitor],
        guard: GradientGuard,
    ) -> dict[str, Any]:
        """The numbers of the run."""
        ranks = [m.history[-1] for m in monitors if isinstance(m, CollapseMonitor) and m.history]
        looks = [m.facts() for m in monitors if isinstance(m, RepresentationMonitor)]
        return {
            "method": type(self.method).__name__,
            "encoder": type(self.method.encoder).__name__,
            "steps": trainer.global_step,
            "metrics": dict(log.latest),
            "rankme": ranks[0] if ranks else None,
            "quality": looks[0] if looks else None,
            "alarms": [a for m in monitors for a in m.alarms],
            "skipped_steps": guard.skipped,
            "n_recordings": len(self.source.places),
            "n_patients": int(self.source.manifest["patient"].nunique()),
            "epochs": trainer.global_step * self._samples_a_step(trainer) / self.draws.epoch_length,
            "labels_used": _labels_used(self.source, self.method.labels_used),
            "left_out": {
                "patients": sum(len(patients) for patients, _ in self.held_out),
                "splits": {name: sha for _, found in self.held_out for name, sha in found.items()},
            },
        }

    def _samples_a_step(self, trainer: lightning.Trainer) -> int:
        return self.settings.batch_size * self.settings.accumulate * trainer.world_size


def _is_main() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (None, 0)


def _processes(settings: TrainSettings) -> int:
    """Devices that train together, as far as the settings tell."""
    devices = settings.devices
    if not isinstance(devices, int):
        gpus = torch.cuda.device_count() if settings.accelerator in ("auto", "gpu", "cuda") else 0
        devices = int(devices) if devices.isdigit() else max(1, gpus)
    return max(1, devices) * settings.num_nodes


def _check(method: Method, cohorts: Sequence[Cohort]) -> None:
    first = cohorts[0].info
    for cohort in cohorts:
        info: CohortInfo = cohort.info
        for what in () if method.mixes else ("kind", "channels", "rate_hz", "spacing_mm"):
            if getattr(info, what) != getattr(first, what):
                raise ConfigError(
                    f"the cohorts differ in {what} ('{cohorts[0].path}': {getattr(first, what)}, '{cohort.path}': "
                    f"{getattr(info, what)}); prepare them alike, or give every kind its own views with ViewsByKind"
                )
        method.check(info)


def _labels_used(source: MethodSource, items: Sequence[int]) -> dict[str, Any]:
    """Recordings whose labels are learnt from, and how many patients they are of; empty where there are none."""
    if not len(items):
        return {}
    rows = source.manifest.iloc[list(items)]
    return {
        "n_recordings": len(rows), "n_patients": int(rows["patient"].nunique()), "recordings": list(rows["recording"]),
    }  # fmt: skip


def _labelled_marks(source: MethodSource, items: Sequence[int]) -> dict[str, list[str]]:
    """Marks of the patients whose labels are learnt from, by the fingerprint of their cohort."""
    patients: dict[str, set[str]] = {}
    for item in items:
        fingerprint = source.cohorts[source.places[item][0]].info.fingerprint
        patients.setdefault(fingerprint, set()).add(str(source.manifest["patient"].iloc[item]))
    return {fingerprint: list(patient_marks(fingerprint, own).values()) for fingerprint, own in patients.items()}


def _described(source: Path | None) -> list[Path]:
    """The folder of an exported encoder, whose patients a run that begins with it has seen too; none for bare weights.

    A run that is continued knows from its own export what it began with, should that be gone.
    """
    if source is None:
        return []
    folder = source.parent if source.is_file() else encoder_folder(source)
    return [folder] if (folder / "encoder.json").is_file() else []


def _allowed_rows(cohort: Cohort, held_out: set[str]) -> NDArray[Any]:
    rows: NDArray[Any] = np.flatnonzero(~cohort.manifest["patient"].isin(held_out).to_numpy())
    if not len(rows):
        raise SplitError(f"no recording of '{cohort.path}' is left for pre-training once test patients are left out")
    return rows
