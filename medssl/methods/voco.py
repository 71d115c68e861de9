"""VoCo: learn where things are in the body, by telling where a random crop lies among crops that tile the volume."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, mean_pool
from medssl.errors import ConfigError
from medssl.methods.base import Losses, Method
from medssl.methods.projectors import ProjectionHead, dropout
from medssl.methods.teacher import ema_update, frozen
from medssl.objectives import voco
from medssl.objectives.base import full_precision
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input
from medssl.views.crops import cut_bases, cut_crops, foreground_share
from medssl.views.dihedral import apply_dihedral, draw_dihedral
from medssl.views.placement import background_input, foreground_box, window_start
from medssl.views.resized import read_resized

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["VoCo"]

Size = tuple[int, int, int]
FOREGROUND = 0.01  # share of voxels below which a crop counts as empty, and of the input range that counts as signal


class _Crops(NamedTuple):
    """Rows of one network pass, and what is known of them."""

    rows: Tensor  # (B·sw + B·n, C, *size): crops, then bases, volume-major
    labels: Tensor  # (B, sw, n)
    crop_filled: Tensor  # (B, sw)
    base_filled: Tensor  # (B, n)


class VoCo(Method):
    """Volume contrast (VoCo, CVPR 2024): the overlap of random crops with base crops, from embeddings alone.

    A window of ``grid * crop`` voxels is cut into n base crops. The rectified cosine similarity of a random crop to
    each base must equal the share of the crop that lies in it, and the bases must differ from each other. Works for
    every kind of volume whose recordings share a rough pose.

    Shapes: one pass of N = B (crops + n) rows (C, *size); embeddings (N, projector out); labels (B, crops, n).

    Args:
        encoder: a volume encoder; its stage maps are averaged and concatenated.
        crop: size of all crops in voxels (z, y, x).
        grid: base crops along z, y, x.
        crops: random crops a volume.
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
        turn: probability of a turn by 90°, 180° or 270° in the (y, x) plane.
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
        variant: Literal["cvpr", "v1", "v2", "paper"] = "cvpr",
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
        super().__init__(encoder, optim or Optim(lr=1e-4, weight_decay=0.01))
        self.crop, self.grid = _size("crop", crop), _size("grid", grid)
        self.crops, self.variant, self.fit = crops, variant, fit
        self.encoder_size = None if encoder_size is None else _size("encoder_size", encoder_size)
        self.mask_empty_bases = mask_empty_bases
        self.teacher_momentum = teacher_momentum
        self.feature_dropout, self.reference_row_dropout = feature_dropout, reference_row_dropout
        self.flip, self.turn, self.shift, self.shift_probability = flip, turn, shift, shift_probability
        self.n_bases = math.prod(self.grid)
        if self.n_bases < 2 or crops < 1:
            raise ConfigError(f"VoCo needs a grid of at least 2 base crops and 1 random crop, not {grid} and {crops}")
        width, (hidden, out) = sum(encoder.channels), projector
        self.head = ProjectionHead(width, hidden=hidden, out=out)
        if variant in ("v1", "v2"):
            # drawn anew, not copied: the published teachers start independently of their students
            self.teacher_head = frozen(ProjectionHead(width, hidden=hidden, out=out))
        if variant == "v1":
            self.teacher_encoder = frozen(build(spec(encoder), Encoder))  # type: ignore[type-abstract]

    @property
    def input_size(self) -> tuple[int, ...]:
        """Size of the crops that the encoder sees."""
        return self.encoder_size or self.crop

    @property
    def window(self) -> Size:
        """Size of what is read of a volume: the grid of base crops."""
        z, y, x = (g * c for g, c in zip(self.grid, self.crop, strict=True))
        return z, y, x

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: volumes only."""
        if info.kind != "volume":
            raise ConfigError(f"VoCo tells positions in volumes; this cohort holds {info.kind}s: use Contrastive")
        super().check(info)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """One window and the places of the random crops in it.

        Returns:
            ``x`` (1, C, *window) stored integers, ``starts`` (crops, 3), ``background`` (C,), and the input fields.
        """
        first, stop = foreground_box(reader)
        if self.fit == "resize":
            x = read_resized(reader, first.tolist(), (stop - first).tolist(), self.window)
        else:
            start = window_start(reader.shape, self.window, (first, stop), rng)
            x = reader.read(start.tolist(), self.window)
        highest = np.array([(g - 1) * c for g, c in zip(self.grid, self.crop, strict=True)])
        fields = reader.input_fields()
        return {
            **fields,
            "x": x[None],
            "starts": rng.integers(0, highest + 1, (self.crops, 3)),
            "background": background_input(reader, fields),
        }

    def loss(self, batch: Batch) -> Losses:
        """Prediction of positions, separation of bases, and for v2 agreement across volumes."""
        crops = self._crops(batch)
        student, teacher = self._embed(crops.rows)
        with full_precision(student.device):
            total, terms = self._terms(crops, student.float(), None if teacher is None else teacher.float())
        return Losses(total, {k: v.detach() for k, v in terms.items()}, student.detach())

    def _crops(self, batch: Batch) -> _Crops:
        window = to_input(batch["x"], batch)[:, 0]
        starts = batch["starts"]
        crops = cut_crops(window, starts, self.crop)
        bases = cut_bases(window, self.crop, self.grid)
        tolerance = FOREGROUND * (batch["input_range"][:, 1] - batch["input_range"][:, 0]).float()
        filled = [
            foreground_share(c, batch["background"].float(), tolerance) >= FOREGROUND
            if self.mask_empty_bases
            else torch.ones(c.shape[:2], dtype=torch.bool, device=c.device)
            for c in (crops.unflatten(0, (len(window), self.crops)), bases)
        ]
        rows = torch.cat([crops, bases.flatten(0, 1)])
        if self.encoder_size is not None:
            rows = functional.interpolate(rows, size=self.encoder_size, mode="trilinear", align_corners=True)
        span = (batch["input_range"][:, 1] - batch["input_range"][:, 0]).float()
        spans = torch.cat([span.repeat_interleave(self.crops), span.repeat_interleave(self.n_bases)])
        labels = voco.overlap_labels(starts, self.crop, self.grid)
        return _Crops(self._augment(rows, spans), labels * filled[0].unsqueeze(-1), filled[0], filled[1])

    def _augment(self, rows: Tensor, spans: Tensor) -> Tensor:
        """Flips, quarter turns and shifts, each row for itself. Flipped crops keep their labels, as published."""
        n, g = len(rows), self.generator
        square = rows.shape[-1] == rows.shape[-2]
        rows = apply_dihedral(rows, **draw_dihedral(n, g, flip=(self.flip,) * 3, turn=self.turn, square=square))
        shifted = torch.rand(n, generator=g, device=rows.device) < self.shift_probability
        amount = (2 * torch.rand(n, generator=g, device=rows.device) - 1) * self.shift * spans
        return rows + torch.where(shifted, amount, 0.0).view(-1, 1, 1, 1, 1)

    def _embed(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, D) of the student, and of the teacher where the variant has one."""
        features = _pooled(self.encoder, rows)
        dropped = features
        if self.variant == "v2" and self.training:
            dropped = dropout(features, self.feature_dropout, self.generator, rows=self.reference_row_dropout)
        student: Tensor = self.head(dropped)
        if self.variant not in ("v1", "v2"):
            return student, None
        if self.training:
            ema_update(self.teacher_head, self.head, self.teacher_momentum)
        with torch.no_grad():
            if self.variant == "v1":
                if self.training:
                    ema_update(self.teacher_encoder, self.encoder, self.teacher_momentum)
                features = _pooled(self.teacher_encoder, rows)
            teacher: Tensor = self.teacher_head(features)
        return student, teacher

    def _terms(self, crops: _Crops, student: Tensor, teacher: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise and its named parts, each a mean over the volumes."""
        x, q = self._split(student)
        labels, valid = crops.labels, crops.crop_filled.unsqueeze(-1) & crops.base_filled.unsqueeze(-2)
        terms: dict[str, Tensor] = {}
        if teacher is None:
            logits = voco.position_similarity(x, q.detach())
        else:
            x_teacher, q_teacher = self._split(teacher)
            logits = voco.position_similarity(x, q_teacher)
            if self.variant == "v1":
                logits = 0.5 * (logits + voco.position_similarity(x_teacher, q))
        if self.variant == "v2":
            terms["intra"] = voco.prediction_v2(logits, labels, valid).mean()
            if len(x) > 1:  # alone, a volume would only be compared with itself
                across = crops.crop_filled.unsqueeze(-1) & crops.base_filled.roll(-1, 0).unsqueeze(-2)
                terms["inter"] = voco.intervolume(x, q, x_teacher, q_teacher, across).mean()
        elif self.variant == "paper":
            terms["prediction"] = voco.prediction_paper(logits, labels, valid).mean()
        else:
            pos, neg = voco.prediction_v1(logits, labels, valid)
            terms |= {"pos": pos.mean(), "neg": neg.mean()}
        printed = self.variant == "paper"
        regular = voco.regularisation(
            q, squared=not printed, rectified=not printed, detach_later=not printed, valid=crops.base_filled
        )
        terms["reg"] = regular.mean()
        total = torch.stack(list(terms.values())).sum()
        terms["position_accuracy"] = voco.position_accuracy(logits, labels, crops.crop_filled)
        terms["position_chance"] = torch.tensor(voco.position_chance(self.grid), device=total.device)
        terms["empty_bases"] = 1 - crops.base_filled.float().mean()
        return total, terms

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) → crops (B, sw, D) and bases (B, n, D)."""
        batch = len(rows) // (self.crops + self.n_bases)
        crops, bases = rows.split([batch * self.crops, batch * self.n_bases])
        return crops.unflatten(0, (batch, self.crops)), bases.unflatten(0, (batch, self.n_bases))


def _pooled(encoder: torch.nn.Module, rows: Tensor) -> Tensor:
    """Averages of all stage maps, concatenated: (N, sum of channels)."""
    return torch.cat([mean_pool(m) for m in encoder(rows).maps], dim=1)


def _size(name: str, values: tuple[int, ...]) -> Size:
    if len(values) != 3 or any(v < 1 for v in values):
        raise ConfigError(f"VoCo's {name} must be three positive numbers (z, y, x), not {tuple(values)}")
    z, y, x = (int(v) for v in values)
    return z, y, x
