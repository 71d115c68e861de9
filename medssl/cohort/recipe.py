"""How one dataset (or one lab's folder layout) becomes recordings: the base class of the files in ``data_prep/``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medssl import resources
from medssl.adapters.recording import Ids, Read, Rejected
from medssl.cohort.ceiling import Ceiling
from medssl.configurable import Configurable
from medssl.errors import RecipeError

if TYPE_CHECKING:
    from medssl.cohort.preparation import Preparation

__all__ = ["Item", "Recipe", "load_recipe"]


@dataclass(frozen=True)
class Item:
    """One input that a recipe found: where it lies, whose it is, what is known of it.

    Attributes:
        path: a file, or the files (or folder) of one DICOM series.
        ids: at least ``patient`` and ``recording``; recordings must be unique within a recipe.
        masks: mask name → file, on the same grid.
        labels: scalar labels; a list of strings for multi-label; None where unknown.
        site, scanner: empty when unknown.
    """

    path: Path | tuple[Path, ...]
    ids: Ids
    masks: Mapping[str, Path] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    site: str = ""
    scanner: str = ""

    @property
    def source(self) -> str:
        """The path as it stands in ``rejected.csv``."""
        return str(self.path[0].parent if isinstance(self.path, tuple) else self.path)


class Recipe(Configurable, ABC):
    """Finds the inputs of one dataset. Constructor arguments are the recipe's options on the command line.

    Class attributes:
        kind: ``"volume"``, ``"signal"`` or ``"video"``.
        modality: ``"mri"``, ``"ct"``, ``"ecg"``, ``"eeg"``, ``"us"``, ...
        mask_labels: mask name → (label value → name); found in the data when left empty.
        ceilings: label → accuracy that honest studies of this dataset stay below; studies that reach it are audited.
    """

    kind: ClassVar[Literal["volume", "signal", "video"]]
    modality: str = ""
    mask_labels: Mapping[str, Mapping[int, str]] = {}
    ceilings: ClassVar[Mapping[str, Ceiling]] = {}

    @abstractmethod
    def find(self, source: Path) -> Iterable[Item | Rejected]:
        """Everything below ``source``, in a stable order; what cannot be used is yielded as ``Rejected``.

        Raises:
            RecipeError: ``source`` does not look like this dataset at all.
        """

    @abstractmethod
    def preparation(self) -> Preparation:
        """Settings that suit this dataset; the command line may override any of them."""

    def preparation_of(self, source: Path) -> Preparation:
        """The same where settings follow from the data (a rate common to all runs); called once, at first.

        Raises:
            RecipeError: as :meth:`find`.
        """
        return self.preparation()

    def read(self, item: Item) -> Read:
        """Raw file → recordings with the item's ids, labels, masks and site filled in. Override for odd formats."""
        from medssl.cohort.reading import read_item

        return read_item(self.kind, item)


def load_recipe(name: str | Path, options: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a shipped name or of the user's own file.

    Raises:
        ConfigError: no such recipe. RecipeError: the file defines not exactly one ``Recipe``, or unknown options.
    """
    cls = recipe_class(name)
    taken = inspect.signature(cls).parameters
    unknown = [option for option in options or {} if option not in taken]
    if unknown and all(p.kind is not p.VAR_KEYWORD for p in taken.values()):
        raise RecipeError(f"recipe '{name}' has no option {', '.join(unknown)}; it takes {', '.join(taken) or 'none'}")
    try:
        return cls(**dict(options or {}))
    except TypeError as error:
        raise RecipeError(f"recipe '{name}': {error}") from error


def recipe_class(name: str | Path) -> type[Recipe]:
    """The one ``Recipe`` that the file of this name defines."""
    file = resources.find("data_prep", name)
    module_name = f"medssl_recipe_{file.stem}"
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__file__", None) != str(file):
        loaded = importlib.util.spec_from_file_location(module_name, file)
        assert loaded is not None and loaded.loader is not None
        module = importlib.util.module_from_spec(loaded)
        sys.modules[module_name] = module
        loaded.loader.exec_module(module)
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Recipe) and c is not Recipe]
    own = [c for c in found if c.__module__ == module_name]
    if len(own) != 1:
        raise RecipeError(f"'{file}' must define exactly one Recipe, not {len(own)}")
    return own[0]
