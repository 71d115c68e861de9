"""An official test set, taken from a label of the recordings."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.cohort.writer import prepare
from medssl.errors import SplitError
from medssl.splits import Split, split


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine patients: test is 3 and 6, of whom 6 has no age; 8 has no part; 9 is on both sides."""
    root = tmp_path_factory.mktemp("where")
    rng = np.random.default_rng(0)
    rows = []
    for name in ("1", "2", "3", "4", "5", "6", "7", "8", "9", "9b"):
        nib.save(nib.Nifti1Image(rng.normal(size=(4, 4, 4)).astype(np.float32), np.eye(4)), root / f"{name}.nii.gz")
        part = {"3": "test", "6": "test", "8": "", "9": "old", "9b": "new"}.get(name, "train")
        rows.append((f"{name}.nii.gz", f"p{name[0]}", name, part, "" if name == "6" else "40", name[0]))
    columns = ["path", "patient", "recording", "label_part", "label_age", "label_number"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "t.csv", index=False)
    prepare("table", root / "t.csv", root / "cohort", workers=0, keep_ids=True)
    return root / "cohort"


def test_patients_with_the_value_are_the_test_set(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = split(cohort, name="official", test_where="part=test", folds=2)
    assert made.test == ("p3", "p6")
    assert made.development == ("p1", "p2", "p4", "p5", "p7", "p8", "p9")
    assert made.rule.startswith("official test set")
    assert Split.load(cohort, "official") == made
    assert "2 test, 7 development" in capsys.readouterr().out


def test_numbers_are_found_too(cohort: Path) -> None:
    assert split(cohort, name="numbers", test_where="number=4").test == ("p4",)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("part", "not LABEL=VALUE, such as split=test"),
        ("prat=test", "unknown label 'prat'; did you mean 'part'"),
        ("part=holdout", "no recording has part 'holdout'; there are: new, old, test, train"),
        ("part=old", "patient 'p9' has part new and old: on one side only"),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused(cohort: Path, where: str, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split(cohort, name="never", test_where=where)


def test_test_patients_without_the_target_are_refused(cohort: Path) -> None:
    with pytest.raises(SplitError, match=r"1 of 2 test patients have no 'age' \(first: p6\)"):
        split(cohort, name="never", test_where="part=test", stratify="age")
