"""The cohort: prepared recordings on disk, written once and read lazily in parts."""

from medssl.cohort.info import CohortInfo
from medssl.cohort.reader import Cohort, Reader

__all__ = ["Cohort", "CohortInfo", "Reader"]
