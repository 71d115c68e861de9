"""How good the representation looks during training, on the same recordings at every look and without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from medssl.evaluation.representation import collapse_summary, projected
from medssl.evaluation.streaming import StreamingAlignment, StreamingLidar
from medssl.methods.base import Method
from medssl.training.callbacks import Fit, Module, between_steps, rng_state, set_rng_state
from medssl.training.data import MethodSource
from medssl.training.metrics_log import MetricsLog
from medssl.training.monitor import ADVICE, Alarms, alarm
from medssl.training.monitor_set import MonitorSet, count_views
from medssl.training.seeding import seed_all

__all__ = ["RepresentationMonitor", "problem_of", "undisturbed"]

SHARE = 0.02  # of the training time that looks may take
BACKWARD = 3  # a training step costs about this many forward passes
LIDAR_WIDTH = 128
_CONSTANT = ("_rows", "_patients", "_width")  # the same at every look: in summary.json, not in metrics.csv


@contextmanager
def undisturbed(method: Method, seed: int = 0) -> Iterator[None]:
    """Evaluation mode without gradients, after which training goes on as if nothing had been: train or evaluation mode
    of every part, running statistics, all random states and the method's own generator are as before.

    Inside, random states start from ``seed``, and compiled encoders run as they were written (a look has other shapes).
    """
    training = [(module, module.training) for module in method.modules()]
    states, own = rng_state(), method.generator.get_state()
    seed_all(seed)
    method.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        method.generator.set_state(own)
        set_rng_state(states)


def problem_of(now: Mapping[str, float], history: Sequence[Mapping[str, float]], *, rows: int) -> str | None:
    """What is wrong at this look, in plain words; None when nothing is.

    The projector's output is judged by the thresholds of ``monitor.alarm``, and by whether views of a recording have
    drifted apart though its directions are in use. The encoder's features are judged by what becomes of them only:
    features after a ReLU have a large mean, so a low rank says little by itself.

    Args:
        now: what ``RepresentationMonitor`` logs.
        history: of earlier looks, oldest first.
        rows: recordings looked at.
    """
    bad = now["quality_not_finite"]
    if bad:
        return f"{bad:.0f} of {rows} embeddings are not finite; lower the learning rate or train with 32-true"
    if "quality_projector_rankme" in now:
        found = alarm(
            {
                "rankme": now["quality_projector_rankme"], "embedding_std": now["quality_projector_std"],
                "top1_share": now["quality_projector_top1_share"], "uniformity": now["quality_projector_uniformity"],
            },
            [h["quality_projector_rankme"] for h in history], rows=rows, dimension=int(now["quality_projector_width"]),
        )  # fmt: skip
        if found:
            return found
    return _apart(now, history) or _encoder_problem(now, history)


def _apart(now: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> str | None:
    """Over-uniform: directions are in use, but views of a recording are no longer close."""
    recent = [h["quality_alignment"] for h in history[-3:] if "quality_alignment" in h]
    if not recent or "quality_alignment" not in now:
        return None
    alignment, strangers = now["quality_alignment"], now["quality_strangers"]
    if alignment > 1.25 * min(recent) and alignment > 0.5 * strangers:
        return (
            f"views of a recording drift apart (squared distance {alignment:.2f}, different recordings "
            f"{strangers:.2f}): the embeddings spread out but tell recordings apart less; weaken the augmentation, or "
            "raise the temperature or the weight of the term that pulls views together"
        )
    return None


def _encoder_problem(now: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> str | None:
    if now["quality_encoder_std"] < 0.02 / math.sqrt(now["quality_encoder_width"]):
        return f"the encoder's features are nearly the same for every recording (complete collapse){ADVICE}"
    earlier = [h["quality_encoder_rankme_centred"] for h in history[-3:]]
    rank = now["quality_encoder_rankme_centred"]
    if earlier and rank < 0.5 * max(earlier):
        return f"the encoder's features lost half of their directions ({max(earlier):.1f} → {rank:.1f}){ADVICE}"
    return None


class RepresentationMonitor(Callback):
    """Measures encoder and projector on a ``MonitorSet``: RankMe, spread, uniformity, alignment, LiDAR, collapse.

    With several processes only the first one looks, and calls no collective operation while it does; the others go on
    to their next gradient exchange and wait there. Where ``fail`` is set all of them then decide together.

    Args:
        log: where the values go, under names that begin with ``quality_``.
        source: the recordings of the run.
        every: steps between two looks; ``"auto"`` takes the multiple of ``at_least`` at which looks cost about 2 % of
            the training, counted in forward passes (and so the same whenever and wherever the run is continued).
        at_least: see ``every``.
        rows: recordings looked at, see ``MonitorSet``.
        batch: recordings that are encoded at once.
        warm_up: steps before the first alarm.
        fail: end the run after three looks in a row with an alarm.
        exported: also look at the encoder that the run leaves behind, whether that is the trained one or its average.

    Attributes:
        history: what was logged at each look, with its ``step``.
        on_look: called with the step after each look, in the first process.
    """

    def __init__(
        self,
        log: MetricsLog,
        source: MethodSource,
        *,
        every: int | Literal["auto"] = "auto",
        at_least: int = 100,
        rows: int = 256,
        batch: int = 8,
        warm_up: int = 50,
        fail: bool = False,
        exported: bool = False,
    ) -> None:
        self.log_to, self.source, self.exported = log, source, exported
        self.on_look: Callable[[int], None] | None = None
        self.every = 0 if every == "auto" else every
        self.at_least, self.rows, self.batch = at_least, rows, batch
        self.history: list[dict[str, float]] = []
        self._alarms = Alarms(warm_up=warm_up, fail=fail)
        self._set: MonitorSet | None = None

    @property
    def alarms(self) -> list[str]:
        """What was found, with the step."""
        return self._alarms.said

    def state_dict(self) -> dict[str, Any]:
        """The looks so far."""
        return {"every": self.every, "history": [dict(h) for h in self.history], "alarms": self._alarms.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.every = self.every or int(state_dict["every"])
        self.history = [dict(h) for h in state_dict["history"]]
        self._alarms.restore(state_dict["alarms"])

    def facts(self) -> dict[str, Any] | None:
        """The last look for summary.json; None where there was none."""
        return dict(self.history[-1]) if self.history else None

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look when it is time."""
        if not self.every:
            embeddings = outputs.get("embeddings") if isinstance(outputs, Mapping) else None
            passes = len(embeddings if embeddings is not None else batch["row"]) * trainer.accumulate_grad_batches
            self.every = self._spacing(pl_module, passes)
        if not between_steps(trainer, batch_idx) or trainer.global_step % self.every:
            return
        problem = None
        if trainer.is_global_zero:
            assert isinstance(pl_module, Method)
            now = self._look(trainer, pl_module)
            logged = {k: v for k, v in now.items() if math.isfinite(v) and not k.endswith(_CONSTANT)}
            self.log_to.add(trainer, trainer.global_step, logged)
            problem = problem_of(now, self.history, rows=int(now["quality_rows"]))
            self.history.append({"step": float(trainer.global_step), **now})
            if self.on_look is not None:
                self.on_look(trainer.global_step)
        self._alarms.hear(trainer, problem if getattr(pl_module, "collapses", True) else None)

    def _spacing(self, method: Module, passes: int) -> int:
        """Steps between two looks for a step of so many encoded rows."""
        rows = min(self.rows, len(self.source.places)) * (1 + count_views(method)) * (1 + self.exported)
        return math.ceil(rows / (SHARE * BACKWARD * passes) / self.at_least) * self.at_least

    def _look(self, trainer: Fit, method: Method) -> dict[str, float]:
        with undisturbed(method), trainer.precision_plugin.forward_context():
            if self._set is None:
                self._set = MonitorSet(method, self.source, rows=self.rows)
            kept = self._set
            encoded = [_encode(method, x) for x in kept.centred(self.batch, method.device)]
            now = {"quality_rows": float(len(kept)), "quality_patients": float(kept.n_patients)}
            now |= _measures("encoder", torch.cat([e for e, _ in encoded]))
            projections = [z for _, z in encoded if z is not None]
            if projections:
                now |= _measures("projector", torch.cat(projections))
            now["quality_not_finite"] = max(now.pop(k) for k in list(now) if k.endswith("_dropped"))
            if kept.n_views:
                now |= _view_measures(method, kept, self.batch, torch.cat(projections or [e for e, _ in encoded]))
            if self.exported:
                now |= _exported_measures(method, kept, self.batch)
        return now


def _encode(method: Method, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Pooled features (n, D) and, of methods that embed them, what the objective gets (n, P); float32 on the CPU.

    What an objective gets as a map is averaged over its cells.
    """
    embed = getattr(method, "embed", None)
    if embed is None:
        return method.encoder(x).pooled.float().cpu(), None
    pooled: list[Tensor] = []
    hook = method.encoder.register_forward_hook(lambda _module, _input, output: pooled.append(output.pooled))
    try:
        z = embed(x)
    finally:
        hook.remove()
    features = (pooled[0] if pooled else method.encoder(x).pooled).float().cpu()
    return features, (z.flatten(2).mean(-1) if z.ndim > 2 else z).float().cpu()


def _measures(output: str, z: Tensor) -> dict[str, float]:
    """Of one output, under the names of ``metrics.csv``; ``OUTPUT_dropped`` rows beside them."""
    found = dict(collapse_summary(z))
    names = {
        "dimension": "width", "rankme": "rankme", "rankme_centred": "rankme_centred", "std_l2": "std",
        "uniformity": "uniformity", "top1_share": "top1_share", "participation": "participation",
        "dead_dims": "dead_dims",
    }  # fmt: skip
    values = {f"quality_{output}_{short}": found[name] for name, short in names.items()}
    return {**values, f"{output}_dropped": found["dropped"]}


def _exported_measures(method: Method, kept: MonitorSet, batch: int) -> dict[str, float]:
    """Of the encoder that the run leaves behind; alignment where there are views to compare."""
    encoder = method.exported.to(method.device).eval()
    found = collapse_summary(torch.cat([encoder(x).pooled.float().cpu() for x in kept.centred(batch, method.device)]))
    names = ("rankme", "rankme_centred", "uniformity")
    values = {f"quality_exported_{name}": float(found[name]) for name in names}
    if kept.n_views:
        alignment = StreamingAlignment()
        for views in kept.augmented(batch, method.device):
            z = encoder(views.flatten(0, 1)).pooled.float().cpu()
            alignment.update(z.unflatten(0, views.shape[:2]).transpose(0, 1))
        values["quality_exported_alignment"] = alignment.compute()
    return values


def _view_measures(method: Method, kept: MonitorSet, batch: int, z: Tensor) -> dict[str, float]:
    """Alignment and LiDAR of augmented views, on what the objective gets or else on the encoder's features.

    ``quality_strangers`` is the mean squared distance of different recordings, which an alignment is to be held
    against. LiDAR is taken in a fixed random subspace of at most half as many directions as there are recordings.
    """
    width = min(LIDAR_WIDTH, max(2, len(kept) // 2))
    alignment, lidar = StreamingAlignment(), StreamingLidar(min(width, z.shape[1]))
    for views in kept.augmented(batch, method.device):
        features, projection = _encode(method, views.flatten(0, 1))
        x = (features if projection is None else projection).unflatten(0, views.shape[:2]).transpose(0, 1)
        alignment.update(x)
        lidar.update(projected(x, width))
    unit = torch.nn.functional.normalize(z[torch.isfinite(z).all(1)].double(), dim=1)
    n = len(unit)
    spread_out = 2 * n / (n - 1) * float(1 - unit.mean(0).square().sum()) if n > 1 else math.nan
    return {
        "quality_alignment": alignment.compute(), "quality_strangers": spread_out, "quality_lidar": lidar.compute()
    }  # fmt: skip
