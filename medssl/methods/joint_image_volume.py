"""Joint learning of images and volumes with one 2-D encoder: clusters of slices and of volumes, masked slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.slice_transformer import SliceTransformer
from medssl.errors import ConfigError
from medssl.methods.base import Losses, Method, Readable
from medssl.methods.projectors import MLPHead
from medssl.methods.teacher import frozen
from medssl.objectives.base import LossOutput, Objective, full_precision
from medssl.objectives.joint_image_volume import draw_masked_slices, hide_slices, masked_slice_loss
from medssl.objectives.pairs import unit
from medssl.objectives.swav import SwAV
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input
from medssl.views.slices import draw_single_transforms, one_of_each_part, read_slices, spread_slices
from medssl.views.volume_augment import VolumeAugmentation, apply_intensity, apply_spatial, draw_parameters

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["JointImageVolume", "Stage"]

Stage = Literal["intra", "mask", "inter"]

CROWD = 4  # prototypes a row of the assignment, at most: with more of them, assignments are mostly arbitrary

SLICES = VolumeAugmentation(
    flip=(0.0, 0.5, 0.5), affine=0.8, rotation_deg=(30.0, 0.0, 0.0), scale=(0.7, 1.6), blur=0.3, blur_sd=(0.5, 1.5),
    noise=0.3, brightness=0.3, contrast=0.3, gamma=0.5,
)  # fmt: skip


class JointImageVolume(Method):
    """Joint images and volumes (Nguyen et al., AAAI 2023): one 2-D encoder, clusters of slices and of whole volumes.

    Stages, each of which starts from the run before it (`--init-from RUN`). *Intra*: two views of a slice predict each
    other's cluster. *Mask*: a small transformer tells hidden slices from the others; the 2-D encoder stays as it is.
    *Inter*: two views of a volume predict each other's cluster, from the vector that the transformer makes of all
    slices; everything is trained. Or *joint*: intra and inter at once, on the slices and volumes of one batch.

    Images are volumes of one slice. What is exported is a volume encoder, ``SliceTransformer``, in which the 2-D
    encoder is ``encoder``.

    Shapes: volumes (B, C, n, Y, X) → slice vectors (B, n, D) → volume vectors (B, D).

    Args:
        encoder: of images (``dims`` 2), or a ``SliceTransformer`` that holds one, which then says widths and layers.
        size: slices of a volume and their plane (z, y, x). Thicker volumes give evenly spaced slices; the slices that
            thinner ones lack are left out everywhere.
        mode: ``"staged"`` or ``"joint"``.
        stage: of staged training.
        intra: objective on slices, SwAV or DeepCluster.
        inter: objective on volumes, SwAV or DeepCluster.
        intra_slices: slices of a volume that the objective on slices sees, one of each of as many equal parts; 1 for
            images.
        projector: hidden and output features of the projection head on slice vectors; volume vectors have none.
        mask_ratio: share of slices that is hidden.
        augmentation: of volumes; None gives each view one transform alone, another for each, as published.
        slice_augmentation: of slices.
        recompute: compute the features of slices once more in the backward pass, on some of them at a time, which takes
            less memory and more time.
        optim: optimiser settings.
    """

    encoder: SliceTransformer

    def __init__(
        self,
        encoder: Encoder,
        *,
        size: tuple[int, int, int] = (64, 128, 128),
        mode: Literal["staged", "joint"] = "staged",
        stage: Stage = "intra",
        intra: Objective | None = None,
        inter: Objective | None = None,
        intra_slices: int = 8,
        projector: tuple[int, int] = (512, 128),
        mask_ratio: float = 0.1,
        augmentation: VolumeAugmentation | None = None,
        slice_augmentation: VolumeAugmentation | None = None,
        recompute: bool = False,
        optim: Optim | None = None,
    ) -> None:
        parts: tuple[Stage, ...] = ("intra", "inter") if mode == "joint" else (stage,)
        super().__init__(_of_volumes(encoder, size[0], parts), optim or Optim(lr=1e-3, weight_decay=1e-4))
        if min(size) < 1 or intra_slices < 1 or not 0 < mask_ratio < 1:
            raise ConfigError(
                "JointImageVolume takes sizes and intra_slices of 1 or more and a mask_ratio between 0 and 1, not "
                f"{tuple(size)}, {intra_slices} and {mask_ratio}"
            )
        self.parts, self.size = parts, tuple(size)
        self.intra_slices, self.mask_ratio = intra_slices, mask_ratio
        self.augmentation, self.slice_augmentation = augmentation, slice_augmentation or SLICES
        self.recompute = recompute
        width = self.encoder.width
        if "intra" in self.parts:
            self.intra = _suitable("intra", intra or SwAV(prototypes=32, queue=256))
            self.intra.fit_width(projector[1])
            self.head = MLPHead(width, *projector, layers=2)
        if "inter" in self.parts:
            self.inter = _suitable("inter", inter or SwAV(prototypes=32, queue=256))
            self.inter.fit_width(width)
        if "mask" in self.parts:
            self.token = nn.Parameter(torch.randn(width))
            self.decoder = nn.Linear(width, width)
            frozen(self.encoder.encoder), frozen(self.encoder.projection)
        if self.parts == ("intra",):
            frozen(self.encoder.attention)
        self.train()

    @property
    def input_size(self) -> tuple[int, ...]:
        """Slices and their plane."""
        return self.size

    def train(self, mode: bool = True) -> JointImageVolume:
        """See ``nn.Module.train``; what a stage does not train stays in evaluation mode."""
        super().train(mode)
        if "mask" in self.parts:
            self.encoder.encoder.eval(), self.encoder.projection.eval()
        return self

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: volumes only, and others to tell them apart from."""
        if info.kind != "volume":
            raise ConfigError(
                f"JointImageVolume cuts volumes into slices; this cohort holds {info.kind}s: use Clustering"
            )
        if info.n_recordings == 1 and self.parts != ("mask",):
            raise ConfigError("JointImageVolume tells recordings apart, but this cohort holds 1")
        super().check(info)

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``: memory of single recordings and slices.

        Raises:
            ConfigError: more prototypes than a step can use, or fewer slices than ``intra_slices``.
        """
        if "intra" in self.parts:
            self._refuse_thin(source)
            self.intra.remember(len(source.places) * self.intra_slices)
            _refuse_crowd("intra", self.intra, batch * self.intra_slices)
        if "inter" in self.parts:
            self.inter.remember(len(source.places))
            _refuse_crowd("inter", self.inter, batch)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Slices of one volume.

        Returns:
            ``x`` (1, C, n, Y, X) stored integers, ``filled`` (n,) booleans, and the input fields; n is
            ``intra_slices`` in the intra stage, else that of ``size``.
        """
        depth = int(reader.shape[0])
        if self.parts == ("intra",):
            places = one_of_each_part(depth, self.intra_slices, rng)
            filled = np.ones(len(places), dtype=bool)
        else:
            places, filled = spread_slices(depth, self.size[0], rng)
        x = read_slices(reader, places, self.size[1:], rng)
        return {**reader.input_fields(), "x": x[None], "filled": filled}

    def loss(self, batch: Batch) -> Losses:
        """The losses of the stage, added."""
        if len(batch["row"]) < 2 and self.parts != ("mask",):
            raise ConfigError("JointImageVolume needs at least 2 recordings a batch, got 1; raise the batch size")
        x, filled = to_input(batch["x"], batch)[:, 0], batch["filled"]
        terms: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        embeddings: Tensor | None = None
        for part in self.parts:
            step = {"intra": self._intra, "mask": self._mask, "inter": self._inter}[part]
            output, embeddings = step(x, filled, batch["row"])
            losses.append(output.loss)
            terms |= {part: output.loss, **{f"{part}_{name}": value for name, value in output.logs.items()}}
        return Losses(torch.stack(losses).sum(), {k: v.detach() for k, v in terms.items()}, embeddings)

    def embed(self, x: Tensor) -> Tensor:
        """What the objective gets of whole volumes (N, C, n, Y, X): (N, D), or (N, D, n) of slices; float32."""
        vectors = self.encoder.slice_vectors(x)
        if "intra" in self.parts and "inter" not in self.parts:
            rows: Tensor = self.head(vectors.flatten(0, 1)).float()
            return rows.view(*vectors.shape[:2], -1).mT
        return self._volume_vectors(vectors)

    def _intra(self, x: Tensor, filled: Tensor, row: Tensor) -> tuple[LossOutput, Tensor]:
        """Two views of single slices; all slices of the batch are samples of their own."""
        slices = x if self.parts == ("intra",) else self._some(x, filled)
        rows = slices.transpose(1, 2).flatten(0, 1).unsqueeze(2).repeat(2, 1, 1, 1, 1)
        views = _augmented(rows, draw_parameters(tuple(rows.shape), self.slice_augmentation, self.generator))
        embedded: Tensor = self.head(self._vectors(views).squeeze(1)).float()
        part = torch.arange(self.intra_slices, device=row.device)
        index = (row.unsqueeze(1) * self.intra_slices + part).flatten()
        return self._objective(self.intra, embedded, index), embedded.detach()

    def _inter(self, x: Tensor, filled: Tensor, row: Tensor) -> tuple[LossOutput, Tensor]:
        """Two views of volumes."""
        vectors, there, _ = self._two_views(x, filled)
        embedded = self._volume_vectors(vectors, there)
        return self._objective(self.inter, embedded, row), embedded.detach()

    def _mask(self, x: Tensor, filled: Tensor, row: Tensor) -> tuple[LossOutput, Tensor]:
        """Hidden slices, the same of both views, told from the others."""
        vectors, there, (masked,) = self._two_views(
            x, filled, draw_masked_slices(filled, self.mask_ratio, self.generator)
        )
        attended = self.encoder.attention(hide_slices(vectors, masked, self.token), there)
        with full_precision(x.device):
            loss = masked_slice_loss(self.decoder(attended.float()), vectors.float(), masked)
        return LossOutput(loss, {}), self.encoder.volume_vectors(attended, there).detach()

    def _volume_vectors(self, vectors: Tensor, filled: Tensor | None = None) -> Tensor:
        """(B, D) of unit length."""
        return unit(self.encoder.volume_vectors(self.encoder.attention(vectors, filled), filled))

    def _two_views(self, x: Tensor, filled: Tensor, *flags: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Slice vectors (2 B, n, D) of two views, which slices are there, and other flags of slices (B, n) likewise."""
        rows = x.repeat(2, 1, 1, 1, 1)
        if self.augmentation is None:
            parameters = draw_single_transforms(tuple(x.shape), self.generator)
        else:
            parameters = draw_parameters(tuple(rows.shape), self.augmentation, self.generator)
        turned = parameters["flip"][:, :1]
        there, *others = (torch.where(turned, f.flip(1).repeat(2, 1), f.repeat(2, 1)) for f in (filled, *flags))
        return self._vectors(_augmented(rows, parameters), there), there, others

    def _vectors(self, x: Tensor, filled: Tensor | None = None) -> Tensor:
        """(N, C, n, Y, X) → (N, n, D), zeros for slices that are not there, which the encoder does not see."""
        if filled is None or bool(filled.all()):
            return self.encoder.slice_vectors(x, recompute=self.recompute)
        there = x.transpose(1, 2)[filled].unsqueeze(2)
        rows = self.encoder.slice_vectors(there, recompute=self.recompute).squeeze(1)
        return rows.new_zeros(*filled.shape, rows.shape[-1]).masked_scatter(filled.unsqueeze(-1), rows)

    def _some(self, x: Tensor, filled: Tensor) -> Tensor:
        """One slice of each of ``intra_slices`` equal parts of what is there: (B, C, n, Y, X) → (B, C, s, Y, X)."""
        count, first = filled.sum(1, keepdim=True), filled.int().argmax(1, keepdim=True)
        shift = torch.rand(len(x), self.intra_slices, generator=self.generator, device=x.device)
        part = (torch.arange(self.intra_slices, device=x.device) + shift) / self.intra_slices
        places = first + (part * count).long().minimum(count - 1)
        return x.transpose(1, 2)[torch.arange(len(x), device=x.device).unsqueeze(1), places].transpose(1, 2)

    def _objective(self, objective: Objective, embedded: Tensor, index: Tensor) -> LossOutput:
        views = embedded.unflatten(0, (2, -1))
        output: LossOutput = objective(views, index=index, generator=self.generator, progress=self.progress)
        return output

    def _refuse_thin(self, source: Readable) -> None:
        if source.manifest is None or "shape" not in source.manifest:
            return
        thickest = max(int(shape[0]) for shape in source.manifest["shape"])
        if thickest < self.intra_slices:
            raise ConfigError(
                f"JointImageVolume takes {self.intra_slices} slices of each volume, but the thickest of this cohort "
                f"has {thickest}; set intra_slices to that or less"
            )


def _augmented(rows: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    return apply_intensity(apply_spatial(rows, parameters), parameters)


def _of_volumes(encoder: Encoder, slices: int, parts: tuple[Stage, ...]) -> SliceTransformer:
    """The encoder with the parts that make vectors of slices and volumes.

    Raises:
        ConfigError: an encoder of volumes or signals, or one that does not suit the stage.
    """
    if not isinstance(encoder, SliceTransformer):
        if encoder.dims != 2:
            raise ConfigError(
                f"JointImageVolume trains encoders of images, but {type(encoder).__name__} takes {encoder.dims} axes; "
                "set its dims to 2"
            )
        return SliceTransformer(encoder, pool="volume" if "inter" in parts else "slices")
    if parts == ("intra",) and encoder.pool == "volume":
        raise ConfigError("the intra stage does not train what pools slices of a volume; set pool: slices")
    attention = encoder.attention
    if attention.attend == "embedding" and attention.slices != slices:
        raise ConfigError(
            f"attention along the embedding was built for {attention.slices} slices, but size has {slices}; set both "
            "alike"
        )
    return encoder


def _suitable(name: str, objective: Objective) -> Objective:
    if objective.family != "clustering" or objective.momentum or objective.takes != "projections":
        raise ConfigError(
            f"JointImageVolume's {name} objective predicts clusters without a teacher: SwAV or DeepCluster, not "
            f"{type(objective).__name__}"
        )
    return objective


def _refuse_crowd(name: str, objective: Objective, rows: int) -> None:
    """A few samples cannot use many prototypes equally, so that their assignments are arbitrary."""
    if isinstance(objective, SwAV) and objective.count > CROWD * (rows + objective.queue_size):
        raise ConfigError(
            f"{objective.count} prototypes of the {name} objective are too many for {rows} samples a step and a queue "
            f"of {objective.queue_size}: take at most {CROWD * (rows + objective.queue_size)}, or a queue of about "
            f"{8 * objective.count}"
        )
