"""ADHD-200, preprocessed (Athena): resting-state fMRI of ADHD and of controls, eight sites, as series of regions.

Get the data: https://www.nitrc.org/plugins/mwiki/index.php/neurobureau:AthenaPipeline (``ADHD200_CC200_TCs_filtfix``,
or CC400, AAL, ... and the phenotype tables). Licence: free for research after registration with NITRC, citation asked
for. Cite: Bellec P et al., The Neuro Bureau ADHD-200 Preprocessed repository, NeuroImage 144:275-286, 2017.

Layout: ``sfnwmrdaSUBJECT_session_S_rest_R_ATLAS_TCs.1D`` (filtered) or ``snwmrda...`` (not filtered) anywhere below
the folder, with the columns File and Sub-brick before those of the regions; ``*phenotypic*.csv`` or ``.tsv`` with
``ScanDir ID`` (leading zeros left out there), Site, Gender, Age, DX.

Labels: diagnosis (control: DX 0; adhd: 1 to 3), subtype (combined, hyperactive, inattentive), age, sex, all unknown
where DX was withheld. Repetition times come from the number of the site in the table. Athena regressed out white
matter, CSF, six motion parameters and a cubic trend, and band-passed 0.009 to 0.08 Hz, so nothing is done again.

Splits: that of the competition is by release (the test set's DX was withheld); leave one site out (``medssl cohort
split COHORT --test-sites NYU --by site``) or draw ``--stratify diagnosis``. Runs of a subject stay together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.fmri_runs import common_settings
from medssl.cohort.reading import FmriItem
from medssl.cohort.recipe import Item, Recipe
from medssl.errors import RecipeError

__all__ = ["ADHD200"]

SITES = MappingProxyType(
    {
        1: ("Peking", 2.0),
        2: ("Brown", 2.0),
        3: ("KKI", 2.5),
        4: ("NeuroIMAGE", 1.96),
        5: ("NYU", 2.0),
        6: ("OHSU", 2.5),
        7: ("Pittsburgh", 1.5),
        8: ("WashU", 2.5),
    }
)
"""Number in the column Site → name, and seconds between two volumes."""

SUBTYPES = MappingProxyType({1: "combined", 2: "hyperactive", 3: "inattentive"})
FILE = re.compile(r"(?P<filtered>sfnwmrda|snwmrda)(?P<subject>\d+)_session_(?P<session>\d+)_rest_(?P<rest>\d+)_", re.I)
BAND_HZ = (0.009, 0.08)


class ADHD200(Recipe):
    """Runs with the labels diagnosis, subtype, age and sex.

    Args:
        atlas: in the names of the files: ``cc200``, ``cc400``, ``aal``, ``ho``, ``ez``, ``tt``.
        filtered: the band-passed series (``sfnwmrda``); false takes the others and filters them here.
        site_tr_s: repetition times in place of those of the table here, by name of the site, e.g. ``{"WashU": 2.5}``.
    """

    kind = "signal"
    modality = "fmri"

    def __init__(
        self, *, atlas: str = "cc200", filtered: bool = True, site_tr_s: Mapping[str, float] | None = None
    ) -> None:
        self.atlas, self.filtered = atlas, filtered
        self.tr_s = dict(SITES.values()) | {n: float(tr) for n, tr in (site_tr_s or {}).items()}

    def preparation(self) -> FmriPreparation:
        """As Athena left them: filtered here only where it did not filter."""
        return self._settings({"atlas": self.atlas})

    def preparation_of(self, source: Path) -> FmriPreparation:
        """The same at the longest repetition time of the sites that are there."""
        return self._settings(common_settings(self.find(source), atlas=self.atlas))

    def _settings(self, common: Mapping[str, object]) -> FmriPreparation:
        done = BAND_HZ if self.filtered else None
        return FmriPreparation(
            confounds="none",
            filter="none" if done else "butterworth",
            filtered_hz=done,
            band_hz=BAND_HZ,
            min_minutes=3.0,
            **common,  # type: ignore[arg-type]
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every run of the atlas, with its subject's row of the tables."""
        start = "sfnwmrda" if self.filtered else "snwmrda"
        series = files_below(require_folder(source, "adhd200"), (".1d", ".1d.gz"))
        files = [f for f in series if f"_{self.atlas.lower()}_tcs.1d" in f.name.lower() and f.name.startswith(start)]
        if not files:
            raise RecipeError(
                f"no {start}*_{self.atlas}_TCs.1D below '{source}'; recipe 'adhd200' wants Athena's series of regions"
            )
        people = _people(source)
        for file in files:
            match = FILE.match(file.name)
            if match is None:
                yield Rejected(str(file), "its name does not say whose run it is")
                continue
            subject = match["subject"].zfill(7)
            row = people.get(subject)
            if row is None:
                yield Rejected(str(file), f"no table has the ScanDir ID {subject}")
                continue
            yield self._item(file, match, subject, row)

    def _item(self, file: Path, match: re.Match[str], subject: str, row: Mapping[str, str | None]) -> Item | Rejected:
        code = cell(row.get("Site"))
        site = SITES[int(code)][0] if isinstance(code, float) and int(code) in SITES else ""
        if not site:
            return Rejected(str(file), f"its table gives site '{row.get('Site')}', not a number from 1 to 8")
        dx, age, gender = (cell(row.get(name)) for name in ("DX", "Age", "Gender"))
        known = isinstance(dx, float) and 0 <= dx <= 3
        return FmriItem(
            file,
            Ids(subject, match["session"], f"{subject}_session_{match['session']}_rest_{match['rest']}"),
            labels={
                "diagnosis": ("adhd" if dx else "control") if known else None,
                "subtype": SUBTYPES.get(int(dx)) if known else None,
                "age": age if isinstance(age, float) and age > 0 else None,
                "sex": {0.0: "F", 1.0: "M"}.get(gender) if isinstance(gender, float) else None,
            },
            site=site,
            tr_s=self.tr_s[site],
        )


def _people(source: Path) -> dict[str, dict[str, str | None]]:
    """Rows of all phenotype tables, by ScanDir ID in seven digits."""
    tables = [f for f in files_below(source, (".csv", ".tsv")) if "phenotypic" in f.name.lower()]
    people: dict[str, dict[str, str | None]] = {}
    for table in tables:
        for row in read_rows(table):
            subject = row.get("ScanDir ID") or row.get("ScanDirID")
            if subject:
                people[subject.zfill(7)] = row
    if not people:
        raise RecipeError(f"no table *phenotypic*.csv with a column 'ScanDir ID' below '{source}'")
    return people
