"""TS-TCC: the future of a strongly augmented signal is told from the past of a weakly augmented one, and vice versa."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.joint import JointEmbedding, SamePatient
from medssl.methods.projectors import MLPHead
from medssl.objectives.base import Family, LossOutput
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.foreground import pooled_cells
from medssl.objectives.pairs import unit
from medssl.objectives.temporal_contrast import temporal_contrast
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch
from medssl.views.signal import SignalViews

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo

__all__ = ["TSTCC", "PastSummary"]

FEWEST_STEPS = 4  # of a map, for a past and a future to be told apart
MIDDLE = 64  # features between the two layers that follow each attention


class PastSummary(nn.Module):
    """A transformer that makes one vector of the steps seen so far: what a token added in front becomes.

    As published it has no codes of places: steps know their neighbourhood through the encoder.

    Args:
        width: D of a step.
        hidden: features of the transformer and of the context.
        depth: its blocks.
        heads: its attention heads; must divide ``hidden``.
    """

    def __init__(self, width: int, *, hidden: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.token = nn.Parameter(torch.randn(1, 1, hidden))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, MIDDLE, dropout=0.0, activation="relu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )

    def forward(self, past: Tensor) -> Tensor:
        """(N, t, D) → (N, hidden)."""
        steps = self.enter(past)
        tokens = torch.cat([self.token.to(steps.dtype).expand(len(steps), -1, -1), steps], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]


class TSTCC(JointEmbedding):
    """TS-TCC (Eldele et al., IJCAI 2021): the future of one view from the past of another, and one context for both.

    A weakly and a strongly augmented view of one window. A transformer summarises the first t steps of each view's
    feature map, t at random; linear maps tell from the summary of one view the following steps of the *other* (temporal
    contrasting: against those steps in the other recordings). The summaries of both views, projected, belong together
    (contextual contrasting: NT-Xent). Loss: λ₁ (weak → strong + strong → weak) + λ₂ contextual.

    Shapes: views (2, B, C, T) → steps (2, B, S, D) of unit length → contexts (2, B, hidden) → predictions (2, B, K, D).

    Args:
        encoder: of signals, with a map of at least four steps.
        views: two views of the same window. Published: a weak one (a factor and a little noise), and as ``second`` a
            strong one (segments change places, much noise), as in the configs.
        future: share of the steps that is told; K of them.
        cells: most steps of a map; longer ones are averaged.
        hidden: features of the context.
        depth: blocks of the transformer.
        heads: its attention heads.
        projector: hidden and output features of the head of the contexts.
        temperature: of contextual contrasting.
        temporal: λ₁.
        contextual: λ₂.
        weighting: weights of the pairs in contextual contrasting.
        same_patient: see ``Contrastive``; holds for both contrasts, but ``"positive"`` for the contextual one alone.
        label: see ``Contrastive``; for contextual contrasting.
        optim: optimiser settings.
    """

    family: ClassVar[Family] = "contrastive"

    def __init__(
        self,
        encoder: Encoder,
        views: SignalViews,
        *,
        future: float = 0.4,
        cells: int = 128,
        hidden: int = 100,
        depth: int = 4,
        heads: int = 4,
        projector: tuple[int, int] = (64, 32),
        temperature: float = 0.2,
        temporal: float = 1.0,
        contextual: float = 0.7,
        weighting: PairWeighting | None = None,
        same_patient: SamePatient = "ignore",
        label: str | None = None,
        optim: Optim | None = None,
    ) -> None:
        if encoder.dims != 1 or views.count != 2 or views.gap_s != 0 or views.adjacent:
            raise ConfigError(
                f"TSTCC compares two views of one window of a signal: it takes 1 axis, not {encoder.dims}; "
                f"a count of 2, not {views.count}; a gap_s of 0, not {views.gap_s}; and no adjacent windows"
            )
        if hidden % heads or not 0 < future < 1 or min(temporal, contextual) < 0:
            raise ConfigError(
                f"TSTCC takes hidden features that are a multiple of the heads, a future between 0 and 1, and weights "
                f"of 0 or more, not {hidden}, {heads}, {future}, {temporal} and {contextual}"
            )
        self.future, self.cells = future, cells
        middle, out = projector
        super().__init__(
            encoder, views, InfoNCE(temperature=temperature), head=MLPHead(hidden, middle, out, layers=2), width=out,
            same_patient=same_patient, label=label, weighting=weighting,
            optim=optim or Optim(lr=3e-4, weight_decay=3e-4, betas=(0.9, 0.99)),
        )  # fmt: skip
        self.temporal, self.contextual = temporal, contextual
        self.past = PastSummary(encoder.channels[-1], hidden=hidden, depth=depth, heads=heads)
        self.steps = min(cells, -(-views.size[0] // encoder.strides[-1][0]))
        self.ahead = min(max(1, round(future * self.steps)), self.steps - 1)
        self.predict = nn.Linear(hidden, max(1, self.ahead) * encoder.channels[-1])

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``; a map of a few steps has no future to tell."""
        super().check(info)
        if self.steps < FEWEST_STEPS:
            raise ConfigError(
                f"{type(self.encoder).__name__} makes {self.steps} steps of a window of {self.input_size[0]} samples, "
                f"and TSTCC needs {FEWEST_STEPS}; enlarge the views' size, or choose an encoder of smaller stride"
            )

    def loss(self, batch: Batch) -> Losses:
        """Temporal contrasting in both directions, and contextual contrasting."""
        self._refuse_few(batch)
        views = self.views(batch, self.generator)
        steps = self.embed_steps(views.flatten(0, 1))
        last = self.steps - self.ahead
        now = int(torch.randint(1, last + 1, (), generator=self.generator, device=self.device))
        context = self.past(steps[:, :now])
        predictions = self.predict(context).unflatten(1, (self.ahead, -1))
        projected = self.projector(context).float()
        told = steps[:, now : now + self.ahead].unflatten(0, views.shape[:2]).flip(0)  # of the other view
        group = batch["patient"] if self.same_patient == "ignore" else None
        pairs = [
            temporal_contrast(p, z, group=group)
            for p, z in zip(predictions.unflatten(0, views.shape[:2]), told, strict=True)
        ]
        temporal = torch.stack([losses.mean() for losses, _ in pairs]).sum()
        output = self.output(projected.unflatten(0, views.shape[:2]), views, batch)
        terms = {
            **{k: v.detach() for k, v in output.logs.items()},
            **(self.weighting.logs() if self.weighting is not None else {}),
            "temporal": temporal.detach(),
            "contextual": output.loss.detach(),
            "temporal_accuracy": torch.stack([hit for _, hit in pairs]).mean(),
        }
        return Losses(self.temporal * temporal + self.contextual * output.loss, terms, projected.detach())

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``: contextual contrasting."""
        output: LossOutput = self.objective(embeddings, **self.given(batch))
        return output

    def embed_steps(self, rows: Tensor) -> Tensor:
        """Steps of the map, of unit length: (N, C, T) → (N, S, D)."""
        maps = pooled_cells(self.encoder(rows).maps[-1], self.cells)
        return unit(maps.transpose(1, 2).float())

    def embed(self, rows: Tensor) -> Tensor:
        """(N, C, T) → (N, D), float32: the projected context of the longest past."""
        embedded: Tensor = self.projector(self.past(self.embed_steps(rows)[:, : self.steps - self.ahead]))
        return embedded.float()
