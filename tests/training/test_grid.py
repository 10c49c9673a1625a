from dataclasses import replace

import pytest

from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation.result_tables import write_tables
from kneegrade.training.config import Recipe
from kneegrade.training.grid import SCALES, grid, recipe_folder, reproduce
from kneegrade.training.phantom_datasets import PaperCohort
from kneegrade.training.recipe_file import load_recipe

TINY = replace(SCALES["tiny"], cohort=PaperCohort(60, 20, 20, 20, seed=4))


def test_the_papers_recipes_differ_only_in_what_their_row_compares():
    common = load_recipe(recipe_folder() / "proposed.yaml")
    assert isinstance(common, Recipe)
    assert (common.train.epochs, common.train.batch_size, common.train.learning_rate) == (60, 48, 1e-4)
    assert (common.train.weight_decay, common.train.optimiser, common.train.schedule) == (1e-2, "adam", "paper")
    assert (common.loss.lambda_cls, common.loss.lambda_gmm, common.loss.tau, common.loss.warmup_epochs) == (
        1,
        1,
        0.5,
        1,
    )
    assert (common.model.trunk, common.model.pooling, common.model.stages) == ("resnet50", "keypoints", 3)
    for name in ("resnet50", "kpn", "cl", "tau-0.25", "resnet50-20", "siamese"):
        recipe = load_recipe(recipe_folder() / f"{name}.yaml")
        assert isinstance(recipe, Recipe)
        assert recipe.train == common.train
        assert recipe.augmentation == common.augmentation
        assert recipe.model.roi_px == 320


def test_a_scale_overrides_trunk_and_settings(tmp_path):
    runs = {folder: overrides for _, folder, overrides in grid(TINY, tmp_path, ["train.epochs=7"])}
    assert list(runs) == ["resnet50-seed0", "proposed-seed0"]
    recipe = load_recipe(recipe_folder() / "resnet50.yaml", runs["resnet50-seed0"])
    assert isinstance(recipe, Recipe)
    assert (recipe.model.trunk, recipe.train.epochs, recipe.data.datasets) == ("resnet18", 7, (tmp_path,))


def test_an_unknown_recipe_is_named_in_the_error(tmp_path):
    with pytest.raises(UsageError, match="resnet51"):
        reproduce(tmp_path, replace(TINY, recipes=("resnet51",)))


@pytest.mark.slow
def test_reproduce_trains_the_grid_once_and_refuses_other_settings(tmp_path):
    lines = []
    settings = ["loss.grades_from=packaged"]
    assert reproduce(tmp_path, TINY, settings=settings, log=lines.append)
    assert any("Rendering" in line for line in lines)
    weights = (tmp_path / "proposed-seed0" / "weights.safetensors").stat().st_mtime_ns
    lines.clear()
    assert reproduce(tmp_path, TINY, settings=settings, log=lines.append)
    assert all("done already" in line for line in lines)
    assert (tmp_path / "proposed-seed0" / "weights.safetensors").stat().st_mtime_ns == weights
    written, unfinished = write_tables([tmp_path], tmp_path / "tables", replicates=50)
    assert {"table2.md", "table3.md", "beyond.md"} <= {path.name for path in written}
    assert unfinished == []
    with pytest.raises(UsageError, match="other settings"):
        reproduce(tmp_path, TINY, settings=[*settings, "train.epochs=3"], log=lines.append)
    with pytest.raises(UsageError, match="another cohort"):
        reproduce(tmp_path, replace(TINY, cohort=PaperCohort(80, 20, 20, 20)), settings=settings, log=lines.append)


def test_a_dataset_without_test_knees_is_refused_before_training(phantom_dataset, tmp_path):
    with pytest.raises(RecipeError, match="no labelled knee of split test, val; it has train"):
        reproduce(tmp_path, TINY, phantom_dataset, log=lambda text: None)
