"""Pretext tasks: tell which transformation was applied, beside any objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.configurable import Configurable
from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.projectors import dropout
from medssl.methods.transformations import distant_permutations, flip, rotate, rotations_of_a_cube
from medssl.views.base import Views

__all__ = [
    "FlipPretext",
    "Pretext",
    "PretextHead",
    "RotationPretext",
    "SegmentOrderPretext",
]


class PretextHead(nn.Module):
    """Two hidden layers of 512 and 128 features with ReLU and dropout, (N, in) → (N, classes).

    Args:
        width: features in.
        classes: transformations to tell apart.
        drop: share of hidden features that are dropped in training.
    """

    def __init__(self, width: int, classes: int, *, drop: float = 0.5) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = nn.Linear(width, 512), nn.Linear(512, 128), nn.Linear(128, classes)
        self.drop = drop

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Scores of the classes; the generator decides what is dropped."""
        p = self.drop if self.training else 0.0
        x = dropout(torch.relu(self.layer1(x)), p, generator)
        x = dropout(torch.relu(self.layer2(x)), p, generator)
        scores: Tensor = self.layer3(x)
        return scores


class Pretext(nn.Module, Configurable, ABC):
    """A task whose cross-entropy is added to an objective: ``L + weight · CE``.

    Every row is transformed once, by chance, encoded, and the transformation told from the pooled features (Kinakh et
    al., *ScatSimCLR*, ICCVW 2021). This is a further pass through the encoder.

    Args:
        classes: transformations to tell apart.
        weight: of the task.
        all_copies: encode every row in all its transformations, as published; costs ``classes`` times as much.
    """

    head: PretextHead

    def __init__(self, classes: int, *, weight: float, all_copies: bool) -> None:
        super().__init__()
        if not weight > 0:
            raise ConfigError(f"{type(self).__name__} needs a weight above 0, not {weight}; leave the pretext out")
        self.classes, self.weight, self.all_copies = classes, weight, all_copies

    def fit_width(self, width: int) -> None:
        """Make the head for pooled features of that width."""
        self.head = PretextHead(width, self.classes)

    @abstractmethod
    def check(self, views: Views) -> None:
        """Refuse views that the task does not serve, or that are transformed at random already.

        Raises:
            ConfigError: with the setting that is in the way.
        """

    @abstractmethod
    def transform(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Rows (N, C, *size) in the transformation that ``labels`` (N,), 0 to classes - 1, name for each."""

    def forward(self, rows: Tensor, encoder: Encoder, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of telling the transformations of rows (N, C, *size), and named diagnostics.

        ``pretext_accuracy`` must rise above ``pretext_chance``.
        """
        n, device = len(rows), rows.device
        if self.all_copies:
            labels = torch.arange(self.classes, device=device).repeat_interleave(n)
            rows = rows.repeat(self.classes, *(1,) * (rows.ndim - 1))
        else:
            labels = torch.randint(self.classes, (n,), generator=generator, device=device)
        scores = self.head(encoder(self.transform(rows, labels)).pooled, generator).float()
        loss = functional.cross_entropy(scores, labels)
        accuracy = (scores.detach().argmax(1) == labels).float().mean()
        chance = torch.tensor(1 / self.classes, device=device)
        return loss, {"pretext": loss.detach(), "pretext_accuracy": accuracy, "pretext_chance": chance}


class RotationPretext(Pretext):
    """Which quarter turn a volume was given.

    Args:
        rotations: 4 about one axis; 10 about one of the three axes; or all 24 of a cube. The crop must be a square
            across the axis, or for 10 and 24 a cube.
        axis: of the 4 turns: 0, 1, 2 for z, y, x.
        weight: of the task.
        all_copies: encode every row in all its transformations, as published.
    """

    permutation: Tensor
    flips: Tensor

    def __init__(
        self, *, rotations: Literal[4, 10, 24] = 4, axis: int = 0, weight: float = 0.3, all_copies: bool = False
    ) -> None:
        if rotations not in (4, 10, 24) or axis not in (0, 1, 2):
            raise ConfigError(
                f"RotationPretext takes 4, 10 or 24 rotations and an axis 0, 1 or 2, not {rotations}, {axis}"
            )
        super().__init__(rotations, weight=weight, all_copies=all_copies)
        axes = {4: (axis,), 10: (0, 1, 2), 24: None}[rotations]
        self.turned = set(range(3)) - {axis} if rotations == 4 else set(range(3))
        table = rotations_of_a_cube(axes)
        self.permutations = sorted({axes for axes, _ in table})
        places = [self.permutations.index(axes) for axes, _ in table]
        self.register_buffer("permutation", torch.tensor(places), persistent=False)
        self.register_buffer("flips", torch.tensor([flips for _, flips in table]), persistent=False)

    def check(self, views: Views) -> None:
        """See ``Pretext.check``."""
        if views.kind != "volume":
            raise ConfigError(
                f"RotationPretext turns volumes, not {views.kind}s; take SegmentOrderPretext or FlipPretext"
            )
        sides = {views.size[a] for a in self.turned}
        if len(sides) > 1:
            raise ConfigError(
                f"RotationPretext turns axes {sorted(self.turned)}, whose sizes must be equal, not {views.size}; "
                "change the crop or the axis, or take FlipPretext"
            )
        flipped = [a for a in self.turned if _augmented(views, "flip", (0.0,) * 3)[a] > 0]
        if len(flipped) > 1 or _augmented(views, "turn", 0.0) > 0:
            raise ConfigError(
                f"the views turn volumes or flip them along axes {flipped} at random, so that a rotation cannot be "
                "told; set the views' augmentation turn to 0, and flip to 0 for all but one of these axes"
            )

    def transform(self, rows: Tensor, labels: Tensor) -> Tensor:
        """See ``Pretext.transform``: class 0 leaves a row as it is."""
        return rotate(rows, self.permutations, self.permutation[labels], self.flips[labels])


class FlipPretext(Pretext):
    """Along which axes a recording was flipped; a signal along time is a reversal.

    Args:
        axes: 0, 1, 2 for z, y, x of a volume, 0 for time of a signal. Leave out left-right (x in RAS orientation)
            where the side is a finding.
        weight: of the task.
        all_copies: encode every row in all 2^axes transformations, as published.
    """

    def __init__(self, *, axes: tuple[int, ...] = (0,), weight: float = 0.3, all_copies: bool = False) -> None:
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
            raise ConfigError(f"FlipPretext takes different axes of 0, 1, 2, at least one, not {tuple(axes)}")
        super().__init__(2 ** len(axes), weight=weight, all_copies=all_copies)
        self.axes = tuple(axes)

    def check(self, views: Views) -> None:
        """See ``Pretext.check``."""
        if max(self.axes) >= len(views.size):
            raise ConfigError(f"FlipPretext flips axes {self.axes}, but the views have {len(views.size)} (from 0)")
        flips, turn = _augmented(views, "flip", (0.0,) * 3), _augmented(views, "turn", 0.0)
        taken = [a for a in self.axes if flips[a] > 0 or (turn > 0 and a in (1, 2))]
        if taken:
            raise ConfigError(
                f"the views flip or turn along axes {taken} at random, so that a flip cannot be told; set the views' "
                "augmentation flip to 0 there and turn to 0"
            )

    def transform(self, rows: Tensor, labels: Tensor) -> Tensor:
        """See ``Pretext.transform``: bit i of a label flips axis i of ``axes``."""
        bits = labels.unsqueeze(1) >> torch.arange(len(self.axes), device=labels.device) & 1
        return flip(rows, self.axes, bits.bool())


class SegmentOrderPretext(Pretext):
    """In which order the segments of a signal were put together: a jigsaw of time.

    Args:
        segments: equal parts of a window, 2 to 9; what is left over stays at the end.
        permutations: orders to tell apart, the first of them the true one; far from each other.
        seed: of their choice.
        weight: of the task.
        all_copies: encode every row in all its transformations, as published.
    """

    orders: Tensor

    def __init__(
        self,
        *,
        segments: int = 9,
        permutations: int = 35,
        seed: int = 0,
        weight: float = 0.3,
        all_copies: bool = False,
    ) -> None:
        super().__init__(permutations, weight=weight, all_copies=all_copies)
        self.segments = segments
        orders = distant_permutations(segments, permutations, seed=seed)
        self.register_buffer("orders", torch.from_numpy(orders), persistent=False)

    def check(self, views: Views) -> None:
        """See ``Pretext.check``."""
        if views.kind != "signal":
            raise ConfigError(f"SegmentOrderPretext permutes signals, not {views.kind}s; take RotationPretext")
        if views.size[0] < self.segments:
            raise ConfigError(f"a window of {views.size[0]} samples has no {self.segments} segments; take fewer")
        if _augmented(views, "permute", 0.0) > 0:
            raise ConfigError(
                "the views permute segments at random, so that their order cannot be told; set the views' augmentation "
                "permute to 0"
            )

    def transform(self, rows: Tensor, labels: Tensor) -> Tensor:
        """See ``Pretext.transform``: class 0 leaves a row as it is."""
        n, c, length = rows.shape
        part = length // self.segments
        cut = rows[..., : part * self.segments].reshape(n, c, self.segments, part)
        moved = torch.take_along_dim(cut, self.orders[labels].view(n, 1, -1, 1), dim=2).flatten(2)
        return torch.cat([moved, rows[..., part * self.segments :]], dim=-1)


def _augmented(views: Views, name: str, neutral: Any) -> Any:
    """What the views do by themselves; neutral where they do not know the transform."""
    return max(getattr(getattr(views, which, None), name, neutral) for which in ("augmentation", "second"))
