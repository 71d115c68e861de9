"""A run on two processes with and without looks; ``test_quality.py`` starts it as ``quality_worker.py COHORT OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "contracts")]

from toys import signal_encoder  # noqa: E402 - found through the path above

from medssl.methods.contrastive import Contrastive  # noqa: E402
from medssl.training.pretrain import pretrain  # noqa: E402
from medssl.training.settings import TrainSettings  # noqa: E402
from medssl.views.signal import SignalViews  # noqa: E402


def main(cohort: Path, out: Path, every: int) -> None:
    settings = TrainSettings(
        max_steps=4, batch_size=4, workers=0, log_every=1, checkpoint_every=2, monitor_every=2, progress=False,
        accelerator="cpu", devices=2, strategy="ddp", quality_every=every, fail_on_collapse=True,
    )  # fmt: skip
    method = Contrastive(signal_encoder(), SignalViews((64,), count=2), projector=(16, 8))
    pretrain(method=method, cohort=[cohort], out=out, trainer=settings)


if __name__ == "__main__":  # the second process runs this file again
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
