"""Does a cohort look like what an encoder was trained on? Channels are matched by name; the rest must agree."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from medssl.cohort import Cohort, CohortInfo
from medssl.cohort.volumes import MR_CODES
from medssl.encoders.base import InputSpec
from medssl.errors import ConfigError

__all__ = ["Matched", "match_input", "settled_preparation"]

RATE_TOLERANCE = 0.01
SPACING_TOLERANCE = 0.1


@dataclass(frozen=True)
class Matched:
    """How a cohort is fed to an encoder.

    Attributes:
        channels: indices into the cohort's channels, in the encoder's order; None takes all as they stand.
        names: of the channels that the model sees.
        notes: what was adapted, one sentence each.
        size: crop or window that the encoder was trained with on such data; empty where that is not known.
    """

    channels: tuple[int, ...] | None
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    size: tuple[int, ...] = ()


def match_input(
    inputs: InputSpec | None,
    info: CohortInfo,
    *,
    allow_mismatch: bool = False,
    any_channels: bool = False,
    name: str = "the cohort",
) -> Matched:
    """Compare a cohort with what an encoder was trained on.

    One that was trained on several cohorts takes what one of them looked like. Where those of this kind had several
    voxel sizes (or rates), it takes others too, which is noted.

    Args:
        inputs: of the encoder; None for one that is trained from scratch, which takes the cohort as it is.
        info: of the cohort.
        allow_mismatch: go on with another voxel size or rate (noted).
        any_channels: the encoder takes any channels (see ``Encoder``): the cohort's are taken as they stand.
        name: how the data are called in messages.

    Raises:
        ConfigError: another kind of data, missing channels, another voxel size or rate; the message says what to do.
    """
    if inputs is None:
        return Matched(None, info.channels)
    known = (inputs, *inputs.others)
    fitting = [each for each in known if each.kind == info.kind]
    if not fitting:
        kinds = " and ".join(dict.fromkeys(f"{each.kind}s" for each in known))
        raise ConfigError(f"the encoder was trained on {kinds} but {name} holds {info.kind}s")
    varied = len({(each.spacing_mm, each.rate_hz) for each in fitting}) > 1
    exact = [each for each in fitting if not _problems(each, info) and each.channels == info.channels]
    chosen = (exact or fitting)[0]
    matched = _matched(chosen, info, allow_mismatch or varied, any_channels, name)
    return replace(matched, size=tuple(chosen.size))


def _matched(inputs: InputSpec, info: CohortInfo, allow: bool, any_channels: bool, name: str) -> Matched:
    notes = _physical(inputs, info, allow, name)
    if inputs.channels == info.channels:
        return Matched(None, info.channels, notes)
    if any_channels:
        trained, used = (", ".join(names) for names in (inputs.channels, info.channels))
        return Matched(None, info.channels, (*notes, f"trained on channels {trained}, used on {used}"))
    if len(inputs.channels) == len(info.channels) == 1 and info.kind != "signal":
        renamed = f"channel '{info.channels[0]}' of {name} is taken for '{inputs.channels[0]}' of the encoder"
        return Matched(None, info.channels, (*notes, renamed))
    places = {c.casefold(): i for i, c in enumerate(info.channels)}
    missing = [c for c in inputs.channels if c.casefold() not in places]
    if missing:
        share = "none" if len(missing) == len(inputs.channels) else "not all"
        raise ConfigError(
            f"{name} has {share} of the encoder's channels: it lacks {', '.join(missing)} (it has "
            f"{', '.join(info.channels)}); prepare it with channels {', '.join(inputs.channels)}"
        )
    chosen = tuple(places[c.casefold()] for c in inputs.channels)
    taken = ", ".join(f"{info.channels[i]} → {c}" for i, c in zip(chosen, inputs.channels, strict=True))
    return Matched(chosen, inputs.channels, (*notes, f"channels taken by name: {taken}"))


def _problems(inputs: InputSpec, info: CohortInfo) -> list[tuple[str, str, str, object]]:
    """What differs: setting, the encoder's, the cohort's, and what to prepare with."""
    problems: list[tuple[str, str, str, object]] = []
    if inputs.rate_hz and info.rate_hz and abs(info.rate_hz / inputs.rate_hz - 1) > RATE_TOLERANCE:
        problems.append(("rate_hz", f"{inputs.rate_hz:g} Hz", f"{info.rate_hz:g} Hz", inputs.rate_hz))
    if inputs.spacing_mm and info.spacing_mm:
        ratios = [b / a for a, b in zip(inputs.spacing_mm, info.spacing_mm, strict=True)]
        if any(abs(r - 1) > SPACING_TOLERANCE for r in ratios):
            want = list(inputs.spacing_mm)
            problems.append(("spacing_mm", _mm(inputs.spacing_mm), _mm(info.spacing_mm), want))
    return problems


def _physical(inputs: InputSpec, info: CohortInfo, allow: bool, name: str) -> tuple[str, ...]:
    problems = _problems(inputs, info)
    if problems and not allow:
        setting, theirs, ours, value = problems[0]
        raise ConfigError(
            f"the encoder was trained at {theirs} but {name} has {ours}; prepare it with {setting} "
            f"{value}, or allow it with --settings.allow_mismatch true"
        )
    return tuple(f"trained at {theirs}, used at {ours} (allowed)" for _, theirs, ours, _ in problems)


def _mm(spacing: tuple[float, ...]) -> str:
    return " × ".join(f"{s:g}" for s in spacing) + " mm"


def settled_preparation(cohort: Cohort) -> dict[str, Any]:
    """Preparation settings of a cohort with ``intensity: auto`` replaced by what it came to.

    A new file need not say what the cohort's files said (NIfTI has no Hounsfield flag), so a model must know.
    """
    settings = copy.deepcopy(dict(cohort.info.preparation))
    arguments = settings.get("init_args", {})
    if arguments.get("intensity") == "auto" and "quality_intensity" in cohort.manifest:
        codes = set(cohort.manifest["quality_intensity"].dropna().astype(int))
        names = [name for name, code in MR_CODES.items() if code in codes]
        if len(names) == 1:
            arguments["intensity"] = names[0]
    return settings
