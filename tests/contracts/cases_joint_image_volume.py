"""Cases of joint images and volumes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from toys import METHODS, OBJECTIVES, Case, ObjectiveCase

from medssl.encoders.resenc import ResEnc
from medssl.encoders.slice_transformer import SliceTransformer
from medssl.methods.base import Method
from medssl.methods.joint_image_volume import JointImageVolume
from medssl.objectives.base import Objective
from medssl.objectives.deep_cluster import DeepCluster
from medssl.objectives.swav import SwAV
from medssl.optim import Optim
from medssl.views.volume_augment import VolumeAugmentation

OBJECTIVES |= {"DeepCluster": ObjectiveCase(functools.partial(DeepCluster, clusters=(3, 5)), views=3)}

prototypes = functools.partial(SwAV, prototypes=6)
clusters = functools.partial(DeepCluster, clusters=(4, 4))


def image_encoder(channels: int = 1) -> ResEnc:
    return ResEnc(channels, dims=2, features=(4, 8), blocks=(1, 1), strides=(1, 2))


def staged(
    size: tuple[int, int, int] = (8, 8, 8),
    intra: Callable[[], Objective] = prototypes,
    inter: Callable[[], Objective] = prototypes,
    attention: dict[str, Any] | None = None,
    **options: Any,
) -> Case:
    """``size`` of more slices than the toys' 8 leaves slots of every volume empty."""

    def make() -> Method:
        settings = {"width": 16, "layers": 1, "hidden": 16, "dropout": 0.0, **(attention or {})}  # torch's own dropout
        made = JointImageVolume(
            SliceTransformer(image_encoder(), **settings), size=size, intra=intra(), inter=inter(), intra_slices=3,
            projector=(16, 8), optim=Optim(lr=1e-2), **options,
        )  # fmt: skip
        made.prepare(SimpleNamespace(places=range(64), cohorts=[], manifest=None), batch=6)  # type: ignore[arg-type]
        return made

    return Case(make, "volume", 1)


METHODS["JointImageVolume"] = {
    "intra": staged(),
    "intra_clusters": staged(intra=clusters),
    "mask": staged(stage="mask", mask_ratio=0.3, size=(6, 8, 8)),
    "inter": staged(stage="inter", size=(10, 8, 8)),
    "inter_clusters": staged(stage="inter", size=(6, 8, 8), inter=clusters, augmentation=VolumeAugmentation()),
    "inter_as_released": staged(stage="inter", attention={"attend": "embedding", "slices": 8}),
    "joint": staged(mode="joint", size=(9, 8, 8), recompute=True),
}
