"""Masked momentum contrastive learning: cells of a corrupted view, and whole views, told as a teacher tells them."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.assignment import centred, cosine_scores, new_prototypes, refuse_shares, updated_centre
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.foreground import cells_of
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.pairs import unit
from medssl.objectives.summaries import batch_centred, mean_cells

__all__ = ["MaskedMomentum", "momentum_contrast", "patch_distillation"]


def patch_distillation(
    scores: Tensor, assignments: Tensor, hidden: Tensor, *, temperature: float, visible: float = 0.0
) -> Tensor:
    r"""Cross-entropy of the teacher's assignment of each cell, predicted from a view in which cells were hidden (iBOT).

    .. math:: L = \frac{1}{V} \sum_v \frac{\sum_c w_{vc} \big( -\sum_k q_{vck} \log p_{vck} \big)}{\sum_c w_{vc}},
        \quad p = \mathrm{softmax}(s / \tau)

    with w = 1 at hidden cells. A view without any weight counts 0.

    Args:
        scores: s (V, cells, K) of the student, raw.
        assignments: q (V, cells, K) of the teacher, which sees everything; rows sum to 1; no gradient.
        hidden: (V, cells) booleans.
        temperature: τ > 0.
        visible: w of the other cells, 0 or more.
    """
    losses = -(assignments.detach() * (scores / temperature).log_softmax(-1)).sum(-1)
    weights = torch.where(hidden, 1.0, visible).to(losses.dtype)
    total = weights.sum(1)
    return ((losses * weights).sum(1) / torch.where(total > 0, total, 1.0)).mean()


def momentum_contrast(
    predictions: Tensor, keys: Tensor, *, temperature: float, group: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""InfoNCE between predictions and a teacher's embeddings of the other views, in MoCo v3's form.

    .. math:: L = -\frac{1}{K(K-1)N} \sum_{a \ne b} \sum_i \log
        \frac{e^{\cos(q_{ai}, k_{bi}) / \tau}}{\sum_j e^{\cos(q_{ai}, k_{bj}) / \tau}}

    Negatives are the other recordings in the same view b (Chen, Xie and He, *An empirical study of training
    self-supervised vision transformers*, ICCV 2021; without its factor 2τ).

    Args:
        predictions: q (K, N, D) of the student.
        keys: k (K, N, D) of the teacher; no gradient. Those of all processes are negatives.
        temperature: τ > 0.
        group: (N,) integers; other recordings of the same group are no negatives.

    Returns:
        The loss, and the share of predictions whose own key is the nearest.
    """
    joined, offset, _ = gather_views(unit(keys.detach()))
    views, n = predictions.shape[:2]
    logits = torch.einsum("aid,bjd->abij", unit(predictions), joined) / temperature
    own = offset + torch.arange(n, device=logits.device)
    everywhere = gather_integers(group)
    if group is not None and everywhere is not None:
        same = group.unsqueeze(1) == everywhere
        logits = logits.masked_fill(same.scatter(1, own.unsqueeze(1), False), -torch.inf)
    different = ~torch.eye(views, dtype=torch.bool, device=logits.device)
    rows = logits[different].flatten(0, 1)
    wanted = own.repeat(views * (views - 1))
    return functional.cross_entropy(rows, wanted), (rows.detach().argmax(1) == wanted).float().mean()


class MaskedMomentum(Objective):
    """MMC: a slow teacher's word on hidden cells and on whole views, and their reconstruction (2023).

    Wu et al., *Masked momentum contrastive learning for zero-shot semantic understanding*, 2023. No code is published;
    the terms are this project's reading of the abstract: ``patch_distillation`` + ``momentum_contrast`` +
    reconstruction, which the method adds since it needs the input. The student sees corrupted views, the teacher clean
    ones; whole views are mean cells, predicted by a network of two layers and centred over the batch
    (``batch_centred``).

    Args:
        prototypes: K of the cells' assignments; 8192 published.
        temperature: of the student's assignments.
        teacher_temperature: at the start and at the end.
        contrast_temperature: of the whole views.
        visible: weight of cells that were not hidden.
        centre_momentum: of the teacher's centre, a step.
        patch: weight of the cells' distillation.
        contrast: weight of the whole views' contrast.
        reconstruction: weight of the hidden input's reconstruction; 0 for none.
        predictor: hidden features of the predictor.
    """

    family: ClassVar[Family] = "dense"
    needs: ClassVar[frozenset[str]] = frozenset({"targets", "mask"})
    takes: ClassVar[Literal["projections", "features", "maps"]] = "maps"
    momentum: ClassVar[float | None] = 0.996

    prototypes: nn.Parameter
    teacher_prototypes: Tensor
    centre: Tensor

    def __init__(
        self,
        *,
        prototypes: int = 1024,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        contrast_temperature: float = 0.2,
        visible: float = 0.0,
        centre_momentum: float = 0.9,
        patch: float = 1.0,
        contrast: float = 1.0,
        reconstruction: float = 1.0,
        predictor: int = 512,
    ) -> None:
        super().__init__()
        positive(
            "MaskedMomentum", temperature=temperature, lowest_teacher_temperature=min(teacher_temperature),
            contrast_temperature=contrast_temperature, predictor=predictor,
        )  # fmt: skip
        refuse_shares("MaskedMomentum", centre_momentum=centre_momentum, visible=visible)
        if prototypes < 2 or min(patch, contrast, reconstruction) < 0 or patch + contrast == 0:
            raise ConfigError(
                "MaskedMomentum takes 2 or more prototypes and weights of 0 or more, not all of patch and contrast 0; "
                f"not {prototypes} prototypes, patch {patch}, contrast {contrast}, reconstruction {reconstruction}"
            )
        self.count, self.temperature, self.teacher_temperature = prototypes, temperature, teacher_temperature
        self.contrast_temperature, self.visible = contrast_temperature, visible
        self.centre_momentum, self.hidden = centre_momentum, predictor
        self.patch, self.contrast, self.reconstruction = patch, contrast, reconstruction

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        self.prototypes = new_prototypes(self.count, width)
        self.register_buffer("teacher_prototypes", self.prototypes.detach().clone())
        self.register_buffer("centre", torch.zeros(self.count))
        self.predictor_head = nn.Sequential(
            nn.Linear(width, self.hidden), nn.LayerNorm(self.hidden), nn.ReLU(), nn.Linear(self.hidden, width)
        )

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """See ``Objective.follow``."""
        self.teacher_prototypes.lerp_(self.prototypes, 1 - momentum)

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``patch_distillation`` and ``momentum_contrast``."""
        assert given.targets is not None and given.mask is not None
        cells, seen = cells_of(views.flatten(0, 1)), cells_of(given.targets.flatten(0, 1))
        start, end = self.teacher_temperature
        known = cosine_scores(seen, self.teacher_prototypes)
        shares = centred(known, self.centre, temperature=start + (end - start) * given.progress)
        patch = patch_distillation(
            cosine_scores(cells, self.prototypes), shares, given.mask.flatten(0, 1).flatten(1),
            temperature=self.temperature, visible=self.visible,
        )  # fmt: skip
        if self.training:
            self.centre.copy_(updated_centre(self.centre, known, momentum=self.centre_momentum))
        whole = unit(mean_cells(views))  # however large, the predictor sees numbers about 1
        contrast, accuracy = momentum_contrast(
            batch_centred(self.predictor_head(whole)), batch_centred(mean_cells(given.targets)),
            temperature=self.contrast_temperature, group=given.group,
        )  # fmt: skip
        logs = {
            "patch": patch.detach(),
            "contrast": contrast.detach(),
            "pair_accuracy": accuracy,
            "certainty": shares.amax(-1).mean(),
        }
        return LossOutput(self.patch * patch + self.contrast * contrast, logs)
