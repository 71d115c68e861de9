"""CoTAP: similarities of cells of neighbouring recordings, ranked by the student as by its teacher."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medssl.errors import ConfigError
from medssl.objectives.assignment import cosine_scores, new_prototypes, prediction_loss, refuse_shares, sinkhorn
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.foreground import adaptive_means, foreground, strongest_cells
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.neighbours import most_similar_other, neighbour_cross_entropy, random_others
from medssl.objectives.object_filter import ObjectFilter, new_bank, prototype_entropy, spherical_means
from medssl.objectives.pairs import unit
from medssl.objectives.queue import KeyQueue
from medssl.objectives.ranking import Surrogate, ap_loss
from medssl.objectives.summaries import batch_centred, mean_cells

__all__ = ["Cells", "CoTAP", "neighbour_ranking_loss", "similarity_lists"]

ASSIGNMENT_TEMPERATURE = 0.07  # of the teacher's clusters, published
VIEW_TEMPERATURE = 0.1  # of the student's among views of one recording, published
NEIGHBOUR_TEMPERATURE = 0.2  # of the student's across neighbours, published
ENTROPY_TEMPERATURE = 0.1


class Cells(NamedTuple):
    """Kept cells of recordings, and of what they are paired with.

    Attributes:
        own: (P, M, k, D), P pairings of M recordings.
        pool: (P, M, k, D) of another view of each recording; None: the same cells, recordings are paired.
    """

    own: Tensor
    pool: Tensor | None = None


def similarity_lists(cells: Cells, pairs: Tensor) -> Tensor:
    """Cosines of all cells of a recording with all cells of those it is paired with.

    Args:
        cells: see ``Cells``; not normalised.
        pairs: (R, M) places in the pool: R for every recording.

    Returns:
        (P, R·M·k²).
    """
    own = unit(cells.own)
    pool = own if cells.pool is None else unit(cells.pool)
    # All with all, and one half for both: a pair that comes twice has the same similarity to the last bit, which
    # matters where ties are counted.
    everything = own.flatten(1, 2) @ pool.flatten(1, 2).mT
    if cells.pool is None:
        upper = everything.triu(1)
        everything = upper + upper.mT + torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device)
    recordings, count = own.shape[1:3]
    blocks = everything.unflatten(2, (recordings, count)).unflatten(1, (recordings, count)).transpose(2, 3)
    lists: Tensor = blocks[:, torch.arange(recordings, device=own.device), pairs].flatten(1)
    return lists


def neighbour_ranking_loss(
    student: Cells,
    teacher: Cells,
    pairs: Tensor,
    *,
    margin: float = 0.5,
    floor: float = -0.2,
    unmatched: float = 0.1,
    surrogate: Surrogate = "quadratic",
) -> Tensor:
    """``ap_loss`` of the student's ``similarity_lists`` with the teacher's as targets; mean over pairings.

    Args:
        student: cells of all recordings of the batch.
        teacher: the same cells.
        pairs: (R, M), see ``similarity_lists``; the first row names neighbours, the others random recordings.
        margin, floor, unmatched, surrogate: see ``ap_loss``; ``unmatched`` is the weight of random pairs.
    """
    targets, scores = similarity_lists(teacher, pairs), similarity_lists(student, pairs)
    matched = torch.arange(scores.shape[1], device=scores.device) * len(pairs) < scores.shape[1]
    return ap_loss(
        targets, scores, matched.expand_as(scores), margin=margin, floor=floor, unmatched=unmatched,
        surrogate=surrogate,
    ).mean()  # fmt: skip


class CoTAP(Objective):
    """CoTAP: rank similarities of cells of neighbouring recordings as a slow teacher does, noise-tolerant (2025).

    Wen et al., *Semantic concentration for self-supervised dense representations learning*, TPAMI 2025:
    ``neighbour_ranking_loss`` over the cells of largest foreground, mean over pooled grids. Published from encoders
    trained with DINO or iBOT; a constant teacher teaches nothing, so from scratch add ``clusters``. Foreground is the
    similarity of a cell to the mean cell (``foreground``), since most encoders have no class token.

    Args:
        cells: pooled cells an axis; the loss is the mean over these grids, each as far as the map is large enough.
        top: cells of a recording that are kept.
        others: random other recordings that each is paired with.
        neighbour: ``"view"``: the other view of the recording; ``"batch"``: the most similar other recording of the
            batch, of another patient where same_patient is ``ignore``.
        margin: τ, gap of similarities from which a ranking costs nothing.
        floor: θ, similarity of the teacher from which a pair counts.
        keep: share of the similarity that the foreground holds.
        surrogate: penalty of a wrong order, ``"quadratic"`` or ``"hinge"``.
        prototypes: of an object-aware filter; 0 for none. 64 published.
        window: odd cells of a prototype, one number an axis of the maps: (3,) for signals, (3, 3, 3) for volumes.
        heads: of the filter; must divide the projector's output.
        memory: earlier maps that prototypes specialise on, and are made of once it is full.
        clusters: K of clusters that neighbours should share; 0 for none. 4096 published.
    """

    family: ClassVar[Family] = "dense"
    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    takes: ClassVar[Literal["projections", "features", "maps"]] = "maps"
    momentum: ClassVar[float | None] = 0.9997
    min_samples: ClassVar[int] = 2

    clusters: nn.Parameter
    teacher_clusters: Tensor
    bank: nn.Parameter
    bank_made: Tensor

    def __init__(
        self,
        *,
        cells: tuple[int, ...] = (7, 14),
        top: int = 5,
        others: int = 5,
        neighbour: Literal["view", "batch"] = "view",
        margin: float = 0.5,
        floor: float = -0.2,
        keep: float = 0.6,
        surrogate: Surrogate = "quadratic",
        prototypes: int = 0,
        window: tuple[int, ...] = (3, 3, 3),
        heads: int = 4,
        memory: int = 1024,
        clusters: int = 0,
    ) -> None:
        super().__init__()
        positive("CoTAP", margin=margin, top=top, others=others, smallest_of_cells=min(cells, default=0))
        refuse_shares("CoTAP", keep=keep)
        if neighbour not in ("view", "batch"):
            raise ConfigError(f"CoTAP takes its neighbour from a 'view' or the 'batch', not '{neighbour}'")
        if surrogate not in ("quadratic", "hinge"):
            raise ConfigError(f"CoTAP has a 'quadratic' or a 'hinge' surrogate, not '{surrogate}'")
        if prototypes < 0 or clusters < 0 or memory < max(1, prototypes):
            raise ConfigError(
                "CoTAP takes 0 or more prototypes and clusters and a memory of at least as many maps as prototypes, "
                f"not {prototypes}, {clusters} and {memory}"
            )
        if any(w % 2 == 0 or w < 1 for w in window) or len(window) not in (1, 2, 3):
            raise ConfigError(f"CoTAP takes a window of one to three odd numbers of cells, not {window}")
        self.cells, self.top, self.others, self.neighbour = tuple(cells), top, others, neighbour
        self.margin, self.floor, self.keep, self.surrogate = margin, floor, keep, surrogate
        self.prototypes, self.window, self.heads = prototypes, tuple(window), heads
        self.memory_size, self.cluster_count = memory, clusters

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        self.filter = self.teacher_filter = None
        if self.prototypes:
            self.filter = ObjectFilter(width, heads=self.heads)
            self.teacher_filter = copy.deepcopy(self.filter).requires_grad_(False)
            self.bank = new_bank(self.prototypes, width, self.window)
            self.memory = KeyQueue(self.memory_size, width * math.prod(self.window))
            self.register_buffer("bank_made", torch.zeros((), dtype=torch.bool))
        if self.cluster_count:
            self.clusters = new_prototypes(self.cluster_count, 2 * width if self.prototypes else width)
            self.register_buffer("teacher_clusters", self.clusters.detach().clone())

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """See ``Objective.follow``: the filter and the clusters."""
        if self.filter is not None and self.teacher_filter is not None:
            for mine, theirs in zip(self.teacher_filter.parameters(), self.filter.parameters(), strict=True):
                mine.lerp_(theirs, 1 - momentum)
        if self.cluster_count:
            self.teacher_clusters.lerp_(self.clusters, 1 - momentum)

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``neighbour_ranking_loss``, ``prototype_entropy`` and ``neighbour_cross_entropy``."""
        assert given.targets is not None
        if given.targets.shape != views.shape:
            shapes = f"{tuple(views.shape)} and {tuple(given.targets.shape)}"
            raise ValueError(f"CoTAP compares maps with a teacher's of the same shape, not {shapes}")
        kept = foreground(given.targets, keep=self.keep)
        terms: dict[str, Tensor] = {}
        if self.filter is not None:
            terms["entropy"] = self._specialise(views.detach())
        student, summary = self._seen(views, self.filter)
        with torch.no_grad():
            teacher, teacher_summary = self._seen(given.targets, self.teacher_filter)
        partner = None
        if self.neighbour == "batch":
            partner = most_similar_other(teacher_summary.mean(0), gather_integers(given.group))
        terms["ranking"] = self._ranking(student, teacher, kept, partner, given.generator)
        if self.cluster_count:
            terms["clusters"] = self._clusters(summary, teacher_summary, partner)
        logs = {k: v.detach() for k, v in terms.items()} if len(terms) > 1 else {}
        return LossOutput(torch.stack(list(terms.values())).sum(), {**logs, "foreground": (kept >= 1).float().mean()})

    def _seen(self, maps: Tensor, through: ObjectFilter | None) -> tuple[Tensor, Tensor]:
        """Maps (K, N, D', *grid) as they are compared, and summaries (K, M, D') of all processes' recordings."""
        whole = mean_cells(maps)
        if through is not None:
            whole = through.summary(whole.flatten(0, 1), self.bank).unflatten(0, maps.shape[:2])
            maps = through(maps.flatten(0, 1), self.bank).unflatten(0, maps.shape[:2])
        return maps, gather_views(batch_centred(whole)).views

    def _ranking(
        self, student: Tensor, teacher: Tensor, kept: Tensor, partner: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Mean over the grids that differ."""
        losses = []
        for cells in sorted({min(c, max(kept.shape[2:])) for c in self.cells}):
            of_student, of_teacher = self._cells(student, teacher, kept, cells, by_view=partner is None)
            samples = of_student.own.shape[1]
            others = random_others(self.others, samples, generator=generator, device=student.device)
            nearest = torch.arange(samples, device=student.device) if partner is None else partner
            losses.append(
                neighbour_ranking_loss(
                    of_student,
                    of_teacher,
                    torch.cat([nearest.unsqueeze(0), others]),
                    margin=self.margin,
                    floor=self.floor,
                    surrogate=self.surrogate,
                )
            )
        return torch.stack(losses).mean()

    def _cells(
        self, student: Tensor, teacher: Tensor, kept: Tensor, cells: int, *, by_view: bool
    ) -> tuple[Cells, Cells]:
        """Kept cells of the student and of the teacher, of the recordings of all processes."""
        views = len(kept)
        if by_view:
            kept, student, teacher = (x.flatten(0, 1).unsqueeze(0) for x in (kept, student, teacher))
        found = []
        for chosen in strongest_cells(kept, [student, teacher], cells=cells, count=self.top):
            single = chosen.unflatten(0, (views, -1)) if by_view else chosen.unsqueeze(0)
            own = gather_views(single.flatten(2)).views.unflatten(2, single.shape[2:])
            if by_view:  # the pair of two views need not be looked at from both sides
                pairings = views if views > 2 else 1
                found.append(Cells(own[:pairings], own.roll(-1, 0)[:pairings]))
            else:
                found.append(Cells(own))
        return found[0], found[1]

    def _clusters(self, student: Tensor, teacher: Tensor, partner: Tensor | None) -> Tensor:
        """Clusters of the neighbour, (K, M, D') each; assigned so that all clusters are used equally."""
        scores, known = cosine_scores(student, self.clusters), cosine_scores(teacher, self.teacher_clusters)
        shares = sinkhorn(known.flatten(0, 1), epsilon=ASSIGNMENT_TEMPERATURE, iterations=3).view_as(known)
        if partner is None:
            return prediction_loss(scores, shares, temperature=VIEW_TEMPERATURE)
        return neighbour_cross_entropy(
            scores, shares, scores[:, partner], shares[:, partner], temperature=NEIGHBOUR_TEMPERATURE
        )

    def _specialise(self, maps: Tensor) -> Tensor:
        """Entropy of the prototypes over windows of this step and of earlier ones, which are remembered."""
        if maps.ndim - 3 != len(self.window):
            raise ConfigError(
                f"CoTAP's prototypes have {len(self.window)} axes but the maps have {maps.ndim - 3}; give window one "
                "odd number an axis"
            )
        windows = unit(adaptive_means(maps.flatten(0, 1), self.window).flatten(1)).unflatten(0, maps.shape[:2])
        now, earlier = gather_views(windows).views.flatten(0, 1), self.memory.read()
        if self.training:
            for view in windows:  # so that the order does not depend on the number of processes
                self.memory.push(view)
            if not self.bank_made and int(self.memory.filled) == self.memory_size:
                with torch.no_grad():
                    self.bank.copy_(spherical_means(self.memory.read(), self.prototypes).view_as(self.bank))
                self.bank_made.fill_(True)
        return prototype_entropy(self.bank, torch.cat([now, earlier]), temperature=ENTROPY_TEMPERATURE)
