"""Who may be learnt from and who is kept back: patient-level splits, and label budgets nested in one another.

A split is a JSON file, ``COHORT/splits/NAME.json``, with its own hash, which stands in every result. Budgets are
not stored: they follow from the split, the strata, a seed and the number of the draw.
"""

from medssl.splits.budgets import Budget, budget, nested_order
from medssl.splits.files import SPLIT_VERSION, Split, check_disjoint
from medssl.splits.making import coverage, make_split, split
from medssl.splits.parts import Testing, parts
from medssl.splits.stratify import patient_strata, strata

__all__ = [
    "SPLIT_VERSION",
    "Budget",
    "Split",
    "Testing",
    "budget",
    "check_disjoint",
    "coverage",
    "make_split",
    "nested_order",
    "parts",
    "patient_strata",
    "split",
    "strata",
]
