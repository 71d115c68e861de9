"""The code base keeps its own rules: short functions, public names declared, imports in one direction only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "medssl"
FILES = sorted(PACKAGE.rglob("*.py"))

LONGEST_FUNCTION = 80
LONGEST_FILE = 500

LAYERS = [
    {"errors", "configurable", "resources", "optim", "progress", "arguments"},
    {"adapters"},
    {"cohort", "splits"},
    {"views", "encoders", "objectives"},
    {"methods", "heads"},
    {"training", "evaluation", "report", "audit", "synth"},
    {"catalog", "doctor", "demo", "bench", "export"},
    {"cli", "__main__"},
]


def layer(module: str) -> int:
    """Index of the layer that a module such as ``medssl.views.volume`` belongs to."""
    part = module.split(".")[1] if "." in module else ""
    return next((i for i, members in enumerate(LAYERS) if part in members), -1)


def functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) else None
            length = (node.end_lineno or 0) - node.lineno + 1
            yield node, length - (((doc.end_lineno or 0) - doc.lineno + 1) if doc else 0)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_functions_and_files_are_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    long = [(node.name, length) for node, length in functions(ast.parse(text)) if length > LONGEST_FUNCTION]
    assert not long


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file: Path) -> None:
    here = layer(".".join(["medssl", *file.relative_to(PACKAGE).with_suffix("").parts]))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medssl."):
            assert layer(node.module or "") <= here or here < 0, f"{file}:{node.lineno} imports {node.module}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_public_names_are_documented(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "the module says nothing about itself"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
