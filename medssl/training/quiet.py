"""Keeps Lightning's own chatter out of medssl's output, for the time of one fit only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

# Remarks about choices that medssl made on purpose (its own loader, logger, progress and checkpoints).
_REMARKS = (
    r".*does not have many workers.*",
    r".*number of training batches.*",
    r".*GPU available but not used.*",
    r".*module\(s\) in eval mode.*",
    r".*Checkpoint directory.*",
    r".*`isinstance\(treespec, LeafSpec\)`.*",
    r".*Starting from v1\.9\.0, `tensorboardX`.*",
    r".*lr_scheduler\.step\(\)` before `optimizer\.step.*",  # a step that was skipped for its non-finite gradient
    r".*callback states in this checkpoint.*",
    r".*The `srun` command is available.*",
    r".*There is a wandb run already in progress.*",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's information messages and its remarks about medssl's own choices."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for remark in _REMARKS:
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
