"""The arms of a study: which encoders, with which weights, and which baseline each is compared with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from medssl.errors import CheckpointError, ConfigError
from medssl.evaluation.cells import BARE

__all__ = [
    "FLOOR",
    "WITHOUT_LABELS",
    "Arm",
    "Protocol",
    "baseline_first",
    "baselines_of",
    "make_arms",
    "notes_on",
    "shared_architecture",
]

Protocol = Literal["finetune", "linear", "knn", "retrieval", "prompt", "representation"]
WITHOUT_LABELS: tuple[Protocol, ...] = ("retrieval", "prompt")
"""Protocols that train nothing and are tested all the same."""

FLOOR = "floor"


@dataclass(frozen=True)
class Arm:
    """One contender.

    Attributes:
        name: as the user called it.
        source: run directory, ``"none"``, ``"untrained"`` or ``"floor"``.
        fingerprint: hash of the encoder's weights.
        about: for the report: class, provenance.
    """

    name: str
    source: str
    fingerprint: str = ""
    about: Mapping[str, Any] | None = None


def make_arms(encoders: Mapping[str, str], protocol: Protocol) -> tuple[Arm, ...]:
    """The arms as asked for, and the baseline if it was left out.

    Args:
        encoders: name → run, ``none``, ``untrained``, or one of these two with ``:RUN`` for the architecture of a run.
        protocol: of the study.

    Raises:
        MedSSLError: a name that cannot be a folder's, a run without an encoder, or an arm the protocol does not serve.
    """
    arms = []
    for name, source in encoders.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == FLOOR:
            raise ConfigError(f"'{name}' cannot be the name of an encoder; use letters, digits, '.', '_', '-'")
        kind, _, run = source.partition(":")
        if kind == "untrained" and protocol == "finetune":
            raise ConfigError(
                f"'{name}={source}' is for protocols of frozen encoders; fine-tuning takes '{name}=none{source[9:]}'"
            )
        arms.append(_bare(name, kind, run) if kind in BARE else _pretrained(name, source))
    if not any(a.source in BARE for a in arms):  # a study without its baseline would claim nothing
        name, source = ("scratch", "none") if protocol == "finetune" else ("untrained", "untrained")
        if name in encoders:
            raise ConfigError(f"the name '{name}' is kept for the baseline; call that encoder otherwise")
        arms.append(Arm(name, source))
    return tuple(arms)


def baseline_first(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The first arm without pre-training leads: it is the baseline, in tables and in colours."""
    return tuple(sorted(arms, key=lambda a: a.source not in BARE))


def baselines_of(arms: Sequence[Arm], wanted: Any) -> dict[str, str]:
    """Arm → the arm it is compared with: the first of its architecture without pre-training, else the first at all."""
    bare = [(a.name, a.about["encoder"] if a.about else wanted) for a in arms if a.source in BARE]
    found = {}
    for arm in arms:
        if arm.source == FLOOR:
            continue
        own = arm.about["encoder"] if arm.about else wanted
        alike = (name for name, architecture in bare if _same(own, architecture))
        found[arm.name] = next(alike, bare[0][0])
    return {name: baseline for name, baseline in found.items() if name != baseline}


def _bare(name: str, kind: str, run: str) -> Arm:
    """An arm without pre-training, of the default architecture or that of a run."""
    return Arm(name, kind, about={"encoder": _exported(name, run)["encoder"]}) if run else Arm(name, kind)


def _pretrained(name: str, source: str) -> Arm:
    from medssl.encoders.base import encoder_folder
    from medssl.training.export import labels_note

    about = _exported(name, source)
    digest = hashlib.sha256((encoder_folder(source) / "encoder.safetensors").read_bytes()).hexdigest()
    provenance = about.get("provenance", {})
    known = {k: v for k, v in provenance.items() if k not in ("patients", "labelled")}
    facts = {"encoder": about["encoder"], "provenance": known, "sha256": digest}
    note = labels_note(provenance)
    return Arm(name, source, digest, facts | ({"labels": note} if note else {}))


def _exported(name: str, source: str) -> dict[str, Any]:
    """What ``encoder.json`` of a run says.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    from medssl.encoders.base import encoder_folder, load_encoder

    folder = encoder_folder(source)
    if not (folder / "encoder.json").is_file():
        raise CheckpointError(
            f"'{name}={source}': there is no exported encoder; give a run of `medssl pretrain`, or 'none'"
        )
    load_encoder(folder)  # says what is wrong with a damaged one
    about: dict[str, Any] = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return about


def shared_architecture(arms: Sequence[Arm]) -> Any:
    """Specification of the first pre-trained encoder: what scratch is built as, so that arms differ in weights only."""
    trained = (a.about["encoder"] for a in arms if a.about and a.source not in BARE)
    return next(trained, None)


def notes_on(arms: Sequence[Arm], wanted: Any, baselines: Mapping[str, str]) -> list[str]:
    """Arms that differ from their baseline in more than their weights, or have learnt from labels already."""
    of = {a.name: a.about["encoder"] if a.about and "encoder" in a.about else wanted for a in arms}
    others = [name for name, baseline in baselines.items() if not _same(of[name], of[baseline])]
    notes = [
        f"{name} differs from {baselines[name]} in architecture, not only in pre-training: add a baseline of its own, "
        f"as in 'scratch2=none:RUN'"
        for name in others
    ]
    return notes + [f"{a.name} {a.about['labels']}" for a in arms if a.about and "labels" in a.about]


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two specifications name one network, whatever their number of input channels; None is the default."""
    if one is None or other is None:
        return one is other
    return bool(_whole(json.dumps(one, sort_keys=True)) == _whole(json.dumps(other, sort_keys=True)))


@cache
def _whole(specification: str) -> Any:
    """A specification (JSON) with all defaults filled in, for one channel. It takes a network to know them."""
    from medssl.configurable import build, discover, spec
    from medssl.encoders.base import Encoder, with_channels

    discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
    return with_channels(spec(build(json.loads(specification), Encoder)), 1)  # type: ignore[type-abstract]
