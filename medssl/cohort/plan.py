"""What a preparation is about to do: its settings, and its inputs one by one."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import medssl
from medssl import resources
from medssl.adapters.echo_stream import STREAM_SUFFIXES
from medssl.adapters.recording import Rejected, sha256_of
from medssl.cohort.info import FORMAT_VERSION
from medssl.cohort.preparation import Preparation
from medssl.cohort.pseudonyms import Pseudonyms
from medssl.cohort.recipe import Item, Recipe, load_recipe
from medssl.cohort.store import Profile
from medssl.cohort.worker import Job
from medssl.configurable import Configurable, build, spec
from medssl.errors import ConfigError, RecipeError, unknown_name

__all__ = ["Plan", "Task", "inputs", "make_plan"]

_PLAIN_NAME = re.compile(r"[PR]?[0-9a-z][0-9a-z._-]{0,63}")
# working copies in memory against bytes on disk; a guess that is too high only lowers the number of tasks at a time
_EXPANSION = 8
_EXPANSION_GZ = 24
_EXPANSION_VIDEO, _MOST_VIDEO = 150, 3 << 30
_WORKER_BYTES = 256 << 20


class Task(NamedTuple):
    """One item to prepare.

    Attributes:
        item: what the recipe found.
        key: changes when the item, its files or their times do.
        name: of its folder in ``arrays/``.
        memory_bytes: a guess of what preparing it takes.
    """

    item: Item
    key: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Plan:
    """Settings of one call of ``prepare``."""

    recipe: Recipe
    recipe_file: Path
    source: Path
    cohort: Path
    preparation: Mapping[str, Any]
    pseudonyms: Pseudonyms
    profile: Profile

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe_file.stem

    def settings(self) -> dict[str, Any]:
        """What must be equal for a cohort to be continued."""
        return {
            "format_version": FORMAT_VERSION,
            "medssl": medssl.__version__,
            "recipe": self.name,
            "recipe_sha256": sha256_of(self.recipe_file),
            "options": _spec(self.recipe)["init_args"],
            "preparation": self.preparation,
            "profile": self.profile,
            "pseudonym_key": self.pseudonyms.check() or "ids kept",
        }

    def job(self) -> Job:
        """What every worker needs to know."""
        return Job.of(
            str(self.recipe_file.resolve()),
            _spec(self.recipe)["init_args"],
            self.preparation,
            cohort=str(self.cohort.resolve()),
            pseudonyms=self.pseudonyms,
            profile=self.profile,
        )


def make_plan(
    recipe: str | Path,
    source: Path,
    cohort: Path,
    *,
    options: Mapping[str, Any] | None,
    overrides: Mapping[str, Any] | None,
    pseudonyms: Pseudonyms,
    profile: Profile,
) -> Plan:
    """Load the recipe and settle the preparation.

    Raises:
        RecipeError, ConfigError: unknown recipe, option or setting; a source that does not exist.
    """
    loaded = load_recipe(recipe, options)
    if not source.exists():
        raise RecipeError(f"the source '{source}' does not exist")
    suggested = loaded.preparation_of(source)
    specification = _overridden(_spec(suggested), overrides or {}, type(suggested))
    file = resources.find("data_prep", recipe)
    return Plan(loaded, file, source, cohort, specification, pseudonyms, profile)


def _spec(value: Configurable) -> dict[str, Any]:
    if "init_args" not in vars(value):  # a class without a constructor of its own has no arguments
        value.init_args = {}
    specification: dict[str, Any] = spec(value)
    return specification


def _overridden(
    specification: Mapping[str, Any], overrides: Mapping[str, Any], cls: type[Preparation]
) -> dict[str, Any]:
    known = list(inspect.signature(cls).parameters)
    for name in overrides:
        if name not in known:
            raise ConfigError(unknown_name("preparation setting", name, known))
    merged = {**specification, "init_args": {**specification["init_args"], **spec(dict(overrides))}}
    return _spec(build(merged, Preparation))  # type: ignore[type-abstract]


def inputs(plan: Plan) -> Iterator[Task | Rejected]:
    """Everything the recipe finds, in its order; a second item of one recording id is refused."""
    seen: set[str] = set()
    patients: dict[str, str] = {}
    for found in plan.recipe.find(plan.source):
        if not isinstance(found, Item):
            yield Rejected(*found)
            continue
        ids = plan.pseudonyms.ids(found.ids)
        if ids.patient and patients.setdefault(ids.patient, _plain(found.ids.patient)) != _plain(found.ids.patient):
            yield Rejected(found.source, "two patients share a pseudonym by chance; use another pseudonym key")
            continue
        key = _key(found, plan.source)
        name = _folder_name(ids.recording) if ids.recording else f"item-{key[:16]}"
        if name in seen:
            yield Rejected(found.source, f"recording id '{found.ids.recording}' stands for an earlier input too")
            continue
        seen.add(name)
        yield Task(found, key, name, _memory(found))


def _plain(name: str) -> str:
    return name.strip().casefold()


def _folder_name(recording: str) -> str:
    """A name that every file system and URL takes; distinct for distinct ids, also where case makes no difference."""
    if _PLAIN_NAME.fullmatch(recording):
        return recording
    slug = re.sub(r"[^0-9a-z._-]+", "-", recording.lower()).strip("-._")[:48] or "recording"
    return f"{slug}-{hashlib.sha256(recording.encode()).hexdigest()[:8]}"


def _files(item: Item) -> list[Path]:
    paths = [*(item.path if isinstance(item.path, tuple) else (item.path,)), *item.masks.values()]
    paths += [value for name, value in vars(item).items() if name != "path" and isinstance(value, Path)]
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return files


def _key(item: Item, source: Path) -> str:
    """Hash of the item with size and time of its files; paths below the source count relative to it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return value.relative_to(source).as_posix() if value.is_relative_to(source) else str(value)
        return str(value)

    stats = [(s.st_size, s.st_mtime_ns) for f in _files(item) if f.exists() and (s := f.stat())]
    text = json.dumps([dataclasses.asdict(item), stats], default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _memory(item: Item) -> int:
    return _WORKER_BYTES + sum(_decoded(f.stat().st_size, f.suffix.lower()) for f in _files(item) if f.exists())


def _decoded(size: int, suffix: str) -> int:
    if suffix in STREAM_SUFFIXES:
        return min(size * _EXPANSION_VIDEO, _MOST_VIDEO)
    return size * (_EXPANSION_GZ if suffix == ".gz" else _EXPANSION)
