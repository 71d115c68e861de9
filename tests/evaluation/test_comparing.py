"""Successive halving: the weak stop, the broken stop, and one is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medssl.cohort.writer import prepare
from medssl.errors import ConfigError, TrainingError
from medssl.evaluation import comparing
from medssl.evaluation.comparing import compare
from medssl.evaluation.tiny_probe import Probe
from medssl.splits import split as make_split
from medssl.synth.ecg import write_ecg
from medssl.training.configs import pretraining_of
from medssl.training.settings import FinetuneSettings


@pytest.fixture(scope="module")
def ecg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ecg")
    raw = write_ecg(folder / "raw", patients=6, seed=1, seconds=12, rate_hz=250)
    prepare("mitbih", raw, folder / "cohort", workers=0, keep_ids=True)
    make_split(folder / "cohort", test=2)
    return folder / "cohort"


def configurations(folder: Path, *names: str) -> list[str]:
    """Small SimCLRs that differ in name only."""
    encoder = {"class_path": "ResNet1d", "init_args": {"widths": [4, 8], "blocks": 1, "kernel": 3}}
    views = {"class_path": "SignalViews", "init_args": {"size": [128]}}
    arguments = {"encoder": encoder, "views": views, "objective": {"class_path": "InfoNCE"}, "projector": [8, 8]}
    content = {
        "method": {"class_path": "Contrastive", "init_args": arguments},
        "trainer": {"batch_size": 4, "workers": 0},
    }
    for name in names:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [str(folder / f"{name}.yaml") for name in names]


def run(ecg: Path, folder: Path, configs: list[str], **options: Any) -> dict[str, Any]:
    given = {"minutes": 1e-4, "rounds": 2, "settings": FinetuneSettings(window_s=0.8)}
    return compare(
        cohort=ecg, task="classification", target="aami", configs=configs, out=folder / "out", **(given | options)
    )


def test_a_configuration_takes_the_channels_of_the_cohort(ecg: Path, tmp_path: Path) -> None:
    (file,) = configurations(tmp_path, "a")
    recipe = pretraining_of(file, ecg)
    assert recipe.encoder["init_args"]["in_channels"] == 2 and recipe.trainer.batch_size == 4
    assert recipe.build().encoder.in_channels == 2


def test_one_is_left_and_the_others_say_why(
    ecg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    found = run(ecg, tmp_path, configurations(tmp_path, "a", "b"))
    assert found["status"] == "finished" and found["recommended"] in ("a", "b")
    (winner,) = [c for c in found["contenders"] if not c["stopped"]]
    (loser,) = [c for c in found["contenders"] if c["stopped"]]
    assert winner["name"] == found["recommended"] and winner["rounds"] == 2 and len(winner["probe"]) == 2
    assert loser["rounds"] == 1 and f"of {winner['name']}" in loser["stopped"]
    assert (tmp_path / "out" / "runs" / winner["name"] / "encoder" / "encoder.safetensors").is_file()
    printed = capsys.readouterr().out
    assert f"medssl pretrain --config {tmp_path / winner['name']}.yaml" in printed and "medssl evaluate" in printed


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Trainings of no length; probes and RankMe as given by name."""
    given: dict[str, Any] = {"probe": {}, "rankme": {}, "broken": set(), "trained": []}

    def train(self: Any, contender: Any, seconds: float) -> None:
        if contender.name in given["broken"]:
            raise TrainingError("the loss is not finite")
        given["trained"].append((contender.name, seconds))
        contender.steps, contender.seconds = contender.steps + 10, contender.seconds + seconds
        contender.rankme = given["rankme"].get(contender.name, 5.0)

    def probe(self: Any, contender: Any) -> Probe:
        self.untrained[contender.name] = 0.3
        return Probe(given["probe"][contender.name], "macro_f1", 4)

    monkeypatch.setattr(comparing._Contest, "_train", train)
    monkeypatch.setattr(comparing._Contest, "_probe", probe)
    return given


def test_time_is_shared_by_those_that_are_left(ecg: Path, tmp_path: Path, without_training: dict[str, Any]) -> None:
    without_training["probe"] = {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.2}
    found = run(ecg, tmp_path, configurations(tmp_path, *"abcd"), minutes=1, rounds=3)
    assert found["recommended"] == "c"
    assert [c["rounds"] for c in found["contenders"]] == [2, 1, 3, 1]
    assert without_training["trained"][:4] == [(n, 5.0) for n in "abcd"]
    assert without_training["trained"][4:] == [("a", 10.0), ("c", 10.0), ("c", 20.0)]


def test_the_collapsed_and_the_broken_stop_first(ecg: Path, tmp_path: Path, without_training: dict[str, Any]) -> None:
    without_training |= {"probe": {"a": 0.5, "b": 0.9}, "rankme": {"b": 1.1}, "broken": {"c"}}
    found = run(ecg, tmp_path, configurations(tmp_path, *"abc"))
    reasons = {c["name"]: c["stopped"] for c in found["contenders"]}
    assert reasons["b"].startswith("collapsed: RankMe 1.10") and reasons["c"] == "it failed: the loss is not finite"
    assert found["recommended"] == "a"


def test_what_is_no_better_than_untrained_is_said_to_be(
    ecg: Path, tmp_path: Path, without_training: dict[str, Any]
) -> None:
    without_training["probe"] = {"a": 0.25, "b": 0.2}
    found = run(ecg, tmp_path, configurations(tmp_path, *"ab"))
    assert "no better than untrained" in found["verdict"]


def test_a_comparison_goes_on_where_it_stopped(ecg: Path, tmp_path: Path, without_training: dict[str, Any]) -> None:
    without_training["probe"] = {"a": 0.5, "b": 0.4}
    configs = configurations(tmp_path, *"ab")
    first = run(ecg, tmp_path, configs)
    trained = list(without_training["trained"])
    assert run(ecg, tmp_path, configs)["recommended"] == first["recommended"]
    assert without_training["trained"] == trained
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["status"] == "finished"
    with pytest.raises(ConfigError, match="compares other configurations"):
        run(ecg, tmp_path, configurations(tmp_path, *"ac"))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [("a", {}, "two or more"), ("ab", {"minutes": 0}, "above 0"), ("ab", {"keep": 1.0}, "between 0 and 1")],
)
def test_what_cannot_be_compared_is_refused(
    ecg: Path, tmp_path: Path, names: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(ecg, tmp_path, configurations(tmp_path, *names), **options)
