"""SimDINO: self-distillation kept from collapse by the coding rate of the embeddings alone."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.assignment import between_views
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.gather import gather_views
from medssl.objectives.pairs import unit

__all__ = ["SimDINO", "alignment", "coding_rate", "expansion"]


def alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean inner product of a teacher's view and a student's other view of the same sample; in [-1, 1] of unit vectors.

    Args:
        student: (V, N, D).
        teacher: (G, N, D) of the first G ≤ V views.
    """
    return between_views(teacher.flatten(1) @ student.flatten(1).T / student.shape[1])


def coding_rate(z: Tensor, *, epsilon: float) -> Tensor:
    r"""Nats that coding the rows takes up to a distortion ε; large where they fill the space.

    .. math:: R(Z) = \tfrac12 \log\det\Big(I_p + \frac{p}{m \epsilon} Z^T Z\Big)

    with the smaller of the p x p and the m x m product, whose determinants are equal. Identical unit rows have
    ½ log(1 + p/ε), the least; unit rows with ZᵀZ = (m/p) I have ½ p log(1 + 1/ε), the most.

    Args:
        z: (..., m, p), float32 or better.
        epsilon: ε > 0.

    Returns:
        (...).
    """
    m, p = z.shape[-2:]
    product = z.mT @ z if p <= m else z @ z.mT
    identity = torch.eye(product.shape[-1], dtype=z.dtype, device=z.device)
    matrix = _conditioned(identity + p / (m * epsilon) * product)
    factor: Tensor
    factor, _ = torch.linalg.cholesky_ex(
        matrix
    )  # a failure would go unseen; _conditioned sees to it that there is none
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _conditioned(matrix: Tensor) -> Tensor:
    """Matrices whose least eigenvalue is 1, plus the rounding of their factorisation where that comes near 1.

    With unit rows it does where p/ε is above 200,000 in float32, far from useful settings. Told from the trace and not
    from a factorisation that failed, which would make the device wait.
    """
    trace = matrix.detach().diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    rounding = 4 * torch.finfo(matrix.dtype).eps * trace
    return matrix + torch.diag_embed(torch.where(rounding > 0.1, rounding, 0.0).expand(matrix.shape[:-1]))


def expansion(
    student: Tensor, teacher: Tensor, *, epsilon: float, of: Literal["student", "both"] = "both", gather: bool = True
) -> Tensor:
    r"""Coding rate of each of the first views, averaged over them, times γ.

    .. math:: \gamma \cdot \frac{1}{G} \sum_g R(Z_g), \quad \gamma = \frac{p + m}{p\,m}

    Args:
        student: (V, N, p), V ≥ G.
        teacher: (G, N, p); gets no gradient.
        epsilon: see ``coding_rate``.
        of: Z is the student's embeddings (published as type 0), or the mean of student's and teacher's (type 1).
        gather: m counts the samples of all processes, else only this process' own.
    """
    z = student[: len(teacher)]
    if of == "both":
        z = (z + teacher.detach()) / 2
    if gather:
        z = gather_views(z).views
    m, p = z.shape[-2:]
    return (p + m) / (p * m) * coding_rate(z, epsilon=epsilon).mean()


class SimDINO(Objective):
    """SimDINO: the student agrees with a slow teacher on other views, and embeddings fill the space (2025).

    ``-weight · alignment - expansion`` of unit embeddings: DINO without prototypes, centring, temperatures (Wu et al.,
    *Simplifying DINO via coding rate regularization*, 2025). The loss is negative. Watch ``alignment`` and
    ``expansion``: 1.0 with a small expansion is collapse; then a smaller epsilon helps.

    The rate needs more than a few recordings: 16 or more on all devices together.

    Args:
        epsilon: distortion of the coding rate; smaller spreads more.
        weight: of the agreement.
        expansion: rate of the ``"student"``'s embeddings, or of the mean of ``"both"`` student's and teacher's.
        gather: take the rate over all devices instead of on each.
        globals: first views, which the teacher sees.
    """

    family: ClassVar[Family] = "clustering"
    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    momentum: ClassVar[float | None] = 0.996
    min_samples: ClassVar[int] = 2

    def __init__(
        self,
        *,
        epsilon: float = 0.05,
        weight: float = 1.0,
        expansion: Literal["student", "both"] = "both",
        gather: bool = True,
        globals: int = 2,
    ) -> None:
        super().__init__()
        positive("SimDINO", epsilon=epsilon, weight=weight)
        if expansion not in ("student", "both"):
            raise ConfigError(f"SimDINO expands 'student' or 'both', not '{expansion}'")
        if globals < 1:
            raise ConfigError(f"SimDINO takes 1 or more globals, not {globals}")
        self.epsilon, self.weight, self.expansion = epsilon, weight, expansion
        self.gather, self.globals = gather, globals

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``alignment`` and ``expansion``."""
        assert given.targets is not None
        student, teacher = unit(views), unit(given.targets[: self.globals])
        agreement = alignment(student, teacher)
        spread = expansion(student, teacher, epsilon=self.epsilon, of=self.expansion, gather=self.gather)
        logs = {"alignment": agreement.detach(), "expansion": spread.detach()}
        return LossOutput(-self.weight * agreement - spread, logs)
