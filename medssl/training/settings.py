"""The options of training, as dataclasses: the only place where they are listed.

The command line and the YAML files are parsed against these, so a field added here is an option everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from medssl.errors import ConfigError, unknown_name
from medssl.heads.schedules import Recipe, Schedule, steps_of
from medssl.optim import Optim

__all__ = ["Aggregation", "Context", "FinetuneSettings", "Level", "Logger", "Precision", "TrainSettings", "from_plain"]

HeadStart = Literal["auto", "random", "scaled", "probe"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Logger = Literal["csv", "tensorboard", "wandb", "mlflow"]
KeepBest = Literal["last", "rankme", "rankme_centred", "alignment_uniformity"]
Level = Literal["auto", "window", "recording", "patient"]
Aggregation = Literal["mean", "attention"]
Context = Literal["mamba", "lstm", "attention", "lstm_attention", "none"]
T = TypeVar("T", "TrainSettings", "FinetuneSettings")


@dataclass(frozen=True)
class TrainSettings:
    """How pre-training runs; what is learnt is the method's business.

    Attributes:
        max_steps: optimiser steps of the whole run.
        batch_size: recordings a step and device (each may give several crops or views).
        accumulate: batches whose gradients are summed before one optimiser step.
        precision: ``bf16-mixed`` is the faster on recent GPUs and CPUs; ``16-mixed`` for older GPUs.
        clip: largest norm of the gradient; 0 switches clipping off.
        optim: replaces the method's own optimiser settings.
        workers: processes that read data; 0 reads in the training process.
        seed: of weights, data order, views and dropout.
        deterministic: refuse algorithms whose result varies from run to run.
        compile: compile the encoder with torch.compile.
        channels_last: keep convolution weights channels-last; meant for GPUs, slower on the processor it was tried on.
        accelerator: ``auto``, ``cpu``, ``gpu`` or another name that Lightning knows.
        devices: how many devices of this machine; ``auto`` takes all.
        num_nodes: machines that train together (DDP).
        strategy: ``auto``, ``ddp`` or another name that Lightning knows.
        log_every: steps between two rows of ``metrics.csv``, each the mean over these steps.
        checkpoint_every: steps between two checkpoints (and exported encoders).
        keep_every: also keep a checkpoint for good every so many steps; 0 keeps only the last.
        monitor_every: steps between two checks for collapse (RankMe); 0 switches them off.
        quality_every: steps between two looks at encoder and projector on a fixed set of recordings (RankMe, LiDAR,
            alignment and more); ``auto`` keeps their cost near 2 % of the training, 0 switches them off.
        quality_rows: recordings of that set, at most.
        keep_best: which encoder the run leaves behind, chosen without labels: ``last``, or that of the look (see
            ``quality_every``) with the highest RankMe (``rankme``; ``rankme_centred`` after their mean was taken away),
            or with the lowest sum of alignment and uniformity (``alignment_uniformity``; methods with views). The looks
            are at what would be left behind (an average of weights, say).
        fail_on_collapse: end the run when three looks in a row find the embeddings collapsed.
        loggers: ``csv`` (RUN/metrics.csv) is always written; the others are added to it.
        progress: show progress.
        max_bad_share: stop when more than this share of the last 100 steps had a non-finite gradient.
    """

    max_steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    precision: Precision = "32-true"
    clip: float = 1.0
    optim: Optim | None = None
    workers: int = 2
    seed: int = 0
    deterministic: bool = False
    compile: bool = False
    channels_last: bool = False
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    log_every: int = 10
    checkpoint_every: int = 200
    keep_every: int = 0
    monitor_every: int = 100
    quality_every: int | Literal["auto"] = "auto"
    quality_rows: int = 256
    keep_best: KeepBest = "last"
    fail_on_collapse: bool = False
    loggers: tuple[Logger, ...] = ("csv",)
    progress: bool = True
    max_bad_share: float = 0.2

    def __post_init__(self) -> None:
        _positive(self, "max_steps", "batch_size", "accumulate", "num_nodes", "log_every", "checkpoint_every")
        _not_negative(self, "workers", "clip", "keep_every", "monitor_every", "seed")
        if self.quality_every != "auto":
            _not_negative(self, "quality_every")
        if self.quality_rows < 8:
            raise ConfigError(f"quality_rows must be at least 8 to speak of directions, not {self.quality_rows}")
        if self.keep_best != "last" and not self.looks:
            raise ConfigError(
                f"keep_best {self.keep_best} chooses among looks at the representation, which quality_every 0 (or auto "
                "with monitor_every 0) switches off; set quality_every to a number of steps"
            )

    @property
    def looks(self) -> bool:
        """Whether the representation is looked at, see ``quality_every``."""
        return bool(self.quality_every) and bool(self.monitor_every or self.quality_every != "auto")


@dataclass(frozen=True)
class FinetuneSettings:
    """How a model is fine-tuned (or trained from scratch) on labels. All arms of a study share one of these.

    Attributes:
        size: crop (z, y, x) of volumes, clip (frames, y, x) of video or window (samples,) of signals; chosen from the
            cohort when not given.
        clip_period: frames of a video from one frame of a clip to the next; EchoNet-Dynamic takes 2, with 32 frames.
        window_s: window of signals in seconds; replaces ``size``.
        size_mm: extent (z, y, x) of the crops of volumes in mm, instead of ``size``; rounded up to what the encoder
            takes. The volumes must have one voxel size.
        max_steps: optimiser steps.
        batch_size: crops or windows a step.
        optim: optimiser settings.
        encoder_lr: learning rate of a pre-trained encoder as a share of the head's; 1 when trained from scratch.
        layer_decay: each earlier layer of a pre-trained encoder learns by this factor slower than the next.
        frozen_steps: steps during which a pre-trained encoder does not learn yet.
        schedule: course of the training. ``default``: as ``optim`` says. The others decay as (1 - s/N)^0.9 and warm up
            over the steps of ``optim.warmup``: ``warmup`` (published: 50 of 1000 epochs or 15 of 150); ``sawtooth``,
            the decoder (or other head) alone up and down, then all with a new optimiser; ``valley``, the same with the
            decoder's rate only falling; ``frozen``, the decoder alone throughout. A network from scratch has the same
            learning rates, but learns as a whole from the first step on. Published peaks: CNNs ``optim.lr`` 1e-3 with
            ``algorithm: sgd`` and weight_decay 3e-5, transformers 1e-4 with AdamW, weight_decay 0.05, betas 0.9, 0.98.
        decoder_phase: steps of ``sawtooth`` and ``valley`` for the decoder alone; below 1 a share of ``max_steps``
            (published: 50 of 1000 epochs or 15 of 150).
        decoder_factor: peak learning rate of that phase relative to ``optim.lr`` (published: 1 for CNNs; for
            transformers 0.01 in 1000 epochs, 0.1 in 150).
        freeze: keep a pre-trained encoder as it is throughout. With ``sequence`` its features are computed once and
            nothing is augmented, so that training takes seconds.
        encoder_trains: names (patterns with ``*``) of the parameters of a pre-trained encoder that learn; the others
            keep their values. All learn when none are given. NeuroNet's fine-tuning: the norm and MLP of the last
            block and the last norm.
        level: what one decision is about, and so what every metric counts: each ``window``, ``recording`` or
            ``patient``. ``auto`` takes the recording for labels and the window for events.
        aggregate: how the windows of a recording become one answer: ``mean`` of their logits (of values in regression),
            or ``attention``, which is learnt with the head from bags of ``test_windows`` windows. The recordings of a
            patient are averaged always.
        sequence: longest sequence of events (epochs) that are classified together; 0 classifies each by itself.
        context: what lets the epochs of a sequence see each other.
        context_width: features of the context.
        bidirectional: a context that runs along time (mamba, lstm) also runs against it.
        pretrained_decoder: segmentation starts from the decoder of the pre-training run too, where it has one.
        augment: random changes of the training samples.
        foreground: share of crops of volumes centred on a labelled voxel (segmentation), or on a voxel of the body.
        voxel_balance: of segmentation: at the first step a voxel of class c counts (voxels of c)^-this in the
            cross-entropy, and at the last one all count the same. With 0, as in nnU-Net, small structures are found
            late.
        class_balance: draw classes equally often; if not, weight the loss by the inverse class frequency.
        validate_every: steps between two looks at the validation patients of the budget; 0 takes a tenth of all steps.
        patience: stop after so many looks without improvement (never before 30 % of the steps); 0 never stops early.
        overlap: of neighbouring windows when a whole volume is predicted.
        test_windows: most windows of a recording that are averaged for one prediction.
        test_clips: of video: ``spread``, at most ``test_windows`` clips spread over a recording, or ``all``, the clips
            at every start it has, as EchoNet-Dynamic is tested. Segmentation answers every frame in either case.
        test_batch: windows predicted at once.
        dropout: before the classifier or regressor.
        head_start: what the last layer of a classifier or regressor of single windows starts from. ``random``: small
            random weights on the features as they are. ``scaled``: random weights on features that are standardised
            by what the encoder makes of the training windows. ``probe``: in addition, the weights of a linear probe of
            these features (its strength chosen by patients inside the budget), which training then goes on from
            (LP-FT; Kumar et al., ICLR 2022); the encoder of a regressor learns the slower for it the more the answer
            depends on its every weight. Both look at augmented windows where training does. ``auto``: ``probe`` for
            regression, ``scaled`` for classification by a label, ``random`` for events, where there are items enough
            to learn from and patients few.
        channels_last: keep convolution weights channels-last; ``auto`` does so for volumes on a GPU.
        precision: ``auto`` takes bfloat16 where the processor computes with it, else 32 bit.
        clip: largest norm of the gradient; 0 switches clipping off.
        workers: processes that read data; 0 reads in the training process.
        cache_gb: memory for decoded recordings, in each reading process.
        deterministic: refuse algorithms whose result varies from run to run.
        compile: compile the encoder with torch.compile.
        accelerator: ``auto``, ``cpu``, ``gpu`` or another name that Lightning knows.
        allow_mismatch: fine-tune although voxel size or sampling rate differ from those of pre-training.
        log_every: steps between two rows of ``metrics.csv``.
        progress: show progress.
        max_bad_share: stop when more than this share of the last 100 steps had a non-finite gradient.
    """

    size: tuple[int, ...] | None = None
    clip_period: int = 1
    window_s: float | None = None
    size_mm: tuple[float, float, float] | None = None
    max_steps: int = 500
    batch_size: int = 8
    optim: Optim | None = None
    encoder_lr: float = 1.0
    layer_decay: float = 1.0
    frozen_steps: int = 0
    schedule: Recipe = "default"
    decoder_phase: float = 0.1
    decoder_factor: float = 1.0
    freeze: bool = False
    encoder_trains: tuple[str, ...] = ()
    level: Level = "auto"
    aggregate: Aggregation = "mean"
    sequence: int = 0
    context: Context = "lstm"
    context_width: int = 256
    bidirectional: bool = True
    pretrained_decoder: bool = True
    augment: bool = True
    foreground: float = 0.66
    voxel_balance: float = 0.5
    class_balance: bool = True
    validate_every: int = 0
    patience: int = 0
    overlap: float = 0.5
    test_windows: int = 8
    test_clips: Literal["spread", "all"] = "spread"
    test_batch: int = 16
    dropout: float = 0.2
    head_start: HeadStart = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    clip: float = 1.0
    workers: int = 0
    cache_gb: float = 1.0
    deterministic: bool = False
    compile: bool = False
    accelerator: str = "auto"
    allow_mismatch: bool = False
    log_every: int = 10
    progress: bool = True
    max_bad_share: float = 0.2

    def __post_init__(self) -> None:
        _positive(
            self, "max_steps", "batch_size", "test_windows", "test_batch", "log_every", "context_width", "clip_period"
        )
        _not_negative(
            self, "workers", "clip", "validate_every", "patience", "frozen_steps", "cache_gb", "decoder_phase",
            "sequence",
        )  # fmt: skip
        for name in ("foreground", "voxel_balance", "dropout", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.size is not None and self.size_mm is not None:
            raise ConfigError("size and size_mm are two ways to say how large a crop is; give one of them")
        if self.size_mm is not None and min(self.size_mm) <= 0:
            raise ConfigError(f"size_mm must be above 0 along every axis, not {list(self.size_mm)}")
        if self.schedule != "default" and self.frozen_steps:
            raise ConfigError(
                f"the {self.schedule} schedule says when the encoder stands still; leave frozen_steps out, or set "
                "decoder_phase"
            )
        published = self.published
        if published is not None:
            published.check(self.max_steps)

    @property
    def published(self) -> Schedule | None:
        """The schedule in steps; None where ``optim`` says it all."""
        if self.schedule == "default":
            return None
        warmup = (self.optim or Optim()).warmup
        return Schedule(
            self.schedule, steps_of(self.decoder_phase, self.max_steps), steps_of(warmup, self.max_steps),
            self.decoder_factor,
        )  # fmt: skip


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings from the plain data that ``medssl.configurable.spec`` made of them.

    Raises:
        ConfigError: an unknown field; the message lists the known ones.
    """
    known = {f.name for f in fields(kind)}
    for name in values:
        if name not in known:
            raise ConfigError(unknown_name(kind.__name__, name, known))
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if isinstance(given.get("optim"), Mapping):
        optim: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given["optim"].items()}
        given["optim"] = Optim(**optim)
    return kind(**given)


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(settings, name)}")


def _not_negative(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise ConfigError(f"{name} must not be negative, not {getattr(settings, name)}")
