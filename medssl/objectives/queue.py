"""Keys of earlier steps, as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.objectives.gather import gather_integers, gather_views

__all__ = ["KeyQueue"]

NOBODY = -1  # identity of a key whose sample is not known


class KeyQueue(nn.Module):
    """First in, first out (MoCo, He et al., CVPR 2020); the same in all processes.

    Slots that were never filled are not used, so the first steps simply have fewer negatives.

    Args:
        size: keys that are kept.
        width: D of a key.
    """

    keys: Tensor
    group: Tensor
    label: Tensor
    filled: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, width))
        for name in ("group", "label"):
            self.register_buffer(name, torch.full((size,), NOBODY, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def read(self) -> Tensor:
        """A copy of the keys (q, D) put in so far, in no order; ``push`` may follow before the backward pass."""
        return self.keys[: int(self.filled)].clone()

    def negatives(self, group: Tensor | None, labels: Tensor | None) -> Tensor:
        """(M, q): which of the keys so far are of neither the group nor the label of M samples.

        Args:
            group: (M,) integers, as given to ``push``; None: no key is of a sample's own group.
            labels: (M,) integers, likewise.
        """
        count = int(self.filled)
        shape = next((len(v) for v in (group, labels) if v is not None), 1)
        allowed = torch.ones(shape, count, dtype=torch.bool, device=self.keys.device)
        for values, known in ((group, self.group), (labels, self.label)):
            if values is not None:
                allowed = allowed & (values.unsqueeze(1) != known[:count])
        return allowed

    @torch.no_grad()
    def push(self, keys: Tensor, group: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Put in the newest keys of all processes; the oldest leave.

        Args:
            keys: (N, D), unit length, of this process.
            group: (N,) integers ≥ 0 of their samples.
            labels: (N,) integers ≥ 0 of their samples.
        """
        size = len(self.keys)
        joined = gather_views(keys.detach().unsqueeze(0)).views[0][-size:].to(self.keys.dtype)
        places = (self.place + torch.arange(len(joined), device=joined.device)) % size
        self.keys[places] = joined
        for values, known in ((group, self.group), (labels, self.label)):
            everywhere = gather_integers(values)
            known[places] = NOBODY if everywhere is None else everywhere[-size:]
        self.place.copy_((self.place + len(joined)) % size)
        self.filled.copy_((self.filled + len(joined)).clamp_max(size))
