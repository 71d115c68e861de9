"""Preparation of fMRI: region series cleaned, censored, at one repetition time, standardised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.fmri import TR_RANGE_S
from medssl.adapters.recording import Recording
from medssl.cohort.fmri_cleaning import (
    Filter,
    clean,
    cosine_regressors,
    degrees_of_freedom,
    detrend,
    interpolate_censored,
    regress_out,
    standardise,
    within_kept,
)
from medssl.cohort.fmri_confounds import CONFOUND_SETS, confound_matrix, displacement_of, non_steady_volumes
from medssl.cohort.fmri_motion import censored, long_enough
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.resampling import rate_ratio, resample_signal
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["FmriPreparation"]

STEP = 0.0005
LARGEST_CODE = 32_000
INPUT_LIMIT = 20.0
FEW_DEGREES = 50
LOST = 1e-6  # share of its deviation below which nothing is left of a region after cleaning
DEGREES_MEDIAN_FD = 1.0

Band = tuple[float | None, float | None]


class _Run(NamedTuple):
    """A run on its way: series (T, N), confounds by name, displacement (T,) or None, volumes kept (T,)."""

    series: NDArray[np.float64]
    table: dict[str, NDArray[np.float64]]
    displacement: NDArray[np.float64] | None
    kept: NDArray[np.bool_]


class FmriPreparation(Preparation):
    """Region series → (N, T) int16 at one repetition time; network input is z-scores.

    In this order: volumes before the steady state dropped; volumes with too much motion censored; runs that are too
    short or too moved refused; censored volumes interpolated, everything detrended and filtered, censored volumes cut,
    confounds projected out, standardised (see :mod:`medssl.cohort.fmri_cleaning`); resampled to ``tr_s`` (band-limited;
    of the new volumes those nearest to a censored one are left out too) and standardised again.

    A region without voxels, with a value that is not finite, constant, or of which the confounds leave nothing, is
    *invalid*: zeros are stored, and its ``input_scale`` is 0. What was done to a run, and its motion, stand in the
    quality columns: ``volumes`` and ``tr_s`` as acquired, ``mean_fd``, ``max_fd``, ``censored`` (share), ``minutes``
    kept, ``confounds`` (regressors), ``degrees_of_freedom``, ``invalid_regions``.

    Args:
        atlas: name of the atlas, for people and for the fingerprint.
        regions: how many it has; series of another number are refused. None takes any number.
        tr_s: repetition time of the prepared series, in seconds; None keeps each run's own. Recipes set it: the runs'
            own where all have one, else the longest among them, since a shorter one would invent samples.
        confounds: ``"none"``, ``"motion"``, ``"simple"``, ``"scrubbing"``, ``"compcor"``, ``"gsr"``, or names of
            columns. Global signal regression (``gsr``) shifts all correlations and changes differences between groups.
        filter: ``"butterworth"`` (band-pass), ``"cosine"`` (regressors, high-pass only) or ``"none"``.
        band_hz: (low, high) of the filter, None for an open end.
        filtered_hz: (low, high) of a filter that the series have been through already; ``filter`` must then be
            ``"none"``, since filtering twice distorts correlations. It counts among the degrees of freedom lost.
        detrend: subtract a line first.
        drop_volumes: further volumes to drop at the beginning.
        max_fd_mm: volumes whose framewise displacement is larger are censored; None censors none. 0.2 is strict.
        max_dvars: the same for the column ``std_dvars`` (1.5 is common); None does not look at it.
        min_segment: stretches of fewer volumes between censored ones are censored too.
        min_minutes: runs of which less is kept are refused.
        max_minutes: only the first minutes kept are stored; None stores all. How long a run is may tell its site.
        max_mean_fd_mm: runs that moved more on average are refused.
        max_censored: runs of which a larger share is censored are refused.
        min_degrees: runs with fewer degrees of freedom left are refused; with fewer than 50 that is noted.
        max_invalid: runs with a larger share of invalid regions are refused.
        drop_regions: names of regions that are left out of every run, as those that ``medssl cohort info`` finds
            invalid in more than a tenth of them. Coverage of the whole cohort, test patients included, then decides
            what is seen, but no label does. A run without a region of the name is refused.
    """

    def __init__(
        self,
        *,
        atlas: str = "",
        regions: int | None = None,
        tr_s: float | None = None,
        confounds: str | tuple[str, ...] = "simple",
        filter: Filter = "butterworth",
        band_hz: Band = (0.01, 0.1),
        filtered_hz: Band | None = None,
        detrend: bool = True,
        drop_volumes: int = 0,
        max_fd_mm: float | None = 0.5,
        max_dvars: float | None = None,
        min_segment: int = 5,
        min_minutes: float = 4.0,
        max_minutes: float | None = None,
        max_mean_fd_mm: float | None = 0.5,
        max_censored: float = 0.5,
        min_degrees: int = 20,
        max_invalid: float = 0.5,
        drop_regions: tuple[str, ...] = (),
    ) -> None:
        self.atlas, self.regions, self.tr_s = atlas, regions, tr_s
        self.confounds = confounds if isinstance(confounds, str) else tuple(confounds)
        self.filter, self.band_hz = filter, (band_hz[0], band_hz[1])
        self.filtered_hz = None if filtered_hz is None else (filtered_hz[0], filtered_hz[1])
        self.detrend, self.drop_volumes = detrend, drop_volumes
        self.max_fd_mm, self.max_dvars, self.min_segment = max_fd_mm, max_dvars, min_segment
        self.min_minutes, self.max_minutes = min_minutes, max_minutes
        self.max_mean_fd_mm, self.max_censored = max_mean_fd_mm, max_censored
        self.min_degrees, self.max_invalid = min_degrees, max_invalid
        self.drop_regions = tuple(drop_regions)
        self._check()

    def _check(self) -> None:
        if isinstance(self.confounds, str) and self.confounds not in CONFOUND_SETS:
            raise ConfigError(
                f"confounds '{self.confounds}' is unknown; use {', '.join(CONFOUND_SETS)} or column names"
            )
        if self.filter not in ("butterworth", "cosine", "none"):
            raise ConfigError(f"filter '{self.filter}' is unknown; use butterworth, cosine or none")
        if self.filtered_hz is not None and self.filter != "none":
            raise ConfigError(
                f"the series are filtered already ({_band(self.filtered_hz)}) and filter is '{self.filter}': filtering "
                "twice distorts correlations; set filter to none, or filtered_hz to null if they are not"
            )
        for low, high in (self.band_hz, self.filtered_hz or (None, None)):
            if low is not None and high is not None and low >= high:
                raise ConfigError(f"the band ({low}, {high}) is empty; give (low, high) with low < high")
        if self.filter == "cosine" and self.band_hz[0] is None:
            raise ConfigError("filter 'cosine' is a high-pass and needs the lower edge of band_hz")
        if self.tr_s is not None and not TR_RANGE_S[0] <= self.tr_s <= TR_RANGE_S[1]:
            raise ConfigError(f"tr_s {self.tr_s} is no repetition time; give seconds between 0.2 and 10")
        if self.confounds == "scrubbing" and self.max_fd_mm is None:
            raise ConfigError("confounds 'scrubbing' means that moved volumes are censored: give max_fd_mm, e.g. 0.5")
        if self.drop_volumes < 0 or self.min_segment < 1:
            raise ConfigError("drop_volumes must be 0 or more, and min_segment 1 or more")

    def __call__(self, recording: Recording) -> Prepared:
        """Prepare one run. See the class.

        Raises:
            UnreadableRecording: not region series, of another atlas, no repetition time, too short, too moved, too few
                degrees of freedom, a confound or a region to be dropped that is not there, or too few valid regions.
        """
        source, notes = recording.source, [*recording.notes]
        own_tr, tr = self._repetition_times(recording)
        recording = self._without_dropped(recording, notes)
        run = self._censored(self._begun(recording, notes), recording, notes)
        valid = np.isfinite(run.series).all(axis=0) & (np.ptp(np.nan_to_num(run.series), axis=0) > 0)
        quality = self._motion(run, recording, own_tr)
        try:
            series, valid, lost = self._cleaned(run, valid, own_tr, notes, source)
            series = self._at_rate(series, run.kept, own_tr, tr, notes)
        except ConfigError as error:  # what one run cannot do, others may
            raise UnreadableRecording(str(error), source) from error
        if self.max_minutes is not None:
            series = standardise(series[: max(round(self.max_minutes * 60 / tr), 1)])
        self._note_invalid(valid, recording, notes)
        stored, scale = _codes(np.where(valid, series, 0.0).T)
        names = _names(recording)
        return Prepared(
            image=stored,
            scale=scale,
            offset=np.zeros(len(scale)),
            input_scale=np.where(valid, scale, 0.0),
            input_offset=np.zeros(len(scale)),
            input_range=(-INPUT_LIMIT, INPUT_LIMIT),
            fill=0,
            channels=names,
            units=("z",) * len(names),
            rate_hz=1.0 / tr,
            notes=tuple(notes),
            quality={**recording.quality, **quality, **lost, "invalid_regions": float((~valid).sum())},
        )

    def _repetition_times(self, recording: Recording) -> tuple[float, float]:
        """Seconds between volumes as acquired, and as prepared."""
        if recording.axes != "ct":
            raise UnreadableRecording(
                f"axes '{recording.axes}' are not those of region series ('ct'): an atlas makes them of images",
                recording.source,
            )
        count = len(recording.data)
        if self.regions is not None and count != self.regions:
            raise UnreadableRecording(
                f"{count} regions, the atlas {self.atlas or 'of this cohort'} has {self.regions}", recording.source
            )
        own = 1 / recording.rate_hz if recording.rate_hz else 0.0
        if not TR_RANGE_S[0] <= own <= TR_RANGE_S[1]:
            stated = f"a repetition time of {own:g} s is not plausible" if own else "its repetition time is unknown"
            raise UnreadableRecording(f"{stated}; declare tr_s", recording.source)
        own = round(own, 9)
        return own, self.tr_s or own

    def _without_dropped(self, recording: Recording, notes: list[str]) -> Recording:
        """The run without the regions of ``drop_regions``."""
        if not self.drop_regions:
            return recording
        names = _names(recording)
        missing = [name for name in self.drop_regions if name not in names]
        if missing:
            raise UnreadableRecording(
                f"it has no region '{missing[0]}', which drop_regions leaves out; its {len(names)} regions begin with "
                f"{', '.join(names[:5])}",
                recording.source,
            )
        kept = [i for i, name in enumerate(names) if name not in self.drop_regions]
        if not kept:
            raise UnreadableRecording("drop_regions leaves out all of its regions", recording.source)
        notes.append(f"{len(names) - len(kept)} regions left out (drop_regions)")
        units = tuple(recording.units[i] for i in kept) if len(recording.units) == len(names) else recording.units
        return recording.with_(data=recording.data[kept], channels=tuple(names[i] for i in kept), units=units)

    def _begun(self, recording: Recording, notes: list[str]) -> _Run:
        """The run from the steady state on."""
        table = dict(recording.confounds)
        first = non_steady_volumes(table) + self.drop_volumes
        if first:
            notes.append(f"{first} volumes dropped at the beginning")
        if recording.events:
            notes.append(f"{len(recording.events)} events left out: volumes may be censored or resampled")
        series = np.asarray(recording.data, dtype=np.float64).T[first:]
        if len(series) < 2:
            raise UnreadableRecording(
                f"{recording.data.shape[1]} volumes are too few when the first {first} are dropped", recording.source
            )
        table = {name: column[first:] for name, column in table.items()}
        displacement = displacement_of(table)
        if displacement is not None:
            displacement = np.r_[0.0, displacement[1:]]
        return _Run(series, table, displacement, np.ones(len(series), dtype=bool))

    def _censored(self, run: _Run, recording: Recording, notes: list[str]) -> _Run:
        """The run with the volumes marked that motion spoils.

        Raises:
            UnreadableRecording: nothing would be left, or a measure that is asked for is not there.
        """
        dvars = run.table.get("std_dvars")
        if self.max_dvars is not None and dvars is None:
            raise UnreadableRecording("its confounds have no column std_dvars; set max_dvars to null", recording.source)
        if self.confounds == "scrubbing" and run.displacement is None:
            raise UnreadableRecording("its confounds tell no motion, by which volumes are censored", recording.source)
        if run.displacement is None and dvars is None:
            return run
        limits = {"max_fd_mm": self.max_fd_mm, "max_dvars": self.max_dvars}
        kept = ~censored(run.displacement, dvars, **limits)
        whole = long_enough(kept, self.min_segment)
        if not whole.all():
            more = int(kept.sum() - whole.sum())
            short = f", {more} of them in stretches of fewer than {self.min_segment}" if more else ""
            notes.append(f"{int((~whole).sum())} of {len(whole)} volumes censored{short}")
        return run._replace(kept=whole)

    def _motion(self, run: _Run, recording: Recording, tr: float) -> dict[str, float]:
        """Quality columns of length and motion.

        Raises:
            UnreadableRecording: too much motion, or too little is kept.
        """
        quality = {"volumes": float(recording.data.shape[1]), "tr_s": tr}
        source = recording.source
        mean = recording.quality.get("mean_fd")
        if run.displacement is not None and len(run.displacement):
            mean, largest = float(run.displacement.mean()), float(run.displacement.max())
            quality |= {"mean_fd": mean, "max_fd": largest, "median_fd": float(np.median(run.displacement))}
        if mean is not None and self.max_mean_fd_mm is not None and mean > self.max_mean_fd_mm:
            hint = ""
            if quality.get("median_fd", 0.0) > DEGREES_MEDIAN_FD:
                hint = "; are its rotations in degrees, or its columns in another order (see option motion)?"
            raise UnreadableRecording(
                f"too much motion: mean framewise displacement {mean:.3g} mm (at most {self.max_mean_fd_mm:g}){hint}",
                source,
            )
        share = float((~run.kept).mean()) if len(run.kept) else 1.0
        if share > self.max_censored:
            raise UnreadableRecording(
                f"{share:.0%} of its volumes are censored for motion (at most {self.max_censored:.0%})", source
            )
        minutes = float(run.kept.sum()) * tr / 60
        if minutes < self.min_minutes:
            moved = f" after {share:.0%} were censored" if share else ""
            raise UnreadableRecording(
                f"{int(run.kept.sum())} volumes of {tr:g} s are {minutes:.2f} minutes{moved}: too short (at least "
                f"{self.min_minutes:g})",
                source,
            )
        return quality | {"censored": share, "minutes": minutes}

    def _cleaned(
        self, run: _Run, valid: NDArray[np.bool_], tr: float, notes: list[str], source: str
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, float]]:
        """Cleaned series (T', N) of the volumes kept, which regions are valid, and what was spent on cleaning."""
        regressors, names = confound_matrix(run.table, self.confounds)
        if not len(names):
            regressors = np.zeros((len(run.series), 0))
        inside = within_kept(run.kept)
        count = len(names)
        if self.filter == "cosine":
            count += cosine_regressors(inside.stop - inside.start, tr, self.band_hz[0] or 0.0).shape[1]
        band = self.band_hz if self.filter == "butterworth" else self.filtered_hz
        freedom = degrees_of_freedom(int(run.kept.sum()), count, tr, band)
        if freedom < self.min_degrees:
            raise UnreadableRecording(
                f"{int(run.kept.sum())} volumes leave {freedom:.0f} degrees of freedom after {count} regressors and "
                f"the filter (at least {self.min_degrees})",
                source,
            )
        if freedom < FEW_DEGREES:
            notes.append(f"only {freedom:.0f} degrees of freedom are left after cleaning")
        whole = np.where(valid, run.series, 0.0)
        settings = {"tr_s": tr, "filter": self.filter, "band_hz": self.band_hz, "remove_trend": self.detrend}
        series = clean(whole, confounds=regressors, kept=run.kept, **settings)  # type: ignore[arg-type]
        valid = valid & ~_explained(whole[run.kept], regressors[run.kept])
        return series, valid, {"confounds": float(count), "degrees_of_freedom": freedom}

    def _at_rate(
        self, series: NDArray[np.float64], kept: NDArray[np.bool_], own: float, wanted: float, notes: list[str]
    ) -> NDArray[np.float64]:
        """(T', N) kept volumes at another repetition time: gaps bridged for the filter, and left out again after it."""
        ratio = rate_ratio(1 / own, 1 / wanted)
        if abs(own - wanted) <= 1e-6 * own or ratio == 1:
            return series
        good = kept[within_kept(kept)]
        full = np.zeros((len(good), series.shape[1]))
        full[good] = series
        moved = resample_signal(interpolate_censored(full, good).T, ratio).T.astype(np.float64)
        nearest = np.minimum(np.rint(np.arange(len(moved)) * wanted / own).astype(np.int64), len(good) - 1)
        notes.append(f"resampled from a repetition time of {own:g} s to {wanted:g} s")
        return standardise(moved[good[nearest]])

    def _note_invalid(self, valid: NDArray[np.bool_], recording: Recording, notes: list[str]) -> None:
        bad = np.flatnonzero(~valid)
        if not bad.size:
            return
        if bad.size > self.max_invalid * len(valid) or bad.size == len(valid):
            raise UnreadableRecording(
                f"{bad.size} of {len(valid)} regions are invalid (without voxels, constant, or not finite; at most "
                f"{self.max_invalid:.0%})",
                recording.source,
            )
        names = _names(recording)
        shown = ", ".join(names[i] for i in bad[:10]) + (", ..." if bad.size > 10 else "")
        notes.append(f"{bad.size} {'region is' if bad.size == 1 else 'regions are'} invalid: {shown}")


def _names(recording: Recording) -> tuple[str, ...]:
    """Of the regions; where they have none, their numbers from 1."""
    return recording.channels or tuple(f"#{i}" for i in range(1, len(recording.data) + 1))


def _explained(series: NDArray[np.float64], confounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) regions that the confounds are a mixture of: what is left of them is rounding."""
    if not confounds.shape[1]:
        return np.zeros(series.shape[1], dtype=bool)
    before = detrend(series)
    after = regress_out(before, detrend(confounds))
    return np.asarray(after.std(axis=0) <= LOST * before.std(axis=0))


def _codes(series: NDArray[np.float64]) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """(N, T) int16 and the step of each region: 0.0005 deviations, coarser only where a region would not fit."""
    scale = np.maximum(STEP, np.abs(series).max(axis=1) / LARGEST_CODE)
    return np.rint(series / scale[:, None]).astype(np.int16), scale


def _band(band: Sequence[float | None]) -> str:
    low, high = band
    return f"{'0' if low is None else f'{low:g}'} to {'its end' if high is None else f'{high:g} Hz'}"
