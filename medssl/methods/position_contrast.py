"""What VoCo and its omni-supervised stage share: a window and its crops, projection heads, the loss of positions."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.errors import ConfigError
from medssl.methods.base import Losses, Method, Readable
from medssl.methods.projectors import ProjectionHead, dropout
from medssl.methods.teacher import ema_update, frozen
from medssl.objectives import voco
from medssl.objectives.base import full_precision
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input
from medssl.views.crops import cut_bases, cut_crops, foreground_share
from medssl.views.dihedral import apply_dihedral, draw_dihedral
from medssl.views.placement import background_input, covered, foreground_box, window_start
from medssl.views.resized import read_fitted

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["Crops", "Extent", "PositionContrast", "Positions", "Size", "Variant", "embedded", "positive_size"]

Size = tuple[int, int, int]
Extent = tuple[float, float, float]
Variant = Literal["cvpr", "v1", "v2", "paper"]
FOREGROUND = 0.01  # share of voxels below which a crop counts as empty, and of the input range that counts as signal


class Crops(NamedTuple):
    """Rows of one network pass before augmentation, and what is known of them."""

    rows: Tensor  # (B·sw + B·n, C, *size): crops, then bases, volume-major
    spans: Tensor  # (B·sw + B·n,): width of the input range
    labels: Tensor  # (B, sw, n)
    crop_filled: Tensor  # (B, sw)
    base_filled: Tensor  # (B, n)


class Positions(NamedTuple):
    """What a network says of where crops lie, and the truth.

    Attributes:
        similarity: (B, sw, n) of every crop to every base, in [0, 1].
        labels: (B, sw, n) share of the crop in the base.
        counted: (B, sw) booleans: crops that show something.
    """

    similarity: Tensor
    labels: Tensor
    counted: Tensor


class PositionContrast(Method):
    """A window cut into base crops, random crops in it, and the loss that ties their embeddings to their overlap.

    Shapes: one pass of N = B (crops + n) rows (C, *size); embeddings (N, projector out); labels (B, crops, n).

    Args:
        encoder, crop, grid, crops, crop_mm, fit, encoder_size, projector, mask_empty_bases, teacher_momentum,
            feature_dropout, reference_row_dropout, flip, turn, shift, shift_probability, optim: see ``VoCo``.
        variant: see ``VoCo``; None for a method without heads, which only wants crops.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        crop: Size,
        grid: Size,
        crops: int,
        variant: Variant | None,
        crop_mm: Extent | None = None,
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
        self.crop, self.grid = positive_size("crop", crop), positive_size("grid", grid)
        self.crops, self.variant, self.fit = crops, variant, fit
        self.crop_mm = _extent(crop_mm, fit)
        self.encoder_size = None if encoder_size is None else positive_size("encoder_size", encoder_size)
        self.mask_empty_bases = mask_empty_bases
        self.teacher_momentum = teacher_momentum
        self.feature_dropout, self.reference_row_dropout = feature_dropout, reference_row_dropout
        self.flip, self.turn, self.shift, self.shift_probability = flip, turn, shift, shift_probability
        self.n_bases = math.prod(self.grid)
        if self.n_bases < 2 or crops < 1:
            raise ConfigError(
                f"VoCo needs a grid of at least 2 base crops and 1 random crop, not {tuple(grid)} and {crops}"
            )
        if variant is not None:
            self._build_heads(*projector)

    def _build_heads(self, hidden: int, out: int) -> None:
        width = sum(self.encoder.channels[i] for i in self.encoder.described_by)
        self.head = ProjectionHead(width, hidden=hidden, out=out)
        if self.variant in ("v1", "v2"):
            # drawn anew, not copied: the published teachers start independently of their students
            self.teacher_head = frozen(ProjectionHead(width, hidden=hidden, out=out))
        if self.variant == "v1":
            self.teacher_encoder = frozen(build(spec(self.encoder), Encoder))  # type: ignore[type-abstract]

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

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``; says so where a term of the loss has nothing to compare."""
        if self.variant == "v2" and batch < 2:
            print(
                "v2 also compares the volumes of a batch; with one volume a batch that term is left out "
                "(set trainer.batch_size to 2 or more)",
                file=sys.stderr,
            )

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """One window and the places of the random crops in it.

        Returns:
            ``x`` (1, C, *window) stored integers, ``starts`` (crops, 3), ``background`` (C,), and the input fields.
        """
        first, stop = foreground_box(reader)
        if self.fit == "resize":
            start, extent = first, tuple((stop - first).tolist())
        else:
            whole = self.crop_mm and [g * mm for g, mm in zip(self.grid, self.crop_mm, strict=True)]
            extent = covered(reader, self.window, whole)
            start = window_start(reader.shape, extent, (first, stop), rng)
        highest = np.array([(g - 1) * c for g, c in zip(self.grid, self.crop, strict=True)])
        fields = reader.input_fields()
        return {
            **fields,
            "x": read_fitted(reader, start.tolist(), extent, self.window)[None],
            "starts": rng.integers(0, highest + 1, (self.crops, 3)),
            "background": background_input(reader, fields),
        }

    def cut(self, batch: Batch) -> Crops:
        """Crops and bases of a batch, at the size that the encoder takes, not augmented."""
        window = to_input(batch["x"], batch)[:, 0]
        starts = batch["starts"]
        crops = cut_crops(window, starts, self.crop)
        bases = cut_bases(window, self.crop, self.grid)
        span = (batch["input_range"][:, 1] - batch["input_range"][:, 0]).float()
        filled = [
            foreground_share(c, batch["background"].float(), FOREGROUND * span) >= FOREGROUND
            if self.mask_empty_bases
            else torch.ones(c.shape[:2], dtype=torch.bool, device=c.device)
            for c in (crops.unflatten(0, (len(window), self.crops)), bases)
        ]
        rows = torch.cat([crops, bases.flatten(0, 1)])
        if self.encoder_size is not None:
            rows = functional.interpolate(rows, size=self.encoder_size, mode="trilinear", align_corners=True)
        spans = torch.cat([span.repeat_interleave(self.crops), span.repeat_interleave(self.n_bases)])
        labels = voco.overlap_labels(starts, self.crop, self.grid)
        return Crops(rows, spans, labels * filled[0].unsqueeze(-1), filled[0], filled[1])

    def augment(
        self, rows: Tensor, spans: Tensor, *, probability: float | None = None, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Flips, quarter turns and shifts, each row for itself. Flipped crops keep their labels, as published.

        Args:
            rows: (N, C, *size).
            spans: (N,) width of the input range.
            probability: of a shift; None for that of the method.
            masks: (N, 1, *size), flipped and turned like their rows.
        """
        n, g = len(rows), self.generator
        turned = draw_dihedral(n, g, flip=(self.flip,) * 3, turn=self.turn, square=self._square)
        rows, masks = apply_dihedral(rows, **turned), None if masks is None else apply_dihedral(masks, **turned)
        chance = self.shift_probability if probability is None else probability
        shifted = torch.rand(n, generator=g, device=rows.device) < chance
        amount = (2 * torch.rand(n, generator=g, device=rows.device) - 1) * self.shift * spans
        return rows + torch.where(shifted, amount, 0.0).view(-1, 1, 1, 1, 1), masks

    @property
    def _square(self) -> bool:
        """Whether a quarter turn in the (y, x) plane keeps size and scale."""
        _, y, x = self.input_size
        return y == x and (self.crop_mm is None or math.isclose(self.crop_mm[1], self.crop_mm[2]))

    def contrast(self, crops: Crops, rows: Tensor, features: Tensor) -> Losses:
        """Prediction of positions, separation of bases, and for v2 agreement across volumes.

        Args:
            crops: of the batch.
            rows: (N, C, *size) what the encoder saw of them.
            features: (N, D) what it made of it, see ``embedded``.
        """
        student, teacher = self._project(rows, features)
        with full_precision(student.device):
            total, terms = self._terms(crops, student.float(), None if teacher is None else teacher.float())
        return Losses(total, {k: v.detach() for k, v in terms.items()}, student.detach())

    @torch.no_grad()
    def positions(self, batch: Batch) -> Positions:
        """What the network says of where the random crops of a batch lie, without augmentation.

        Meant for evaluation mode. The heads centre over the batch, so it should be as large as in training.
        """
        crops = self.cut(batch)
        student, teacher = self._project(crops.rows, embedded(self.encoder, self.encoder(crops.rows)))
        with full_precision(student.device):
            similarity = self._similarity(self._split(student.float()), teacher)
        return Positions(similarity, crops.labels, crops.crop_filled)

    def _project(self, rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, D) of the student, and of the teacher where the variant has one."""
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
                features = embedded(self.encoder, self.teacher_encoder(rows))
            teacher: Tensor = self.teacher_head(features)
        return student, teacher

    def _similarity(self, student: tuple[Tensor, Tensor], teacher: Tensor | None) -> Tensor:
        """(B, sw, n) of crops to bases, as the variant compares them."""
        x, q = student
        if teacher is None:
            return voco.position_similarity(x, q.detach())
        x_teacher, q_teacher = self._split(teacher.float())
        similarity = voco.position_similarity(x, q_teacher)
        if self.variant == "v1":
            return 0.5 * (similarity + voco.position_similarity(x_teacher, q))
        return similarity

    def _terms(self, crops: Crops, student: Tensor, teacher: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise and its named parts, each a mean over the volumes."""
        x, q = self._split(student)
        labels, valid = crops.labels, crops.crop_filled.unsqueeze(-1) & crops.base_filled.unsqueeze(-2)
        terms: dict[str, Tensor] = {}
        logits = self._similarity((x, q), teacher)
        if self.variant == "v2":
            assert teacher is not None
            terms["intra"] = voco.prediction_v2(logits, labels, valid).mean()
            if len(x) > 1:  # alone, a volume would only be compared with itself
                across = crops.crop_filled.unsqueeze(-1) & crops.base_filled.roll(-1, 0).unsqueeze(-2)
                terms["inter"] = voco.intervolume(x, q, *self._split(teacher), across).mean()
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


def embedded(encoder: Encoder, features: Features) -> Tensor:
    """Averages of the maps that describe an input, concatenated: (N, sum of their channels)."""
    return torch.cat([mean_pool(features.maps[i]) for i in encoder.described_by], dim=1)


def positive_size(name: str, values: tuple[int, ...]) -> Size:
    """Three positive numbers (z, y, x).

    Raises:
        ConfigError: something else.
    """
    if len(values) != 3 or any(v < 1 for v in values):
        raise ConfigError(f"VoCo's {name} must be three positive numbers (z, y, x), not {tuple(values)}")
    z, y, x = (int(v) for v in values)
    return z, y, x


def _extent(values: Extent | None, fit: str) -> Extent | None:
    if values is None:
        return None
    if len(values) != 3 or any(v <= 0 for v in values):
        raise ConfigError(f"VoCo's crop_mm must be three positive numbers (z, y, x), not {tuple(values)}")
    if fit == "resize":
        raise ConfigError("VoCo's crop_mm sets the scale, and so does fit: resize; leave one of the two out")
    z, y, x = (float(v) for v in values)
    return z, y, x
