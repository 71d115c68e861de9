"""Dense learning: any encoder, any views, objectives on the cells of feature maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.joint import JointEmbedding, Momentum, SamePatient
from medssl.methods.patch_decoder import PatchDecoder, hidden_l1
from medssl.methods.projectors import MLPHead
from medssl.objectives.base import Family, LossOutput, Objective
from medssl.objectives.cotap import CoTAP
from medssl.objectives.foreground import pooled_cells
from medssl.optim import Optim
from medssl.views.base import Batch, Views
from medssl.views.corruption import apply_corruption, draw_corruption, enlarged

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo

__all__ = ["CellHead", "Dense"]

DECODER_WIDTH = 256


class CellHead(nn.Module):
    """A projection head on every cell of a map, after averaging long maps: (N, D, *grid) → (N, out, *smaller).

    Args:
        width: D.
        hidden: features of the layers between.
        out: features out.
        cells: most cells along an axis.
    """

    def __init__(self, width: int, hidden: int, out: int, *, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.head = MLPHead(width, hidden, out, layers=3, activation="gelu")

    def forward(self, maps: Tensor) -> Tensor:
        """See above."""
        cells = pooled_cells(maps, self.cells).movedim(1, -1)
        projected: Tensor = self.head(cells.flatten(0, -2)).unflatten(0, cells.shape[:-1])
        return projected.movedim(-1, 1)


class Dense(JointEmbedding):
    """Dense learning (CoTAP, TPAMI 2025; MMC, 2023): what is where in a recording, for segmentation and detection.

    A slow teacher sees each crop or window without changes of intensity, the student with them, cell by cell in the
    same place; where the objective hides cells, the student sees noise, zeros or another recording there.

    Shapes: views (V, B, C, *size) → map (V, B, D, *grid) → objective.

    Args:
        encoder: what is trained; its feature maps are projected cell by cell.
        views: how windows or crops are drawn and augmented.
        objective: loss on maps, of the dense family; CoTAP by default.
        projector: hidden and output features of the projection head.
        level: which of the encoder's maps, counted from fine to coarse (-1: the coarsest); coarser ones are enlarged
            to it and joined, so that all of the encoder is trained.
        cells: most cells along an axis; finer maps are averaged.
        momentum: of the teacher, rising to 1; ``auto`` as the objective was published.
        hidden: smallest and largest share of hidden cells, for objectives that hide some.
        reach: size of hidden groups: standard deviation in cells.
        same_patient: recordings of one patient in a batch are ``"ignore"``: no neighbours or negatives of each other;
            ``"negative"``: treated like any other.
        optim: optimiser settings.
    """

    family: ClassVar[Family] = "dense"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        objective: Objective | None = None,
        projector: tuple[int, int] = (512, 128),
        level: int = -1,
        cells: int = 16,
        momentum: Momentum = "auto",
        hidden: tuple[float, float] = (0.3, 0.7),
        reach: float = 1.0,
        same_patient: SamePatient = "ignore",
        optim: Optim | None = None,
    ) -> None:
        if not -len(encoder.channels) <= level < len(encoder.channels):
            raise ConfigError(
                f"Dense takes one of the {len(encoder.channels)} maps of {type(encoder).__name__}, -1 the coarsest; "
                f"there is no level {level}"
            )
        if not 0 < hidden[0] <= hidden[1] < 1 or cells < 1 or reach < 0:
            raise ConfigError(
                f"Dense hides shares between 0 and 1, of 1 or more cells, with a reach of 0 or more; not {hidden}, "
                f"{cells} and {reach}"
            )
        self.level = level % len(encoder.channels)
        width, (middle, out) = sum(encoder.channels[self.level :]), projector
        super().__init__(
            encoder, views, objective or CoTAP(), head=CellHead(width, middle, out, cells=cells), width=out,
            momentum=momentum, same_patient=same_patient, optim=optim,
        )  # fmt: skip
        if self.momentum == 0:
            raise ConfigError("Dense needs a teacher; set momentum above 0, or auto")
        self.hidden, self.reach = hidden, reach
        self.reconstruction = float(getattr(self.objective, "reconstruction", 0.0))
        if self.reconstruction:
            self.decoder = PatchDecoder(
                width, hidden=DECODER_WIDTH, channels=encoder.in_channels, patch=encoder.strides[self.level]
            )

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``; a map of a single cell has no places to compare."""
        super().check(info)
        stride = self.encoder.strides[self.level]
        if math.prod(-(-size // step) for size, step in zip(self.input_size, stride, strict=True)) < 2:
            raise ConfigError(
                f"{type(self.encoder).__name__} makes a single cell of a size of {self.input_size}, so there are no "
                "places to compare; enlarge the views' size, or choose a finer level"
            )

    def loss(self, batch: Batch) -> Losses:
        """The teacher's maps of clean views, the student's of augmented ones with parts hidden, and the objective."""
        self._refuse_few(batch)
        augmented, clean = self.views.aligned(batch, self.generator)
        lead, rows = augmented.shape[:2], augmented.flatten(0, 1)
        targets = self.teach(clean.flatten(0, 1))
        extra: dict[str, Any] = {"targets": targets.unflatten(0, lead)}
        shown = rows
        if "mask" in self.objective.needs:
            corruption = draw_corruption(
                len(rows), targets.shape[2:], self.generator, ratio=self.hidden, reach=self.reach, samples=lead[1]
            )
            shown = apply_corruption(rows, corruption)
            extra["mask"] = corruption["hidden"].unflatten(0, lead)
        maps = self._maps(self.encoder, shown)
        embedded = self.projector(maps).float()
        output = self.output(embedded.unflatten(0, lead), augmented, {**batch, **extra})
        total, terms = output.loss, {k: v.detach() for k, v in output.logs.items()}
        if self.reconstruction and "mask" in extra:
            found = self.decoder(maps, self.input_size).float()
            term = hidden_l1(found, rows, enlarged(extra["mask"].flatten(0, 1), self.input_size))
            total, terms = total + self.reconstruction * term, {**terms, "reconstruction": term.detach()}
        return Losses(total, terms, embedded.detach().flatten(2).mean(-1))

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``; the batch has ``targets`` of the teacher and a ``mask``."""
        output: LossOutput = self.objective(
            embeddings, **self.given(batch, targets=batch["targets"], mask=batch.get("mask"))
        )
        return output

    def embed(self, rows: Tensor) -> Tensor:
        """(N, C, *size) → (N, D, *grid), float32."""
        embedded: Tensor = self.projector(self._maps(self.encoder, rows))
        return embedded.float()

    @torch.no_grad()
    def teach(self, rows: Tensor) -> Tensor:
        """What the teacher says of rows (N, C, *size): (N, D, *grid), float32."""
        embedded: Tensor = self.teacher_projector(self._maps(self.teacher_encoder, rows))
        return embedded.float()

    def _maps(self, encoder: nn.Module, rows: Tensor) -> Tensor:
        """The map of the chosen level, and coarser ones enlarged to it: (N, sum of channels, *grid)."""
        finest, *coarser = encoder(rows).maps[self.level :]
        size = finest.shape[2:]
        return torch.cat([finest, *(functional.interpolate(m, size=size, mode="nearest") for m in coarser)], 1)
