"""Segmentation: one decoder over any encoder, Dice and cross-entropy, sliding-window prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.heads.base import Head
from medssl.heads.decoder import Decoder
from medssl.heads.losses import dice_and_cross_entropy
from medssl.heads.schedules import Schedule
from medssl.optim import Optim
from medssl.views.base import Views

__all__ = ["UNKNOWN", "SegmentationHead"]

UNKNOWN = 255
"""Class index of voxels that nobody annotated, see ``SegmentationHead``."""

CPU_ABOVE = 256**3
"""Voxels above which whole-volume probabilities are gathered in main memory instead of on the GPU."""


class _PairAugmenting(Protocol):
    def augment_pair(self, x: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


class SegmentationHead(Head):
    """U-Net decoder over the encoder's maps, trained with Dice + cross-entropy.

    The batch's ``y`` is (B, 1, *size) with class indices; ``forward`` gives logits (B, K, *size).

    Args:
        encoder: any encoder; see ``Decoder`` for how coarse or single maps are brought to full resolution.
        classes: names in order of their index, background first.
        decoder_channels: channels of the decoder's levels, fine to coarse; None follows the encoder.
        deep_supervision: also train the coarser decoder levels, with half the weight a level.
        batch_dice: Dice over all voxels of the batch together rather than the mean over its crops. Robust for crops
            in which a class is absent.
        voxel_balance: in the cross-entropy of the first step, see ``medssl.heads.losses``; it fades to 0 over the
            training, since balanced voxels make masks too large in the end. With 0 throughout, as in nnU-Net, small
            structures are found many steps later. Outside a trainer it is 0.
        single_frames: of video, of which single frames are annotated: the class index is ``UNKNOWN`` throughout the
            others, and the loss is that of the annotated frames alone.
        crop: size of the crops it is trained on and predicts with; stored with the model.
        overlap: of neighbouring windows in prediction, 0 to below 1.
        mirror: average predictions over all mirrorings (2^dims forward passes).
        optim, encoder_lr, layer_decay, frozen_steps, augmentation, schedule: see ``Head``. An augmentation must be one
            that can treat image and mask alike (``augment_pair``).

    Raises:
        ConfigError: fewer than two classes, an overlap out of range, or an augmentation for images alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: tuple[str, ...] = ("background", "foreground"),
        *,
        decoder_channels: tuple[int, ...] | None = None,
        deep_supervision: bool = False,
        batch_dice: bool = True,
        voxel_balance: float = 0.5,
        single_frames: bool = False,
        crop: tuple[int, ...] | None = None,
        overlap: float = 0.5,
        mirror: bool = False,
        optim: Optim | None = None,
        encoder_lr: float = 1.0,
        layer_decay: float = 1.0,
        frozen_steps: int = 0,
        augmentation: Views | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(
            encoder,
            optim=optim,
            encoder_lr=encoder_lr,
            layer_decay=layer_decay,
            frozen_steps=frozen_steps,
            augmentation=augmentation,
            schedule=schedule,
        )
        if len(classes) < 2:
            raise ConfigError(f"segmentation needs the background and at least one class, got {list(classes)}")
        if single_frames and deep_supervision:
            raise ConfigError("coarser levels of a decoder have no single frames; switch deep_supervision off")
        if not 0 <= overlap < 1:
            raise ConfigError(f"the overlap of windows must be at least 0 and below 1, not {overlap}")
        if augmentation is not None and not hasattr(augmentation, "augment_pair"):
            raise ConfigError(f"{type(augmentation).__name__} cannot augment an image with its mask; use volume views")
        self.classes = tuple(classes)
        self.deep_supervision, self.batch_dice, self.voxel_balance = deep_supervision, batch_dice, voxel_balance
        self.single_frames, self.crop, self.overlap, self.mirror = single_frames, crop, overlap, mirror
        self.decoder = Decoder(encoder, len(classes), channels=decoder_channels, deep_supervision=deep_supervision)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) → logits (B, K, *size)."""
        levels: list[Tensor] = self.decoder(x, self.encode(x).maps)
        return levels[0]

    def criterion(self, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Dice + cross-entropy at full resolution, and at coarser levels under deep supervision.

        Args:
            x: (B, C, *size).
            target: (B, 1, *size) class indices.
        """
        levels: list[Tensor] = self.decoder(x, self.encode(x).maps)
        weights, balance = [0.5**i for i in range(len(levels))], self._balance()
        total = x.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        with torch.autocast(x.device.type, enabled=False):
            for logits, weight in zip(levels, weights, strict=True):
                labels = _at_size(target, logits.shape[2:])
                if self.single_frames:
                    logits, labels = _annotated(logits, labels)
                dice, cross_entropy = dice_and_cross_entropy(
                    logits.float(), labels, batch_dice=self.batch_dice, voxel_balance=balance
                )
                total = total + (dice + cross_entropy) * (weight / sum(weights))
                if not parts:  # the full-resolution level
                    parts = {"dice_loss": dice.detach(), "cross_entropy": cross_entropy.detach()}
        return total, parts

    def _balance(self) -> float:
        if self._trainer is None or self.trainer.max_steps < 1:
            return 0.0
        return self.voxel_balance * max(0.0, 1.0 - self.trainer.global_step / self.trainer.max_steps)

    def augment(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The same spatial change for image and mask."""
        return cast(_PairAugmenting, self.augmentation).augment_pair(x, target, self.generator)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, K, *size), summing to 1 over K, float32."""
        return logits.float().softmax(1)

    @torch.inference_mode()
    def predict_volume(
        self,
        image: Tensor,
        *,
        size: Sequence[int] | None = None,
        overlap: float | None = None,
        batch: int = 4,
        fill: float | None = None,
    ) -> Tensor:
        """Class probabilities of a whole volume of any size, from Gaussian-weighted overlapping windows.

        Volumes smaller than the window are padded and cropped back. The module should be in evaluation mode.

        Args:
            image: (C, *spatial), network input.
            size: window; None takes the head's ``crop``.
            overlap: None takes the head's.
            batch: windows a forward pass.
            fill: what stands outside a volume; should be what training crops were padded with. None takes the image's
                minimum.

        Returns:
            (K, *spatial), float32; on the CPU where the result would be large.

        Raises:
            ConfigError: no window size known, or one that the encoder cannot take.
        """
        window = tuple(size or self.crop or ())
        if not window:
            raise ConfigError("predict_volume needs a window: build the head with crop=..., or give size=...")
        self.encoder.check_input(image.shape[0], window)
        from monai.inferers.utils import sliding_window_inference

        large = len(self.classes) * math.prod(image.shape[1:]) > CPU_ABOVE
        result = sliding_window_inference(
            image.unsqueeze(0),
            roi_size=window,
            sw_batch_size=batch,
            predictor=self._window_probabilities,
            overlap=self.overlap if overlap is None else overlap,
            mode="gaussian",
            padding_mode="constant",
            cval=float(image.min()) if fill is None else fill,
            sw_device=self.device,
            device=torch.device("cpu") if large else self.device,
        )
        return cast(Tensor, result)[0]

    def _window_probabilities(self, x: Tensor) -> Tensor:
        if not self.mirror:
            return self.probabilities(self(x))
        axes = range(2, x.ndim)
        subsets = [[a for a in axes if code >> (a - 2) & 1] for code in range(2 ** len(axes))]
        total = sum(self.probabilities(self(x.flip(s))).flip(s) for s in subsets)
        return cast(Tensor, total) / len(subsets)


def _annotated(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The annotated frames of clips: logits (B, K, T, H, W) and labels (B, T, H, W) → (N, K, H, W) and (N, H, W)."""
    known = (labels != UNKNOWN).flatten(2).any(2)
    return logits.transpose(1, 2)[known], labels[known]


def _at_size(target: Tensor, size: Sequence[int]) -> Tensor:
    """Class indices (B, 1, *spatial) at another size, by nearest neighbour, as (B, *size) int64."""
    if tuple(target.shape[2:]) != tuple(size):
        target = F.interpolate(target.float(), size=tuple(size), mode="nearest-exact")
    return target[:, 0].long()
