"""The command line: a table of verbs, each a thin call of a public function.

The function's typed signature is the only place where an option is defined: jsonargparse turns it into arguments,
help and the YAML that ``--print_config`` prints. Nothing heavy is imported before the verb is known.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl import __version__, resources
from medssl.arguments import explain, normalise
from medssl.errors import ConfigError, MedSSLError, unknown_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["VERBS", "Verb", "main"]


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        target: ``module:function``, imported when the verb is used.
        help: one line for ``medssl --help``.
        positional: required parameters stand without a dash.
        config: takes ``--config`` and names classes (encoders, methods, ...) in it, so those are imported first.
        hint: what to do next, printed when the verb is done; ``{name}`` is filled from its arguments.
        optional: parameters that may follow the required ones without a dash.
    """

    target: str
    help: str
    positional: bool = False
    config: bool = False
    hint: str = ""
    optional: tuple[str, ...] = ()


VERBS: dict[str, Verb] = {
    "prepare": Verb(
        "medssl.cohort.writer:prepare",
        "raw clinical files → a checked cohort on disk",
        positional=True,
        hint="next: medssl cohort split {cohort}",
    ),
    "cohort info": Verb("medssl.cohort.verify:cohort_info", "what a cohort holds", positional=True),
    "cohort verify": Verb(
        "medssl.cohort.verify:cohort_verify", "recompute the checksum of every array", positional=True
    ),
    "cohort split": Verb("medssl.splits:split", "write a patient-level split file", positional=True),
    "pretrain": Verb("medssl.training.pretrain:pretrain", "self-supervised pre-training", config=True),
    "resume": Verb("medssl.training.pretrain:resume", "continue a run exactly where it stopped", positional=True),
    "import": Verb("medssl.training.importing:import_encoder", "weights of another program → an encoder", config=True),
    "finetune": Verb("medssl.training.finetune:finetune", "fine-tune one model with N labelled patients", config=True),
    "evaluate": Verb(
        "medssl.evaluation.study:evaluate", "the limited-label study: encoders × budgets × repeats", config=True
    ),
    "compare": Verb("medssl.evaluation.comparing:compare", "which method, within a stated time", config=True),
    "predict": Verb("medssl.training.predict:predict", "raw files in, masks or a table out", positional=True),
    "embed": Verb("medssl.evaluation.embedding:embed", "one vector a recording, in a Parquet file", positional=True),
    "search": Verb(
        "medssl.evaluation.search:search",
        "the nearest cases of a recording or file; without one, how well an encoder retrieves",
        positional=True,
        optional=("query",),
    ),
    "audit leakage": Verb(
        "medssl.audit.leakage:leakage", "patients or copies on two sides of a split, labels that metadata give away"
    ),
    "export": Verb("medssl.export:export", "a run → ONNX or torch.export, compared with torch", positional=True),
    "report": Verb("medssl.report:report", "one self-contained HTML page for a run or a study", positional=True),
    "list": Verb(
        "medssl.catalog:listing", "methods, encoders, objectives, views, recipes, configs, pipelines", positional=True
    ),
    "doctor": Verb("medssl.doctor:doctor", "is this installation sound, and what can it use"),
    "demo": Verb("medssl.demo:demo", "the whole journey on synthetic patients, in minutes"),
    "bench": Verb("medssl.bench:bench", "speed and memory here, against reference libraries"),
}

_CLASS_PACKAGES = ("medssl.encoders", "medssl.objectives", "medssl.views", "medssl.methods")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 1 the verb found something wrong (an unsound installation, a leak), 2 what was asked for cannot be done.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except MedSSLError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_overview())
        return 0
    if arguments[0] in {"-V", "--version"}:
        print(f"medssl {__version__}")
        return 0
    name, rest = _verb_of(arguments)
    if not name:
        return 0
    verb = VERBS[name]
    function = _function(verb)
    parser = _parser(name, verb, function)
    rest = _with_optional(rest, verb, function)
    namespace = _parse(parser, _named_configs(rest) if verb.config else rest, function)
    if verb.config:
        _fit_channels(namespace)
    values = _values(parser, namespace)
    result = function(**values)
    if isinstance(result, str | Path):
        print(result)
    if verb.hint and not values.get("dry_run"):
        print(verb.hint.format(**values))
    return int(result) if isinstance(result, bool | int) else getattr(result, "exit_code", 0)


def _verb_of(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb and what follows it; an empty verb when the help of a group was printed."""
    first = arguments[0]
    if first in VERBS:
        return first, arguments[1:]
    members = [name for name in VERBS if name.startswith(first + " ")]
    if not members:
        raise ConfigError(unknown_name("verb", first, VERBS))
    if len(arguments) == 1 or arguments[1] in {"-h", "--help"}:
        print("\n".join(f"medssl {name:<16} {VERBS[name].help}" for name in members))
        return "", []
    two = f"{first} {arguments[1]}"
    if two not in VERBS:
        raise ConfigError(unknown_name("verb", two, members))
    return two, arguments[2:]


def _overview() -> str:
    lines = [f"medssl {__version__}: self-supervised learning on medical volumes and signals, judged with few labels"]
    lines += ["", "usage: medssl VERB [options]      (medssl VERB --help shows the options)", ""]
    lines += [f"  {name:<15} {verb.help}" for name, verb in VERBS.items()]
    lines += ["", "Start with: medssl doctor; medssl demo; medssl list recipes"]
    return "\n".join(lines)


def _function(verb: Verb) -> Callable[..., Any]:
    module, _, name = verb.target.partition(":")
    if verb.config:
        from medssl.configurable import Configurable, discover

        for package in _CLASS_PACKAGES:  # short class names work only for classes that were imported
            discover(package, Configurable)
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _parser(name: str, verb: Verb, function: Callable[..., Any]) -> ArgumentParser:
    from jsonargparse import set_parsing_settings

    from medssl.arguments import parser_class

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser: ArgumentParser = parser_class()(
        prog=f"medssl {name}", description=textwrap.dedent((function.__doc__ or verb.help).split("Args:")[0]).strip(),
        exit_on_error=False, allow_abbrev=False,
    )  # fmt: skip
    if verb.config:
        parser.add_argument("--config", action="config", help="YAML file, or a name from `medssl list configs`")
    parser.add_function_arguments(function, as_group=False, as_positional=verb.positional, fail_untyped=True)
    return parser


def _with_optional(arguments: list[str], verb: Verb, function: Callable[..., Any]) -> list[str]:
    """Names the words that stand after the required ones and before the first option: ``search RUN COHORT QUERY``."""
    if not verb.optional:
        return arguments
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    leading = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    first, more = leading[: len(required)], leading[len(required) :]
    named = [f"--{name}={word}" for name, word in zip(verb.optional, more, strict=False)]
    return [*first, *named, *arguments[len(first) + len(named) :]]


def _parse(parser: ArgumentParser, arguments: list[str], function: Callable[..., Any]) -> Namespace:
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(normalise(function, arguments))
    except ArgumentError as error:
        options = [option for action in parser._actions for option in action.option_strings]
        raise ConfigError(f"{explain(str(error), function, options)} (see `{parser.prog} --help`)") from error


def _named_configs(arguments: list[str]) -> list[str]:
    """Replaces the value of ``--config`` by the file it names, so that shipped names work everywhere."""
    out = list(arguments)
    for i, argument in enumerate(out):
        if argument == "--config" and i + 1 < len(out):
            out[i + 1] = str(resources.find("configs", out[i + 1]))
        elif argument.startswith("--config="):
            out[i] = "--config=" + str(resources.find("configs", argument.partition("=")[2]))
    return out


def _fit_channels(namespace: Namespace) -> None:
    """Encoders in the configuration take as many channels as the cohort has; nobody should have to count them."""
    cohorts = namespace.get("cohort") or []
    cohorts = cohorts if isinstance(cohorts, list) else [cohorts]
    if not cohorts:
        return
    from medssl.cohort.info import CohortInfo

    channels = len(CohortInfo.read(Path(str(cohorts[0])) / "cohort.json").channels)
    for arguments in _encoder_arguments(namespace):
        if "in_channels" in arguments:  # not one that is made of other encoders
            arguments["in_channels"] = channels


def _encoder_arguments(node: Any) -> Iterator[Any]:
    """The ``init_args`` of every encoder specification inside ``node``."""
    from jsonargparse import Namespace

    items: Mapping[str, Any] = vars(node) if isinstance(node, Namespace) else node if isinstance(node, dict) else {}
    arguments = items.get("init_args")
    if str(items.get("class_path", "")).startswith("medssl.encoders.") and arguments is not None:
        yield arguments
    for value in [*items.values(), *(node if isinstance(node, list | tuple) else ())]:
        yield from _encoder_arguments(value)


def _values(parser: ArgumentParser, namespace: Namespace) -> dict[str, Any]:
    objects = parser.instantiate(namespace)
    values = {k: v for k, v in vars(objects).items() if k != "config" and not k.startswith("__")}
    return {k: (Path(v) if type(v).__module__.startswith("jsonargparse") and hasattr(v, "absolute") else v)
            for k, v in values.items()}  # fmt: skip


def _fail(error: MedSSLError) -> int:
    if os.environ.get("MEDSSL_DEBUG") == "1":
        raise error
    print(f"medssl: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
