"""What cells without fine-tuning share: an encoder as it is, features that are computed once, predictions on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.arms import FLOOR
from medssl.evaluation.cells import BARE, FOLD, Cell
from medssl.evaluation.floor import floor_features
from medssl.evaluation.probes import features

if TYPE_CHECKING:
    from medssl.encoders.base import Encoder
    from medssl.training.levels import Decisions
    from medssl.training.settings import FinetuneSettings
    from medssl.training.targets import Target

__all__ = [
    "Frozen",
    "decisions_of",
    "features_key",
    "frozen_encoder",
    "item_features",
    "keep_features",
    "target_of",
    "write_predictions",
]


@dataclass(frozen=True)
class Frozen:
    """An encoder and how it is fed in this study.

    Attributes:
        encoder: with its weights; of ``none`` and ``untrained`` arms as it is drawn from seed 0.
        size: crop (z, y, x) or window (samples,).
        channels: of the cohort, in the encoder's order; None for all.
        device: where it runs.
        settings: of the study.
    """

    encoder: Encoder
    size: tuple[int, ...]
    channels: tuple[int, ...] | None
    device: str
    settings: FinetuneSettings

    def features(self, target: Target, items: NDArray[np.int64], *, windows: int | None = None) -> NDArray[np.float32]:
        """(len(items), D), the mean over ``windows`` windows a recording; by default as many as in testing."""
        from medssl.training.windows import ClipRule

        every = windows is None and self.settings.test_clips == "all"
        return features(
            self.encoder, target, items, size=self.size, channels=self.channels,
            windows=windows or self.settings.test_windows, batch=self.settings.test_batch, device=self.device,
            rule=ClipRule(self.settings.clip_period, every),
        )  # fmt: skip


def frozen_encoder(cell: Cell, target: Target) -> Frozen:
    """The encoder of a cell, ready to encode the target's cohort.

    Raises:
        MedSSLError: it does not suit the cohort, or was pre-trained on test patients of the split.
    """
    import torch

    from medssl.configurable import build, discover
    from medssl.encoders.base import Encoder, load_encoder, with_channels
    from medssl.splits import Split
    from medssl.training import finetune
    from medssl.training.contract import match_input
    from medssl.training.fitting import is_cpu
    from medssl.training.heads import choose_size, default_encoder
    from medssl.training.seeding import seed_all
    from medssl.training.settings import FinetuneSettings, from_plain

    options = cell.options
    settings = from_plain(FinetuneSettings, options["settings"])
    info = target.cohort.info
    if cell.source in BARE:
        seed_all(0)
        discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
        wanted = options["architecture"]
        if wanted:
            encoder = build(with_channels(wanted, len(info.channels)), Encoder)  # type: ignore[type-abstract]
        else:
            encoder = default_encoder(info, len(info.channels), target)
        inputs = None
    else:
        split = Split.load(target.cohort.path, options["split"])
        finetune.check_leak(Path(cell.source), target.cohort, split)
        encoder, inputs = load_encoder(cell.source)
    matched = match_input(inputs, info, allow_mismatch=settings.allow_mismatch, any_channels=encoder.any_channels)
    size = choose_size(encoder, target, settings)
    encoder.check_input(len(matched.names), size)
    device = "cpu" if is_cpu(settings.accelerator) or not torch.cuda.is_available() else "cuda"
    return Frozen(encoder, size, matched.channels, device, settings)


def target_of(cell: Cell) -> Target:
    """The labelled items of a cell's cohort."""
    from medssl.cohort import Cohort
    from medssl.training.targets import resolve_target

    return resolve_target(Cohort(Path(cell.options["cohort"])), cell.options["task"], cell.options["target"])


def decisions_of(cell: Cell) -> Decisions:
    """What a cell of a study decides, and from which labelled items."""
    from medssl.training.levels import make_decisions
    from medssl.training.settings import FinetuneSettings, from_plain

    return make_decisions(target_of(cell), from_plain(FinetuneSettings, cell.options["settings"]))


def item_features(cell: Cell) -> NDArray[np.float32]:
    """(n, D) features of every item that is answered (window, event or recording): ``STUDY/features/ARM.npz``."""

    def compute() -> NDArray[np.float32]:
        parts = decisions_of(cell).parts
        if cell.source == FLOOR:
            return floor_features(parts)
        # the size follows from the target itself, whatever the level
        return frozen_encoder(cell, target_of(cell)).features(parts, np.arange(len(parts)))

    return keep_features(cell, "", features_key(cell), compute)


def keep_features(
    cell: Cell, part: str, key: str, compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:  # fmt: skip
    """From ``STUDY/features/ARM[-FOLD][.PART].npz`` if they were made of the same encoder and data, else computed."""
    # each part of a split has encoders of its own, which did not see its patients
    own = f"-{FOLD}{cell.fold}" if cell.in_parts and cell.source not in (FLOOR, *BARE) else ""
    file = cell.study / "features" / f"{cell.encoder}{own}{f'.{part}' if part else ''}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                known: NDArray[np.float32] = stored["features"]
                return known
    print(f"computing what '{cell.encoder}' reads, once for all its cells", flush=True)
    x = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part.npz")
    np.savez(beside, features=x, key=np.array(key))
    beside.replace(file)
    return x


def features_key(cell: Cell, **more: Any) -> str:
    """Hash of what an arm's features depend on, and of ``more``."""
    names = ("cohort_fingerprint", "task", "target", "architecture", "settings")
    parts = [cell.source if cell.source in (FLOOR, *BARE) else "run", cell.fingerprint]
    parts += [cell.options[n] for n in names]
    text = json.dumps([*parts, more] if more else parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_predictions(
    file: Path, target: Target, items: Iterable[Any], answers: NDArray[np.float64], *, group: str = "test"
) -> None:
    """The same columns as fine-tuning leaves.

    Args:
        file: ``predictions.parquet`` of a cell.
        target: what was predicted.
        items: indices into it.
        answers: (n, K) probabilities or (n,) values.
        group: which patients they are.
    """
    import pandas as pd

    items = np.asarray(items)
    manifest = target.cohort.manifest
    frame: dict[str, Any] = {
        "group": group,
        "patient": target.patients[items].astype(str),
        "recording": "" if target.level == "patient" else manifest["recording"].to_numpy(object)[target.rows[items]],
        "onset_s": None if target.onset_s is None else target.onset_s[items],
    }
    if target.task == "regression":
        frame |= {"y_true": target.y[items].astype(np.float64), "y_pred": answers}
    else:
        names = np.array(target.classes, dtype=object)
        if target.multilabel:
            frame |= {f"y/{c}": target.y[items][:, k].astype(np.int64) for k, c in enumerate(target.classes)}
        else:
            frame |= {"y_true": names[target.y[items]], "y_pred": names[answers.argmax(1)]}
        frame |= {f"p/{c}": answers[:, k] for k, c in enumerate(target.classes)}
    pd.DataFrame(frame).to_parquet(file, index=False)
