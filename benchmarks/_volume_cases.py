"""What ``volumes.py`` times beside loops: losses of methods for volumes, at the sizes at which they are published.

One entry a loss. ``make`` gives, for a device and a type, the leaves that gradients are taken for, the loss by this
package, and the same by the transcription of the published code in ``_NAME_loops.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["CASES", "Case", "Subject"]


class Subject(NamedTuple):
    """Inputs, and what is computed from them.

    Attributes:
        leaves: what gradients are taken for.
        ours: the loss by this package.
        loops: the loss as the published code runs it.
        memory: nothing is remembered by these losses.
    """

    leaves: list[Tensor]
    ours: Callable[[], Tensor]
    loops: Callable[[], Tensor]
    memory: Callable[[], Mapping[str, Tensor]] = dict


Make = Callable[[torch.device, torch.dtype], Subject]


@dataclass(frozen=True)
class Case:
    """One loss.

    Attributes:
        name: of it.
        shape: in words.
        make: the subject for a device and a type.
    """

    name: str
    shape: str
    make: Make


def _normal(device: torch.device, dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every device."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(device)


def _voco(version: int, batch: int, crops: int, grid: int, width: int) -> Make:
    """A whole head, on rows of projected crops and bases."""

    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        from _voco_loops import head_v1, head_v2

        from medssl.objectives import voco

        bases, crop = grid * grid, 64
        student = _normal(device, dtype, batch * (crops + bases), width).requires_grad_()
        teacher = _normal(device, dtype, batch * (crops + bases), width, seed=1)
        drawn = torch.randint(0, (grid - 1) * crop + 1, (batch, crops, 2), generator=torch.Generator().manual_seed(2))
        labels = voco.overlap_labels(drawn.to(device, dtype), (crop, crop), (grid, grid))

        def split(rows: Tensor) -> tuple[Tensor, Tensor]:
            first, rest = rows.split([batch * crops, batch * bases])
            return first.unflatten(0, (batch, crops)), rest.unflatten(0, (batch, bases))

        def ours() -> Tensor:
            (x, q), (x_teacher, q_teacher) = split(student), split(teacher)
            own = voco.position_similarity(x, q_teacher)
            if version == 1:
                terms = voco.prediction_v1((own + voco.position_similarity(x_teacher, q)) / 2, labels)
            else:
                terms = voco.prediction_v2(own, labels), voco.intervolume(x, q, x_teacher, q_teacher)
            return (terms[0] + terms[1] + voco.regularisation(q)).mean()

        loops = head_v1 if version == 1 else head_v2
        return Subject([student], ours, lambda: loops(student, teacher, labels))

    return make


def _global(which: str, *shape: int) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        import _global_local_loops as published

        from medssl.objectives import global_local

        rows = _normal(device, dtype, *shape).requires_grad_()
        ours, loops = getattr(global_local, which), getattr(published, which)
        return Subject([rows], lambda: ours(rows, temperature=0.1), lambda: loops(rows, 0.1))

    return make


def _clusters(batch: int, clusters: int) -> Make:
    """DeepCluster-v2 of volume vectors, three clusterings."""

    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        import _joint_image_volume_loops as published

        from medssl.objectives import deep_cluster

        views = normalize(_normal(device, dtype, 2, batch, 640), dim=-1).requires_grad_()
        centroids = [normalize(_normal(device, dtype, clusters, 640, seed=1 + head), dim=-1) for head in range(3)]
        drawn = torch.randint(clusters, (3, batch), generator=torch.Generator().manual_seed(5)).to(device)
        return Subject(
            [views],
            lambda: deep_cluster.cluster_loss(views, centroids, drawn, temperature=0.1),
            lambda: published.cluster_loss(views, centroids, drawn),
        )

    return make


def _swapped(batch: int, prototypes: int) -> Make:
    """SwAV of volume vectors."""

    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        import _joint_image_volume_loops as published

        from medssl.objectives.assignment import assign, prediction_loss

        views = normalize(_normal(device, dtype, 2, batch, 640), dim=-1).requires_grad_()
        weights = normalize(_normal(device, dtype, prototypes, 640, seed=1), dim=-1).requires_grad_()

        def ours() -> Tensor:
            scores = views @ weights.T
            return prediction_loss(scores, assign(scores, epsilon=0.05, iterations=3), temperature=0.1)

        return Subject([views, weights], ours, lambda: published.swapped_prediction(views, weights))

    return make


def _masked(batch: int, slices: int) -> Make:
    """Masked slices, with the divisor of the released code."""

    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        import _joint_image_volume_loops as published

        from medssl.objectives.joint_image_volume import masked_slice_loss

        found = _normal(device, dtype, batch, slices, 640).requires_grad_()
        wanted, divisor = _normal(device, dtype, batch, slices, 640, seed=1), slices // 10
        masked = torch.zeros(batch, slices, dtype=torch.bool, device=device)
        return Subject(
            [found],
            lambda: masked_slice_loss(found, wanted, masked, divisor=divisor),
            lambda: published.masked_slice_loss(found, wanted, divisor),
        )

    return make


def _local(which: str, *shape: int) -> Make:
    """Losses of regions of a map of 32 × 32 cells."""

    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        import _global_local_loops as published

        from medssl.objectives import global_local

        table = global_local.Regions(*(part.to(device) for part in global_local.regions((32, 32))))
        first, second = (
            _normal(device, dtype, *shape[:-1], len(table.cells), shape[-1], seed=s).requires_grad_() for s in (0, 1)
        )
        ours, loops = getattr(global_local, which), getattr(published, which)
        return Subject(
            [first, second],
            lambda: ours(first, second, table, temperature=0.1),
            lambda: loops(first, second, table, 0.1),
        )

    return make


def _hidden(batch: int, patches: int, values: int) -> Make:
    """Masked reconstruction of standardised patches, three of four hidden."""

    def make(device: torch.device, dtype: torch.dtype) -> Subject:
        import _masked_loops as published

        from medssl.objectives.masked_reconstruction import hidden_error, patch_targets

        found = _normal(device, dtype, batch, patches, values).requires_grad_()
        tokens = _normal(device, dtype, batch, patches, values, seed=1)
        hidden = (_normal(device, dtype, batch, patches, seed=2) > -0.67).to(device)
        return Subject(
            [found],
            lambda: hidden_error(found, patch_targets(tokens), hidden),
            lambda: published.error_loops(found, published.target_loops(tokens), hidden),
        )

    return make


CASES = [
    Case("VoCo head, v1", "B=2, sw=2, n=16, D=2048", _voco(1, 2, 2, 4, 2048)),
    Case("VoCo head, v2", "B=2, sw=2, n=9, D=1024", _voco(2, 2, 2, 3, 1024)),
    Case("VoCo head, v2, omni", "B=4, sw=4, n=9, D=1024", _voco(2, 4, 4, 3, 1024)),
    Case("GlobalLocal G^R", "V=4, K=2, S=4, D=128", _global("global_random", 4, 2, 4, 128)),
    Case("GlobalLocal G^D-", "V=4, K=3, S=4, D=128", _global("global_negatives", 4, 3, 4, 128)),
    Case("GlobalLocal G^D", "V=4, K=2, S=4, D=128", _global("global_domain", 4, 2, 4, 128)),
    Case("GlobalLocal L^R", "N=8, R=13, D=144", _local("local_random", 8, 144)),
    Case("GlobalLocal L^D", "V=4, S=2, R=13, D=144", _local("local_domain", 4, 2, 144)),
    Case("masked reconstruction", "B=4, L=216, V=512", _hidden(4, 216, 512)),
    Case("JointImageVolume SwAV", "B=12, K=3000, D=640", _swapped(12, 3000)),
    Case("JointImageVolume DeepCluster", "B=8, K=3·300, D=640", _clusters(8, 300)),
    Case("JointImageVolume masked", "B=8, n=64, D=640", _masked(8, 64)),
]
