"""Cases of the clustering family."""

from __future__ import annotations

import functools
from collections.abc import Callable

from toys import METHODS, OBJECTIVES, Case, ObjectiveCase, joint

from medssl.encoders.video_vit import VideoViT
from medssl.methods.base import Method
from medssl.methods.clustering import Clustering
from medssl.objectives.base import Objective
from medssl.objectives.dino import DINO
from medssl.objectives.matryoshka import Matryoshka
from medssl.objectives.sim_dino import SimDINO
from medssl.objectives.swav import SwAV
from medssl.optim import Optim
from medssl.views.clip import ClipViews
from medssl.views.multi_crop import MultiCrop

SMALL = functools.partial(Matryoshka, prototypes=16, levels=(0.25, 1.0), hidden=16, bottleneck=8)

OBJECTIVES |= {
    "DINO": ObjectiveCase(functools.partial(DINO, prototypes=12, koleo=0.1), views=3),
    "Matryoshka": ObjectiveCase(SMALL, views=3),
    "SimDINO": ObjectiveCase(SimDINO, views=3),
    "SwAV": ObjectiveCase(functools.partial(SwAV, prototypes=5, queue=8), views=3),
}


def multi_crop(objective: Callable[[], Objective]) -> Case:
    def make() -> Method:
        views = MultiCrop(ClipViews((4, 16, 16), count=2), ClipViews((2, 8, 8), count=2, crop="resized"))
        encoder = VideoViT(1, (4, 16, 16), patch=(2, 4, 4), width=16, depth=1, heads=2)
        return Clustering(encoder, views, objective=objective(), projector=(16, 8), optim=Optim(lr=1e-2))

    return Case(make, "video", 1)


METHODS["Clustering"] = {
    "sim_dino_multi_crop": multi_crop(SimDINO),
    "swav_multi_crop": multi_crop(functools.partial(SwAV, prototypes=8)),
    "dino_multi_crop": multi_crop(functools.partial(DINO, prototypes=12, assignment="sinkhorn")),
    "swav_volumes": joint(Clustering, "volume", objective=functools.partial(SwAV, prototypes=8, queue=12)),
    "swav_signals": joint(Clustering, "signal", objective=functools.partial(SwAV, prototypes=8)),
    # a centre that soon is where it will stay: until then the loss rises
    "dino_many_views": joint(
        Clustering, "signal", count=4, objective=functools.partial(DINO, prototypes=12, centre_momentum=0.5)
    ),
    "dino_sinkhorn": joint(
        Clustering, "volume", objective=functools.partial(DINO, prototypes=12, assignment="sinkhorn", koleo=0.1)
    ),
    "sim_dino_position_free": joint(Clustering, "volume", objective=SimDINO, position_free=1),
    "matryoshka": joint(Clustering, "signal", objective=SMALL),
    "matryoshka_as_coded": joint(Clustering, "signal", objective=functools.partial(SMALL, nesting="project")),
}
