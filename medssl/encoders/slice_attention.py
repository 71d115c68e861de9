"""Attention between the slices of a volume: a small transformer that looks at a few places it chooses itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import promoted

__all__ = [
    "Attend",
    "DeformableAttention",
    "SliceAttention",
    "SliceLayer",
    "filled_mean",
    "sample_linear",
    "sample_middle",
]

Attend = Literal["slices", "embedding"]

HEADS, HEAD_WIDTH = 8, 64
STRIDE, KERNEL, REACH = 4, 6, 2.0


def sample_linear(features: Tensor, places: Tensor, length: Tensor) -> Tensor:
    """Linear interpolation along the last axis; 0 outside.

    Args:
        features: (B, G, C, L).
        places: (B, G, J), -1 the left edge of the first element, 1 the right edge of the last one that is filled.
        length: (B,) how many elements are filled.

    Returns:
        (B, G, C, J).

    >>> sample_linear(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[-0.5, 0.0, 0.5, 1.0]]]), torch.tensor([2]))
    tensor([[[[1.0000, 2.0000, 3.0000, 1.5000]]]])
    """
    count = length.view(-1, 1, 1)
    index = ((places + 1) * count - 1) / 2
    lower = index.floor()
    share = index - lower
    sampled = torch.zeros_like(features[..., :1]).expand(*features.shape[:-1], places.shape[-1])
    for corner, weight in ((lower, 1 - share), (lower + 1, share)):
        inside = (corner >= 0) & (corner < count)
        source = corner.clamp(0, features.shape[-1] - 1).long().unsqueeze(2).expand_as(sampled)
        sampled = sampled + features.gather(-1, source) * (weight * inside).unsqueeze(2)
    return sampled


def sample_middle(features: Tensor, places: Tensor) -> Tensor:
    """What the released code samples: always the middle of the sequence, fainter for places far from it.

    It takes the sequence's axis for one of a single element, so that places only weigh: ``max(0, 1 - |place| / 2)``.

    Args:
        features: (B, G, C, L).
        places: (B, G, J), as ``sample_linear`` takes them.

    Returns:
        (B, G, C, J).
    """
    last = features.shape[-1] - 1
    middle = (features[..., last // 2] + features[..., (last + 1) // 2]) / 2
    return middle.unsqueeze(-1) * (1 - places.abs() / 2).clamp_min(0).unsqueeze(2)


class DeformableAttention(nn.Module):
    """Attention of every place of a sequence to every fourth one, moved by an offset that is learned from the content.

    One group of channels a head chooses its own places: ``offset = 2 tanh(...)`` of convolved queries, in units of the
    places j = 0 .. L/4 - 1 (at least one), which stand at ``2 j / (L/4 - 1) - 1``. Keys and values come from the input
    interpolated there. Their distance d enters the logits as a learned function of ``sign(d) log(1 + |d|)``. Xia et
    al., *Vision transformer with deformable attention*, CVPR 2022, along one axis.

    What lies beyond a sequence's own length is not seen: outputs there mean nothing, and those before are the same as
    of the shorter sequence alone.

    Args:
        channels: C, a multiple of 8, the number of heads (of 64 channels each).
        released: sample as the released code does, see ``sample_middle``.
    """

    def __init__(self, channels: int, *, released: bool = False) -> None:
        super().__init__()
        if channels % HEADS:
            raise ConfigError(
                f"attention between slices has {HEADS} heads, so it takes channels that are a multiple of {HEADS}, "
                f"not {channels}"
            )
        self.released = released
        inner = HEADS * HEAD_WIDTH
        self.to_offsets = nn.Sequential(
            nn.Conv1d(HEAD_WIDTH, HEAD_WIDTH, KERNEL, STRIDE, (KERNEL - STRIDE) // 2, groups=HEAD_WIDTH),
            nn.GELU(),
            nn.Conv1d(HEAD_WIDTH, 1, 1, bias=False),
            nn.Tanh(),
        )
        hidden = max(1, channels // 4)
        self.bias = nn.Sequential(
            nn.Linear(1, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1, bias=False),  # a constant would change no softmax
        )
        self.to_q = nn.Conv1d(channels, inner, 1, groups=HEADS, bias=False)
        self.to_k = nn.Conv1d(channels, inner, 1, groups=HEADS, bias=False)
        self.to_v = nn.Conv1d(channels, inner, 1, groups=HEADS, bias=False)
        self.to_out = nn.Conv1d(inner, channels, 1)

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, C, L) → (B, C, L).

        Args:
            x: sequences, filled from the front.
            length: (B,) int64 elements that are filled, at least 1; all of them by default.
        """
        if length is None:
            length = torch.full((x.shape[0],), x.shape[-1], device=x.device)
        x = x.masked_fill((torch.arange(x.shape[-1], device=x.device) >= length.view(-1, 1)).unsqueeze(1), 0.0)
        q = self.to_q(x).unflatten(1, (HEADS, HEAD_WIDTH))
        places, count = self._places(q, length)
        groups = x.unflatten(1, (HEADS, -1))
        sampled = sample_middle(groups, places) if self.released else sample_linear(groups, places, length)
        sampled = sampled.flatten(1, 2)
        k, v = (layer(sampled).unflatten(1, (HEADS, HEAD_WIDTH)) for layer in (self.to_k, self.to_v))
        logits = q.mT @ k / HEAD_WIDTH**0.5 + self._bias(x.shape[-1], length, places)
        unseen = torch.arange(places.shape[-1], device=x.device) >= count.view(-1, 1)
        weights = logits.masked_fill(unseen[:, None, None], -torch.inf).softmax(-1)
        y: Tensor = self.to_out((v @ weights.mT.to(v.dtype)).flatten(1, 2))
        return y

    def _places(self, q: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Where to look (B, heads, J) as ``sample_linear`` takes it, and how many of them a sequence has (B,)."""
        short = max(0, STRIDE - q.shape[-1])  # one place at least
        offsets = REACH * promoted(self.to_offsets(functional.pad(q.flatten(0, 1), (0, short))))
        grid = offsets.view(*q.shape[:2], -1) + torch.arange(offsets.shape[-1], device=q.device)
        count = (length // STRIDE).clamp_min(1)
        return 2 * grid / (count - 1).clamp_min(1).view(-1, 1, 1) - 1, count

    def _bias(self, size: int, length: Tensor, places: Tensor) -> Tensor:
        """(B, heads, L, J) of the distances between queries and places."""
        steps = torch.arange(size, device=places.device, dtype=places.dtype)
        own = 2 * steps / (length - 1).clamp_min(1).view(-1, 1) - 1
        distance = own[:, None, :, None] - places.unsqueeze(-2)
        squeezed: Tensor = self.bias((distance.sign() * distance.abs().log1p()).unsqueeze(-1).to(places.dtype))
        return squeezed.squeeze(-1)


class SliceLayer(nn.Module):
    """``x ← LN(A(x) + x)``, ``x ← LN(FFN(x) + x)``: deformable attention, then a network of its own for each slice.

    Args:
        width: D of a slice.
        hidden: features between the two linear layers of the network.
        attend: what attention runs along, see ``SliceAttention``.
        slices: n, for ``"embedding"``.
        dropout: after both parts, and within the network.
    """

    def __init__(self, width: int, hidden: int, *, attend: Attend, slices: int, dropout: float) -> None:
        super().__init__()
        self.attend = attend
        released = attend == "embedding"
        self.attention = DeformableAttention(slices if released else width, released=released)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, n, D) → (B, n, D); see ``DeformableAttention``."""
        attended = self.attention(x.mT, length).mT if self.attend == "slices" else self.attention(x)
        x = self.dropout(self.norm1(attended + x))
        y: Tensor = self.dropout(self.norm2(self.feed(x) + x))
        return y


class SliceAttention(nn.Module):
    """Layers of attention between slices: (B, n, D) → (B, n, D).

    Args:
        width: D of a slice, a multiple of 8.
        layers: how many.
        hidden: of each layer's network.
        attend: ``"slices"``: every slice looks at others, for any number of slices. ``"embedding"``: the released code,
            in which slices are channels and attention runs along the D coordinates of their vectors (see also
            ``sample_middle``); for exactly ``slices`` slices, a multiple of 8.
        slices: n, for ``"embedding"``.
        dropout: of the layers.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 4,
        hidden: int = 720,
        attend: Attend = "slices",
        slices: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.attend, self.slices = attend, slices
        self.layers = nn.ModuleList(
            SliceLayer(width, hidden, attend=attend, slices=slices, dropout=dropout) for _ in range(layers)
        )

    def forward(self, x: Tensor, filled: Tensor | None = None) -> Tensor:
        """See above.

        Args:
            x: (B, n, D).
            filled: (B, n) booleans, at least one a row: slices that are there; the others are not looked at, and what
                comes out for them means nothing.
        """
        if self.attend == "embedding":
            self._refuse_others(x.shape[1])
            return self._through(x if filled is None else x.masked_fill(~filled.unsqueeze(-1), 0.0), None)
        if filled is None:
            return self._through(x, None)
        order = (~filled).to(torch.uint8).argsort(dim=1, stable=True)  # slices that are there to the front, in order
        there = order.unsqueeze(-1).expand_as(x)
        y = self._through(x.gather(1, there), filled.sum(1))
        return torch.zeros_like(y).scatter(1, there, y)

    def _through(self, x: Tensor, length: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, length)
        return x

    def _refuse_others(self, count: int) -> None:
        if count != self.slices:
            raise ConfigError(
                f"attention along the embedding was built for {self.slices} slices, not {count}; set the number of "
                "slices, or attend to slices, which takes any"
            )


def filled_mean(x: Tensor, filled: Tensor | None = None) -> Tensor:
    """Mean over the slices that are there: (B, n, D) and (B, n) booleans → (B, D), float32 at least."""
    x = promoted(x)
    if filled is None:
        return x.mean(1)
    weights = filled.to(x.dtype).unsqueeze(-1)
    return x.masked_fill(~filled.unsqueeze(-1), 0.0).sum(1) / weights.sum(1).clamp_min(1)
