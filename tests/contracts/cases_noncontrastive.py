"""Cases of the families without negatives: distillation and redundancy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from toys import METHODS, OBJECTIVES, Case, ObjectiveCase, joint, signal_encoder, volume_encoder

from medssl.methods.base import Method
from medssl.methods.pretext import FlipPretext, Pretext, RotationPretext, SegmentOrderPretext
from medssl.methods.redundancy_reduction import RedundancyReduction
from medssl.methods.self_distillation import SelfDistillation
from medssl.objectives.barlow_twins import BarlowTwins, MixedBarlowTwins
from medssl.objectives.direct_pred import DirectCopy, DirectPred
from medssl.objectives.distillation import BYOL, SimSiam
from medssl.objectives.vicreg import VICReg
from medssl.optim import Optim
from medssl.views.base import Views
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation

OBJECTIVES |= {
    "SimSiam": ObjectiveCase(SimSiam),
    "BYOL": ObjectiveCase(BYOL),
    "DirectPred": ObjectiveCase(functools.partial(DirectPred, every=2)),
    "DirectCopy": ObjectiveCase(DirectCopy),
    "BarlowTwins": ObjectiveCase(BarlowTwins),
    "MixedBarlowTwins": ObjectiveCase(MixedBarlowTwins),
    "VICReg": ObjectiveCase(VICReg),
}

distil = functools.partial(joint, SelfDistillation, predictor=8)
reduce = functools.partial(joint, RedundancyReduction)


def upright(kind: str) -> Views:
    """Views that leave orientation and order alone, so that a pretext can ask for them."""
    if kind == "volume":
        return VolumeViews((8, 8, 8), augmentation=VolumeAugmentation(flip=(0.0, 0.0, 0.0)))
    return SignalViews((128,), gap_s=1.0, augmentation=SignalAugmentation(permute=0.0))


def with_pretext(method: type[Any], kind: str, pretext: Callable[[], Pretext], **options: Any) -> Case:
    def make() -> Method:
        encoder = volume_encoder() if kind == "volume" else signal_encoder()
        made: Method = method(
            encoder, upright(kind), projector=(16, 8), pretext=pretext(), optim=Optim(lr=1e-2), **options
        )
        made.prepare(SimpleNamespace(places=range(64), cohorts=[], manifest=None), batch=6)  # type: ignore[arg-type]
        return made

    return Case(make, kind, 1 if kind == "volume" else 2)


METHODS["SelfDistillation"] = {
    "byol_volumes": distil("volume"),
    "byol_three_views_of_signals": distil("signal", count=3),
    "simsiam_volumes": distil("volume", objective=SimSiam),
    "simsiam_signals_of_a_patient": distil("signal", objective=SimSiam, same_patient="positive"),
    "direct_pred": distil("signal", objective=DirectPred, momentum=0.9),
    "direct_copy": distil("volume", objective=DirectCopy),
    "rotations": with_pretext(
        SelfDistillation, "volume", functools.partial(RotationPretext, rotations=24), predictor=8
    ),
}
METHODS["RedundancyReduction"] = {
    "mixed_volumes": reduce("volume"),
    "mixed_signals": reduce("signal", count=3),
    "barlow_twins": reduce("signal", objective=BarlowTwins),
    "vicreg": reduce("volume", objective=VICReg),
    "segment_order": with_pretext(
        RedundancyReduction, "signal", functools.partial(SegmentOrderPretext, segments=4, permutations=6)
    ),
    "flips": with_pretext(RedundancyReduction, "volume", functools.partial(FlipPretext, axes=(0, 2), all_copies=True)),
}
