"""COMET: observations, samples, trials and patients of medical time series are contrasted together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from medssl.encoders.base import Encoder, Features
from medssl.errors import CohortError, ConfigError
from medssl.methods.averaging import WeightAveraged
from medssl.methods.base import Losses, Readable
from medssl.methods.ids import stable_integer
from medssl.methods.patient_batches import patient_order
from medssl.methods.step_wise import encode_steps, gather_steps, refuse_strided
from medssl.objectives.base import positive
from medssl.objectives.gather import gather_integers
from medssl.objectives.hierarchical import (
    id_loss,
    mean_over_scales,
    observation_losses,
    pyramid,
    same,
    sample_losses,
)
from medssl.objectives.step_masks import StepMask, check_mask, step_mask
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input
from medssl.views.placement import read_crops
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import UNCHANGED
from medssl.views.trials import trial_spans, trial_statistics, window_starts

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import CohortInfo, Reader

__all__ = ["COMET", "Level", "LevelWeights"]

Level = Literal["patient", "trial", "sample", "observation"]
OF_IDS: tuple[Level, ...] = ("patient", "trial")
EVERY: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class LevelWeights:
    """Multipliers of the four losses, all 0 or more.

    The released code lists 0.25 each (for PTB 0.1, 0.7, 0.1, 0.1), but applies them to samples and observations alone;
    the defaults are what that comes to.

    Attributes:
        patient: windows of one patient are drawn together.
        trial: windows of one trial are drawn together.
        sample: windows are told apart at each step, on all scales (PTB: 0.1).
        observation: steps of a window are told apart, on all scales (PTB: 0.1).
    """

    patient: float = 1.0
    trial: float = 1.0
    sample: float = 0.25
    observation: float = 0.25


class _Whose(NamedTuple):
    """Which windows of all processes belong together: (N, N) booleans."""

    patient: Tensor
    trial: Tensor
    left_out: Tensor  # windows of one trial that are too close to each other


class COMET(WeightAveraged):
    """COMET (Wang et al., *Contrast Everything*, NeurIPS 2023): contrast on the four levels of medical time series.

    A recording gives several windows of several of its trials. Each window is encoded with steps hidden (levels sample
    and observation) and without (trial and patient, whose two views differ by dropout alone). What is exported is the
    mean of the encoder's weights over the training.

    Trials: a row of the manifest with a trial id is one; any other recording is cut into stretches of ``trial_s``.

    Shapes: N = B · trials · windows rows (C, window) → maps (N, T, D), T = window.

    Args:
        encoder: with one map of full length (``TS2Vec``, as published). Steps are hidden behind its input layer where
            its ``forward`` takes a ``mask``; any other encoder (``InceptionTime``) sees zeros there in its input.
        window: samples that the encoder sees (AD, TDBrain: 256 at 256 Hz; PTB: 300 at 250 Hz).
        trial_s: seconds of a trial (AD: 5; TDBrain: 10; PTB: 10 beats).
        trials: trials of a recording in a step, where it has so many.
        windows: windows of each of them; where there are fewer trials, they give more.
        together: recordings of a patient that are brought into one batch, where there are so many.
        levels: those that are contrasted.
        weights: of the levels.
        temperature: of the levels trial and patient.
        share_passes: two levels share their two passes through the encoder, so that a step has four and not eight.
        symmetric_ids: see ``symmetric`` of ``medssl.objectives.hierarchical.id_loss``.
        per_anchor: see ``medssl.objectives.hierarchical.id_loss``.
        min_gap: windows of a trial that start closer to each other, in windows, are neither drawn (where there is room)
            nor compared on the levels trial and patient.
        mask: of the steps for the levels sample and observation.
        id_mask: of the steps for the levels trial and patient.
        standardise: bring each channel of a trial to mean 0 and standard deviation 1, as published. Fine-tuning does
            not do so, and takes recordings as they were prepared.
        weighting: weights of the recordings on the level sample; it gets the mean loss of their windows.
        reference: as published: eight passes, windows on a grid of half a window, standardised trials; not with
            ``symmetric_ids`` or ``per_anchor``.
        optim: optimiser settings.
    """

    views: SignalViews

    def __init__(
        self,
        encoder: Encoder,
        *,
        window: int,
        trial_s: float = 10.0,
        trials: int = 2,
        windows: int = 4,
        together: int = 2,
        levels: tuple[Level, ...] = EVERY,
        weights: LevelWeights | None = None,
        temperature: float = 0.1,
        share_passes: bool = True,
        symmetric_ids: bool = False,
        per_anchor: bool = False,
        min_gap: float = 0.5,
        mask: StepMask = "continuous",
        id_mask: StepMask = "none",
        standardise: bool = False,
        weighting: PairWeighting | None = None,
        reference: bool = False,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(encoder, optim or Optim(lr=1e-4, weight_decay=0.01, schedule="constant", warmup=0))
        refuse_strided(encoder, "COMET")
        positive("COMET", window=window, trial_s=trial_s, trials=trials, windows=windows, temperature=temperature)
        self.window, self.trial_s, self.trials, self.windows = window, trial_s, trials, windows
        self.levels, self.weights = _checked(levels), weights or LevelWeights()
        self.temperature, self.symmetric_ids, self.per_anchor = temperature, symmetric_ids, per_anchor
        self.share_passes, self.standardise = share_passes and not reference, standardise or reference
        self.together, self.gap = max(1, together), max(1, round(min_gap * window))
        self.grid = max(1, window // 2) if reference else 1
        self.masks: dict[str, StepMask] = {v: id_mask if v in OF_IDS else mask for v in self.levels}
        self.weighting = weighting
        self.recordings = 0
        # what the monitor compares: two windows of a trial
        self.views = SignalViews((window,), count=2, gap_s=trial_s, augmentation=UNCHANGED)
        self._refuse_settings(reference, min_gap)

    @property
    def input_size(self) -> tuple[int, ...]:
        """The window."""
        return (self.window,)

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: signals whose trials are as long as a window."""
        self.views.check(info)
        if info.rate_hz is not None and self.trial_s * info.rate_hz < self.window:
            raise ConfigError(
                f"a trial of {self.trial_s:g} s has {self.trial_s * info.rate_hz:.0f} samples at {info.rate_hz:g} Hz, "
                f"fewer than a window of {self.window}; raise trial_s or shorten the window"
            )
        super().check(info)

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``; refuses a level whose positives cannot exist."""
        self.recordings = batch
        if self.weighting is not None:
            self.weighting.remember(len(source.places))
        if source.manifest is not None:
            self._refuse_without_positives(source.manifest, batch)

    def order(self, manifest: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Recordings of one epoch; those of a patient are dealt to the batches in sets."""
        if "patient" not in manifest or not self.recordings:
            return rng.permutation(len(manifest))
        patients = np.unique(manifest["patient"].to_numpy(dtype=str), return_inverse=True)[1]
        return patient_order(patients, self.recordings, self.together, rng)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Windows of several trials of one recording.

        Returns:
            ``x`` (n, C, window) stored integers, n = trials · windows; ``starts`` (n,) in samples of the recording;
            ``trial`` (n,) and ``patient``, integers; with ``standardise`` also ``mean`` and ``sd`` (n, C); and the
            input fields.
        """
        spans = trial_spans(reader.shape[0], self._trial_length(reader.record, reader.rate_hz, reader.recording))
        chosen = spans[rng.permutation(len(spans))[: self.trials]]
        counts = [len(part) for part in np.array_split(np.arange(self.trials * self.windows), len(chosen))]
        starts = [
            first + window_starts(stop - first, self.window, count, gap=self.gap, rng=rng, step=self.grid)
            for (first, stop), count in zip(chosen, counts, strict=True)
        ]
        fields, joined = reader.input_fields(), np.concatenate(starts)
        names = [stable_integer(f"{reader.patient}/{reader.recording}/{first}") for first in chosen[:, 0]]
        statistics = _statistics(reader, fields, chosen, counts) if self.standardise else {}
        return {
            **fields,
            **statistics,
            "x": read_crops(reader, list(joined[:, None]), (self.window,)),
            "starts": joined,
            "trial": np.repeat(np.array(names, dtype=np.int64), counts),
            "patient": np.array(stable_integer(reader.patient), dtype=np.int64),
        }

    def loss(self, batch: Batch) -> Losses:
        """Encode twice for each level (or pair of levels), and contrast."""
        x = to_input(batch["x"], batch)
        if self.standardise:
            x = (x - batch["mean"].unsqueeze(-1)) / batch["sd"].unsqueeze(-1)
        pairs, embeddings = self._passes(x.flatten(0, 1))
        whose = self._whose(batch)
        losses = {level: self._level(level, *pairs[level], whose, batch) for level in self.levels}
        total = torch.stack([getattr(self.weights, level) * loss for level, loss in losses.items()]).sum()
        terms: dict[str, Tensor] = {level: loss.detach() for level, loss in losses.items()}
        for level in self.levels:
            if level in OF_IDS:
                compared = getattr(whose, level) & ~whose.left_out
                terms[f"{level}_positives"] = compared.any(1).float().mean()
        if self.weighting is not None:
            terms |= self.weighting.logs()
        return Losses(total, terms, embeddings)

    def _passes(self, x: Tensor) -> tuple[dict[Level, tuple[Tensor, Tensor]], Tensor]:
        """Two views (N, T, D) for each level, and pooled features (N, D) of one, without gradient."""
        made: dict[str, tuple[Features, Features]] = {}
        for level in self.levels:
            if (key := self._key(level)) not in made:
                masks = (step_mask(self.masks[level], len(x), self.window, self.generator) for _ in range(2))
                one, other = (encode_steps(self.encoder, x, mask) for mask in masks)
                made[key] = one, other
        pooled = next(iter(made.values()))[0].pooled
        pairs = {level: made[self._key(level)] for level in self.levels}
        return {v: (a.maps[0].mT, b.maps[0].mT) for v, (a, b) in pairs.items()}, pooled.detach().float()

    def _key(self, level: Level) -> str:
        """Levels of one key share their two passes."""
        return self.masks[level] if self.share_passes else level

    def _whose(self, batch: Batch) -> _Whose:
        n = batch["trial"].shape[1]
        trial, start, patient = (
            gather_integers(ids.flatten())
            for ids in (batch["trial"], batch["starts"], batch["patient"].repeat_interleave(n))
        )
        assert trial is not None and start is not None and patient is not None
        of_trial = same(trial)
        close = (start[:, None] - start).abs() < self.gap
        itself = torch.eye(len(trial), dtype=torch.bool, device=trial.device)
        return _Whose(same(patient) & ~itself, of_trial & ~itself, of_trial & close & ~itself)

    def _level(self, level: Level, one: Tensor, other: Tensor, whose: _Whose, batch: Batch) -> Tensor:
        """Scalar loss of one level."""
        if level == "observation":
            return mean_over_scales(pyramid(one, other), observation_losses).mean()
        (everyone, offset), (others, _) = gather_steps(one), gather_steps(other)
        if level in OF_IDS:
            return id_loss(
                everyone, others, getattr(whose, level), temperature=self.temperature,
                symmetric=self.symmetric_ids, per_anchor=self.per_anchor, left_out=whose.left_out,
            )  # fmt: skip
        losses = mean_over_scales(pyramid(everyone, others), sample_losses)
        of_recordings = losses[offset : offset + len(one)].view(len(batch["row"]), -1).mean(1)
        if self.weighting is None or not self.training:
            return of_recordings.mean()
        weights: Tensor = self.weighting(of_recordings.detach(), batch["row"])
        return (weights * of_recordings).mean()

    def _trial_length(self, record: Mapping[str, Any], rate_hz: float | None, recording: str) -> int | None:
        """Samples of a trial; None where the recording is one."""
        if isinstance(trial := record.get("trial"), str) and trial:  # NaN where other cohorts have trials
            return None
        if rate_hz is None:
            raise CohortError(f"recording {recording} has no rate, so trial_s means nothing; give it a trial id")
        return max(1, round(self.trial_s * rate_hz))

    def _refuse_without_positives(self, manifest: pd.DataFrame, batch: int) -> None:
        rows: list[Any] = manifest.filter(("recording", "shape", "rate_hz", "trial")).to_dict("records")
        lengths = [self._trial_length(row, row.get("rate_hz"), str(row["recording"])) for row in rows]
        spans = [trial_spans(int(row["shape"][0]), trial) for row, trial in zip(rows, lengths, strict=True)]
        longest = max(int(s[0, 1] - s[0, 0]) for s in spans)
        if "trial" in self.levels and longest - self.window < self.gap:
            raise ConfigError(
                f"no trial holds two windows of {self.window} samples that start {self.gap} apart (the longest has "
                f"{longest}), so windows of one trial cannot be compared; shorten the window, lower min_gap, raise "
                "trial_s, or leave trial out of levels"
            )
        several = self.trials > 1 and any(len(s) > 1 for s in spans)
        often = manifest["patient"].value_counts().max() > 1 and batch > 1 and self.together > 1
        if "patient" in self.levels and not (several or often):
            raise ConfigError(
                "no batch can hold two trials of one patient, so the level patient has nothing to compare: every "
                f"recording is one trial (trial_s is {self.trial_s:g}; trials {self.trials}), and no two recordings of "
                "a patient meet in a batch; lower trial_s, raise trials, together or the batch size, or leave patient "
                "out of levels"
            )

    def _refuse_settings(self, reference: bool, min_gap: float) -> None:
        for name, kind in (("mask", self.masks.get("sample", "none")), ("id_mask", self.masks.get("trial", "none"))):
            check_mask(f"COMET's {name}", kind)
        if min_gap < 0 or min(vars(self.weights).values()) < 0:
            raise ConfigError("COMET takes a min_gap and weights of 0 or more")
        if "trial" in self.levels and self.windows < 2:
            raise ConfigError(
                "COMET compares windows of one trial; set windows to 2 or more, or drop trial from levels"
            )
        if reference and (self.symmetric_ids or self.per_anchor):
            raise ConfigError("COMET's reference is the published loss; it excludes symmetric_ids and per_anchor")
        if self.weighting is not None and "sample" not in self.levels:
            raise ConfigError("COMET weighs recordings on the level sample; add it to levels or leave weighting out")


def _checked(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    unknown = sorted(set(levels) - set(EVERY))
    if unknown or not levels:
        found = ", ".join(unknown) or "none"
        raise ConfigError(f"COMET's levels are one or more of {', '.join(EVERY)}; got {found}")
    return tuple(level for level in EVERY if level in levels)


def _statistics(
    reader: Reader, fields: Mapping[str, Any], spans: np.ndarray, counts: list[int]
) -> dict[str, np.ndarray]:
    """Mean and standard deviation of the trial of each window, in units of network input: (n, C) each."""
    found = []
    for first, stop in spans.tolist():
        stored = reader.read((first,), (stop - first,)).astype(np.float32)
        values = np.clip(
            stored * fields["input_scale"][:, None] + fields["input_offset"][:, None], *fields["input_range"]
        )
        found.append(trial_statistics(values))
    mean, sd = (np.repeat(np.stack(part), counts, axis=0) for part in zip(*found, strict=True))
    return {"mean": mean, "sd": sd}
