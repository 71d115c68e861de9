"""SimLAP: classes in pairs, each pair compared in a sub-space of its own (Hydra)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medssl.errors import ConfigError
from medssl.objectives.base import Given, full_precision, positive
from medssl.objectives.gather import gather_integers
from medssl.objectives.pairs import EPS, AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up

__all__ = ["PairGate", "SimLAP", "class_rows", "draw_partners", "simlap", "simlap_anchors"]

Partners = Literal["any", "same", "other"]
Fusion = Literal["mean", "product"]

NOTHING = -1  # a place of the vocabulary that no class has taken


def simlap(z: Tensor, gate: Tensor, label: Tensor, partner: Tensor, *, temperature: float) -> Tensor:
    r"""Contrast of arbitrary pairs of classes (Wu et al., *Rethinking positive pairs in contrastive learning*, 2024).

    Sample i, of class y_i, meets a second class ŷ_i; the gate g_i in (0, 1)^D of the two selects in which dimensions
    the two classes may be alike. Every key is filtered with the anchor's gate:

    .. math:: \ell_{ij} = \frac{1}{\tau} \cos(g_i \odot z_i, g_i \odot z_j), \qquad L = \frac{1}{\sum P_{ij}}
        \sum_{ij} P_{ij} \Big[ \log \Big( e^{\ell_{ij}} + \sum_k Q_{ik} e^{\ell_{ik}} \Big) - \ell_{ij} \Big]

    where P_ij tells that y_j = ŷ_i, and Q_ij that y_j is neither y_i nor ŷ_i.

    Args:
        z: (N, D).
        gate: (N, D) in (0, 1), of the anchors.
        label: (N,) integers y.
        partner: (N,) integers ŷ.
        temperature: τ > 0.

    Returns:
        Scalar; 0 when no sample is of a class that was asked for.

    >>> y = torch.tensor([0, 0, 1])
    >>> simlap(torch.eye(3), torch.ones(3, 3), y, torch.tensor([2, 2, 2]), temperature=0.1)
    tensor(0.)
    """
    with full_precision(z.device):
        pairs = pair_up(z.unsqueeze(0), Given())
        return simlap_anchors(pairs, gate, label, partner, temperature=temperature).losses.mean()


def simlap_anchors(
    pairs: Pairs, gate: Tensor, label: Tensor, partner: Tensor, *, temperature: float, chunk: int = 0
) -> AnchorLosses:
    """The terms of ``simlap``, (K, N); ``positives``, their mean number, among the logs.

    The embeddings of all views are anchors and keys alike. With groups, samples of the anchor's are no negatives.
    Memory: (K, N, K, M), by two products of matrices; never N²D.

    Args:
        pairs: anchors and keys; their labels are not used.
        gate: (N, D), of this process' samples.
        label: (M,) y of the samples of all processes.
        partner: (M,) ŷ of the same.
        temperature: τ.
        chunk: samples at a time.
    """
    k, n = pairs.anchors.shape[:2]
    mine = slice(pairs.offset, pairs.offset + n)
    y, asked = label[mine].unsqueeze(1), partner[mine].unsqueeze(1)
    matching = asked == label
    negative = (y != label) & ~matching & pairs.negative
    each = k * (partner.unsqueeze(1) == label).sum() / label.new_full((), len(label), dtype=pairs.anchors.dtype)

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        squared = gate[rows].square()
        product = torch.einsum("aid,bjd->aibj", squared * anchors, keys)
        lengths = _length(torch.einsum("id,bjd->ibj", squared, keys.square()))
        own = _length((squared * anchors.square()).sum(-1))
        logits = product / (own[..., None, None] * lengths) / temperature
        energy = logits.masked_fill(~negative[rows].unsqueeze(1), -torch.inf).flatten(2).logsumexp(-1)
        excess = torch.logaddexp(energy[..., None, None], logits) - logits
        return (torch.where(matching[rows].unsqueeze(1), excess, 0.0).sum((2, 3)),)

    (sums,) = in_chunks(terms, pairs, chunk, met=3 * len(pairs.keys))  # filtered products, norms and logits
    # divided by the positives an anchor has on average; the mean over anchors follows
    losses = sums / torch.where(each > 0, each, 1.0)
    everyone = torch.ones(n, dtype=torch.bool, device=losses.device)
    total = torch.full((), float(n), device=losses.device)  # processes hold equally many
    return AnchorLosses(losses, everyone, total, {"positives": each})


def _length(squared: Tensor) -> Tensor:
    """Root with a finite gradient at 0, as ``unit`` bounds lengths."""
    return squared.clamp_min(EPS**2).sqrt()


def draw_partners(label: Tensor, partners: Partners, generator: torch.Generator | None) -> Tensor:
    """A second class ŷ for every sample.

    Args:
        label: (N,) integers.
        partners: ``"any"``: the class of a sample drawn without replacement; ``"same"``: its own; ``"other"``: that
            of a sample drawn among those of other classes, or its own where there is none.
        generator: on the device of the labels.
    """
    if partners == "same":
        return label
    if partners == "any":
        return label[torch.randperm(len(label), generator=generator, device=label.device)]
    different = label.unsqueeze(1) != label
    chance = torch.where(different.any(-1, keepdim=True), different, ~different).float()
    return label[torch.multinomial(chance, 1, generator=generator).squeeze(1)]


def class_rows(label: Tensor, vocabulary: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a table that stand for labels; a label seen for the first time takes the next free row.

    Args:
        label: (M,) integers ≥ 0, in the same order in all processes.
        vocabulary: (C,) the label of each row, -1 where the row is free.

    Returns:
        (M,) rows, and the vocabulary with the new labels.

    Raises:
        ValueError: more labels than rows.

    >>> class_rows(torch.tensor([7, 7, 9]), torch.tensor([9, -1, -1]))
    (tensor([1, 1, 0]), tensor([ 9,  7, -1]))
    """
    known = label.unsqueeze(1) == vocabulary
    new = ~known.any(-1)
    first = (label.unsqueeze(1) == label).int().argmax(-1)  # the first sample with the label
    leads = new & (first == torch.arange(len(label), device=label.device))
    taken = (vocabulary != NOTHING).sum()
    if int(taken + leads.sum()) > len(vocabulary):
        raise ValueError(
            f"there is room for {len(vocabulary)} classes, and now {int(taken + leads.sum())} were seen; raise "
            "SimLAP's classes, or name a column with fewer values"
        )
    rows = torch.where(new, (taken - 1 + leads.cumsum(0))[first], known.int().argmax(-1))
    spare = torch.cat([vocabulary, vocabulary.new_full((1,), NOTHING)])
    return rows, spare.scatter(0, torch.where(leads, rows, len(vocabulary)), label)[:-1]


class PairGate(nn.Module):
    """Which dimensions a pair of classes may share: (M,), (M,) rows of classes → (M, D) in (0, 1).

    Embedding, then ReLU → BN → Linear → ReLU → BN → Linear → sigmoid.

    Args:
        classes: rows of the embedding.
        width: D.
        embedding: features of a class.
        hidden: features of the hidden layer.
        fusion: ``"mean"``: the gate of the mean of both embeddings; ``"product"``: the product of both gates.
    """

    def __init__(self, classes: int, width: int, *, embedding: int, hidden: int, fusion: Fusion = "mean") -> None:
        super().__init__()
        self.fusion = fusion
        self.embedding = nn.Embedding(classes, embedding)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(embedding),
            nn.Linear(embedding, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, width),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The gates of M ≥ 2 pairs."""
        one, other = self.embedding(first), self.embedding(second)
        if self.fusion == "mean":
            return torch.sigmoid(self.layers((one + other) / 2))
        one, other = torch.sigmoid(self.layers(torch.cat([one, other]))).chunk(2)
        return one * other


class SimLAP(ContrastiveObjective):
    """SimLAP (Hydra): samples of any two classes are positives in the dimensions that a gate of both selects (2024).

    Labels may be any classes of the manifest: a diagnosis, a site, a device.

    Args:
        classes: most classes that may occur.
        temperature: τ.
        partners: second class of every sample: ``any`` sample's of the batch, the ``same``, or an ``other`` one.
        embedding: features of a class; 512 in the paper.
        hidden: features of the gate's hidden layer; 1024 in the paper.
        fusion: the gate of the ``mean`` of two classes, or the ``product`` of their gates.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    min_views: ClassVar[int] = 1

    vocabulary: Tensor
    gate: PairGate

    def __init__(
        self,
        *,
        classes: int = 100,
        temperature: float = 0.1,
        partners: Partners = "any",
        embedding: int = 64,
        hidden: int = 128,
        fusion: Fusion = "mean",
        chunk: int = 0,
    ) -> None:
        super().__init__(chunk=chunk)
        positive("SimLAP", temperature=temperature, embedding=embedding, hidden=hidden, classes=classes)
        if partners not in ("any", "same", "other") or fusion not in ("mean", "product"):
            raise ConfigError(
                "SimLAP takes partners 'any', 'same' or 'other' and a fusion 'mean' or 'product', not "
                f"'{partners}' and '{fusion}'"
            )
        self.classes, self.temperature, self.partners = classes, temperature, partners
        self.embedding, self.hidden, self.fusion = embedding, hidden, fusion
        self.register_buffer("vocabulary", torch.full((classes,), NOTHING, dtype=torch.int64))

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``: the gate."""
        super().fit_width(width)
        self.gate = PairGate(
            self.classes, width, embedding=self.embedding, hidden=self.hidden, fusion=self.fusion
        )  # fmt: skip

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``simlap``; the gates of all processes' samples are computed in each, so that its statistics agree."""
        assert given.labels is not None
        pairs = pair_up(views, Given(group=given.group))
        label, partner = self._classes(given)
        gate = self.gate(label, partner)[pairs.offset : pairs.offset + views.shape[1]]
        return simlap_anchors(pairs, gate, label, partner, temperature=self.temperature, chunk=self.chunk)

    @torch.no_grad()
    def _classes(self, given: Given) -> tuple[Tensor, Tensor]:
        """(M,) rows of the samples' classes and of their partners', of all processes."""
        assert given.labels is not None
        if given.labels.is_floating_point():
            raise ValueError("SimLAP needs classes, but the labels are continuous values; name another column")
        label = gather_integers(given.labels)
        partner = gather_integers(draw_partners(given.labels, self.partners, given.generator))
        assert label is not None and partner is not None
        rows, vocabulary = class_rows(label, self.vocabulary)
        if self.training:
            self.vocabulary.copy_(vocabulary)
        return rows, class_rows(partner, vocabulary)[0]
