"""One model for one task, from a pre-trained encoder or from scratch, with a given budget of labelled patients."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import Cohort
from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, InputSpec, load_encoder, provenance_of, with_channels
from medssl.errors import ConfigError, SplitError
from medssl.evaluation.metrics.catalogue import HEADLINE
from medssl.heads.base import Head
from medssl.heads.classification import ClassificationHead
from medssl.heads.regression import RegressionHead
from medssl.heads.segmentation import SegmentationHead
from medssl.splits import Split, patient_strata
from medssl.splits import budget as draw_budget
from medssl.training.callbacks import GradientGuard, PoliteStop
from medssl.training.clips import labelled_crops
from medssl.training.contract import Matched, match_input, settled_preparation
from medssl.training.data import Draws
from medssl.training.export import Filled, fill_decoder, labels_note, patient_marks
from medssl.training.fitting import StepData, best_precision, fit, is_cpu, make_trainer, to_channels_last
from medssl.training.head_start import start_head
from medssl.training.heads import choose_size, default_encoder, let_learn, make_head, resolved_start, window_samples
from medssl.training.inference import Testing, embed_items
from medssl.training.labelled import LabelledBags, LabelledCrops, LabelledWindows
from medssl.training.levels import describe_level, make_decisions
from medssl.training.metrics_log import MetricsLog
from medssl.training.models import Model, save_model
from medssl.training.progress import FitProgress
from medssl.training.run import environment, locked, refuse_existing, write_config, write_json
from medssl.training.scoring import Scores, score_items, score_masks, validation_score, write_tables
from medssl.training.seeding import seed_all
from medssl.training.sequences import Embedded, LabelledSequences, epoch_spacing
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target, Task, resolve_target
from medssl.training.validation import BestOnValidation
from medssl.training.windows import Recordings

__all__ = ["check_leak", "finetune", "strata_for", "train_and_test"]

_DEFAULTS = FinetuneSettings()
_BARE = ("none", "scratch")


def finetune(
    *,
    cohort: Path,
    task: Task,
    target: str,
    out: Path,
    encoder: str = "none",
    architecture: Encoder | None = None,
    budget: str = "all",
    split: str = "default",
    draw: int = 0,
    seed: int = 0,
    settings: FinetuneSettings = _DEFAULTS,
) -> dict[str, Any]:
    """Train one model on the labels of a budget of patients and test it on the split's test patients.

    Args:
        cohort: a prepared cohort.
        task: segmentation of a mask, classification of a label or of events, regression of a label.
        target: name of the mask, label or kind of event; ``NAME:A,B`` restricts classification to these classes.
        out: folder of the run.
        encoder: a pre-training run (or exported encoder), or ``none`` to train from scratch.
        architecture: the encoder trained from scratch; a default that suits the cohort when not given.
        budget: labelled patients: a number, a fraction such as 0.1, or ``all``. A fifth of them (of 5 or more) is
            used to choose the checkpoint.
        split: name of the split in COHORT/splits; ``NAME-fold2`` is fold 2 of the split NAME.
        draw: which of the repeated draws of that budget.
        seed: of weights, sampling and augmentation.
        settings: how training runs.

    Returns:
        What stands in RUN/summary.json. An accuracy beyond what honest studies of the dataset reach, where its recipe
        knows that, is audited for leaks.

    Raises:
        MedSSLError: the target, split, budget or encoder do not fit the cohort, or training has to stop.
    """
    from medssl.evaluation.ceilings import Asked, judge_run

    summary = train_and_test(
        cohort=cohort, task=task, target=target, out=out, encoder=encoder, architecture=architecture, budget=budget,
        split=split, draw=draw, seed=seed, settings=settings,
    )  # fmt: skip
    pretrained = {} if encoder in _BARE else {encoder: [(split, encoder, "")]}
    return judge_run(out, summary, Asked(Path(cohort), task, target, split, [split], pretrained))


def train_and_test(
    *,
    cohort: Path,
    task: Task,
    target: str,
    out: Path,
    encoder: str,
    architecture: Encoder | None,
    budget: str,
    split: str,
    draw: int,
    seed: int,
    settings: FinetuneSettings,
) -> dict[str, Any]:
    """:func:`finetune` without its audit of results that are too good: a study makes one for all its cells."""
    arguments = {
        "cohort": cohort, "task": task, "target": target, "out": out, "encoder": encoder, "architecture": architecture,
        "budget": budget, "split": split, "draw": draw, "seed": seed, "settings": settings,
    }  # fmt: skip
    refuse_existing(out, verb="finetune")
    with locked(out):
        job = _Job(
            Cohort(cohort), task, target, encoder=encoder, architecture=architecture, budget=str(budget), split=split,
            draw=draw, seed=seed, settings=settings,
        )  # fmt: skip
        write_config(out, arguments)
        return job.run(out)


class _Job:
    """One fine-tuning, from options to tables. What cannot work is refused in the constructor."""

    def __init__(
        self, cohort: Cohort, task: Task, target: str, *, encoder: str, architecture: Encoder | None, budget: str,
        split: str, draw: int, seed: int, settings: FinetuneSettings,
    ) -> None:  # fmt: skip
        seed_all(seed)
        self.cohort, self.settings, self.seed, self.draw = cohort, settings, seed, draw
        self.encoder_name = encoder
        self.target = resolve_target(cohort, task, target)
        self.decisions = make_decisions(self.target, settings)
        self.level = self.decisions.target.level
        self.split = Split.load(cohort.path, split)
        self.budget = draw_budget(
            self.split, strata_for(self.target, target, self.split), budget, draw=draw, seed=0
        )  # the draw alone says which patients: arms and seeds of a study are compared on the same ones
        self.train = self.target.items_of(self.budget.train)
        self.notes = _check_classes(self.target, self.train)
        self.pretrained = encoder not in _BARE
        network, inputs = self._encoder(encoder, architecture)
        self.matched: Matched = match_input(
            inputs, cohort.info, allow_mismatch=settings.allow_mismatch,
            any_channels=network is not None and network.any_channels,
        )  # fmt: skip
        if network is None:
            network = _from_scratch(architecture, self.target, len(self.matched.names))
        self.notes += self.matched.notes
        self.size = choose_size(network, self.target, settings)
        network.check_input(len(self.matched.names), self.size)
        self.head = make_head(
            network, self.target, self.train, size=self.size, settings=settings, pretrained=self.pretrained
        )
        if self.pretrained and settings.encoder_trains:
            let_learn(network, settings.encoder_trains)
        self.decoder = self._fill_decoder(encoder)
        self.testing = Testing(
            size=self.size, overlap=settings.overlap, windows=settings.test_windows, batch=settings.test_batch,
            precision=best_precision(settings.precision, settings.accelerator), level=self.level,
            sequence=settings.sequence, spacing_s=epoch_spacing(self.target) if settings.sequence else 0.0,
            decided=round(window_samples(self.target, settings)) if self.level == "window" else 0,
            period=settings.clip_period, every=settings.test_clips == "all",
        )  # fmt: skip
        self.embedded: Embedded | None = None
        self.recordings = Recordings(
            cohort, channels=self.matched.channels, rows=np.unique(self.target.rows),
            masks=(self.target.name,) if task == "segmentation" else (), cache_gb=settings.cache_gb,
        )  # fmt: skip

    def _encoder(self, source: str, architecture: Encoder | None) -> tuple[Encoder | None, InputSpec | None]:
        if not self.pretrained:
            return None, None
        if architecture is not None:
            raise ConfigError("give an architecture only without an encoder; a pre-trained one brings its own")
        loaded = load_encoder(source)
        check_leak(Path(source), self.cohort, self.split)
        note = labels_note(provenance_of(source))
        self.notes += (f"the encoder {note}",) if note else ()
        return loaded

    def _fill_decoder(self, source: str) -> Filled | None:
        """Start from the decoder of the pre-training run where it has one."""
        if not (self.pretrained and self.settings.pretrained_decoder and isinstance(self.head, SegmentationHead)):
            return None
        filled = fill_decoder(self.head.decoder, source)
        if filled is not None:
            self.notes += (str(filled),)
            print(f"{source}: {filled}", file=sys.stderr)
        return filled

    def run(self, out: Path) -> dict[str, Any]:
        """Train, choose, test, save."""
        began = time.monotonic()
        write_json(
            out / "environment.json",
            environment([(self.cohort.path, self.cohort.info)], splits={self.split.name: self.split.sha256}),
        )
        steps = self.train_head(out)
        trained = time.monotonic()
        groups = self.test()
        tested = time.monotonic()
        write_tables(out, groups)
        save_model(out, self.model(steps["best_step"]))
        summary = {
            "status": "finished",
            **self.facts(),
            **self._ceiling(),
            "metrics": groups["test"].metrics,
            "external": {g.partition("/")[2]: s.metrics for g, s in groups.items() if g != "test"},
            **steps,
            "seconds": {"train": trained - began, "test": tested - trained},
        }
        write_json(out / "summary.json", summary)
        headline = HEADLINE[self.target.task]
        print(
            f"{out}: {headline} {summary['metrics'][headline]:.4g} on {self._tested_on()} "
            f"(trained with the labels of {self.budget.n_patients})"
        )
        return summary

    def train_head(self, out: Path) -> dict[str, Any]:
        """Fit, and go back to the best step on the validation patients if there are any."""
        settings = self.settings
        # on a CPU the backward pass of group norm takes five times longer channels-last
        if settings.channels_last is True or (settings.channels_last == "auto" and not is_cpu(settings.accelerator)):
            to_channels_last(self.head)
        if settings.compile:
            self.head.encoder.compile()
        guard = GradientGuard(clip=settings.clip, max_bad_share=settings.max_bad_share)
        (out / "metrics.csv").unlink(missing_ok=True)  # of an attempt that was killed
        log, stop = MetricsLog(out, every=settings.log_every, guard=guard), PoliteStop()
        chooser = self._chooser(log)
        callbacks = [guard, stop, log, *([chooser] if chooser else [])]
        if settings.progress:
            callbacks.append(FitProgress(log, what="fine-tuning", workers=settings.workers))
        trainer = make_trainer(
            out, callbacks, max_steps=settings.max_steps, precision=self.testing.precision,
            accelerator=settings.accelerator, devices=1, deterministic=settings.deterministic,
        )  # fmt: skip
        self.head.to(trainer.strategy.root_device)  # where fitting puts it too; what comes before it is slow elsewhere
        self._embed()
        self._start_head()
        data = StepData(Draws(self.source(), seed=self.seed), batch_size=settings.batch_size, workers=settings.workers)
        fit(trainer, self.head, data, None)
        if stop.exit_code:
            print("stopped; an unfinished fine-tuning starts anew when it is called again", file=sys.stderr)
            raise SystemExit(stop.exit_code)
        return {
            "steps": trainer.global_step,
            "best_step": chooser.best_step if chooser else trainer.global_step,
            "validation": chooser.best if chooser else None,
            "encoder_lr": self.head.encoder_lr,
            "loss": log.latest.get("loss"),
            "skipped_steps": guard.skipped,
        }

    def _chooser(self, log: MetricsLog) -> BestOnValidation | None:
        items = self.decisions.target.items_of(self.budget.validation)
        if not len(items):
            return None
        every = self.settings.validate_every or max(1, self.settings.max_steps // 10)

        def score(module: Any) -> float:
            return validation_score(module, self.decisions, items, self.recordings, self.testing, self.embedded)

        return BestOnValidation(score, log, every=every, patience=self.settings.patience)

    def _embed(self) -> None:
        """Let a frozen encoder see every epoch of the budget once; sequences are then made of its features."""
        if not (self.settings.sequence and self.head.encoder_lr == 0):
            return
        items = self.target.items_of((*self.budget.train, *self.budget.validation))
        self.embedded = embed_items(self.head, self.target, items, self.recordings, self.testing)

    def _start_head(self) -> None:
        """Let the last layer begin on features of one scale, or from a linear probe of them."""
        head = self.head
        if not isinstance(head, ClassificationHead | RegressionHead) or head.standardise is None:
            return
        probe = resolved_start(self.target, self.settings) == "probe"
        start_head(head, self.target, self.train, self.recordings, self.testing, probe=probe, seed=self.seed)

    def source(self) -> LabelledCrops | LabelledWindows:
        """Where training samples come from."""
        if self.target.task == "segmentation":
            return labelled_crops(
                self.target, self.train, self.recordings, size=self.size, foreground=self.settings.foreground,
                period=self.settings.clip_period,
            )  # fmt: skip
        if self.settings.sequence:
            return LabelledSequences(
                self.target, self.train, self.recordings, size=self.size, balance=self.settings.class_balance,
                sequence=self.settings.sequence, spacing_s=self.testing.spacing_s, embedded=self.embedded,
            )  # fmt: skip
        if self.settings.aggregate == "attention":
            return LabelledBags(
                self.target, self.train, self.recordings, size=self.size, balance=self.settings.class_balance,
                windows=self.settings.test_windows, rule=self.testing.rule,
            )  # fmt: skip
        return LabelledWindows(
            self.target, self.train, self.recordings, size=self.size, balance=self.settings.class_balance,
            foreground=self.settings.foreground, rule=self.testing.rule,
        )  # fmt: skip

    def test(self) -> dict[str, Scores]:
        """Scores of the test patients, and of each external site."""
        groups = {"test": self.split.test, **{f"external/{site}": p for site, p in self.split.external.items()}}
        scores = {}
        for group, patients in groups.items():
            items = self.decisions.target.items_of(patients)
            if len(items):
                scores[group] = self._score(items)
            elif group == "test":
                raise SplitError(
                    f"no test patient of split '{self.split.name}' has the target '{self.target.name}'; make a split "
                    f"with `medssl cohort split {self.cohort.path} --stratify {self.target.name}`"
                )
        return scores

    def _score(self, items: NDArray[np.int64]) -> Scores:
        if self.target.task == "segmentation":
            return score_masks(self.head, self.target, items, self.recordings, self.testing)
        mean = self._training_mean()
        return score_items(self.head, self.decisions, items, self.recordings, self.testing, training_mean=mean or 0.0)

    def _training_mean(self) -> float | None:
        """What R² is measured against; of regression alone."""
        decided = self.decisions.target
        trained = decided.items_of(self.budget.train)
        return float(decided.y[trained].mean()) if self.target.task == "regression" else None

    def facts(self) -> dict[str, Any]:
        """What was trained on what."""
        return {
            "task": self.target.task, "target": self.target.name, "classes": list(self.target.classes),
            "level": self.level, "aggregation": describe_level(self.level, self.target, self.settings),
            "budget": self.budget.asked, "draw": self.draw, "seed": self.seed, "encoder": self.encoder_name,
            "architecture": type(self.head.encoder).__name__, "n_patients": self.budget.n_patients,
            "n_train_patients": len(self.budget.train), "n_validation_patients": len(self.budget.validation),
            "n_train_items": len(self.train), "training_mean": self._training_mean(),
            "n_test_patients": len(self._tested()),
            "n_test_items": len(self.decisions.target.items_of(self.split.test)), "split": self.split.name,
            "split_rule": self.split.rule, "split_hash": self.split.sha256, "size": list(self.size),
            "decoder": self.decoder and {k: len(names) for k, names in self.decoder._asdict().items()},
            "notes": list(self.notes),
        }  # fmt: skip

    def _tested_on(self) -> str:
        """The test set in words: its patients, and the units decided where these are others."""
        patients, decided = len(self._tested()), len(self.decisions.target.items_of(self.split.test))
        return (
            f"{decided} {self.level}s of {patients} test patients"
            if decided != patients
            else f"{patients} test patients"
        )

    def _ceiling(self) -> dict[str, Any]:
        """What honest studies stay below, where the cohort knows that."""
        from medssl.evaluation.ceilings import ceiling_of

        known = ceiling_of(self.decisions.target, self.split.test)
        return {} if known is None else {"ceiling": known}

    def _tested(self) -> set[str]:
        return set(self.target.patients[self.target.items_of(self.split.test)])

    def model(self, step: int) -> Model:
        """The trained model with all that predicting needs."""
        info = self.cohort.info
        inputs = InputSpec(
            kind=info.kind, channels=self.matched.names, size=self.size, spacing_mm=info.spacing_mm,
            rate_hz=info.rate_hz, preparation=settled_preparation(self.cohort),
        )  # fmt: skip
        provenance = {
            **self.facts(), "step": step, "cohort": info.fingerprint, "recipe": info.recipe,
            "train_patients": list(self.budget.train),
        }  # fmt: skip
        head: Head = self.head
        return Model(head, inputs, self.target.describe(), asdict(self.testing), provenance)


def strata_for(target: Target, asked: str, split: Split) -> dict[str, str]:
    """Stratum of every development patient that has the target, looking at nobody else."""
    manifest, events = target.cohort.manifest, target.cohort.events
    manifest = manifest[manifest["patient"].isin(set(split.development))]
    if ":" in asked:  # some classes only
        manifest = manifest[manifest.index.isin(set(target.rows))]
        events = events[events["value"].isin(target.classes)]
    return patient_strata(manifest, events, target.name, target.task)


def _check_classes(target: Target, train: NDArray[np.int64]) -> tuple[str, ...]:
    """Notes about classes without training items; fewer than two with any is an error."""
    if target.task != "classification":
        return ()
    y = target.y[train]
    counts = y.sum(0) if target.multilabel else np.bincount(y, minlength=len(target.classes))
    absent = [name for name, n in zip(target.classes, counts, strict=True) if n == 0]
    if len(target.classes) - len(absent) < (1 if target.multilabel else 2):
        raise SplitError(
            f"the training patients of this budget show no {', '.join(absent)}; give a larger budget or another draw"
        )
    return (f"no training item of class {', '.join(absent)} in this budget",) if absent else ()


def check_leak(source: Path, cohort: Cohort, split: Split) -> None:
    """Refuse an encoder that was pre-trained on this split's test patients."""
    provenance = provenance_of(source)
    fingerprint = cohort.info.fingerprint
    pretrained_on = set(provenance.get("patients", {}).get(fingerprint, ()))
    seen = [p for p, mark in patient_marks(fingerprint, split.test).items() if mark in pretrained_on]
    if seen:
        raise SplitError(
            f"the encoder '{source}' was pre-trained on {len(seen)} test patients of split '{split.name}' (first: "
            f"{min(seen)}); pre-train again now that the split exists, which leaves them out"
        )


def _from_scratch(architecture: Encoder | None, target: Target, channels: int) -> Encoder:
    """A fresh encoder whose weights follow from the run's seed."""
    if architecture is None:
        return default_encoder(target.cohort.info, channels, target)
    fresh: Encoder = build(with_channels(spec(architecture), channels), Encoder)  # type: ignore[type-abstract]
    return fresh
