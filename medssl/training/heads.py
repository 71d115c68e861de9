"""From a target and a cohort to a head: architecture, window, class weights and augmentation, when not given."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import CohortInfo
from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.heads.bag import BagHead
from medssl.heads.base import Head
from medssl.heads.classification import ClassificationHead
from medssl.heads.regression import RegressionHead
from medssl.heads.segmentation import SegmentationHead
from medssl.heads.sequence import SequenceHead
from medssl.optim import Optim
from medssl.training.fitting import is_cpu
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target
from medssl.views.base import Views

__all__ = [
    "augmentation_for",
    "choose_size",
    "class_weights",
    "default_encoder",
    "let_learn",
    "make_head",
    "resolved_start",
    "typical_shape",
    "window_samples",
]

EVENT_WINDOW_S = 5.0
LABEL_WINDOW_S = 10.0
LARGEST_CROP = {"cpu": 64, "gpu": 128}
LARGEST_CLIP = (16, 112, 112)
SMALL_VOLUME = 64
_SIDE = re.compile(r"(?i)(?<![a-z])(left|right|l|r)(?![a-z])")
_OPTIM = Optim(lr=1e-3, weight_decay=0.01)


def default_encoder(info: CohortInfo, channels: int, target: Target) -> Encoder:
    """Trained from scratch when nothing else is asked for.

    ResEnc for volumes and video, ResNet1d for signals, ConnectivityMLP for runs of functional MRI.
    """
    if target.are_runs:
        from medssl.encoders.connectivity_mlp import ConnectivityMLP

        return ConnectivityMLP(in_channels=channels)
    if info.kind == "signal":
        from medssl.encoders.resnet1d import ResNet1d

        return ResNet1d(in_channels=channels)
    from medssl.encoders.resenc import ResEnc

    small = max(typical_shape(target)) <= SMALL_VOLUME
    return ResEnc(in_channels=channels, size="tiny" if small else "small")


def typical_shape(target: Target) -> tuple[int, ...]:
    """Median extent of the labelled recordings, an axis each."""
    shapes = np.array([list(target.cohort.manifest["shape"].iloc[row]) for row in np.unique(target.rows)])
    return tuple(int(n) for n in np.median(shapes, axis=0))


def choose_size(encoder: Encoder, target: Target, settings: FinetuneSettings) -> tuple[int, ...]:
    """Crop or window: as asked, else what fits the cohort, the encoder and the device.

    The rule does not look at what an encoder was pre-trained with, so that all arms of a study see the same.
    """
    info = target.cohort.info
    if settings.size is not None:
        return tuple(settings.size)
    shape = typical_shape(target)
    if settings.size_mm is not None:
        wanted: Sequence[float] = _voxels(settings.size_mm, info)
    elif info.kind == "signal":
        wanted = [window_samples(target, settings)]
    else:
        most = (
            LARGEST_CLIP
            if info.kind == "video"
            else (LARGEST_CROP["cpu" if is_cpu(settings.accelerator) else "gpu"],) * 3
        )
        wanted = [min(n, m) for n, m in zip(shape, most, strict=True)]
    return tuple(
        max(math.ceil(math.ceil(w) / d), math.ceil(m / d)) * d
        for w, d, m in zip(wanted, encoder.divisor, encoder.minimum, strict=True)
    )


def window_samples(target: Target, settings: FinetuneSettings) -> float:
    """Samples of a window of a signal as asked, before an encoder rounds them up; no longer than most recordings.

    Raises:
        ConfigError: the signals have no common rate.
    """
    rate = target.cohort.info.rate_hz
    if settings.size is not None:
        return settings.size[0]
    if rate is None:
        raise ConfigError("the signals of the cohort have different rates; prepare them with one rate_hz")
    default = (target.epoch_s or EVENT_WINDOW_S) if target.source == "event" else LABEL_WINDOW_S
    if target.are_runs:
        default = math.inf  # connectivity wants every volume there is
    return min((settings.window_s or default) * rate, typical_shape(target)[0])


def _voxels(size_mm: Sequence[float], info: CohortInfo) -> list[float]:
    if info.kind != "volume":
        raise ConfigError(
            "size_mm is for crops of volumes; say how long a window of a signal is with window_s, and how large a clip "
            "of video is with size"
        )
    if info.spacing_mm is None:
        raise ConfigError(
            "size_mm needs volumes of one voxel size, and those of the cohort differ; prepare it with spacing_mm, or "
            "give size in voxels"
        )
    return [round(mm / s, 6) for mm, s in zip(size_mm, info.spacing_mm, strict=True)]


def make_head(
    encoder: Encoder,
    target: Target,
    train_items: NDArray[np.int64],
    *,
    size: tuple[int, ...],
    settings: FinetuneSettings,
    pretrained: bool,
) -> Head:
    """The head for a target. A fresh encoder learns at the full rate from the first step on."""
    optim, schedule = settings.optim or _OPTIM, settings.published
    rate = 0.0 if settings.freeze or settings.schedule == "frozen" else settings.encoder_lr
    alone = settings.frozen_steps if schedule is None else schedule.alone
    encoder_lr, decay, frozen = (rate, settings.layer_decay, alone) if pretrained else (1.0, 1.0, 0)
    augmentation = augmentation_for(target, size) if settings.augment else None
    if target.task == "segmentation":
        return SegmentationHead(
            encoder, target.classes, crop=size, overlap=settings.overlap, voxel_balance=settings.voxel_balance,
            single_frames=target.traces is not None, optim=optim, encoder_lr=encoder_lr,
            layer_decay=decay, frozen_steps=frozen, augmentation=augmentation, schedule=schedule,
        )  # fmt: skip
    standardise = resolved_start(target, settings) != "random"
    if target.task == "classification":
        weights = None if settings.class_balance else class_weights(target, train_items)
        if settings.sequence:
            one_way = settings.context in ("attention", "none")
            return SequenceHead(
                encoder, target.classes, class_weights=weights, dropout=settings.dropout, context=settings.context,
                bidirectional=settings.bidirectional and not one_way, width=settings.context_width, optim=optim,
                encoder_lr=encoder_lr, layer_decay=decay, frozen_steps=frozen, augmentation=augmentation,
                schedule=schedule,
            )  # fmt: skip
        if settings.aggregate == "attention":
            return BagHead(
                encoder, target.classes, multilabel=target.multilabel, class_weights=weights, dropout=settings.dropout,
                optim=optim, encoder_lr=encoder_lr, layer_decay=decay, frozen_steps=frozen, augmentation=augmentation,
                schedule=schedule,
            )  # fmt: skip
        return ClassificationHead(
            encoder, target.classes, multilabel=target.multilabel, class_weights=weights, dropout=settings.dropout,
            centre=target.source == "event" and target.epoch_s is None, standardise=standardise,
            optim=optim, encoder_lr=encoder_lr, layer_decay=decay, frozen_steps=frozen, augmentation=augmentation,
            schedule=schedule,
        )  # fmt: skip
    y = target.y[train_items].astype(np.float64)
    return RegressionHead(
        encoder, float(y.mean()), std=float(y.std()) or 1.0, dropout=settings.dropout,
        standardise=standardise, optim=optim, encoder_lr=encoder_lr, layer_decay=decay,
        frozen_steps=frozen, augmentation=augmentation, schedule=schedule,
    )  # fmt: skip


def resolved_start(target: Target, settings: FinetuneSettings) -> Literal["random", "scaled", "probe"]:
    """What the last layer starts from, ``auto`` resolved.

    Few labelled recordings do not suffice to find the scale of the features in a short training. Of events there are
    hundreds a patient; there, the faster start only learnt the training patients faster (MIT-BIH, ``RESULTS.md``).
    """
    if settings.head_start != "auto":
        return settings.head_start
    if target.task == "regression":
        return "probe"
    return "random" if target.source == "event" else "scaled"


def let_learn(encoder: Encoder, patterns: Sequence[str]) -> None:
    """Keep every parameter of an encoder as it is whose name fits none of the patterns (``blocks.3.mlp.*``).

    Raises:
        ConfigError: a pattern that fits no parameter.
    """
    names = [name for name, _ in encoder.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"encoder_trains '{pattern}' fits no parameter of {type(encoder).__name__}; its last ones are "
                f"{', '.join(names[-6:])}"
            )
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def class_weights(target: Target, items: NDArray[np.int64]) -> tuple[float, ...]:
    """Inverse frequency among the training items, mean 1; a class that does not occur weighs 0 (1 if multilabel).

    With several labels at once: negatives over positives of each class, at most 100.
    """
    y = target.y[items]
    if target.multilabel:
        positive = y.sum(0)
        ratio = np.clip((len(y) - positive) / np.maximum(positive, 1), 0.01, 100.0)
        return tuple(float(r) if n else 1.0 for r, n in zip(ratio, positive, strict=True))
    counts = np.bincount(y, minlength=len(target.classes)).astype(np.float64)
    inverse = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    return tuple(float(w) for w in inverse * np.count_nonzero(counts) / inverse.sum())


def augmentation_for(target: Target, size: tuple[int, ...]) -> Views | None:
    """Random changes that keep the label true; None where none is known to.

    Volumes are oriented, so only left and right change places, and not where a class is a side; of video nothing
    changes places. Windows around an event keep it in their middle and in sight. What is noise in other signals is
    connectivity in functional MRI, which has none.
    """
    if target.are_runs:
        return None
    if target.cohort.info.kind == "volume":
        from medssl.views.volume import VolumeViews
        from medssl.views.volume_augment import VolumeAugmentation

        sided = any(_SIDE.search(name) for name in target.classes)
        z, y, x = size
        return VolumeViews((z, y, x), count=1, augmentation=VolumeAugmentation(flip=(0.0, 0.0, 0.0 if sided else 0.5)))
    if target.cohort.info.kind == "video":
        from medssl.views.clip import ClipViews

        frames, height, width = size
        return ClipViews((frames, height, width), count=1)
    from medssl.views.signal import SignalViews
    from medssl.views.signal_augment import SignalAugmentation

    event = target.source == "event"
    gentle = SignalAugmentation(
        shift=0.5, shift_share=0.005 if event else 0.1, permute=0.0, band_stop=0.0, mask=0.0 if event else 0.3,
        drop_channel=0.05,
    )  # fmt: skip
    return SignalViews((size[0],), count=1, augmentation=gentle)
