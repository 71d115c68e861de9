"""ABIDE I, preprocessed (PCP): resting-state fMRI of autism and of controls, 20 sites, as series of regions.

Get the data: http://preprocessed-connectomes-project.org/abide/ (``rois_ATLAS`` of one pipeline and strategy, and
``Phenotypic_V1_0b_preprocessed1.csv``). Licence: CC BY-NC-SA 3.0, non-commercial research. Cite: Di Martino A et al.,
Mol Psychiatry 19:659-667, 2014; Craddock C et al., The Neuro Bureau Preprocessing Initiative, Front Neuroinform,
2013.

Layout: ``*_rois_ATLAS.1D`` (or ``.1D.gz``) anywhere below the folder, named by the column FILE_ID, and a table
``*phenotypic*.csv``. Folders that are named as a pipeline (cpac, ccs, dparsf, niak) or a strategy (filt_noglobal,
...) choose among several; without such folders the option says which it is.

Labels: diagnosis (autism, control: DX_GROUP 1 and 2), age, sex, fiq, eyes (open, closed), mean_fd (mm). The site is
SITE_ID, which is spelt differently from the names of the files (TRINITY, MAX_MUN). Nothing in the files states the
repetition time: it comes from the table of sites below (for SBL and LEUVEN_2 sources disagree: 2.2 or 2.5 s, 1.667 or
1.656 s), or from ``site_tr_s``.

Series of ``filt_*`` are band-passed (0.01 to 0.1 Hz) and those of every pipeline free of motion, so nothing is
regressed out or filtered again. Sites differ in length and repetition time, which alone tells them apart: all are
brought to the longest repetition time, and ``--preparation max_minutes=3`` cuts them to one length. OHSU has 3.25
minutes, so 3 are asked for, not 4.

Splits: none is published that all use; leave one site out (``medssl cohort split COHORT --test-sites NYU --by
site``), or draw ``--stratify diagnosis``. Honest accuracies are 60 to 73 %; studies that reach 80 % are audited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.ceiling import Ceiling
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.fmri_runs import common_settings
from medssl.cohort.reading import FmriItem
from medssl.cohort.recipe import Item, Recipe
from medssl.errors import RecipeError

__all__ = ["ABIDE"]

SITE_TR_S = MappingProxyType(
    dict.fromkeys(("CALTECH", "CMU", "NYU", "SDSU", "STANFORD", "TRINITY", "UM_1", "UM_2", "USM", "YALE"), 2.0)
    | dict.fromkeys(("KKI", "OHSU"), 2.5)
    | dict.fromkeys(("MAX_MUN", "UCLA_1", "UCLA_2"), 3.0)
    | dict.fromkeys(("OLIN", "PITT"), 1.5)
    | {"LEUVEN_1": 1.656, "LEUVEN_2": 1.667, "SBL": 2.2}
)
"""Seconds between two volumes at each site, from the descriptions of the scans that the sites published."""

PIPELINES = ("cpac", "ccs", "dparsf", "niak")
STRATEGIES = ("filt_global", "filt_noglobal", "nofilt_global", "nofilt_noglobal")
DIAGNOSES = MappingProxyType({1: "autism", 2: "control"})
EYES = MappingProxyType({1: "open", 2: "closed"})
SEXES = MappingProxyType({1: "M", 2: "F"})
RATERS = MappingProxyType(
    {
        **dict.fromkeys(("qc_rater_1", "qc_anat_rater_3", "qc_func_rater_3"), ("ok",)),
        **dict.fromkeys(("qc_anat_rater_2", "qc_func_rater_2"), ("ok", "maybe")),
    }
)
"""Verdicts with which a run is among the 871."""

BAND_HZ = (0.01, 0.1)


class ABIDE(Recipe):
    """Runs with the labels diagnosis, age, sex, fiq, eyes and mean_fd.

    Args:
        atlas: in the names of the files: ``cc200``, ``cc400``, ``aal``, ``ho``, ``dosenbach160``, ...
        pipeline: ``cpac``, ``ccs``, ``dparsf`` or ``niak``.
        strategy: ``filt_noglobal``, ``filt_global``, ``nofilt_noglobal`` or ``nofilt_global``.
        site_tr_s: repetition times of sites that the table here lacks or has wrong, e.g. ``{"SBL": 2.5}``.
        quality_checked: only runs that all three raters of the release passed (871 of 1112).
    """

    kind = "signal"
    modality = "fmri"
    ceilings: ClassVar[Mapping[str, Ceiling]] = {
        "diagnosis": Ceiling(
            0.80,
            "published without leaks: 60 to 73 %; claims of 80 to 97 % come from leaks, from features selected on all "
            "data, or from subsets of the patients",
        )
    }

    def __init__(
        self,
        *,
        atlas: str = "cc200",
        pipeline: str = "cpac",
        strategy: str = "filt_noglobal",
        site_tr_s: Mapping[str, float] | None = None,
        quality_checked: bool = False,
    ) -> None:
        if pipeline not in PIPELINES:
            raise RecipeError(f"pipeline '{pipeline}' is unknown; use one of {', '.join(PIPELINES)}")
        if strategy not in STRATEGIES:
            raise RecipeError(f"strategy '{strategy}' is unknown; use one of {', '.join(STRATEGIES)}")
        self.atlas, self.pipeline, self.strategy = atlas, pipeline, strategy
        self.tr_s = {_site(name): tr for name, tr in SITE_TR_S.items()}
        self.tr_s |= {_site(name): float(tr) for name, tr in (site_tr_s or {}).items()}
        self.quality_checked = quality_checked

    def preparation(self) -> FmriPreparation:
        """As the pipeline left them: filtered here only where it did not filter."""
        return self._settings({"atlas": self.atlas})

    def preparation_of(self, source: Path) -> FmriPreparation:
        """The same at the longest repetition time of the sites that are there."""
        return self._settings(common_settings(self.find(source), atlas=self.atlas))

    def _settings(self, common: Mapping[str, object]) -> FmriPreparation:
        done = BAND_HZ if self.strategy.startswith("filt_") else None
        return FmriPreparation(
            confounds="none",
            filter="none" if done else "butterworth",
            filtered_hz=done,
            band_hz=BAND_HZ,
            min_minutes=3.0,
            **common,  # type: ignore[arg-type]
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every run of the atlas, pipeline and strategy, with its row of the table."""
        files = self._files(require_folder(source, "abide"))
        rows = _table(source)
        for file in files:
            name = re.split("_rois_", file.name)[0]
            row = rows.get(name)
            if row is None:
                yield Rejected(str(file), f"no row of the table has the FILE_ID {name}")
                continue
            yield self._item(file, name, row)

    def _files(self, source: Path) -> list[Path]:
        ending = f"_rois_{self.atlas}.1d"
        series = [f for f in files_below(source, (".1d", ".1d.gz")) if "_rois_" in f.name]
        named = [f for f in series if f.name.lower().removesuffix(".gz").endswith(ending.lower())]
        files = [f for f in named if self._is_wanted(f, source)]
        if not files:
            there = sorted({re.split("_rois_", f.name)[1].split(".")[0] for f in series}) or ["none"]
            which = f" of {self.pipeline}/{self.strategy}" if named else ""
            raise RecipeError(
                f"no *_rois_{self.atlas}.1D{which} below '{source}' (atlases there: {', '.join(there)}); recipe "
                "'abide' wants the series of regions of ABIDE preprocessed"
            )
        return files

    def _is_wanted(self, file: Path, source: Path) -> bool:
        """Whether no folder on the way says another pipeline or strategy."""
        folders = {part.lower() for part in file.relative_to(source).parts[:-1]}
        others = ({*PIPELINES} - {self.pipeline}) | ({*STRATEGIES} - {self.strategy})
        return not folders & others

    def _item(self, file: Path, name: str, row: Mapping[str, str | None]) -> Item | Rejected:
        site = row.get("SITE_ID") or ""
        tr = self.tr_s.get(_site(site))
        if tr is None:
            return Rejected(str(file), f"the repetition time of site '{site}' is not known; declare it with site_tr_s")
        failed = [rater for rater, passed in RATERS.items() if (row.get(rater) or "").lower() not in passed]
        if self.quality_checked and failed:
            return Rejected(str(file), f"not passed by the raters ({', '.join(failed)})")
        numbers = {key: _number(row.get(key)) for key in ("DX_GROUP", "SEX", "EYE_STATUS_AT_SCAN")}
        labels = {
            "diagnosis": DIAGNOSES.get(numbers["DX_GROUP"] or 0),
            "age": _known(row.get("AGE_AT_SCAN")),
            "sex": SEXES.get(numbers["SEX"] or 0),
            "fiq": _known(row.get("FIQ")),
            "eyes": EYES.get(numbers["EYE_STATUS_AT_SCAN"] or 0),
            "mean_fd": _known(row.get("func_mean_fd")),
        }
        return FmriItem(
            file,
            Ids(patient=row.get("SUB_ID") or name, recording=name),
            labels=labels,
            site=site,
            tr_s=tr,
            mean_fd=labels["mean_fd"],
        )


def _site(name: str) -> str:
    """One spelling: MAX_MUN and MaxMun, TRINITY and Trinity."""
    return name.replace("_", "").lower()


def _table(source: Path) -> dict[str, dict[str, str | None]]:
    """Rows of the phenotype table by FILE_ID."""
    tables = [f for f in files_below(source, (".csv",)) if "phenotypic" in f.name.lower()]
    if len(tables) != 1:
        what = "no table" if not tables else f"{len(tables)} tables"
        raise RecipeError(
            f"{what} *phenotypic*.csv below '{source}'; recipe 'abide' wants one, with FILE_ID and DX_GROUP"
        )
    rows = read_rows(tables[0])
    lacking = {"FILE_ID", "SITE_ID", "DX_GROUP"} - set(rows[0] if rows else ())
    if lacking:
        raise RecipeError(f"table '{tables[0]}' has no column {', '.join(sorted(lacking))}")
    return {name: row for row in rows if (name := row["FILE_ID"]) and name != "no_filename"}


def _known(value: str | None) -> float | None:
    """A number; None where the table says nothing or -9999."""
    number = cell(value)
    return number if isinstance(number, float) and number > -9000 else None


def _number(value: str | None) -> int | None:
    known = _known(value)
    return None if known is None else int(known)
