"""Cases of the dense family."""

from __future__ import annotations

import functools

from toys import METHODS, OBJECTIVES, ObjectiveCase, joint

from medssl.methods.dense import Dense
from medssl.objectives.cotap import CoTAP
from medssl.objectives.masked_momentum import MaskedMomentum

FILTERED = functools.partial(CoTAP, prototypes=4, window=(3, 3), memory=16, clusters=6, cells=(2, 4))
"""Everything that CoTAP can do."""

OBJECTIVES |= {
    "CoTAP": ObjectiveCase(FILTERED, grid=(4, 3), ordered=True),
    "MaskedMomentum": ObjectiveCase(functools.partial(MaskedMomentum, prototypes=16), grid=(5,)),
}

METHODS["Dense"] = {
    "volumes": joint(Dense, "volume"),
    "signals": joint(Dense, "signal", objective=functools.partial(CoTAP, neighbour="batch", clusters=8)),
    "filtered": joint(
        Dense,
        "volume",
        objective=functools.partial(CoTAP, prototypes=4, heads=2, memory=16, surrogate="hinge"),
        count=3,
    ),
    "masked_signals": joint(Dense, "signal", objective=functools.partial(MaskedMomentum, prototypes=16)),
    "masked_volumes": joint(Dense, "volume", objective=functools.partial(MaskedMomentum, prototypes=16)),
}
