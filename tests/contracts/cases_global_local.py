"""Cases of the contrast of slices and regions."""

from __future__ import annotations

from typing import Any

from toys import METHODS, Case, Optim, volume_encoder

from medssl.encoders.resenc import ResEnc
from medssl.methods.base import Method
from medssl.methods.global_local_contrast import GlobalLocalContrast
from medssl.views.volume_augment import VolumeAugmentation


def _case(dims: int, **options: Any) -> Case:
    def make() -> Method:
        encoder = ResEnc(1, dims=2, features=(4, 8), blocks=(1, 1), strides=(1, 2)) if dims == 2 else volume_encoder()
        size = (1, 8, 8) if dims == 2 else (4, 8, 8)
        settings = {"size": size, "projector": (16, 8), "decoder_blocks": 1, "optim": Optim(lr=1e-2)} | options
        return GlobalLocalContrast(encoder, **settings)

    return Case(make, "volume", 1)


METHODS["GlobalLocalContrast"] = {
    "domain": _case(2),
    "random": _case(2, global_loss="random", crop=1.0),
    "blocks": _case(3, partitions=3, global_loss="negatives"),
    "regions": _case(2, stage="decoder", intensity=VolumeAugmentation(gamma=1.0)),
    "regions_of_blocks": _case(3, stage="decoder", local_loss="domain", region=1, regions=9, negatives="all"),
}
