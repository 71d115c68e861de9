"""What counts as found: sets of labels, three rules, unknown labels."""

from __future__ import annotations

import numpy as np
import pytest
from toy_searches import volumes

from medssl.cohort import Cohort
from medssl.errors import ConfigError
from medssl.evaluation.search.relevance import Rule, labels_of, relevant


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(volumes(tmp_path_factory.mktemp("labels")))


SETS = ("ab", "b", "c", "", "abc")
MEANING: dict[Rule, object] = {
    "any": lambda a, b: bool(a & b),
    "exact": lambda a, b: a == b,
    "jaccard": lambda a, b: len(a & b) >= 0.6 * len(a | b),
}


@pytest.mark.parametrize("rule", ["any", "exact", "jaccard"])
def test_rules_are_those_of_sets(rule: Rule) -> None:
    has = np.array([[c in s for c in "abc"] for s in SETS])
    found = relevant(has, has, rule=rule, share=0.6)
    expected = [[MEANING[rule](set(a), set(b)) for b in SETS] for a in SETS]  # type: ignore[operator]
    assert found.tolist() == expected


def test_a_recording_without_a_label_is_neither_query_nor_gallery(cohort: Cohort) -> None:
    (labelled,), classes = labels_of([cohort], ["class"])
    assert labelled.rows.tolist() == list(range(8)) and len(cohort) == 9
    assert (labelled.has.sum(1) == 1).all() and len(classes) > 1
    several = labels_of([cohort], ["findings"])[0][0]
    assert several.has[0].sum() == 3 and len(several.rows) == 9


def test_cohorts_share_their_classes_and_may_call_them_otherwise(cohort: Cohort) -> None:
    (one, other), classes = labels_of([cohort, cohort], ["class", "findings"])
    assert {"a", "b", "c"} < set(classes)
    assert one.has.shape[1] == other.has.shape[1] == len(classes)
    same, _ = labels_of([cohort, cohort], ["class"])
    np.testing.assert_array_equal(same[0].has, same[1].has)


def test_a_label_can_be_restricted_to_classes(cohort: Cohort) -> None:
    (labelled,), classes = labels_of([cohort], ["findings:b,c"])
    assert classes == ("b", "c") and len(labelled.rows) == 9
    every = labels_of([cohort], ["class"])[1]
    (few,), kept = labels_of([cohort], [f"class:{every[0]}"])
    assert kept == every[:1] and 0 < len(few.rows) < 8


def test_what_is_no_label_is_refused(cohort: Cohort) -> None:
    with pytest.raises(ConfigError, match="no label 'klass'; it has: class, findings"):
        labels_of([cohort], ["klass"])
    with pytest.raises(ConfigError, match="no class z"):
        labels_of([cohort], ["class:z"])
    with pytest.raises(ConfigError, match="2 labels for 1 cohorts"):
        labels_of([cohort], ["class", "findings"])
