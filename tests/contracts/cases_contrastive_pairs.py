"""Cases of mined pairs and of TS-TCC; after ``cases_contrastive``, to whose methods they add."""

from __future__ import annotations

import functools
from types import SimpleNamespace

from toys import METHODS, Case, joint, signal_encoder

from medssl.methods.contrastive import Contrastive
from medssl.methods.ts_tcc import TSTCC
from medssl.objectives.bad_pairs import BadPairMiner
from medssl.optim import Optim
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation

MINER = functools.partial(BadPairMiner, warmup=1, noisy=0.5, faulty=0.5, keep_history=True)
STRONG = SignalAugmentation(permute=1.0, segments=8, jitter=1.0, jitter_sd=0.8)


def _ts_tcc() -> TSTCC:
    made = TSTCC(
        signal_encoder(), SignalViews((128,), second=STRONG), weighting=MINER(), cells=8, hidden=16, depth=1, heads=2,
        projector=(16, 8), optim=Optim(lr=1e-2),
    )  # fmt: skip
    made.prepare(SimpleNamespace(places=range(64), cohorts=[], manifest=None), batch=6)  # type: ignore[arg-type]
    return made


METHODS["Contrastive"] |= {"mined_volumes": joint(Contrastive, "volume", weighting=MINER)}
METHODS["TSTCC"] = {"mined": Case(_ts_tcc, "signal", 2)}
