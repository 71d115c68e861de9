"""Human Connectome Project or UK Biobank: ready series of regions, one file a run, and a table of subjects.

Get the data: https://www.humanconnectome.org (HCP1200: ``rfMRI`` parcellated, or node time series of the PTN release)
or https://www.ukbiobank.ac.uk (field 25752 and others). Licence: the data use terms of each; HCP's restricted columns
(age in years, family) ask for a further agreement. Cite: Van Essen DC et al., NeuroImage 80:62-79, 2013; Miller KL et
al., Nat Neurosci 19:1523-1536, 2016.

Layout: ``.txt``, ``.csv``, ``.1D``, ``.npy``, ``.mat`` or ``.ptseries.nii`` files, a run each, the subject's number
first in the name of the file or of a folder above it (``100307/rfMRI_REST1_LR.ptseries.nii``, ``100307.txt``,
``1000011_25752_2_0.txt``); a table (CSV, TSV) with a row a subject.

Labels: sex and age where the table has a column of that name (HCP: Gender, Age_in_Yrs; UK Biobank: 31-0.0,
21003-2.0), and those of ``labels``. HCP has twins and siblings: give ``family=Family_ID``, and a family is then one
*patient*, so that no split parts it. Both directions of a run (LR, RL) belong to one subject anyway.

HCP's node time series are cleaned (ICA-FIX) and not band-passed, so they are detrended and band-passed here. The
repetition time is 0.72 s (HCP) or 0.735 s (UK Biobank, ``tr_s=0.735``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from medssl.adapters.fmri import run_name
from medssl.adapters.fmri_series import SERIES_SUFFIXES
from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.fmri_runs import common_settings
from medssl.cohort.reading import FmriItem
from medssl.cohort.recipe import Item, Recipe
from medssl.errors import RecipeError

__all__ = ["HCP"]

SUBJECT_COLUMNS = ("Subject", "subject", "eid", "participant_id", "id")
KNOWN_LABELS = MappingProxyType({"sex": ("Gender", "sex", "31-0.0"), "age": ("Age_in_Yrs", "age", "21003-2.0")})
SEXES = MappingProxyType({"m": "M", "male": "M", "1": "M", "1.0": "M", "f": "F", "female": "F", "0": "F", "0.0": "F"})


class HCP(Recipe):
    """Series of regions with labels from a table.

    Args:
        tr_s: repetition time of files that do not say it.
        atlas: its name, for people.
        regions: how many it has; the number that most files have when not given.
        glob: which files; by default all series below the folder.
        table: path of the table, below the folder or absolute; the one .csv or .tsv with subjects when not given.
        labels: label → column of the table.
        family: column whose value stands for the patient, so that relatives stay together.
        key: variable of .mat, .npz and HDF5 files.
        pattern: regular expression of a subject's id.
    """

    kind = "signal"
    modality = "fmri"

    def __init__(
        self,
        *,
        tr_s: float | None = 0.72,
        atlas: str = "",
        regions: int | None = None,
        glob: str = "",
        table: str = "",
        labels: Mapping[str, str] | None = None,
        family: str = "",
        key: str | None = None,
        pattern: str = r"\d{6,8}",
    ) -> None:
        self.tr_s, self.atlas, self.regions, self.glob = tr_s, atlas, regions, glob
        self.table, self.labels, self.family, self.key = table, dict(labels or {}), family, key
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise RecipeError(f"pattern '{pattern}' is no regular expression: {error}") from error

    def preparation(self) -> FmriPreparation:
        """Detrended and band-passed; confounds were removed by those who made the series."""
        return self._settings({"atlas": self.atlas, "regions": self.regions})

    def preparation_of(self, source: Path) -> FmriPreparation:
        """The same with the repetition time and number of regions that the runs have."""
        common = dict(common_settings(self.find(source), atlas=self.atlas))
        return self._settings(common | ({"regions": self.regions} if self.regions else {}))

    def _settings(self, common: Mapping[str, object]) -> FmriPreparation:
        return FmriPreparation(confounds="none", **common)  # type: ignore[arg-type]

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every run, with its subject's row of the table."""
        require_folder(source, "hcp")
        table = self._table(source)
        rows = _rows(table) if table else {}
        files = [f for f in self._files(source) if f != table]
        if not files:
            raise RecipeError(f"no series of regions below '{source}'; give glob=... if they are named otherwise")
        self._check_columns(rows, table)
        for file in files:
            subject = self._subject(file, source)
            if subject is None:
                yield Rejected(str(file), f"no id like '{self.pattern.pattern}' in its name or in a folder's above it")
            elif rows and subject not in rows:
                yield Rejected(str(file), f"the table has no subject {subject}")
            else:
                yield self._item(file, source, subject, rows.get(subject, {}))

    def _files(self, source: Path) -> list[Path]:
        if self.glob:
            wanted = {p for p in source.glob(self.glob) if p.is_file()}
            return [f for f in files_below(source) if f in wanted]
        suffixes = [s + packed for s in SERIES_SUFFIXES for packed in ("", ".gz", ".xz")]
        named = [f for f in files_below(source, suffixes) if self._subject(f, source) is not None]
        return named or [f for f in files_below(source, suffixes) if f.suffix not in (".csv", ".tsv")]

    def _table(self, source: Path) -> Path | None:
        if self.table:
            return source / self.table
        tables = [f for f in files_below(source, (".csv", ".tsv")) if self._subject(f, source) is None]
        tables = [f for f in tables if set(SUBJECT_COLUMNS) & set(_header(f))]
        if len(tables) > 1:
            names = ", ".join(f.name for f in tables[:3])
            raise RecipeError(f"{len(tables)} tables of subjects below '{source}' ({names}); say which with table=...")
        return tables[0] if tables else None

    def _check_columns(self, rows: Mapping[str, Mapping[str, str | None]], table: Path | None) -> None:
        wanted = [*self.labels.values(), *([self.family] if self.family else [])]
        there = next(iter(rows.values()), {})
        lacking = [name for name in wanted if name not in there]
        if lacking:
            raise RecipeError(f"the table '{table or 'of subjects'}' has no column {', '.join(lacking)}")

    def _subject(self, file: Path, source: Path) -> str | None:
        """The id at the start of the file's name, or else of the nearest folder's."""
        parts = file.relative_to(source).parts
        found = (self.pattern.match(part) for part in reversed(parts))
        return next((match[0] for match in found if match), None)

    def _item(self, file: Path, source: Path, subject: str, row: Mapping[str, str | None]) -> Item | Rejected:
        known = {name: next((row[c] for c in columns if row.get(c)), None) for name, columns in KNOWN_LABELS.items()}
        sex = SEXES.get((known["sex"] or "").lower())
        labels = {"sex": sex, "age": cell(known["age"])} | {n: cell(row.get(c)) for n, c in self.labels.items()}
        family = row.get(self.family) if self.family else None
        if self.family and family is None:
            return Rejected(str(file), f"subject {subject} has no {self.family} in the table")
        folder = file.relative_to(source).parent.as_posix().replace("/", "_")
        name = run_name(file) if subject in file.name else f"{folder}_{run_name(file)}"
        return FmriItem(
            file,
            Ids(family or subject, subject if family else "", name),
            labels={name: value for name, value in labels.items() if value is not None or name in self.labels},
            tr_s=self.tr_s,
            regions=self.regions,
            key=self.key,
        )


def _header(table: Path) -> list[str]:
    """Names of the columns; none where it cannot be read."""
    try:
        return list(read_rows(table)[0])
    except (RecipeError, IndexError):
        return []


def _rows(table: Path) -> dict[str, dict[str, str | None]]:
    rows = read_rows(table)
    column = next((name for name in SUBJECT_COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise RecipeError(f"table '{table}' has no column {' or '.join(SUBJECT_COLUMNS[:4])}")
    return {subject.removeprefix("sub-"): row for row in rows if (subject := row[column])}
