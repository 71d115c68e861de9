"""What an audit found: a verdict, one sentence a finding, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["FORMAT_VERSION", "Finding", "Report", "Severity"]

FORMAT_VERSION = 1
LISTED = 50  # items of a finding that are written out; all are counted

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that one should know.

    Attributes:
        severity: an ``error`` makes results on this split worthless; a ``warning`` needs a look; a ``note`` is neither.
        check: which check found it.
        message: one sentence: what, where, what to do.
        items: the pairs, ids or columns, as plain values; at most 50 are written.
    """

    severity: Severity
    check: str
    message: str
    items: Sequence[Mapping[str, Any]] = ()

    def to_plain(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {
            "severity": self.severity, "check": self.check, "message": self.message,
            "n": len(self.items), "items": [dict(i) for i in self.items[:LISTED]],
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The result of an audit.

    Attributes:
        findings: in the order of the checks.
        checks: check → what was done and measured, or why it was left out, in words.
        about: what was audited: cohort, fingerprint, split with its hash, target, encoder, settings.
        measures: figures behind the findings, by check.
    """

    findings: Sequence[Finding]
    checks: Mapping[str, str]
    about: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [f for f in self.findings if f.severity == severity]

    @property
    def exit_code(self) -> int:
        """1 with errors, 0 without."""
        return int(bool(self.of("error")))

    @property
    def verdict(self) -> str:
        """One line."""
        errors, warnings = len(self.of("error")), len(self.of("warning"))
        if not errors and not warnings:
            return "no leakage found in these checks"
        counts = [(errors, "error"), (warnings, "warning")]
        return ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counts if n)

    def to_plain(self) -> dict[str, Any]:
        """As it stands in ``audit_leakage.json``."""
        return {
            "format_version": FORMAT_VERSION, "kind": "leakage", "verdict": self.verdict, "about": self.about,
            "findings": [f.to_plain() for f in self.findings], "checks": self.checks, "measures": self.measures,
        }  # fmt: skip

    def save(self, file: Path) -> None:
        """Write the JSON file, whole or not at all."""
        from medssl.training.run import write_json

        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, self.to_plain())

    def __str__(self) -> str:
        lines = [self.verdict]
        for severity in ("error", "warning", "note"):
            lines += [f"  {severity:<8} {f.message}" for f in self.of(severity)]
        lines += ["checked:"] + [f"  {name:<16} {text}" for name, text in self.checks.items()]
        return "\n".join(lines)
