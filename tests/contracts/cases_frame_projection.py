"""Cases of frame projections."""

from __future__ import annotations

from typing import Any

from toys import METHODS, Case, Optim, SignalViews, signal_encoder

from medssl.encoders.frame_resnet import FrameResNet
from medssl.methods.base import Method
from medssl.methods.frame_projection import FrameProjection
from medssl.views.frames import Frames
from medssl.views.signal_augment import SignalAugmentation

# jitter, since the device draws nothing at random without augmentation
NOISE = SignalAugmentation(
    shift=0, permute=0, band_stop=0, scale=0, gain=0, wander=0, jitter=1, jitter_sd=0.05, mask=0, drop_channel=0
)


class Mapped(FrameProjection):
    """Frame projections whose encoders are trained, so that every step is one of the mappings."""

    @property
    def progress(self) -> float:
        return 1.0


def _case(method: type[FrameProjection] = FrameProjection, **options: Any) -> Case:
    def make() -> Method:
        settings = {"frames": Frames(scales=8), "hidden": 4, "augment": True, "optim": Optim(lr=1e-2)} | options
        encoder = settings.pop("encoder", lambda: FrameResNet(2, 4, blocks=4, out_dim=16, dropout=0))()
        return method(encoder, SignalViews((64,), count=1, augmentation=NOISE), **settings)

    return Case(make, "signal", 2)


METHODS["FrameProjection"] = {
    "both_stages": _case(),
    "all_encoders": _case(
        encoder=signal_encoder,
        inference="all_encoders",
        map_reduction="paper",
        frames=Frames(phase="cos_sin", log1p=True, cwt="analytic", scales=8),
        pool="adaptive",
    ),
    "mappings": _case(Mapped),
}
