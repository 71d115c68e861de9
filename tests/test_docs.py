"""What the documentation says exists: commands, options, links, names, scripts. Nothing is trained here."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from medssl import arguments, catalog, resources
from medssl.cli import VERBS
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.recipe import recipe_class
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.videos import VideoPreparation
from medssl.cohort.volumes import VolumePreparation
from medssl.configurable import discover
from medssl.methods.base import Method

REPO = Path(__file__).resolve().parent.parent
PAGES = [REPO / "README.md", REPO / "CHANGELOG.md", *sorted((REPO / "docs").glob("*.md"))]
PIPELINES = [resources.find("pipelines", name) for name in resources.names("pipelines")]
PLACEHOLDER = re.compile(r"[A-Z]+")  # words such as RECIPE and COHORT stand for the reader's own
FOLDERS = ("tests", "pipelines", "medssl", "data_prep", "configs", "benchmarks")


def blocks(page: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Words after ``$ medssl``, lines that end in a backslash joined."""
    for block in blocks(page, "console"):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith("$ medssl "):
                words = shlex.split(line[2:], comments=True)[1:]
                yield words[: words.index(">")] if ">" in words else words


COMMANDS = [pytest.param(words, id=f"{p.stem}: {' '.join(words)[:60]}") for p in PAGES for words in commands(p)]


def parts(words: list[str]) -> tuple[str, list[str], dict[str, list[str]]]:
    """Verb, words before the first option, and the values of every option."""
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    rest = words[len(verb.split()) :]
    leading: list[str] = []
    options: dict[str, list[str]] = {}
    into = leading
    for word in rest:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            into = options.setdefault(key.replace("-", "_"), [value] if equals else [])
        else:
            into.append(word)
    return verb, leading, options


def function_of(verb: str) -> Callable[..., Any]:
    module, _, name = VERBS[verb].target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) > 20
    shown = {parts(words.values[0])[0] for words in COMMANDS}  # type: ignore[arg-type]
    assert shown <= set(VERBS)
    assert {"prepare", "cohort split", "pretrain", "resume", "finetune", "evaluate", "predict", "report"} <= shown


@pytest.mark.parametrize("words", COMMANDS)
def test_a_shown_command_names_a_verb_and_options_that_exist(words: list[str]) -> None:
    verb, leading, options = parts(words)
    assert verb in VERBS, f"no verb '{verb}'"
    function = function_of(verb)
    hints = get_type_hints(function)
    extra = {"help", *(("config", "print_config") if VERBS[verb].config else ())}
    for option in options:
        known = option in extra or arguments._hint(hints, option) is not None or argument_of_a_method(option)
        assert known, f"medssl {verb} has no --{option}"
    required = [n for n, p in inspect.signature(function).parameters.items() if p.default is p.empty]
    if VERBS[verb].positional:
        most = len(required) + len(VERBS[verb].optional)
        assert len(required) <= len(leading) <= most, f"medssl {verb} takes {required}, not {leading}"
    elif "print_config" not in options:
        assert not leading, f"medssl {verb} takes no {leading}"
        assert set(required) - {"method"} <= set(options), f"medssl {verb} needs {required}"
    for config in options.get("config", []):
        assert config in resources.names("configs") or config.endswith(".yaml"), f"no config '{config}'"


def argument_of_a_method(option: str) -> bool:
    """Whether ``method.NAME`` or ``method.NAME.PART`` is an argument of some method; the configuration says which."""
    first, *names = option.split(".")
    methods = discover("medssl.methods", Method).values()  # type: ignore[type-abstract]
    return first == "method" and bool(names) and any(names[0] in inspect.signature(m).parameters for m in methods)


@pytest.mark.parametrize("words", [c for c in COMMANDS if c.values[0][0] == "prepare"])  # type: ignore[index]
def test_a_shown_preparation_uses_a_recipe_and_settings_that_exist(words: list[str]) -> None:
    _, (name, *_), options = parts(words)
    if name.endswith(".py") or PLACEHOLDER.fullmatch(name):
        return
    recipe = recipe_class(name)
    given = {pair.partition("=")[0] for pair in options.get("options", [])}
    assert given <= set(inspect.signature(recipe).parameters), f"recipe {name}"
    settings = {pair.partition("=")[0] for pair in options.get("preparation", [])}
    classes = (VolumePreparation, SignalPreparation, VideoPreparation, FmriPreparation)
    known = [set(inspect.signature(c).parameters) for c in classes]
    assert any(settings <= names for names in known), settings


def slugs(page: Path) -> set[str]:
    """Anchors that GitHub makes of the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_relative_link_resolves(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: no {target}"
        assert not anchor or anchor in slugs(file), f"{page.name}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_named_file_and_object_exists(page: Path) -> None:
    for quoted in set(re.findall(r"`([^`\s]+)`", page.read_text(encoding="utf-8"))):
        if quoted.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not re.search(r"[*<{]", quoted):
            assert (REPO / quoted).exists(), f"{page.name}: no {quoted}"
        if re.fullmatch(r"medssl(\.\w+)+", quoted):
            assert exists(quoted), f"{page.name}: no {quoted}"


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module or an attribute of one."""
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(dotted))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("kind", ["methods", "encoders", "objectives", "views", "configs", "recipes"])
def test_everything_there_is_to_choose_from_is_described(kind: Any) -> None:
    pages = ("methods.md", "prepare.md")
    text = "\n".join((REPO / "docs" / page).read_text(encoding="utf-8") for page in pages)
    absent = [name for name, _ in catalog.rows(kind) if f"`{name}`" not in text]
    assert not absent, f"{kind} that neither {' nor '.join(pages)} mentions: {absent}"


def test_the_readme_lists_every_verb_and_no_other() -> None:
    section = (REPO / "README.md").read_text(encoding="utf-8").partition("## Verbs")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == set(VERBS)


def test_the_prepare_page_lists_every_option_of_every_recipe() -> None:
    text = (REPO / "docs" / "prepare.md").read_text(encoding="utf-8")
    for name in resources.names("data_prep"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        shown = set(re.findall(r"`([^`]+)`", row.strip("| ").rpartition(" | ")[2]))
        assert set(inspect.signature(recipe_class(name)).parameters) == shown, name


def test_the_recipe_of_the_extend_page_works(tmp_path: Path) -> None:
    file = tmp_path / "our_ct.py"
    file.write_text(next(b for b in blocks(REPO / "docs" / "extend.md", "python") if "(Recipe)" in b))
    for patient, name in (("a", "scan"), ("b", "scan"), ("b", "lv")):
        (tmp_path / "ct" / patient).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ct" / patient / f"{name}.nii.gz").touch()
    recipe = recipe_class(file)()
    items = list(recipe.find(tmp_path / "ct"))
    assert [(i.ids.patient, list(i.masks)) for i in items] == [("a", []), ("b", ["lv"])]  # type: ignore[union-attr]
    assert isinstance(recipe.preparation(), VolumePreparation)


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize("script", PIPELINES, ids=lambda p: p.stem)
def test_a_pipeline_is_short_and_says_what_it_does(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) < 100
    summary = (ast.get_docstring(tree) or "").split("\n")[0]
    assert summary.endswith(".") and len(summary) < 120
    assert 'if __name__ == "__main__":' in text, "workers import the script"
    shown = python(script, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "source" in shown.stdout and "out" in shown.stdout


@pytest.mark.parametrize("script", PIPELINES, ids=lambda p: p.stem)
def test_a_pipeline_names_a_missing_source_in_one_sentence(script: Path, tmp_path: Path) -> None:
    done = python(script, tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "nowhere" in done.stderr
    assert not (tmp_path / "out").exists()
