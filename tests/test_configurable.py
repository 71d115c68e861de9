"""Objects remember how they were built, and only known classes can be built from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from medssl.configurable import Configurable, build, spec, subclasses
from medssl.encoders import ts2vec as encoders
from medssl.errors import ConfigError
from medssl.methods import ts2vec as methods
from medssl.methods.base import Method


@dataclass(frozen=True)
class Strength:
    noise: float = 0.1
    steps: tuple[int, ...] = (1, 2)


class Part(Configurable):
    def __init__(self, *, width: int = 3) -> None:
        self.width = width


class Whole(Configurable):
    def __init__(self, part: Part, *, strength: Strength | None = None, folder: Path | None = None) -> None:
        self.part = part
        self.strength = strength


class SpecialWhole(Whole):
    def __init__(self, *, extra: int = 1) -> None:
        super().__init__(Part(width=extra))


def test_a_specification_round_trips_with_nested_objects_and_dataclasses() -> None:
    whole = Whole(Part(width=7), strength=Strength(noise=0.5), folder=Path("here"))
    again = build(spec(whole), Whole)
    assert spec(again) == spec(whole)
    assert again.part.width == 7
    assert again.strength == Strength(noise=0.5, steps=(1, 2))


def test_the_arguments_of_the_outermost_class_are_recorded() -> None:
    assert spec(SpecialWhole(extra=4))["init_args"] == {"extra": 4}


def test_short_class_names_are_understood() -> None:
    assert build({"class_path": "Part", "init_args": {"width": 2}}, Part).width == 2


def test_a_short_name_inside_means_what_the_argument_may_be() -> None:
    """A method may be called as its encoder is."""
    written = {
        "class_path": "TS2Vec",
        "init_args": {
            "encoder": {"class_path": "TS2Vec", "init_args": {"width": 4, "out_dim": 6, "depth": 1}},
            "views": {"class_path": "SignalViews", "init_args": {"size": [32]}},
        },
    }
    method = build(written, Method)  # type: ignore[type-abstract]
    assert (type(method), type(method.encoder)) == (methods.TS2Vec, encoders.TS2Vec)
    assert spec(build(spec(method), Method)) == spec(method)  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "Prt", ""])
def test_only_known_classes_can_be_built(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown part"):
        build({"class_path": name}, Part)


def test_a_class_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown part 'Whole'"):
        build({"class_path": "Whole"}, Part)


def test_wrong_arguments_are_refused_with_the_class_name() -> None:
    with pytest.raises(ConfigError, match=r"Part cannot be built: .*widht"):
        build({"class_path": "Part", "init_args": {"widht": 2}}, Part)


def test_a_class_that_stands_in_under_the_same_name_is_not_built() -> None:
    """torch.export makes such of every module it traces, and they live until they are collected."""
    path = spec(Part())["class_path"]
    stand_in = type("Part", (Part,), {"__qualname__": Part.__qualname__, "__module__": Part.__module__})
    assert stand_in not in set(subclasses(Part))
    assert type(build({"class_path": path, "init_args": {"width": 2}}, Part)) is Part


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot write a set"):
        spec({"a": {1, 2}})
