"""Which method, within a stated time: successive halving over configurations of pre-training.

Every round all that are left train equally long (in seconds, since steps cost differently), then a probe on a few
labelled *development* patients ranks them and the weaker ones stop; collapsed ones stop without labels. Test patients
are not touched, so the choice can be judged with them afterwards. (Jamieson and Talwalkar, *Non-stochastic best arm
identification*, AISTATS 2016.)

COMPARE/compare.json          rounds, and why each configuration was stopped
COMPARE/runs/NAME/            the runs, as ``pretrain`` leaves them
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.errors import ConfigError, MedSSLError
from medssl.evaluation.metrics import info_of
from medssl.evaluation.verdict import format_value
from medssl.training.run import is_finished, locked, read_summary, write_json
from medssl.training.settings import FinetuneSettings

if TYPE_CHECKING:
    from medssl.evaluation.tiny_probe import Probe
    from medssl.training.configs import Recipe
    from medssl.training.targets import Target

__all__ = ["compare"]

FIRST_STEPS = 20  # of every run, to learn what a step costs
COLLAPSED = 1.5  # RankMe at or below which features have one direction
_DEFAULTS = FinetuneSettings()


@dataclass
class Contender:
    """One configuration in the contest.

    Attributes:
        name: of the configuration.
        steps, seconds: trained so far.
        rounds: that it has finished.
        probe: value of the tiny probe after each round.
        rankme: of its last training views; None where there was no look.
        stopped: why; empty while it is in the contest.
    """

    name: str
    steps: int = 0
    seconds: float = 0.0
    rounds: int = 0
    probe: list[float] = field(default_factory=list)
    rankme: float | None = None
    stopped: str = ""


def compare(
    *,
    cohort: Path,
    task: Literal["segmentation", "classification", "regression"],
    target: str,
    configs: list[str],
    out: Path,
    minutes: float,
    rounds: int = 3,
    keep: float = 0.5,
    budget: str = "all",
    split: str = "default",
    settings: FinetuneSettings = _DEFAULTS,
) -> dict[str, Any]:
    """Find the configuration of pre-training that suits a cohort and a task, within a stated time.

    Args:
        cohort: a prepared cohort with a split.
        task: what the encoder is for.
        target: mask, label or kind of event, as in ``evaluate``.
        configs: names from ``medssl list configs``, or YAML files.
        out: folder of the comparison; a call on the same one goes on where it stopped.
        minutes: of pre-training, over all configurations.
        rounds: each takes the same share of the time.
        keep: share of the configurations that goes on after a round (at least one).
        budget: labelled development patients for the probe.
        split: whose test patients stay shut.
        settings: window, channels and device of the probe.

    Returns:
        What stands in COMPARE/compare.json.

    Raises:
        MedSSLError: a configuration, target or split that does not exist, fewer than two configurations, or none that
            could be trained.
    """
    contest = _Contest(cohort, task, target, configs, out, budget=budget, split=split, settings=settings)
    if minutes <= 0 or rounds < 1 or not 0 < keep < 1:
        raise ConfigError("minutes must be above 0, rounds at least 1, and keep between 0 and 1")
    with locked(out):
        contest.load()
        for number in range(rounds):
            contest.round(number, 60 * minutes / rounds, keep, last=number == rounds - 1)
        return contest.finish()


class _Contest:
    """The configurations, the probe and the file they are written to."""

    def __init__(
        self, cohort: Path, task: Any, target: str, configs: Sequence[str], out: Path, *, budget: str, split: str,
        settings: FinetuneSettings,
    ) -> None:  # fmt: skip
        from medssl.cohort import Cohort
        from medssl.evaluation.planning import budget_patients
        from medssl.splits import Split
        from medssl.training.configs import pretraining_of
        from medssl.training.targets import resolve_target

        names = [Path(c).stem for c in configs]
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise ConfigError("a comparison needs two or more configurations of different names")
        self.cohort, self.out, self.task, self.asked, self.split = Path(cohort), out, task, target, split
        self.target: Target = resolve_target(Cohort(cohort), task, target)
        drawn = budget_patients(self.target, target, Split.load(cohort, split), budget, 0)
        self.items = self.target.items_of((*drawn.train, *drawn.validation))
        self.recipes: dict[str, Recipe] = {n: pretraining_of(c, cohort) for n, c in zip(names, configs, strict=True)}
        self.configs = dict(zip(names, configs, strict=True))
        self.settings, self.budget = settings, budget
        self.contenders = [Contender(n) for n in names]
        self.untrained: dict[str, float] = {}

    @property
    def alive(self) -> list[Contender]:
        return [c for c in self.contenders if not c.stopped]

    def load(self) -> None:
        """Go on with a comparison of the same configurations."""
        try:
            known = json.loads((self.out / "compare.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        found = {c["name"]: Contender(**c) for c in known["contenders"]}
        if set(found) != set(self.recipes):
            raise ConfigError(f"'{self.out}' compares other configurations ({', '.join(found)}); give another --out")
        self.contenders = [found[name] for name in self.recipes]
        self.untrained = known["untrained"]

    def save(self, **more: Any) -> dict[str, Any]:
        summary = {
            "format_version": 1, "kind": "comparison", "status": "running", "cohort": str(self.cohort),
            "task": self.task, "target": self.asked, "split": self.split, "budget": self.budget,
            "contenders": [asdict(c) for c in self.contenders], "untrained": self.untrained, **more,
        }  # fmt: skip
        write_json(self.out / "compare.json", summary)
        return summary

    def round(self, number: int, seconds: float, keep: float, *, last: bool) -> None:
        """Train all that are left, score them, and stop the weaker ones."""
        share = seconds / max(1, len(self.alive))
        for contender in self.alive:
            if contender.rounds > number:
                continue
            try:
                self._train(contender, share)
                contender.probe.append(self._probe(contender).value)
                contender.rounds = number + 1
            except MedSSLError as error:
                contender.stopped = f"it failed: {error}"
            self.save()
        for contender in self.alive:
            if contender.rankme is not None and contender.rankme <= COLLAPSED:
                contender.stopped = f"collapsed: RankMe {contender.rankme:.2f} after {contender.steps} steps"
        ranked = self._ranked()
        kept = 1 if last else max(1, math.ceil(keep * len(ranked)))
        for contender in ranked[kept:]:
            contender.stopped = self._why(contender, ranked[0])
        self.save()
        self._say(number)

    def _train(self, contender: Contender, seconds: float) -> None:
        """Pre-train for about so long: a few steps tell what one costs, the first time."""
        from medssl.training.pretrain import pretrain, resume

        folder, recipe, before = self.out / "runs" / contender.name, self.recipes[contender.name], contender.seconds
        if not (folder / "config.yaml").is_file():
            trainer = replace(recipe.trainer, max_steps=FIRST_STEPS, progress=False, keep_best="last")
            self._timed(contender, lambda: pretrain(
                method=recipe.build(), cohort=[self.cohort], out=folder, trainer=trainer, exclude_split=self.split,
            ))  # fmt: skip
        elif not is_finished(folder):
            self._timed(contender, lambda: resume(folder))
        summary = read_summary(folder)
        contender.steps, contender.rankme = int(summary["steps"]), summary.get("rankme")
        price = contender.seconds / max(1, contender.steps)
        more = math.floor((seconds - (contender.seconds - before)) / price) if price > 0 else 0
        if more > 0:
            self._timed(contender, lambda: resume(folder, max_steps=contender.steps + more))
            summary = read_summary(folder)
            contender.steps, contender.rankme = int(summary["steps"]), summary.get("rankme")

    def _timed(self, contender: Contender, train: Any) -> None:
        began = time.monotonic()
        train()
        contender.seconds += time.monotonic() - began

    def _probe(self, contender: Contender) -> Probe:
        from medssl.configurable import spec
        from medssl.evaluation.cells import Cell
        from medssl.evaluation.frozen import frozen_encoder
        from medssl.evaluation.tiny_probe import tiny_probe

        architecture = self.recipes[contender.name].encoder
        options = {"settings": spec(self.settings), "split": self.split, "architecture": architecture}

        def score(source: str) -> Probe:
            cell = Cell(contender.name, source, self.budget, 0, self.out, options)
            return tiny_probe(frozen_encoder(cell, self.target), self.target, self.items)

        if contender.name not in self.untrained:  # known where another has the same network
            alike = (v for name, v in self.untrained.items() if self.recipes[name].encoder == architecture)
            known = next(alike, None)
            self.untrained[contender.name] = score("untrained").value if known is None else known
        return score(str(self.out / "runs" / contender.name))

    def _ranked(self) -> list[Contender]:
        """The best first."""
        from medssl.evaluation.tiny_probe import probe_metric

        sign = -1 if info_of(probe_metric(self.task)).higher_is_better else 1
        return sorted(self.alive, key=lambda c: sign * c.probe[-1])

    def _why(self, contender: Contender, best: Contender) -> str:
        return (
            f"after {contender.steps} steps its probe has {self._shown(contender.probe[-1])}, against "
            f"{self._shown(best.probe[-1])} of {best.name}"
        )

    def _shown(self, value: float) -> str:
        from medssl.evaluation.tiny_probe import probe_metric

        return f"{info_of(probe_metric(self.task)).title} {format_value(value, probe_metric(self.task))}"

    def _say(self, number: int) -> None:
        for c in self.contenders:
            if c.rounds == number + 1 or (c.stopped and c.rounds == number):
                state = f"stopped: {c.stopped}" if c.stopped else f"goes on with {self._shown(c.probe[-1])}"
                print(f"round {number + 1}: {c.name} ({c.steps} steps, {c.seconds:.0f} s) {state}", flush=True)

    def finish(self) -> dict[str, Any]:
        """The recommendation, and the commands that repeat and judge it."""
        left = self._ranked()
        if not left:
            reasons = "; ".join(f"{c.name}: {c.stopped}" for c in self.contenders)
            raise ConfigError(f"no configuration is left to recommend ({reasons})")
        best = left[0]
        run = self.out / "runs" / best.name
        commands = [
            f"medssl pretrain --config {self.configs[best.name]} --cohort {self.cohort} --out RUN "
            f"--trainer.max_steps {best.steps} --exclude-split {self.split}",
            f"medssl evaluate --cohort {self.cohort} --task {self.task} --target {self.asked} --encoders "
            f"{best.name}={run} --split {self.split} --budgets 2 8 all --repeats 5 --out STUDY",
        ]
        verdict = self._verdict(best)
        print(verdict + "\nto repeat and to judge it:\n  " + "\n  ".join(commands), flush=True)
        return self.save(status="finished", recommended=best.name, verdict=verdict, commands=commands)

    def _verdict(self, best: Contender) -> str:
        from medssl.evaluation.tiny_probe import probe_metric

        before, after = self.untrained[best.name], best.probe[-1]
        higher = info_of(probe_metric(self.task)).higher_is_better
        spent = sum(c.seconds for c in self.contenders) / 60
        text = (
            f"Of {len(self.contenders)} configurations take {best.name}: {self._shown(after)} in a linear probe on "
            f"{len(set(self.target.patients[self.items]))} development patients, {self._shown(before)} untrained "
            f"({spent:.1f} min of pre-training)."
        )
        if (after > before) != higher or after == before:
            text += (
                " Its features are no better than untrained ones: train longer before relying on it, or from scratch."
            )
        return text
