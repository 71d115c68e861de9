"""VoCo: learn where things are in the body, by telling where a random crop lies among crops that tile the volume."""

from __future__ import annotations

from typing import Literal

from medssl.encoders.base import Encoder
from medssl.methods.base import Losses
from medssl.methods.position_contrast import Extent, PositionContrast, Size, Variant, embedded
from medssl.optim import Optim
from medssl.views.base import Batch

__all__ = ["VoCo"]


class VoCo(PositionContrast):
    """Volume contrast (VoCo, CVPR 2024): the overlap of random crops with base crops, from embeddings alone.

    A window of ``grid * crop`` voxels is cut into n base crops. The rectified cosine similarity of a random crop to
    each base must equal the share of the crop that lies in it, and the bases must differ from each other. Works for
    every kind of volume whose recordings share a rough pose.

    Shapes: one pass of N = B (crops + n) rows (C, *size); embeddings (N, projector out); labels (B, crops, n).

    Args:
        encoder: a volume encoder; its stage maps are averaged and concatenated (of SwinUNETR those that the released
            code takes).
        crop: size of all crops in voxels (z, y, x).
        grid: base crops along z, y, x.
        crops: random crops a volume.
        crop_mm: extent (z, y, x) of a crop that is read and resized to ``crop``, for cohorts whose volumes keep their
            own spacing; None reads ``crop`` voxels.
        variant: ``"cvpr"`` one network, bases constant in the prediction; ``"v1"`` a second network as moving-average
            teacher (released code 1); ``"v2"`` a teacher for the projection head only, and agreement across volumes
            (released code 2); ``"paper"`` the equations as printed.
        fit: ``"crop"`` reads one window of the volume; ``"resize"`` fits the whole body into the window, so that a
            cell of the grid is the same region in every patient.
        encoder_size: size to which crops are resized for the encoder; None keeps them.
        projector: hidden and output features of the projection head.
        mask_empty_bases: leave crops with less than 1 % foreground out of the loss (padding, air).
        teacher_momentum: of the moving average, v1 and v2.
        feature_dropout: share of encoder features dropped before the student's head, v2.
        reference_row_dropout: drop whole rows instead, as the released code does by accident.
        flip: probability of a flip, for each axis.
        turn: probability of a turn by 90°, 180° or 270° in the (y, x) plane; by 180° only where y and x differ.
        shift: largest intensity shift, as a share of the input range.
        shift_probability: of a shift.
        optim: optimiser settings.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        crop: Size = (64, 64, 64),
        grid: Size = (1, 3, 3),
        crops: int = 2,
        crop_mm: Extent | None = None,
        variant: Variant = "cvpr",
        fit: Literal["crop", "resize"] = "crop",
        encoder_size: Size | None = None,
        projector: tuple[int, int] = (1024, 1024),
        mask_empty_bases: bool = True,
        teacher_momentum: float = 0.9,
        feature_dropout: float = 0.0,
        reference_row_dropout: bool = False,
        flip: float = 0.2,
        turn: float = 0.2,
        shift: float = 0.1,
        shift_probability: float = 0.5,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(
            encoder, crop=crop, grid=grid, crops=crops, crop_mm=crop_mm, variant=variant, fit=fit,
            encoder_size=encoder_size, projector=projector, mask_empty_bases=mask_empty_bases,
            teacher_momentum=teacher_momentum, feature_dropout=feature_dropout,
            reference_row_dropout=reference_row_dropout, flip=flip, turn=turn, shift=shift,
            shift_probability=shift_probability, optim=optim,
        )  # fmt: skip

    def loss(self, batch: Batch) -> Losses:
        """Prediction of positions, separation of bases, and for v2 agreement across volumes."""
        crops = self.cut(batch)
        rows, _ = self.augment(crops.rows, crops.spans)
        return self.contrast(crops, rows, embedded(self.encoder, self.encoder(rows)))
