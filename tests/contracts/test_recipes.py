"""What every recipe promises, checked on each by discovery over ``data_prep``."""

from __future__ import annotations

import ast
import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

from medssl import resources
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Recipe, load_recipe, recipe_class
from medssl.configurable import build, spec
from medssl.errors import MedSSLError, RecipeError

NAMES = resources.names("data_prep")
everywhere = pytest.mark.parametrize("name", NAMES)


def documentation(name: str) -> str:
    """Docstring of the recipe's file, as one line."""
    tree = ast.parse(resources.find("data_prep", name).read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(tree) or "").split())


def is_public(name: str) -> bool:
    """Whether the recipe is for data that somebody published, not for files of one's own."""
    return "Get the data: your own. Licence, citation: of your data." not in documentation(name)


def found(recipe: Recipe, source: Path) -> list[Any]:
    return list(recipe.find(source))


def test_the_promised_recipes_are_there() -> None:
    own = {"folder", "table", "dicom", "bids", "nnunet", "fmriprep"}
    hearts, abdomens = {"acdc", "mmwhs", "sunnybrook"}, {"btcv", "amos"}
    public = {"msd", "ixi", "openmind", "medmnist3d", "mitbih", "cpsc2018", *hearts, *abdomens}
    public |= {"ptb", "ptbxl", "chapman", "sleep_edf", "shhs", "isruc", "dreams", "chbmit", "bonn", "adhd"}
    public |= {"pocus", "echonet_dynamic", "echonet_pediatric", "camus"}
    public |= {"mental_arithmetic", "alcoholism", "comet", "uci_har", "ucr_uea"}
    public |= {"abide", "adhd200", "hcp"}
    assert own | public <= set(NAMES)
    assert public <= {name for name in NAMES if is_public(name)}


@everywhere
def test_the_file_says_how_to_get_the_data_its_licence_and_its_citation(name: str) -> None:
    text = documentation(name)
    assert "Get the data:" in text
    if not is_public(name):
        return
    get, licence = text.partition("Get the data:")[2].partition("Licence")[::2]
    assert "http" in get
    assert "Cite" in licence
    cited = licence.partition("Cite")[2]
    assert any(str(year) in cited for year in range(1990, 2030)) or "doi" in cited or "IXI" in cited


@everywhere
def test_it_builds_without_options_and_says_what_it_makes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.kind in {"volume", "signal", "video"}
    assert isinstance(recipe.modality, str)
    assert type(recipe).__doc__, "the class says what its options are"
    written = json.loads(json.dumps(spec(recipe)))
    assert spec(build(written, Recipe)) == spec(recipe)  # type: ignore[type-abstract]


@everywhere
def test_its_preparation_can_be_written_down_and_built_again(name: str) -> None:
    preparation = load_recipe(name).preparation()
    written = json.loads(json.dumps(spec(preparation)))
    again = build(written, Preparation)  # type: ignore[type-abstract]
    assert type(again) is type(preparation)
    assert spec(again) == spec(preparation) == written


@everywhere
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="nonsense"):
        load_recipe(name, {"nonsense": 1})


@everywhere
@pytest.mark.parametrize("source", ["missing", "empty folder", "folder of other things", "file of another kind"])
def test_a_source_that_is_not_the_dataset_is_refused_in_one_sentence(name: str, source: str, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    if source != "missing":
        folder.mkdir()
    if source == "folder of other things":
        (folder / "notes.odt").write_bytes(b"\x00\xff\xfe")
        (folder / "inner").mkdir()
    if source == "file of another kind":
        folder = folder / "notes.odt"
        folder.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(RecipeError) as refusal:
        found(load_recipe(name), folder)
    message = str(refusal.value)
    assert str(folder) in message
    assert "\n" not in message and 20 < len(message) < 400


@everywhere
def test_it_travels_to_a_worker(name: str) -> None:
    recipe = load_recipe(name)
    again = pickle.loads(pickle.dumps(recipe))
    assert type(again) is recipe_class(name)
    assert spec(again) == spec(recipe)
    assert spec(pickle.loads(pickle.dumps(recipe.preparation()))) == spec(recipe.preparation())


def _describe(name: str, settings: Any) -> str:
    return json.dumps([spec(load_recipe(name)), spec(settings)])


def test_a_spawned_process_loads_every_recipe_and_its_preparation() -> None:
    work = [(name, load_recipe(name).preparation()) for name in NAMES]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.starmap(_describe, work)
    assert there == [_describe(name, settings) for name, settings in work]


@everywhere
def test_shared_class_state_is_not_changed_by_an_instance(name: str, tmp_path: Path) -> None:
    cls = recipe_class(name)
    before = json.dumps({str(k): {str(i): v for i, v in names.items()} for k, names in cls.mask_labels.items()})
    with pytest.raises(MedSSLError):
        found(load_recipe(name), tmp_path / "missing")
    after = json.dumps({str(k): {str(i): v for i, v in names.items()} for k, names in cls.mask_labels.items()})
    assert after == before
