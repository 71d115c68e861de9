"""Cases of NeuroNet and of AutoTCL."""

from __future__ import annotations

from typing import Any

from toys import METHODS, Case

from medssl.encoders.inception_time import InceptionTime
from medssl.encoders.neuronet import NeuroNet as FrameEncoder
from medssl.encoders.trend import TrendTS2Vec
from medssl.encoders.ts2vec import TS2Vec
from medssl.methods.augmenter import AugmenterSettings, Gate
from medssl.methods.autotcl import AutoTCL
from medssl.methods.base import Method
from medssl.methods.neuronet import NeuroNet
from medssl.optim import Optim
from medssl.views.signal import SignalViews

SMALL = AugmenterSettings(width=8, depth=1, out_dim=6, kernels=2)


def neuronet(*, count: int = 1, **options: Any) -> Case:
    def make() -> Method:
        encoder = FrameEncoder(2, 289, step=20, width=16, depth=1, heads=2)
        return NeuroNet(
            encoder, SignalViews((330,), count=count), mask_ratio=0.5, decoder_width=8, decoder_heads=2,
            projector=(16, 8), optim=Optim(lr=3e-3), **options,
        )  # fmt: skip

    return Case(make, "signal", 2)


def autotcl(encoder: type[Any], *, count: int = 1, **options: Any) -> Case:
    sizes: dict[str, Any] = {"width": 4} if encoder is InceptionTime else {"width": 8, "out_dim": 12, "dropout": 0.0}

    def make() -> Method:
        views = SignalViews((64,), count=count)
        settings: dict[str, Any] = {"augmenter": SMALL, "optim": Optim(lr=1e-2)} | options
        return AutoTCL(encoder(2, depth=3, **sizes), views, **settings)

    return Case(make, "signal", 2)


METHODS["NeuroNet"] = {
    "published": neuronet(),
    "standardised_targets": neuronet(detach_target=True, norm_target=True),
}
METHODS["AutoTCL"] = {
    "published": autotcl(TrendTS2Vec, gate=Gate("prob"), smooth=0.1, smoothness="sampled"),
    "hard": autotcl(TS2Vec, gate=Gate(hard=True), smooth=0.1, count=2),
    "adversarial": autotcl(InceptionTime, adversarial=True, keep=1.0),
}
