"""AutoTCL: a network learns which part of a signal informs, and makes the views of a contrast from it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.augmenter import Augmented, Augmenter, AugmenterSettings, Gate
from medssl.methods.averaging import WeightAveraged
from medssl.methods.base import Losses
from medssl.methods.of_views import OfViews
from medssl.methods.step_wise import encode_steps, refuse_strided
from medssl.objectives.autotcl import (
    SEGMENTS,
    kept_beyond,
    local_contrast,
    max_mean_discrepancy,
    one_way_info_nce,
    sampled_variation,
    temporal_variation,
)
from medssl.objectives.base import positive
from medssl.objectives.gather import gather_views
from medssl.objectives.step_masks import StepMask, check_mask, step_mask
from medssl.optim import Optim, configure
from medssl.views.base import Batch
from medssl.views.signal import SignalViews

__all__ = ["AutoTCL"]


class AutoTCL(WeightAveraged, OfViews):
    """AutoTCL (ICLR 2024): contrast of signals with what a trained augmenter leaves of them.

    The augmenter keeps part of each signal by a near-binary gate over time, and scales it. The encoder learns to find
    the signal's own view among those of the batch, and that neighbouring stretches of a signal are alike. The augmenter
    learns to keep the distribution of the embeddings (or, ``adversarial``, to make the contrast hard) while keeping
    little. Both are trained in one step, as if in turns: the encoder's loss sees the views as given, the augmenter's
    loss sees the encoder as it was before the step, in evaluation mode and without masks; so neither changes the other.
    Clipping by the norm of all gradients would couple them: set the trainer's ``clip`` to 0. What is exported is the
    mean of the encoder's weights over the training.

    Shapes: rows (N, C, T) → gate, factor and view (N, C, T) each; maps (N, D, T), pooled by their maximum over time.

    Args:
        encoder: with one map of full length (published: ``TrendTS2Vec``). Steps are hidden behind its input layer where
            its ``forward`` takes a ``mask``; any other encoder sees zeros there in its input.
        views: windows of a recording and their augmentation (published: one window, none).
        augmenter: the network that makes the views, and how it is trained.
        gate: how it keeps and drops steps.
        local: weight of the contrast of stretches (0.0003 to 0.3 in the paper).
        keep: weight of what is kept beyond ``keep_share`` of the steps (0.003 to 0.1).
        keep_share: mean probability of keeping a step that costs nothing.
        smooth: weight of the change of that probability over time (0 in most published settings, else 0.0003).
        smoothness: total ``variation``, or the published term at a few ``sampled`` steps.
        temperature: τ of both contrasts.
        mask: of the steps that the encoder sees while it learns.
        adversarial: the augmenter makes the contrast hard instead of keeping the distribution.
        optim: optimiser settings of the encoder (published: AdamW, 1e-5 for most data).

    Raises:
        ConfigError: an encoder without a map of full length, or numbers out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: SignalViews,
        *,
        augmenter: AugmenterSettings | None = None,
        gate: Gate | None = None,
        local: float = 0.1,
        keep: float = 0.1,
        keep_share: float = 0.4,
        smooth: float = 0.0,
        smoothness: Literal["variation", "sampled"] = "variation",
        temperature: float = 1.0,
        mask: StepMask = "binomial",
        adversarial: bool = False,
        optim: Optim | None = None,
    ) -> None:
        refuse_strided(encoder, "AutoTCL")
        super().__init__(encoder, optim or Optim(lr=1e-5, schedule="constant", warmup=0))
        positive("AutoTCL", temperature=temperature)
        check_mask("mask", mask)
        if min(local, keep, smooth) < 0 or not 0 <= keep_share <= 1 or smoothness not in ("variation", "sampled"):
            raise ConfigError(
                "AutoTCL takes weights (local, keep, smooth) of at least 0, a keep_share from 0 to 1 and a smoothness "
                f"of variation or sampled, not {local}, {keep}, {smooth}, {keep_share} and '{smoothness}'"
            )
        if views.size[0] < SEGMENTS:
            raise ConfigError(
                f"AutoTCL compares {SEGMENTS} stretches of a window, and one of {views.size[0]} samples has fewer; "
                "enlarge the views' size"
            )
        self.views, self.settings = views, augmenter or AugmenterSettings()
        self.augmenter = Augmenter(encoder.in_channels, self.settings, gate or Gate())
        self.local, self.keep, self.keep_share = local, keep, keep_share
        self.smooth, self.smoothness = smooth, smoothness
        self.temperature, self.adversarial = temperature, adversarial
        self.mask: StepMask = mask

    def configure_optimizers(self) -> Any:
        """One optimiser with the learning rates of encoder and augmenter."""
        total = int(self.trainer.estimated_stepping_batches)
        of_augmenter = list(self.augmenter.named_parameters(prefix="augmenter"))
        others = [(name, p) for name, p in self.named_parameters() if not name.startswith("augmenter.")]
        return configure([(others, 1.0), (of_augmenter, self.settings.lr / self.optim.lr)], self.optim, total)

    def loss(self, batch: Batch) -> Losses:
        """Make views, contrast them with the signals, and in its turn train what made them."""
        rows = self.views(batch, self.generator).flatten(0, 1)
        if len(rows) < 2:
            raise ConfigError("AutoTCL tells signals of a batch apart and needs at least 2; raise the batch size")
        noise = torch.rand(rows.shape, generator=self.generator, device=rows.device)
        turn = (int(self.states) - 1) % self.settings.every == 0
        with torch.set_grad_enabled(turn and torch.is_grad_enabled()):
            augmented = self.augmenter(rows, noise)
        total, terms, pooled = self._of_encoder(rows, augmented.view.detach())
        if turn:
            extra, more = self._of_augmenter(rows, augmented)
            total, terms = total + extra, {**terms, **more}
        terms |= {
            "gate_mean": augmented.gate.mean(),
            "gate_variance": augmented.gate.var(-1, correction=0).mean(),  # over time: 0 for a gate that tells nothing
        }
        return Losses(total, {name: term.detach() for name, term in terms.items()}, pooled)

    @torch.no_grad()
    def kept(self, rows: Tensor) -> Tensor:
        """How much of each step the augmenter keeps, without noise: (N, C, T) → (N, C, T) in [0, 1]."""
        augmented: Augmented = self.augmenter(rows, None)
        return augmented.gate

    def _of_encoder(self, rows: Tensor, view: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, terms and pooled embeddings (N, D) of the signals."""
        both = torch.cat([rows, view])
        hidden = step_mask(self.mask, len(both), both.shape[2], self.generator)
        maps = encode_steps(self.encoder, both, hidden).maps[0]
        of_rows, of_views = maps.amax(2).chunk(2)
        contrast, accuracy = self._contrast(of_rows, of_views)
        spare = rows.shape[2] % SEGMENTS
        start = int(torch.randint(spare + 1, (1,), generator=self.generator, device=rows.device))
        local = local_contrast(maps[: len(rows)].mT, start, temperature=self.temperature).mean()
        terms = {"contrast": contrast, "pair_accuracy": accuracy, "local": local}
        return contrast + self.local * local, terms, of_rows.detach().float()

    def _of_augmenter(self, rows: Tensor, augmented: Augmented) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms; no weight of the encoder gets a gradient."""
        of_rows, of_views = (self._frozen_features(x) for x in (rows, augmented.view))
        goal = -self._contrast(of_rows, of_views)[0] if self.adversarial else max_mean_discrepancy(of_rows, of_views)
        probability = augmented.probability.mT
        beyond = kept_beyond(probability, self.keep_share)
        total, terms = goal + self.keep * beyond, {"augmenter": goal, "kept_beyond": beyond}
        if self.smooth:
            terms["smoothness"] = self._smoothness(probability)
            total = total + self.smooth * terms["smoothness"]
        return total, terms

    def _smoothness(self, probability: Tensor) -> Tensor:
        if self.smoothness == "variation":
            return temporal_variation(probability)
        samples, steps, _ = probability.shape
        drawn = torch.randint(1, steps - 2, (2, samples), generator=self.generator, device=probability.device)
        first, second = drawn.unbind()
        return sampled_variation(probability, first, second)

    def _contrast(self, of_rows: Tensor, of_views: Tensor) -> tuple[Tensor, Tensor]:
        """The contrast with the views of all processes, and the share of signals whose own view is the nearest."""
        keys = gather_views(of_views.unsqueeze(0))
        loss, logits = one_way_info_nce(
            of_rows, keys.views.squeeze(0), temperature=self.temperature, first=keys.offset
        )  # fmt: skip
        own = torch.arange(len(logits), device=logits.device) + keys.offset
        return loss, (logits.argmax(1) == own).float().mean()

    def _frozen_features(self, x: Tensor) -> Tensor:
        """(N, D) of the encoder in evaluation mode, with gradients of ``x`` but none of its weights."""
        named = itertools.chain(self.encoder.named_parameters(), self.encoder.named_buffers())
        weights = {name: value.detach() for name, value in named}
        with evaluating(self.encoder):
            features = torch.func.functional_call(self.encoder, weights, (x,))
        pooled: Tensor = features.maps[0].amax(2)
        return pooled


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All parts of a module in evaluation mode; afterwards each as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
