"""Cases with one style a view for the whole batch; after those of the families whose methods they try."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from toys import METHODS, Case, signal_encoder, volume_encoder

from medssl.methods.contrastive import Contrastive
from medssl.methods.dense import Dense
from medssl.methods.joint import JointEmbedding
from medssl.objectives.multi_view import MVDHEL
from medssl.optim import Optim
from medssl.views.batch_style import SignalStyle, VolumeStyle
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


def styled(method: type[Any], kind: str, mode: Any, **options: Any) -> Case:
    def make() -> JointEmbedding:
        settings = {"projector": (16, 8), "optim": Optim(lr=1e-2), **{k: v() for k, v in options.items()}}
        if kind == "volume":
            style = VolumeStyle(mode=mode, probability=1.0)
            made = method(volume_encoder(), VolumeViews((8, 8, 8), batch_style=style), **settings)
        else:
            made = method(
                signal_encoder(), SignalViews((128,), gap_s=1.0, batch_style=SignalStyle(mode=mode)), **settings
            )
        made.prepare(SimpleNamespace(places=range(64), cohorts=[], manifest=None), batch=6)
        return made  # type: ignore[no-any-return]

    return Case(make, kind, 1 if kind == "volume" else 2)


METHODS["Contrastive"] |= {
    "styled_volumes": styled(Contrastive, "volume", "radial", objective=MVDHEL),
    "styled_signals": styled(Contrastive, "signal", "radial"),
}
METHODS["Dense"] |= {"styled_volumes": styled(Dense, "volume", "swap")}
