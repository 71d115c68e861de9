"""Checks before one trusts data or a model: leaks between the sides of a split, copies, labels told by metadata."""

from medssl.audit.findings import Finding, Report
from medssl.audit.leakage import leakage

__all__ = ["Finding", "Report", "leakage"]
