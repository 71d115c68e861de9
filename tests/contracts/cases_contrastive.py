"""Cases of the contrastive family."""

from __future__ import annotations

import functools

from toys import METHODS, OBJECTIVES, ObjectiveCase, joint

from medssl.methods.contrastive import Contrastive
from medssl.objectives.contrastive import InfoNCE

OBJECTIVES |= {
    "InfoNCE": ObjectiveCase(InfoNCE),
}

METHODS["Contrastive"] = {
    "volumes": joint(Contrastive, "volume"),
    "signals": joint(Contrastive, "signal"),
    "signals_positive": joint(Contrastive, "signal", same_patient="positive"),
    "teacher_and_queue": joint(Contrastive, "signal", momentum=0.9, objective=functools.partial(InfoNCE, queue=16)),
}
