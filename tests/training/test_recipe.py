from pathlib import Path

import pytest

from kneegrade.errors import RecipeError
from kneegrade.training.config import DetectorRecipe, Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_fits_its_schema(path):
    assert isinstance(load_recipe(path), Recipe | DetectorRecipe)


def write(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_an_unknown_key_is_named(tmp_path):
    path = write(tmp_path, "name: a\ndata: {stores: [x]}\ntrain: {epohcs: 3}\n")
    with pytest.raises(RecipeError, match=r"train\.epohcs"):
        load_recipe(path)


def test_defaults_are_the_papers(tmp_path):
    recipe = load_recipe(write(tmp_path, "name: a\ndata: {stores: [x]}\n"))
    assert isinstance(recipe, Recipe)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.learning_rate) == (60, 48, 1e-4)
    assert (recipe.loss.tau, recipe.loss.sigma, recipe.loss.components, recipe.model.roi_px) == (0.5, 0.2, 10, 320)


def test_overrides_replace_single_values(tmp_path):
    path = write(tmp_path, "name: a\ndata: {stores: [x]}\n")
    recipe = load_recipe(path, ["train.epochs=5", "model.init=null", "data.stores=[a, b]"])
    assert isinstance(recipe, Recipe)
    assert recipe.train.epochs == 5
    assert recipe.data.stores == (Path("a"), Path("b"))


@pytest.mark.parametrize("setting", ["train.epochs", "name.x=1", "train.epochs=many", "name=["])
def test_a_wrong_override_is_a_sentence(tmp_path, setting):
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, "name: a\ndata: {stores: [x]}\n"), [setting])


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_what_is_no_recipe(tmp_path, text):
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, text))
