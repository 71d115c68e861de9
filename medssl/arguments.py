"""Between what people type and what jsonargparse takes, and back from its complaints to one clear sentence.

People write ``--cohort A B --dry-run --encoders a=RUN1 scratch=none``; jsonargparse wants ``--cohort=["A","B"]
--dry_run=true --encoders={"a":"RUN1","scratch":"none"}``. What is allowed is read from the function's signature.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from medssl.configurable import Configurable, subclasses
from medssl.errors import unknown_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["explain", "normalise", "parser_class"]


def parser_class() -> type[ArgumentParser]:
    """jsonargparse's parser with help as people type it: dashes instead of underscores, bare flags."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def format_help(self, *formatter: Any) -> str:
            text: str = super().format_help(*formatter).replace(" {true,false}", "")
            text = re.sub(r"(--[a-z_]+)\+ '?\[\S*", r"\1 ...", text)
            return re.sub(r"(?<![\w-])--[a-z][a-z_.]*", lambda found: found[0].replace("_", "-"), text)

    return Parser


_PLAIN: dict[Any, type] = {Sequence: list, tuple: list, Mapping: dict}


def normalise(function: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """Arguments as jsonargparse takes them.

    * ``--some-option`` becomes ``--some_option``;
    * several values after a list option become one JSON list;
    * several ``name=value`` after a mapping option become one JSON object;
    * several values after an argument of a class (``--method.projector 64 32``) become one list;
    * a bare flag becomes ``=true``.
    """
    hints = get_type_hints(function)
    out: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            out.append(word)
            continue
        key, equals, value = word.partition("=")
        name = key[2:].replace("-", "_")
        hint = _hint(hints, name)
        kind = _plain(hint)
        inside = hint is None and "." in name  # an argument of a class that only the configuration names
        values = [value] if equals else _take(rest, many=kind in (list, dict) or inside)
        if inside and len(values) > 1:
            out.append(f"--{name}=[{', '.join(values)}]")
            continue
        out.extend(_option(name, hint, _numbers(values) if kind is list and _of_numbers(hint) else values))
    return out


def _hint(hints: Mapping[str, Any], name: str) -> Any:
    """Type hint of ``option`` or, through the fields of settings, of ``settings.option``."""
    first, _, rest = name.partition(".")
    hint = hints.get(first)
    if not rest:
        return hint
    owner = next((h for h in (get_args(hint) or (hint,)) if is_dataclass(h)), None)
    return _hint(get_type_hints(owner), rest) if owner is not None else None


def _take(rest: list[str], *, many: bool) -> list[str]:
    taken: list[str] = []
    while rest and not rest[0].startswith("--") and (many or not taken):
        taken.append(rest.pop(0))
    return taken


def _option(name: str, hint: Any, values: list[str]) -> list[str]:
    kind = _plain(hint)
    if kind is bool and not values:
        return [f"--{name}=true"]
    if kind is bool and values[0].lower() not in {"true", "false", "yes", "no"}:  # a positional after a bare flag
        return [f"--{name}=true", *values]
    if kind is list and values and not values[0].startswith("["):
        return [f"--{name}={json.dumps(values)}"]
    if kind is dict and values and all("=" in v and not v.startswith("{") for v in values):
        return [f"--{name}={json.dumps(_mapping(values, hint))}"]
    return [f"--{name}={values[0]}" if values else f"--{name}", *values[1:]]


def _mapping(pairs: list[str], hint: Any) -> dict[str, Any]:
    """``a=1 b.c=x`` as ``{"a": 1, "b": {"c": "x"}}``; values stay text where the option's are text."""
    text = str in get_args(next((h for h in (hint, *get_args(hint)) if len(get_args(h)) == 2), hint))[1:]
    found: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        *parents, last = [key] if text else key.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value if text else _plain_value(value)
    return found


def _plain_value(value: str) -> Any:
    """Numbers, booleans, null and JSON lists as such; everything else as text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _of_numbers(hint: Any) -> bool:
    """Whether a list option holds numbers alone: JSON must not quote them then."""
    parts = {p for h in (hint, *get_args(hint)) for p in get_args(h) if isinstance(p, type)}
    return bool(parts & {int, float}) and str not in parts


def _numbers(values: list[str]) -> list[str]:
    return values if any(v.startswith("[") for v in values) else [f"[{', '.join(values)}]"]


def _plain(hint: Any) -> Any:
    """``list``, ``dict`` or ``bool`` of ``list[Path]``, ``dict[str, str] | None`` and so on; else the hint."""
    options = [h for h in get_args(hint) if h is not type(None)] if _is_union(hint) else [hint]
    origins = [get_origin(h) or h for h in options]
    origins = [_PLAIN.get(o, o) for o in origins]
    for kind in (list, dict, bool):
        if kind in origins:
            return kind
    return origins[0] if origins else None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def explain(message: str, function: Callable[..., Any], options: Sequence[str]) -> str:
    """jsonargparse's nested explanation as one sentence, with the allowed names or values.

    Args:
        message: what jsonargparse said.
        function: the verb's function, whose signature tells what is allowed where.
        options: the verb's option strings (``--out``).
    """
    lines = _informative(message)
    keys = [found[1] for line in lines if (found := re.search(r'Parser key "([^"]+)"', line))]
    where = ".".join(keys)
    last = lines[-1].removeprefix(f'Parser key "{keys[-1]}": ') if keys else lines[-1]
    if found := re.search(r"arguments are required: (\w+)", last):
        values = get_args(get_type_hints(function).get(found[1]))
        return f"{found[1]} is missing" + (f"; one of: {', '.join(map(str, values))}" if values else "")
    if found := re.search(r"unrecognized arguments: (\S+)", last):
        return unknown_name("option", found[1].partition("=")[0], [o for o in options if o.startswith("--")])
    if found := re.search(r"Option '([^']+)' is not accepted", last):
        allowed = list(_allowed(function, keys, lines))
        return unknown_name("option", ".".join([*keys, found[1]]), [".".join([*keys, a]) for a in allowed])
    if found := re.search(r"Expected a dot import path string: (\S+)", last):
        base = _hint_at(function, keys, lines)
        return f"{where}: " + unknown_name("class", found[1], {c.__name__ for c in _classes_in(base)})
    last = re.sub(r"Expected a (?:typing\.)?Literal\[(.*?)\]", r"expected one of \1", last)
    last = re.sub(r"Expected a <class '(.*?)'>", _expected, last).replace(" or expected", " or")
    return f"--{where}: {last}" if where else last


def _expected(found: re.Match[str]) -> str:
    """``expected an int``."""
    return f"expected {'an' if found[1][0] in 'aeio' else 'a'} {found[1]}"


_NOISE = re.compile(r"Does not validate against any|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>")


def _informative(message: str) -> list[str]:
    """The lines that say what is wrong: of "A or nothing" those about A, of several kinds one line with all of them."""
    told = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    lines = [line for line in told if not _NOISE.match(line)] or told
    given = re.search(r"Given value: (.*)", message)
    kinds: list[str] = []
    while given and lines and (found := re.fullmatch(r"Expected a ((?:typing\.|<class|Literal).*?)", lines[-1])):
        kind, _, got = found[1].partition(". Got value: ")
        kinds.insert(0, kind)
        lines.pop()
    if kinds and given:
        lines.append("Expected a " + " or Expected a ".join(kinds) + f". Got value: {got or given[1]}")
    return lines


def _hint_at(function: Callable[..., Any], keys: Sequence[str], lines: Sequence[str]) -> Any:
    """Type hint of the parameter that a path of keys leads to."""
    owner: Any = function
    classes = iter(_class_paths(lines))
    hint: Any = None
    for i, key in enumerate(k for part in keys for k in part.split(".")):
        if i:
            owner = next(classes, None) or next(iter(_classes_in(hint)), hint)
        target = vars(owner).get("__init__") if isinstance(owner, type) else owner
        hint = get_type_hints(target).get(key) if target is not None else None
    return hint


def _allowed(function: Callable[..., Any], keys: Sequence[str], lines: Sequence[str]) -> Iterator[str]:
    classes = list(_class_paths(lines))
    owner: Any = classes[-1] if classes else (_hint_at(function, keys, lines) if keys else function)
    yield from (name for name in inspect.signature(owner).parameters if name != "self")


def _class_paths(lines: Sequence[str]) -> Iterator[type]:
    known = {f"{c.__module__}.{c.__qualname__}": c for c in subclasses(Configurable)}
    for line in lines:
        found = re.search(r"Problem with given class_path '([^']+)'", line)
        if found and found[1] in known:
            yield known[found[1]]


def _classes_in(hint: Any) -> list[type]:
    bases: list[type] = [h for h in (get_args(hint) or (hint,)) if isinstance(h, type) and h is not type(None)]
    found: list[type] = []
    for base in bases:
        found.extend(subclasses(base))
    return found
