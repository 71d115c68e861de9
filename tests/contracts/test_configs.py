"""Every shipped YAML is parsed by the verb it is for, with the parser the command line uses, and says what it is.

Those for a laptop are also built and run, in `tests/e2e/test_configs_run.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medssl import cli, resources
from medssl.configurable import spec
from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.base import Method

TASK = ["--task=segmentation", "--target=labels"]
NEEDED = {
    "pretrain": ["--cohort=A", "--out=B"],
    "finetune": ["--cohort=A", *TASK, "--out=B"],
    "evaluate": ["--cohort=A", *TASK, '--encoders={"scratch":"none"}', "--out=B"],
}
NAMES = resources.names("configs")
ONE_A_VERB = ("demo_voco", "segmentation_laptop")  # the parser is the verb's: the others follow in `make check-slow`


def content(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(resources.find("configs", name).read_text(encoding="utf-8"))
    return loaded


def verbs(name: str) -> list[str]:
    return ["pretrain"] if "method" in content(name) else ["finetune", "evaluate"]


def parsed(verb: str, config: str | Path) -> tuple[Any, Any]:
    """Parser and namespace of ``medssl VERB --config CONFIG`` with the least that the verb needs besides."""
    chosen = cli.VERBS[verb]
    function = cli._function(chosen)
    parser = cli._parser(verb, chosen, function)
    arguments = cli._named_configs(["--config", str(config), *NEEDED[verb]])
    return parser, cli._parse(parser, arguments, function)


def same(written: Any, understood: Any, where: str = "") -> None:
    """Everything that stands in the YAML stands, with the same value, in what the parser made of it."""
    if isinstance(written, dict):
        values = understood if isinstance(understood, dict) else vars(understood)
        for key, value in written.items():
            if key == "class_path":
                assert values[key].rpartition(".")[2] == value.rpartition(".")[2], where
            else:
                same(value, values[key], f"{where}.{key}")
    elif isinstance(written, list):
        assert len(written) == len(understood), where
        for one, other in zip(written, understood, strict=True):
            same(one, other, where)
    else:
        assert understood == written, where


def test_there_are_configs_for_laptops_and_for_gpus() -> None:
    assert any(n.endswith("_laptop") for n in NAMES) and any(n.endswith("_gpu") for n in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_what_it_is(name: str) -> None:
    first, *rest = resources.find("configs", name).read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ") and len(first.split()) >= 4, first
    comments = "\n".join(line for line in rest if line.startswith("#"))
    if not name.startswith("demo_") and "method" in content(name):
        assert "Paper" in comments and "Here" in comments, "the paper's numbers stand beside ours"


@pytest.mark.parametrize(("name", "verb"), [(n, v) for n in NAMES for v in verbs(n)])
def test_the_verb_takes_every_key_with_the_value_written(name: str, verb: str) -> None:
    _, namespace = parsed(verb, name)
    same(content(name), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "method" in content(n) and not n.endswith("_gpu")])
def test_what_it_describes_can_be_built(name: str) -> None:
    """Those for a GPU are parsed above, but their networks are too large to build here."""
    parser, namespace = parsed("pretrain", name)
    values = cli._values(parser, namespace)
    method = values["method"]
    assert isinstance(method, Method)
    assert sum(p.numel() for p in method.parameters()) > 0
    method.encoder.check_input(method.encoder.in_channels, method.input_size)
    assert spec(method)["init_args"].keys() >= content(name)["method"]["init_args"].keys()
    assert values["trainer"].max_steps == content(name)["trainer"]["max_steps"]


@pytest.mark.parametrize("name", [n for n in NAMES if "architecture" in content(n)])
def test_the_architecture_can_be_built(name: str) -> None:
    parser, namespace = parsed("finetune", name)
    values = cli._values(parser, namespace)
    assert isinstance(values["architecture"], Encoder)
    assert values["settings"].max_steps == content(name)["settings"]["max_steps"]


@pytest.mark.parametrize("name", [n if n in ONE_A_VERB else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_key_that_does_not_exist_is_refused(name: str, tmp_path: Path) -> None:
    section = "trainer" if "method" in content(name) else "settings"
    wrong = content(name)
    wrong[section]["max_stepz"] = 1
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(wrong), encoding="utf-8")
    with pytest.raises(ConfigError, match="max_stepz"):
        parsed(verbs(name)[0], file)
