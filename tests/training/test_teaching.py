import json
from dataclasses import replace

import numpy as np
import pytest

from kneegrade.errors import RecipeError, WeightsError
from kneegrade.schema import TARGETS
from kneegrade.training.config import Distillation, Recipe
from kneegrade.training.dataset import load_datasets
from kneegrade.training.distillation import agreed, taught, teacher_identities
from kneegrade.training.train_grader import train_recipe
from kneegrade.training.trainer import Run
from kneegrade.weights import read_description


def tiny(store) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"stores": [str(store)], "calibration_share": 0.25},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"grades_from": "packaged"},
            "train": {"epochs": 1, "batch_size": 6, "bf16": False},
        }
    )


@pytest.fixture(scope="module")
def teacher(phantom_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    recipe = folder / "tiny.yaml"
    recipe.write_text(json.dumps(tiny(phantom_store).model_dump(mode="json")))
    train_recipe(recipe, folder / "run")
    return folder / "run" / "weights.safetensors"


def test_a_teacher_decides_its_share_of_what_was_read(phantom_store, teacher, tmp_path):
    store = load_datasets((phantom_store,))
    source = np.where(np.arange(len(store)) % 3 == 0, "other", "phantom")
    store = replace(store, targets=store.targets.copy(), source=source)
    targets, rows = store.targets, np.array([0, 1, 4, 6, 7])  # 0 and 6 are of a cohort that is not taught
    targets[4, TARGETS[1].one_hot] = np.nan
    kept = tmp_path / "opinions.npy"
    result = taught(store, rows, Distillation(teachers=(teacher,), share=0.25, sources=("phantom",)), kept)
    opinion = np.load(kept)
    np.testing.assert_allclose(result[1], 0.75 * targets[1] + 0.25 * opinion[0], atol=1e-6)
    np.testing.assert_allclose(result[7], 0.75 * targets[7] + 0.25 * opinion[2], atol=1e-6)
    np.testing.assert_array_equal(result[[0, 2, 6]], targets[[0, 2, 6]])
    assert np.isnan(result[4, TARGETS[1].one_hot]).all()  # what was never read stays so
    assert np.isfinite(np.delete(result[4], np.r_[TARGETS[1].one_hot])).all()
    for target in TARGETS:
        np.testing.assert_allclose(opinion[:, target.one_hot].sum(1), 1, atol=1e-5)


def test_opinions_are_asked_once_and_only_of_the_cohorts_named(phantom_store, teacher, tmp_path):
    store, rows = load_datasets((phantom_store,)), np.arange(5)
    kept = tmp_path / "opinions.npy"
    with pytest.raises(RecipeError, match="chen2018"):
        taught(store, rows, Distillation(teachers=(teacher,), sources=("phantom", "chen2018")), kept)
    taught(store, rows, Distillation(teachers=(teacher,), sources=("phantom",)), kept)
    gone = Distillation(teachers=(tmp_path / "gone.safetensors",), share=1, sources=("phantom",))
    again = taught(store, rows, gone, kept)  # resumed: the file serves
    np.testing.assert_array_equal(again[rows], np.load(kept))
    with pytest.raises(RecipeError, match="5 knees"):
        taught(store, np.arange(6), gone, kept)
    with pytest.raises(WeightsError):
        taught(store, rows, gone, tmp_path / "new.npy")


def test_teachers_agree_on_the_geometric_mean():
    first, second = np.full((1, 29), 0.25), np.full((1, 29), 0.25)
    first[0, :5], second[0, :5] = [0.9, 0.1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]
    both = agreed([first, second])
    np.testing.assert_allclose(both[0, :3], [0.75, 0.25, 0], atol=1e-4)  # the arithmetic mean would be 0.7
    np.testing.assert_allclose(agreed([first])[0, :2], [0.9, 0.1], atol=1e-4)


def test_a_run_learns_from_its_teachers(phantom_store, teacher, tmp_path):
    plain = tiny(phantom_store)
    teaching = Distillation(teachers=(teacher,), share=1, sources=("phantom",))
    run = Run(plain.model_copy(update={"teaching": teaching}), tmp_path)
    rows = run.folds.labelled
    np.testing.assert_allclose(run.targets[rows], np.load(tmp_path / "opinions.npy"), atol=1e-6)
    np.testing.assert_array_equal(run.store.targets[run.folds.calibration], run.targets[run.folds.calibration])
    assert teacher_identities(teaching) == [{"name": "tiny", "sha256": read_description(teacher)["sha256"]}]
