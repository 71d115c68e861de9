"""Objects that remember how they were built, so that a run or an exported encoder can be built again.

A specification is plain data, in the form jsonargparse reads and writes::

    {"class_path": "medssl.encoders.resenc.ResEnc", "init_args": {"size": "small", "in_channels": 1}}

Building from a file never imports what the file names: only classes that medssl (or the running program) has
already defined can be built, so a downloaded ``encoder.json`` cannot run code.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from medssl.errors import ConfigError, unknown_name

__all__ = ["Configurable", "build", "discover", "spec", "subclasses"]

T = TypeVar("T")


class Configurable:
    """Mixin that records the arguments of the outermost ``__init__`` in ``init_args``."""

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if "init_args" not in self.__dict__:  # else: called by a subclass, whose arguments were recorded already
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            # object.__setattr__: nn.Module refuses attributes before its own __init__ ran
            object.__setattr__(self, "init_args", dict(list(bound.arguments.items())[1:]))
        init(self, *args, **kwargs)

    return wrapper


def spec(value: Any) -> Any:
    """Plain data (dict, list, str, number, bool, None) that ``build`` turns back into ``value``."""
    if isinstance(value, Configurable):
        arguments = getattr(value, "init_args", {})  # absent where no class of the hierarchy has an __init__
        return {"class_path": _path(type(value)), "init_args": {k: spec(v) for k, v in arguments.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: spec(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(k): spec(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [spec(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Integral | Real):  # NumPy's
        return int(value) if isinstance(value, Integral) else float(value)
    raise ConfigError(f"cannot write a {type(value).__name__} into a configuration; use plain values")


def build(specification: Mapping[str, Any], base: type[T]) -> T:
    """The object that a specification describes.

    Args:
        specification: ``{"class_path": ..., "init_args": {...}}``; the class may be a short name.
        base: what it must be.

    Raises:
        ConfigError: unknown class, wrong kind of class, or arguments that it does not take.
    """
    known = {_path(c): c for c in subclasses(base)} | {c.__name__: c for c in subclasses(base)}
    wanted = str(specification.get("class_path", ""))
    if wanted not in known:
        raise ConfigError(unknown_name(base.__name__.lower(), wanted, {c.__name__ for c in known.values()}))
    cls = known[wanted]
    hints = get_type_hints(cls.__init__)
    arguments = {k: _revive(v, hints.get(k)) for k, v in dict(specification.get("init_args") or {}).items()}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} cannot be built: {error}") from error
    return cls(**arguments)


def discover(package: str, base: type[T]) -> dict[str, type[T]]:
    """All concrete subclasses of ``base`` defined in the modules of ``package``, by class name."""
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{package}.{module.name}")
    found = {c.__name__: c for c in subclasses(base) if c.__module__.startswith(package + ".")}
    return dict(sorted(found.items()))


def _revive(value: Any, hint: Any) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return build(value, _base_in(hint))
    if isinstance(value, Mapping):
        for kind in _dataclasses_in(hint):
            hints = get_type_hints(kind)
            return kind(**{k: _revive(v, hints.get(k)) for k, v in value.items()})
        return {k: _revive(v, None) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_revive(v, hint) for v in value)
    return value


def _dataclasses_in(hint: Any) -> Iterator[type]:
    yield from (kind for kind in _types_in(hint) if dataclasses.is_dataclass(kind))


def _base_in(hint: Any) -> type[Configurable]:
    """What an argument must be: short names are looked up there, since a method may have the name of its encoder."""
    bases = [kind for kind in _types_in(hint) if issubclass(kind, Configurable)]
    return bases[0] if len(bases) == 1 else Configurable


def _types_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for part in getattr(hint, "__args__", ()):
        yield from _types_in(part)


def subclasses(base: type[T]) -> Iterator[type[T]]:
    """All concrete subclasses defined so far, ``base`` itself included."""
    if not inspect.isabstract(base) and base is not Configurable:
        yield base
    for child in base.__subclasses__():
        if _path(child) != _path(base):  # torch's tracer makes classes under the name of the one they stand in for
            yield from subclasses(child)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
