"""PTB-XL: 21,799 twelve-lead ECGs of 10 s with statements of cardiologists.

Get the data: https://physionet.org/content/ptb-xl/1.0.3/. Licence: CC BY 4.0. Cite: Wagner P et al., PTB-XL, a large
publicly available electrocardiography dataset, Scientific Data 7:154, 2020; Strodthoff N et al., Deep learning for ECG
analysis: benchmarks and insights from PTB-XL, IEEE J Biomed Health Inform 25(5):1519-1528, 2021.

Layout: ``ptbxl_database.csv``, ``scp_statements.csv``, ``records100/`` (100 Hz) and ``records500/`` (500 Hz) as WFDB.
Labels: ``superclass`` (multi-label: NORM, MI, STTC, CD, HYP), ``subclass``, ``form``, ``rhythm`` and ``scp`` (all
statements) likewise; age (300, which stands for above 89, is left out), sex; ``fold`` (1 to 10) and ``split``. The
site is the column of that name. Statements count from a likelihood of ``min_likelihood`` on; the benchmark takes all.

Splits: ``strat_fold`` keeps patients apart: ``medssl cohort split COHORT --name official --test-where fold=10``, the
test set of the papers, which train on folds 1 to 8 and choose on fold 9 (``split``: train, val, test).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.recording import Ids, Rejected
from medssl.adapters.signal_common import demographics
from medssl.cohort.finding import cell, read_rows, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["PTBXL"]

TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
FILES = {100: "filename_lr", 500: "filename_hr"}
SEX = {"0": "M", "1": "F"}
SPLITS = {**dict.fromkeys(range(1, 9), "train"), 9: "val", 10: "test"}
Statements = Mapping[str, Mapping[str, str | None]]


class PTBXL(Recipe):
    """Twelve-lead ECG with diagnoses, forms and rhythms (multi-label), age, sex, fold and split.

    Args:
        source_hz: which of the two published rates is read: 100 or 500.
        min_likelihood: statements below it (in per cent, as the table gives it) are left out.
        rate_hz: of the stored signals; None keeps ``source_hz``.
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "ecg"

    def __init__(
        self,
        *,
        source_hz: int = 500,
        min_likelihood: float = 0.0,
        rate_hz: float | None = 250.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        if source_hz not in FILES:
            raise RecipeError(f"PTB-XL is published at 100 and at 500 Hz, not at source_hz {source_hz}")
        self.source_hz = source_hz
        self.min_likelihood = min_likelihood
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The twelve leads in their usual order, in mV."""
        return SignalPreparation(
            rate_hz=self.rate_hz or float(self.source_hz), channels=ECG_12_LEADS, units="mV", band_hz=self.band_hz
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every row of the table whose record is there."""
        rows = read_rows(require_folder(source, "ptbxl") / TABLE)
        statements = _statements(source / STATEMENTS)
        needed = ("ecg_id", "patient_id", "scp_codes", "strat_fold", FILES[self.source_hz])
        missing = [name for name in needed if not rows or name not in rows[0]]
        if missing:
            raise RecipeError(f"table '{source / TABLE}' has no column '{missing[0]}' or no rows; is it PTB-XL's?")
        for row in rows:
            yield self._item(row, source, statements)

    def _item(self, row: Mapping[str, str | None], source: Path, statements: Statements) -> Item | Rejected:
        name = row[FILES[self.source_hz]]
        number, patient, fold = (_whole(row[column]) for column in ("ecg_id", "patient_id", "strat_fold"))
        codes = _codes(row["scp_codes"])
        if name is None or number is None or patient is None or codes is None:
            return Rejected(f"{source / TABLE}:{name}", "its row lacks ecg_id, patient_id, file or readable scp_codes")
        header = source / f"{name}.hea"
        if not header.is_file():
            return Rejected(str(header), f"stands in {TABLE}, but is not there")
        counted = [c for c, likelihood in codes.items() if likelihood >= self.min_likelihood]
        return Item(
            header,
            Ids(patient=str(patient), recording=f"{number:05d}"),
            labels={
                **_grouped(counted, statements),
                "age": None,
                "sex": None,
                **demographics(cell(row.get("age")), SEX.get(str(_whole(row.get("sex"))))),
                "fold": fold,
                "split": SPLITS.get(fold or 0),
            },
            site=str(_whole(row.get("site")) if row.get("site") else ""),
            scanner=row.get("device") or "",
        )


def _statements(file: Path) -> dict[str, dict[str, str | None]]:
    """Rows of the statements by their code, which is the first column and has no name."""
    rows = read_rows(file)
    if not rows or "diagnostic_class" not in rows[0]:
        raise RecipeError(f"table '{file}' has no column 'diagnostic_class'; is it PTB-XL's?")
    key = next(iter(rows[0]))
    return {str(row[key]): row for row in rows}


def _whole(text: str | None) -> int | None:
    """Ids and folds stand as ``17014`` in some releases and as ``17014.0`` in others."""
    number = cell(text)
    return int(number) if isinstance(number, float) else None


def _codes(text: str | None) -> dict[str, float] | None:
    """``{'NORM': 100.0, 'SR': 0.0}``, a literal of Python, as likelihoods."""
    try:
        codes = ast.literal_eval(text or "")
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError):
        return None


def _grouped(codes: list[str], statements: Statements) -> dict[str, list[str]]:
    of = {code: statements.get(code, {}) for code in codes}

    def kind(name: str) -> list[str]:
        return [code for code, row in of.items() if cell(row.get(name)) == 1.0]

    def group(name: str) -> list[str]:
        return sorted({str(of[code][name]) for code in kind("diagnostic") if of[code].get(name)})

    return {
        "superclass": group("diagnostic_class"),
        "subclass": group("diagnostic_subclass"),
        "form": kind("form"),
        "rhythm": kind("rhythm"),
        "scp": codes,
    }
