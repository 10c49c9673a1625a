from pathlib import Path

import pytest

from kneegrade.errors import RecipeError
from kneegrade.training.config import Recipe
from kneegrade.training.detector.detector_recipe import DetectorRecipe
from kneegrade.training.recipe_file import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_fits_its_schema(path):
    assert isinstance(load_recipe(path), Recipe | DetectorRecipe)


def write(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_an_unknown_key_is_named(tmp_path):
    path = write(tmp_path, "name: a\ndata: {datasets: [x]}\ntrain: {epohcs: 3}\n")
    with pytest.raises(RecipeError, match=r"train\.epohcs"):
        load_recipe(path)


def test_defaults_are_the_papers(tmp_path):
    recipe = load_recipe(write(tmp_path, "name: a\ndata: {datasets: [x]}\n"))
    assert isinstance(recipe, Recipe)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.learning_rate) == (60, 48, 1e-4)
    assert (recipe.loss.tau, recipe.loss.sigma, recipe.loss.components, recipe.model.roi_px) == (0.5, 0.2, 10, 320)


def test_overrides_replace_single_values(tmp_path):
    path = write(tmp_path, "name: a\ndata: {datasets: [x]}\n")
    recipe = load_recipe(path, ["train.epochs=5", "model.init=null", "data.datasets=[a, b]"])
    assert isinstance(recipe, Recipe)
    assert recipe.train.epochs == 5
    assert recipe.data.datasets == (Path("a"), Path("b"))


@pytest.mark.parametrize("setting", ["train.epochs", "name.x=1", "train.epochs=many", "name=["])
def test_a_wrong_override_is_refused(tmp_path, setting):
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, "name: a\ndata: {datasets: [x]}\n"), [setting])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "", "name: a\ndata: 3\n"])
def test_a_file_that_is_not_a_mapping_of_sections_is_refused(tmp_path, text):
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, text))


DETECTOR = "kind: detector\nname: a\ncoarse: &n {steps: 1, batch_size: 2}\nfine: *n\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndata: {stores: [x]}\n", r"data\.stores is now data\.datasets"),
        ("name: a\ndata: {datasets: [x]}\nteaching: {teachers: [y], sources: [z]}\n", "teaching is now distillation"),
        (DETECTOR + "stores: [x]\nknee_localizer: *n\n", "stores is now datasets"),
        (DETECTOR + "datasets: [x]\nfinder: *n\n", "finder is now knee_localizer"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_renamed_key_in_an_override_is_refused_with_its_new_name(tmp_path):
    with pytest.raises(RecipeError, match="teaching is now distillation"):
        load_recipe(write(tmp_path, "name: a\ndata: {datasets: [x]}\n"), ["teaching.share=1"])


def test_regression_heads_require_their_loss(tmp_path):
    with pytest.raises(RecipeError, match="lambda_mse"):
        load_recipe(write(tmp_path, "name: a\ndata: {datasets: [x]}\n"), ["model.regression=true"])


LITE = (
    "name: a\ndata: {datasets: [x]}\n"
    "model: {trunk: efficientnet_lite0, pooling: keypoints+global, stages: 4, reduce: 8}\n"
)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.reduce=null", "needs reduce"),
        ("model.stages=2", "efficientnet_lite0 with stages 2"),
        ("model={trunk: resnet18, stages: 1}", "frozen_stages is 2; the trunk has 1"),
    ],
)
def test_a_network_that_does_not_exist_is_refused(tmp_path, setting, message):
    path = write(tmp_path, LITE + "train: {frozen_stages: 2}\n")
    load_recipe(path)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, [setting])
