"""Cases of masked reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toys import METHODS, Case

from medssl.encoders.base import Encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.ts2vec import TS2Vec
from medssl.encoders.video_vit import VideoViT
from medssl.encoders.vit import ViT
from medssl.methods.base import Method
from medssl.methods.masked_autoencoder import MaskedAutoencoder
from medssl.methods.masked_values import MaskedValues
from medssl.methods.spark import SparK
from medssl.optim import Optim
from medssl.views.by_kind import ViewsByKind
from medssl.views.clip import ClipViews
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


def masked(method: type[Any], kind: str, encoder: Callable[[], Encoder], *, count: int = 1, **options: Any) -> Case:
    def make() -> Method:
        views: dict[str, Callable[[], Any]] = {
            "volume": lambda: VolumeViews((8, 8, 8), count=count),
            "signal": lambda: SignalViews((128,), count=count),
            "video": lambda: ClipViews((4, 16, 16), count=count),
        }
        made: Method = method(encoder(), views[kind](), optim=Optim(lr=1e-2), **options)
        return made

    return Case(make, kind, 2 if kind == "signal" else 1)


def patches_of_volumes() -> ViT:
    return ViT(1, (8, 8, 8), patch=4, width=16, depth=1, heads=2)


def patches_of_signals() -> ViT:
    return ViT(2, (128,), patch=8, width=16, depth=1, heads=2)


def tubelets() -> VideoViT:
    return VideoViT(1, (4, 16, 16), patch=(2, 4, 4), width=16, depth=1, heads=2)


def convolutions(dims: int) -> ResEnc:
    return ResEnc(2 if dims == 1 else 1, features=(4, 8), blocks=(1, 1), strides=(1, 4), dims=dims)


SMALL = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}


def several_kinds() -> Case:
    def make() -> Method:
        views = ViewsByKind(volumes=VolumeViews((8, 8, 8), count=1), video=ClipViews((4, 16, 16), count=1))
        return MaskedAutoencoder(tubelets(), views, optim=Optim(lr=1e-2), mask_ratio=0.5, **SMALL)  # type: ignore[arg-type]

    return Case(make, "volume", 1)


METHODS["MaskedAutoencoder"] = {
    "several_kinds": several_kinds(),
    "volumes": masked(MaskedAutoencoder, "volume", patches_of_volumes, mask_ratio=0.5, **SMALL),
    "signals": masked(MaskedAutoencoder, "signal", patches_of_signals, **SMALL),
    "tubes": masked(MaskedAutoencoder, "volume", patches_of_volumes, mask_kind="tube", mask_ratio=0.5, **SMALL),
    "blocks": masked(
        MaskedAutoencoder, "signal", patches_of_signals, mask_kind="block", target="token_channel", count=2, **SMALL
    ),
    "clips": masked(MaskedAutoencoder, "video", tubelets, mask_kind="tube", target="token_channel", **SMALL),
    "raw": masked(
        MaskedAutoencoder, "volume", patches_of_volumes, mask_ratio=0.5, target="raw", ignore_background=False, **SMALL
    ),
}
METHODS["SparK"] = {
    "volumes": masked(SparK, "volume", lambda: convolutions(3)),
    "signals": masked(SparK, "signal", lambda: convolutions(1), mask_ratio=0.75, count=2),
    "ordinary_convolutions": masked(SparK, "volume", lambda: convolutions(3), sparse=False, ignore_background=False),
    "ordinary_signals": masked(SparK, "signal", lambda: ResNet1d(2, (8, 16), blocks=1), sparse=False, block=8),
}
METHODS["MaskedValues"] = {
    "full_length": masked(
        MaskedValues, "signal", lambda: TS2Vec(2, 8, out_dim=12, depth=3, dropout=0.0), mask_ratio=0.3
    ),
}
