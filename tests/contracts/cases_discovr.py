"""Cases of DISCOVR."""

from __future__ import annotations

from typing import Any

from toys import METHODS, Case

from medssl.encoders.video_vit import VideoViT
from medssl.methods.base import Method
from medssl.methods.discovr import DISCOVR
from medssl.optim import Optim
from medssl.views.clip import ClipViews

SIZE = (4, 16, 16)


def clips(**options: Any) -> Case:
    def make() -> Method:
        encoder = VideoViT(1, SIZE, patch=(2, 4, 4), width=24, depth=1, heads=2, positions="sincos1d")
        settings: dict[str, Any] = {
            "masks": 2, "mask_ratio": 0.5, "head": (16, 8), "head_prototypes": 12, "prototypes": 6, "decoder_width": 12,
            "decoder_depth": 1, "decoder_heads": 2, "optim": Optim(lr=1e-2),
            "centre_momentum": 0.0,  # a centre that soon is where it will stay: until then the loss rises
        }  # fmt: skip
        return DISCOVR(encoder, ClipViews(SIZE, count=1), **{**settings, **options})

    return Case(make, "video", 1)


METHODS["DISCOVR"] = {
    "repaired": clips(),
    "as_released": clips(reference=True),
    "tubelets": clips(every_frame=False, cluster_tokens=10, symmetric=True, targets="hard"),
}
