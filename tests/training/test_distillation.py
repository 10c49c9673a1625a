import json
from dataclasses import replace

import numpy as np
import pytest

from kneegrade.errors import RecipeError, WeightsError
from kneegrade.schema import TARGETS
from kneegrade.training.config import Distillation, Recipe
from kneegrade.training.dataset import load_datasets
from kneegrade.training.distillation import distilled_targets, geometric_mean, teacher_identities
from kneegrade.training.train_grader import GraderTask, train_recipe
from kneegrade.weights import read_description


def tiny(dataset) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"datasets": [str(dataset)], "calibration_share": 0.25},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"grades_from": "packaged"},
            "train": {"epochs": 1, "batch_size": 6, "bf16": False},
        }
    )


@pytest.fixture(scope="module")
def teacher(phantom_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    recipe = folder / "tiny.yaml"
    recipe.write_text(json.dumps(tiny(phantom_dataset).model_dump(mode="json")))
    train_recipe(recipe, folder / "run")
    return folder / "run" / "weights.safetensors"


def test_targets_are_readings_mixed_with_soft_targets(phantom_dataset, teacher, tmp_path):
    dataset = load_datasets((phantom_dataset,))
    source = np.where(np.arange(len(dataset)) % 3 == 0, "other", "phantom")
    dataset = replace(dataset, targets=dataset.targets.copy(), source=source)
    targets, rows = dataset.targets, np.array([0, 1, 4, 6, 7])  # 0 and 6 are of a source without soft targets
    targets[4, TARGETS[1].one_hot] = np.nan
    path = tmp_path / "soft_targets.npy"
    distillation = Distillation(teachers=(teacher,), share=0.25, sources=("phantom",))
    result = distilled_targets(dataset, rows, distillation, path)
    soft = np.load(path)
    np.testing.assert_allclose(result[1], 0.75 * targets[1] + 0.25 * soft[0], atol=1e-6)
    np.testing.assert_allclose(result[7], 0.75 * targets[7] + 0.25 * soft[2], atol=1e-6)
    np.testing.assert_array_equal(result[[0, 2, 6]], targets[[0, 2, 6]])
    assert np.isnan(result[4, TARGETS[1].one_hot]).all()  # a grade that was never read stays missing
    assert np.isfinite(np.delete(result[4], np.r_[TARGETS[1].one_hot])).all()
    for target in TARGETS:
        np.testing.assert_allclose(soft[:, target.one_hot].sum(1), 1, atol=1e-5)


def test_soft_targets_are_computed_once_and_only_for_the_named_sources(phantom_dataset, teacher, tmp_path):
    dataset, rows = load_datasets((phantom_dataset,)), np.arange(5)
    path = tmp_path / "soft_targets.npy"
    with pytest.raises(RecipeError, match="chen2018"):
        distilled_targets(dataset, rows, Distillation(teachers=(teacher,), sources=("phantom", "chen2018")), path)
    distilled_targets(dataset, rows, Distillation(teachers=(teacher,), sources=("phantom",)), path)
    gone = Distillation(teachers=(tmp_path / "gone.safetensors",), share=1, sources=("phantom",))
    resumed = distilled_targets(dataset, rows, gone, path)  # reads the file, not the teacher
    np.testing.assert_array_equal(resumed[rows], np.load(path))
    with pytest.raises(RecipeError, match="5 knees"):
        distilled_targets(dataset, np.arange(6), gone, path)
    with pytest.raises(WeightsError):
        distilled_targets(dataset, rows, gone, tmp_path / "new.npy")


def test_several_teachers_are_combined_by_the_geometric_mean():
    first, second = np.full((1, 29), 0.25), np.full((1, 29), 0.25)
    first[0, :5], second[0, :5] = [0.9, 0.1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]
    both = geometric_mean([first, second])
    np.testing.assert_allclose(both[0, :3], [0.75, 0.25, 0], atol=1e-4)  # the arithmetic mean would be 0.7
    np.testing.assert_allclose(geometric_mean([first])[0, :2], [0.9, 0.1], atol=1e-4)


def test_a_run_trains_on_soft_targets(phantom_dataset, teacher, tmp_path):
    distillation = Distillation(teachers=(teacher,), share=1, sources=("phantom",))
    task = GraderTask(tiny(phantom_dataset).model_copy(update={"distillation": distillation}), tmp_path)
    rows, calibration = task.splits.labelled, task.splits.calibration
    np.testing.assert_allclose(task.targets[rows], np.load(tmp_path / "soft_targets.npy"), atol=1e-6)
    np.testing.assert_array_equal(task.dataset.targets[calibration], task.targets[calibration])
    assert teacher_identities(distillation) == [{"name": "tiny", "sha256": read_description(teacher)["sha256"]}]


def test_a_new_run_does_not_use_the_soft_targets_of_a_refused_one(phantom_dataset, teacher, tmp_path):
    distillation = Distillation(teachers=(teacher,), share=1, sources=("phantom",))
    recipe = tiny(phantom_dataset).model_copy(update={"distillation": distillation})
    first = GraderTask(recipe, tmp_path)
    path = tmp_path / "soft_targets.npy"
    np.save(path, np.zeros_like(np.load(path)))
    np.testing.assert_array_equal(GraderTask(recipe, tmp_path).targets, first.targets)
    np.save(path, np.zeros_like(np.load(path)))
    assert not GraderTask(recipe, tmp_path, resume=True).targets[first.splits.labelled].any()
