"""Cases of the contrastive family."""

from __future__ import annotations

import functools

from toys import METHODS, OBJECTIVES, ObjectiveCase, joint

from medssl.methods.contrastive import Contrastive
from medssl.objectives.behaviour import HardInfoNCE
from medssl.objectives.cacr import CACR
from medssl.objectives.class_pairs import SimLAP
from medssl.objectives.continuous_weights import CWCL, LabelCWCL
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.decoupled import DCL, DCLW
from medssl.objectives.multi_view import MVDHEL, MVInfoNCE, PolyView
from medssl.objectives.supervised import SupCon

OBJECTIVES |= {
    "InfoNCE": ObjectiveCase(InfoNCE),
    "SupCon": ObjectiveCase(SupCon),
    "DCL": ObjectiveCase(DCL),
    "DCLW": ObjectiveCase(DCLW),
    "MVInfoNCE": ObjectiveCase(MVInfoNCE, views=3),
    "MVDHEL": ObjectiveCase(MVDHEL, views=3),
    "PolyView": ObjectiveCase(PolyView, views=3),
    "CACR": ObjectiveCase(CACR, views=3),
    "CWCL": ObjectiveCase(CWCL),
    "LabelCWCL": ObjectiveCase(functools.partial(LabelCWCL, width=5.0), labels=(31.0, 35.5, 50.0, 64.0, 66.0, 80.0)),
    "HardInfoNCE": ObjectiveCase(HardInfoNCE),
    # the class that a sample meets is drawn by its place in the batch
    "SimLAP": ObjectiveCase(functools.partial(SimLAP, classes=8, embedding=8, hidden=16), ordered=True),
}

METHODS["Contrastive"] = {
    "volumes": joint(Contrastive, "volume"),
    "signals": joint(Contrastive, "signal"),
    "signals_positive": joint(Contrastive, "signal", same_patient="positive"),
    "teacher_and_queue": joint(Contrastive, "signal", momentum=0.9, objective=functools.partial(InfoNCE, queue=16)),
    "decoupled": joint(Contrastive, "volume", objective=DCL),
    "weighted_decoupled": joint(Contrastive, "signal", objective=functools.partial(DCLW, queue=16)),
    "many_views": joint(Contrastive, "volume", objective=MVDHEL, count=3),
    "attraction_and_repulsion": joint(Contrastive, "signal", objective=CACR, count=3),
    "attraction_and_repulsion_teacher": joint(Contrastive, "signal", objective=CACR, momentum=0.9),
    "labels": joint(Contrastive, "signal", objective=SupCon, label="patient"),
    "class_pairs": joint(Contrastive, "signal", objective=functools.partial(SimLAP, classes=8), label="patient"),
    "weights_of_a_teacher": joint(Contrastive, "signal", objective=functools.partial(CWCL, sharpness=4.0)),
    "weights_of_radii": joint(Contrastive, "volume", objective=LabelCWCL, label="radius"),
}
