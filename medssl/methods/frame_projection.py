"""Frame projections: a window, its Fourier coefficients and its wavelet transform as views, without augmentation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.frame_projected import FrameMapping, FrameProjected, Inference
from medssl.encoders.frames import FrameEncoders, Pool
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.of_views import OfViews
from medssl.methods.projectors import MLPHead
from medssl.objectives.base import positive
from medssl.objectives.frame_projection import MapReduction, frame_contrast, mapping_error
from medssl.objectives.pairs import unit
from medssl.optim import Optim, configure
from medssl.views.base import Batch, Views, to_input
from medssl.views.frames import Frames, zero_filled

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo

__all__ = ["FrameProjection"]

NAMES = ("fourier", "wavelet")
Named = list[tuple[str, nn.Parameter]]


class FrameProjection(OfViews):
    """Frame projections (*Learning Without Augmenting*, NeurIPS 2025): instance discrimination between fixed frames.

    Three encoders see a window, its orthonormal Fourier coefficients and the magnitude of its wavelet transform. First
    all are trained to tell the windows of a batch apart across frames. In the last ``mapping_share`` of the steps they
    are left as they are, and two small mappings learn what the Fourier and the wavelet encoder say from what the time
    encoder says. What is exported is the time encoder with the mappings (``FrameProjected``).

    Shapes: windows (B, C, T) → h_t, h_f, h_w (B, D) → projections (3, B, D). D is the time encoder's ``out_dim``.

    Args:
        encoder: of signals (``FrameResNet`` in the paper); sees the window itself.
        views: how windows are drawn; a count of 1.
        inference: what the exported encoder does, see ``FrameProjected``. The mappings have steps in ``mapped`` alone.
        mapping_share: share of the steps, at the end, that train the mappings (in the paper as many as before).
        temperature: τ.
        map_weight: of the terms by which the time embedding must tell the other two while encoders are trained.
        map_reduction: see ``mapping_error``. The ``paper``'s sum can outweigh the contrast (about 60 at the start for
            128 features); the ``code``'s mean is practically off.
        hidden: channels of all mappings.
        frames: how the frames are computed.
        pool: of the frames' encoders, see ``FrameEncoders``.
        augment: let the views change the windows first; the paper does without.
        optim: optimiser settings. The schedule spans the steps of the encoders; the mappings have a constant rate.
    """

    encoder: FrameProjected

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        inference: Inference = "mapped",
        mapping_share: float = 0.5,
        temperature: float = 0.15,
        map_weight: float = 1.0,
        map_reduction: MapReduction = "mean",
        hidden: int = 64,
        frames: Frames | None = None,
        pool: Pool = "learned",
        augment: bool = False,
        optim: Optim | None = None,
    ) -> None:
        _refuse(views, inference, mapping_share, map_weight, map_reduction)
        positive("FrameProjection", temperature=temperature)
        frames = frames or Frames()
        length = views.size[0]
        projected = FrameProjected(
            encoder, inference=inference, hidden=hidden, length=length, frames=frames, pool=pool
        )  # fmt: skip
        super().__init__(projected, optim or Optim(lr=3e-3, weight_decay=1e-6, warmup=0))
        self.views, self.augment = views, augment
        self.mapping_share = mapping_share if inference == "mapped" else 0.0
        self.temperature, self.map_weight = temperature, map_weight
        self.map_reduction: MapReduction = map_reduction
        width = encoder.out_dim
        if inference != "all_encoders":
            self.own_frames = FrameEncoders(encoder.in_channels, length, width, frames=frames, pool=pool)
        self.projectors = nn.ModuleList(MLPHead(width, width, width, layers=2, norm=False) for _ in range(3))
        self.aligners = nn.ModuleList(FrameMapping(hidden) for _ in NAMES)

    @property
    def frames(self) -> FrameEncoders:
        """The Fourier and the wavelet encoder, which are part of what is exported or not."""
        return self.encoder.frames if self.encoder.inference == "all_encoders" else self.own_frames

    @property
    def maps_now(self) -> bool:
        """Whether the mappings are trained, and everything else is left as it is."""
        return self.mapping_share > 0 and self.progress >= 1 - self.mapping_share

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: several signals."""
        super().check(info)
        if info.n_recordings == 1:
            raise ConfigError("FrameProjection tells recordings apart, but this cohort holds 1; prepare more of them")
        if len(info.channels) != self.encoder.in_channels:  # an encoder of any channels would take them
            raise ConfigError(
                f"the Fourier and wavelet encoders were built for {self.encoder.in_channels} channels but the data "
                f"have {len(info.channels)}; set the encoder's in_channels"
            )

    def loss(self, batch: Batch) -> Losses:
        """Contrast of the three frames; or, at the end, the mappings. The other is logged without being trained."""
        size = len(batch["row"])
        if size < 2:
            raise ConfigError(
                f"FrameProjection tells recordings apart and needs at least 2 of them a batch, got {size}; raise the "
                "batch size"
            )
        x = zero_filled(self._windows(batch))
        for module in (self.encoder.encoder, self.frames):  # dropout and running statistics
            module.train(self.training and not self.maps_now)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.maps_now):
            features = self._encode(x)
            joint, terms, embeddings = self._join(*features)
        mapping, more = self._map(*(h.detach() for h in features))
        # a gradient of zero, not none: training on several devices waits for the gradient of every weight
        idle = sum((p.sum() for _, p in self._idle()), torch.zeros_like(joint))
        total = (mapping if self.maps_now else joint) + 0.0 * idle
        return Losses(total, {k: v.detach() for k, v in (terms | more).items()}, embeddings.detach())

    def embed(self, rows: Tensor) -> Tensor:
        """Windows (N, C, T) → what the contrast gets of the time encoder (N, D), float32."""
        embedded: Tensor = self.projectors[0](self.encoder.encoder(zero_filled(rows)).pooled)
        return embedded.float()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What is idle has no gradient, so that neither decay nor moments of earlier steps move it."""
        for _, parameter in self._idle():
            parameter.grad = None

    def configure_optimizers(self) -> Any:
        """See ``Method.configure_optimizers``: the schedule for the encoders' steps, then a constant rate."""
        total = int(self.trainer.estimated_stepping_batches)
        joint, mappings = self._stages()
        steps = max(1, math.ceil((1 - self.mapping_share) * total))
        return configure([(joint, 1.0)], self.optim, steps, steady=mappings)

    def _windows(self, batch: Batch) -> Tensor:
        """(B, C, T), float32."""
        return self.views(batch, self.generator)[0] if self.augment else to_input(batch["x"], batch).squeeze(1)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h_t, h_f and h_w, (B, D) each."""
        return (self.encoder.encoder(x).pooled, *self.frames(x))

    def _join(self, *features: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss of the encoders from h_t, h_f and h_w, its terms, and the time embeddings (B, D)."""
        projected = [project(h) for project, h in zip(self.projectors, features, strict=True)]
        time, *others = e = unit(torch.stack(projected).float())
        contrast = frame_contrast(e, temperature=self.temperature)
        terms = dict(zip(("time_fourier", "time_wavelet", "fourier_wavelet"), contrast.pairs, strict=True))
        errors = {
            f"align_{name}": mapping_error(aligner(time), other, reduction=self.map_reduction)
            for name, aligner, other in zip(NAMES, self.aligners, others, strict=True)
        }
        total = contrast.pairs.sum() + self.map_weight * torch.stack(list(errors.values())).sum()
        return total, {**terms, **errors, "pair_accuracy": contrast.accuracy}, time

    def _map(self, time: Tensor, *others: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the mappings from h_t, h_f and h_w, and its terms; none where what is exported has no mappings."""
        total = torch.zeros_like(time[0, 0])
        terms: dict[str, Tensor] = {}
        if self.encoder.inference != "mapped":
            return total, terms
        mappings = (self.encoder.to_fourier, self.encoder.to_wavelet)
        for name, mapping, other in zip(NAMES, mappings, others, strict=True):
            error = mapping_error(mapping(time), other)
            same = mapping_error(other.mean(0), other)  # of telling the same of all windows
            terms |= {f"map_{name}": error, f"explained_{name}": 1 - error / same.clamp_min(1e-12)}
            total = total + error
        return total, terms

    def _stages(self) -> tuple[Named, Named]:
        """Named weights of the first and of the second stage."""
        mappings = [(n, p) for n, p in self.named_parameters() if n.startswith(("encoder.to_",))]
        joint = [(n, p) for n, p in self.named_parameters() if not n.startswith(("encoder.to_",))]
        return joint, mappings

    def _idle(self) -> Named:
        """Named weights that the present stage leaves as they are."""
        return self._stages()[0 if self.maps_now else 1]


def _refuse(
    views: Views, inference: Inference, mapping_share: float, map_weight: float, map_reduction: MapReduction
) -> None:
    """Refuse settings that mean nothing.

    Raises:
        ConfigError: with what is allowed.
    """
    if views.kind != "signal" or views.count != 1:
        raise ConfigError(
            f"FrameProjection takes SignalViews with a count of 1, since the views are frames of one window, not "
            f"{type(views).__name__} with {views.count}"
        )
    if not 0 <= mapping_share < 1 or (inference == "mapped" and mapping_share == 0):
        raise ConfigError(
            f"the mapping_share lies from above 0 to below 1, not at {mapping_share}; for encoders without mappings "
            "choose inference: time_only or all_encoders"
        )
    if map_weight < 0 or map_reduction not in ("mean", "paper", "code"):
        raise ConfigError(
            f"FrameProjection takes a map_weight of 0 or more and a map_reduction of mean, paper or code, not "
            f"{map_weight} and '{map_reduction}'"
        )
