"""The split file: who stands on which side, with a hash that stands in every result."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from medssl.errors import SplitError

__all__ = ["SPLIT_VERSION", "Split", "check_disjoint", "patient_key"]

SPLIT_VERSION = 1


@dataclass(frozen=True)
class Split:
    """A patient-level split, as it stands in ``COHORT/splits/NAME.json``.

    Attributes:
        name: of the file.
        version: of the format.
        unit: always ``"patient"``: no patient is ever on two sides.
        seed: of the draw.
        rule: how it was made, in words.
        stratified_by: label, event kind or mask that was balanced; empty for none.
        test: patients kept back; opened by evaluation only.
        development: patients to learn from (budgets come out of these).
        external: site → patients of whole sites held out beside ``test``.
        excluded: patient → why.
        folds: partition of ``development`` (or of all labelled patients when ``test`` is empty); may be empty.
        manifest_sha256: of the recordings and patients it was made from.
        sha256: of everything above; filled in on construction.
    """

    name: str
    test: tuple[str, ...]
    development: tuple[str, ...]
    version: int = SPLIT_VERSION
    unit: str = "patient"
    seed: int = 0
    rule: str = ""
    stratified_by: str = ""
    external: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[tuple[str, ...], ...] = ()
    manifest_sha256: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w][\w.-]*", self.name):
            raise SplitError(f"'{self.name}' is no name for a split; use letters, digits, '_', '-' and '.'")
        sides = {f"external site {site}": patients for site, patients in self.external.items()}
        check_disjoint(test=self.test, development=self.development, excluded=self.excluded, **sides)
        check_disjoint(**{f"fold {i}": fold for i, fold in enumerate(self.folds)})
        if not self.sha256:
            object.__setattr__(self, "sha256", self._digest())

    def _digest(self) -> str:
        fields = {k: v for k, v in asdict(self).items() if k != "sha256"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def fold(self, index: int) -> Split:
        """The split that tests on fold ``index`` and learns from the other folds; ``test`` stays shut (excluded).

        Raises:
            SplitError: there is no such fold.
        """
        if not 0 <= index < len(self.folds):
            raise SplitError(f"split '{self.name}' has {len(self.folds)} folds, there is no fold {index}")
        held = set(self.folds[index])
        return replace(
            self,
            name=f"{self.name}-fold{index}",
            test=self.folds[index],
            development=tuple(p for p in self.development if p not in held),
            excluded={**self.excluded, **dict.fromkeys(self.test, "test patient of the whole split")},
            folds=(),
            sha256="",
        )

    def save(self, cohort: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``splits/NAME.json`` into the cohort, whole or not at all.

        Raises:
            SplitError: another split of this name is there and ``overwrite`` is False: results refer to it.
        """
        file = Path(cohort) / "splits" / f"{self.name}.json"
        if file.exists() and not overwrite and Split.read(file).sha256 != self.sha256:
            raise SplitError(
                f"'{file}' holds another split, and results may refer to it; give a new name or --overwrite"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)
        return file

    @classmethod
    def read(cls, file: Path) -> Split:
        """Parse a split file and check it against its own hash.

        Raises:
            SplitError: missing, damaged, changed by hand, or of a newer format.
        """
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            fields["folds"] = tuple(tuple(fold) for fold in fields.get("folds", ()))
            fields["external"] = {site: tuple(p) for site, p in fields.get("external", {}).items()}
            fields["test"], fields["development"] = tuple(fields["test"]), tuple(fields["development"])
        except FileNotFoundError as error:
            have = ", ".join(sorted(p.stem for p in file.parent.glob("*.json"))) or "none"
            raise SplitError(
                f"no split '{file.stem}' in '{file.parent.parent}' (there: {have}); make one with `medssl cohort split`"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SplitError(f"'{file}' is no split file ({error}); make the split again") from error
        if fields.get("version", 0) > SPLIT_VERSION:
            raise SplitError(f"'{file}' has split format {fields['version']}; update medssl to read it")
        unknown = set(fields) - set(cls.__dataclass_fields__)
        if unknown:
            raise SplitError(f"'{file}' has fields this format does not know: {', '.join(sorted(unknown))}")
        loaded = cls(**fields)
        if loaded.sha256 != loaded._digest():
            raise SplitError(f"'{file}' was changed after it was made (its hash does not fit); make the split again")
        return loaded

    @classmethod
    def load(cls, cohort: str | Path, name: str) -> Split:
        """The split of that name, checked against its hash and against the cohort's patients.

        ``NAME-fold2`` tests on fold 2 of the split NAME, and ``NAME-site-X`` on its development patients of site X.

        Raises:
            SplitError: as :meth:`read`; no such fold or site; or the cohort lacks patients of the split, or has
                patients on no side of it.
        """
        import pyarrow.parquet as pq

        from medssl.splits.parts import part_of, sites_of, without_site

        part = part_of(Path(cohort), name)
        if part is not None:
            whole, kind, which = part
            split = cls.load(cohort, whole)
            return split.fold(int(which)) if kind == "fold" else without_site(split, which, sites_of(Path(cohort)))
        loaded = cls.read(Path(cohort) / "splits" / f"{name}.json")
        manifest = Path(cohort) / "recordings.parquet"
        if not manifest.is_file():
            raise SplitError(f"'{cohort}' has no {manifest.name}; prepare the cohort first")
        there = set(pq.read_table(manifest, columns=["patient"])["patient"].to_pylist())
        outside = [p for side in loaded.external.values() for p in side]
        known = {*loaded.test, *loaded.development, *outside, *loaded.excluded}
        for what, patients in (("are not in the cohort", known - there), ("are on no side of it", there - known)):
            if patients:
                raise SplitError(
                    f"{len(patients)} patients {what} '{cohort}' (split '{name}', first: {min(patients)}); "
                    "the cohort was prepared anew: make the split again"
                )
        return loaded


def check_disjoint(**groups: Iterable[str]) -> None:
    """Refuse a patient on two sides; ids are compared without outer blanks and case.

    >>> check_disjoint(train=["P1", "P2"], test=["p3"])

    Raises:
        SplitError: naming the sides and the first such patients.
    """
    owner: dict[str, str] = {}
    for side, patients in groups.items():
        keys = {patient_key(p): p for p in patients}
        clash = sorted(keys[k] for k in keys if k in owner)
        if clash:
            other = owner[patient_key(clash[0])]
            raise SplitError(
                f"{len(clash)} patients stand in '{side}' and in another side (first: {clash[0]}, also in '{other}'); "
                "a patient may stand on one side only"
            )
        owner |= dict.fromkeys(keys, side)


def patient_key(patient: str) -> str:
    """What of an id is compared: without outer blanks and case."""
    return patient.strip().casefold()
