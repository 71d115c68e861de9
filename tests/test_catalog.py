"""``medssl list`` shows everything there is, with a line about each."""

from __future__ import annotations

from typing import get_args

import pytest

from medssl.catalog import Kind, listing, rows


@pytest.mark.parametrize("what", get_args(Kind))
def test_every_kind_has_members_with_a_summary(what: Kind) -> None:
    found = rows(what)
    assert found
    assert all(summary for _, summary in found)


def test_the_methods_of_the_foundation_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listing("methods")
    assert {"VoCo", "Contrastive"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}
