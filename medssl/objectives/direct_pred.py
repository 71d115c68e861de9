"""DirectPred and DirectCopy: a linear predictor that is computed from the embeddings' correlation, not trained."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, LossOutput, positive
from medssl.objectives.distillation import DistillationObjective, byol_losses
from medssl.objectives.gather import gather_views

__all__ = [
    "CorrelationPredictor",
    "DirectCopy",
    "DirectPred",
    "Predictor",
    "batch_correlation",
    "direct_copy",
    "direct_predictor",
    "running_correlation",
]

SMALLEST = 1e-4  # gain of a direction that the embeddings do not use


class Predictor(NamedTuple):
    """A linear predictor and what it was made from.

    Attributes:
        weight: (D, D), symmetric.
        spectrum: (D,) eigenvalues of the correlation, ascending.
    """

    weight: Tensor
    spectrum: Tensor


def batch_correlation(views: Tensor) -> Tensor:
    """Mean of ``f fᵀ`` over views and samples, not centred: (K, N, D) → (D, D)."""
    rows = views.flatten(0, 1)
    return rows.T @ rows / len(rows)


def running_correlation(before: Tensor | None, batch: Tensor, *, decay: float) -> Tensor:
    """``ρ F + (1 - ρ) · batch`` ; the batch's own where nothing was before.

    Args:
        before: (D, D) of earlier steps; None at the first.
        batch: (D, D) of ``batch_correlation``.
        decay: ρ, 0 to 1.
    """
    return batch if before is None else decay * before + (1 - decay) * batch


def direct_predictor(
    correlation: Tensor,
    *,
    eps: float,
    form: Literal["code", "paper"] = "code",
    eps_inside: bool = False,
    exponent: float = 2.0,
) -> Predictor:
    r"""``W = U diag(p) Uᵀ`` with the eigenvectors of the correlation ``F = U diag(s) Uᵀ``.

    .. math::
        \text{code: } p_j = \max\big((s_j/s_{max})^{1/k} + \epsilon,\ 10^{-4}\big) \qquad
        \text{paper: } p_j = \sqrt{s_j} + \epsilon \max_i s_i

    with negative :math:`s_j` taken as 0 (Tian, Chen, Ganguli, *Understanding self-supervised learning dynamics without
    contrastive pairs*, ICML 2021). The form of the code does not depend on the scale of the embeddings, that of the
    paper does. With ``eps_inside``, :math:`p_j = \max(s_j/s_{max} + \epsilon, 10^{-4})^{1/k}`.

    Args:
        correlation: (D, D); its symmetric part counts.
        eps: ε ≥ 0.
        form: of the released code, or of the paper.
        eps_inside: ε is added before the root (code).
        exponent: k (code).

    Returns:
        In the type of ``correlation``; the eigendecomposition runs in float64.

    >>> direct_predictor(torch.diag(torch.tensor([4.0, 1.0])), eps=0.1).weight.diagonal()
    tensor([1.1000, 0.6000])
    """
    matrix = correlation.double()
    spectrum, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    gains = spectrum.clamp_min(0)
    if form == "paper":
        gains = gains.sqrt() + eps * gains.max()
    else:
        relative = gains / gains.max().clamp_min(torch.finfo(gains.dtype).tiny)
        if eps_inside:
            gains = (relative + eps).clamp_min(SMALLEST) ** (1 / exponent)
        else:
            gains = (relative ** (1 / exponent) + eps).clamp_min(SMALLEST)
    weight = (vectors * gains) @ vectors.T
    return Predictor(weight.to(correlation.dtype), spectrum.to(correlation.dtype))


def direct_copy(correlation: Tensor, *, eps: float) -> Tensor:
    """``W = F + ε I`` (DirectCopy): no eigendecomposition, but it depends on the scale of the embeddings.

    Args:
        correlation: F, (D, D).
        eps: ε ≥ 0.
    """
    return correlation + eps * torch.eye(len(correlation), dtype=correlation.dtype, device=correlation.device)


class CorrelationPredictor(DistillationObjective):
    """BYOL's loss with a linear predictor from the running correlation F of the projections; subclasses say which.

    ``views`` are the student's projections. The predictor of a step is that of the steps before, at first the
    identity. F is of the samples of all processes, so that all predict alike; a batch whose correlation is not finite
    is left out of it.

    Args:
        decay: share of F that is kept at a step, 0 to below 1.
        every: steps between two predictors.
    """

    momentum: ClassVar[float | None] = 0.996

    correlation: Tensor
    weight: Tensor
    updates: Tensor

    def __init__(self, *, decay: float, every: int) -> None:
        super().__init__()
        name = type(self).__name__
        if not 0 <= decay < 1:
            raise ConfigError(f"{name} takes a decay from 0 to below 1, not {decay}")
        if every < 1:
            raise ConfigError(f"{name} makes a predictor every 1 or more steps, not {every}")
        self.decay, self.every = decay, every

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        self.register_buffer("correlation", torch.zeros(width, width))
        self.register_buffer("weight", torch.eye(width))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def refresh(self) -> None:
        """Make ``weight`` from ``correlation``, in place."""

    def losses(self, cosine: Tensor) -> Tensor:
        """See ``byol_losses``."""
        return byol_losses(cosine)

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``Objective.compute``."""
        before = self.weight.to(views.dtype, copy=True)
        if self.training:
            self.learn(views.detach())
        output = self.compare(views @ before, given)
        return LossOutput(output.loss, {**output.logs, **self.diagnostics()})

    @torch.no_grad()
    def learn(self, views: Tensor) -> None:
        """Move F by the projections (K, N, D) of a step, and make the predictor where it is time."""
        batch = batch_correlation(gather_views(views).views)
        usable = torch.isfinite(batch).all()
        moved = running_correlation(self.correlation, batch, decay=self.decay)
        new = torch.where(self.updates == 0, batch, moved)
        self.correlation.copy_(torch.where(usable, new, self.correlation))
        if self.every == 1 or int(self.updates) % self.every == 0:
            self.refresh()
        self.updates += usable

    def diagnostics(self) -> dict[str, Tensor]:
        """``effective_rank`` of F, ``tr(F)² / ‖F‖²``: 1 for one direction, D for all alike; 0 before the first step."""
        scaled = self.correlation / self.correlation.abs().max().clamp_min(torch.finfo(self.correlation.dtype).tiny)
        square = scaled.square().sum()
        return {"effective_rank": torch.where(square > 0, scaled.trace().square() / square.clamp_min(1e-12), 0.0)}


class DirectPred(CorrelationPredictor):
    """DirectPred: BYOL whose linear predictor is set from the eigenvalues of the embeddings' correlation (2021).

    Args:
        eps: ε that is added to the gain of every direction, so that weak ones are not lost.
        decay: ρ, share of the running correlation that is kept at a step.
        every: steps between two eigendecompositions.
        form: gains as in the released code, which do not depend on the embeddings' scale, or as in the paper.
        eps_inside: ε is added before the root (code).
        exponent: k of the k-th root (code).
    """

    spectrum: Tensor

    def __init__(
        self,
        *,
        eps: float = 0.01,
        decay: float = 0.3,
        every: int = 1,
        form: Literal["code", "paper"] = "code",
        eps_inside: bool = False,
        exponent: float = 2.0,
    ) -> None:
        super().__init__(decay=decay, every=every)
        positive("DirectPred", exponent=exponent)
        if eps < 0:
            raise ConfigError(f"DirectPred takes an eps of 0 or more, not {eps}")
        if form not in ("code", "paper"):
            raise ConfigError(f"DirectPred knows the forms code and paper, not {form}")
        self.eps, self.form, self.eps_inside, self.exponent = eps, form, eps_inside, exponent

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        super().fit_width(width)
        self.register_buffer("spectrum", torch.zeros(width))

    def refresh(self) -> None:
        """See ``direct_predictor``."""
        made = direct_predictor(
            self.correlation, eps=self.eps, form=self.form, eps_inside=self.eps_inside, exponent=self.exponent
        )
        self.weight.copy_(made.weight)
        self.spectrum.copy_(made.spectrum)

    def diagnostics(self) -> dict[str, Tensor]:
        """Also ``top_share``: the largest eigenvalue's share of their sum; near 1 means collapse to one direction."""
        known = self.spectrum.clamp_min(0)
        total = known.sum()
        return {**super().diagnostics(), "top_share": torch.where(total > 0, known.max() / total, 0.0)}


class DirectCopy(CorrelationPredictor):
    """DirectCopy: BYOL whose linear predictor is the embeddings' correlation itself, plus ε on the diagonal (2021).

    Args:
        eps: ε, in squares of the projections' own units.
        decay: ρ, share of the running correlation that is kept at a step.
        every: steps between two predictors.
    """

    def __init__(self, *, eps: float = 0.3, decay: float = 0.3, every: int = 1) -> None:
        super().__init__(decay=decay, every=every)
        if eps < 0:
            raise ConfigError(f"DirectCopy takes an eps of 0 or more, not {eps}")
        self.eps = eps

    def refresh(self) -> None:
        """See ``direct_copy``."""
        self.weight.copy_(direct_copy(self.correlation, eps=self.eps))
