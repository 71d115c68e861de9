"""Cases of the contrastive objectives with heads or memory of their own."""

from __future__ import annotations

import functools

from toys import METHODS, OBJECTIVES, ObjectiveCase, joint

from medssl.methods.contrastive import Contrastive
from medssl.objectives.adaptive_heads import AMCL
from medssl.objectives.hard_mixing import MoCHi
from medssl.objectives.individual_temperature import ISogCLR

small_amcl = functools.partial(AMCL, hidden=16, out=6, temperature_hidden=8)
small_mochi = functools.partial(MoCHi, queue=16, hardest=4, mixed=5, mixed_with_query=3)

OBJECTIVES |= {
    "AMCL": ObjectiveCase(small_amcl),
    "ISogCLR": ObjectiveCase(ISogCLR),
    "MoCHi": ObjectiveCase(small_mochi, ordered=True),  # the n-th draw mixes the negatives of the n-th sample
}

METHODS["Contrastive"] |= {
    "adaptive_heads": joint(Contrastive, "signal", objective=small_amcl),
    "individual_temperature": joint(Contrastive, "signal", objective=ISogCLR),
    "hard_mixing": joint(Contrastive, "signal", objective=small_mochi),
}
