"""The verdict, the exit code and the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medssl.audit.findings import Finding, Report

WARNING = Finding("warning", "shortcuts", "the scanner says it all: mend that", [{"column": "scanner"}] * 60)
ERROR = Finding("error", "patients", "one patient on two sides: mend that")


def test_the_verdict_comes_first_and_errors_alone_fail() -> None:
    assert str(Report([], {})).startswith("no leakage found in these checks\n")
    assert Report([WARNING], {}).exit_code == 0
    assert Report([WARNING, ERROR, ERROR], {}).exit_code == 1
    assert str(Report([WARNING, ERROR, ERROR], {})).splitlines()[0] == "2 errors, 1 warning"


def test_the_file_counts_all_items_lists_some_and_holds_no_nan(tmp_path: Path) -> None:
    Report([WARNING], {"shortcuts": "done"}, {}, {"p": np.float64("nan"), "n": np.int64(3)}).save(tmp_path / "a.json")
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda _: 1 / 0)
    assert read["format_version"] == 1
    assert read["findings"][0]["n"] == 60 and len(read["findings"][0]["items"]) == 50
    assert read["measures"] == {"p": None, "n": 3}
