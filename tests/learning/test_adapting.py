import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.learning.adaptation import load_adaptation
from kneegrade.learning.adapting import AdaptationRun, consistency_loss
from kneegrade.learning.phantoms import build_phantom_store
from kneegrade.learning.predicting import feature_mean
from kneegrade.learning.recipe import Recipe
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import load_stores
from kneegrade.learning.train import train_recipe
from kneegrade.network import load_network
from kneegrade.schema import TARGETS
from kneegrade.weights import load_weights


@pytest.fixture(scope="module")
def weights(phantom_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"stores": [str(phantom_store)], "calibration_share": 0.25},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"lambda_gmm": 0},
            "train": {"epochs": 1, "batch_size": 6, "bf16": False},
        }
    )
    (folder / "recipe.yaml.in").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert train_recipe(folder / "recipe.yaml.in", folder / "out")
    return load_weights(folder / "out" / "weights.safetensors", "grader")


@pytest.fixture(scope="module")
def films(phantom_store):
    return load_stores((phantom_store,))


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    place = tmp_path_factory.mktemp("guard") / "store"
    build_phantom_store(place, 20, "uniform", seed=6, widths=1.5)
    return load_stores((place,))


def load_rows(store, number):
    return replace(store, **{name: value[:number] for name, value in vars(store).items()})


def settings(**values):
    return load_adaptation([f"{k}={v}" for k, v in {"steps": 4, "batch_size": 4, "guard_steps": 2, **values}.items()])


def test_consistency_is_the_sum_of_divergences():
    said = {t.name: torch.zeros(2, t.classes) for t in TARGETS}
    assert consistency_loss(said, said).item() == pytest.approx(0, abs=1e-7)
    wanted = {name: value.clone() for name, value in said.items()}
    wanted["kl"][0, 0] = math.log(4)  # shares 1/2 and four times 1/8 against five times 1/5, for one knee of two
    expected = 0.5 * (0.5 * math.log(2.5) + 0.5 * math.log(0.625))
    assert consistency_loss(wanted, said).item() == pytest.approx(expected, abs=1e-6)


def test_adapted_weights_name_what_they_come_from(weights, films, guard, tmp_path):
    run = AdaptationRun(weights, films, guard, tmp_path, settings())
    result = run.run()
    assert result.steps == 4
    assert [step for step, _ in result.guard] == [0, 2, 4]
    assert result.best_step == min(result.guard, key=lambda look: look[1])[0]
    new = load_weights(run.write(result, films=12), "grader")
    assert new.name == "tiny-adapted"
    assert new.description["lineage"][0]["sha256"] == weights.sha256
    assert new.description["lineage"][0]["knees"] == len(films)
    for name, value in weights.tensors.items():
        same = torch.equal(new.tensors[name], value)
        assert same or name.startswith("network."), name
    again = AdaptationRun(new, films, guard, tmp_path, settings())
    (tmp_path / "checkpoint.pt").unlink()
    assert len(load_weights(again.write(again.run(), 12), "grader").description["lineage"]) == 2


def test_feature_mean_of_adapted_weights_is_that_of_the_network_in_the_file(weights, films, guard, tmp_path):
    run = AdaptationRun(weights, films, guard, tmp_path, settings())
    result = run.run()
    run.best = {name: value.clone() for name, value in run.teacher.state_dict().items()}  # an average, in float32
    new = load_weights(run.write(result, films=12), "grader")
    expected = feature_mean(load_network(new), Regions(films, 64), np.arange(len(films)))
    torch.testing.assert_close(new.tensors["network.feature_mean"], expected, rtol=0, atol=1e-6)


def test_the_guard_stops_what_does_harm(weights, films, guard, tmp_path):
    result = AdaptationRun(weights, films, guard, tmp_path, settings(learning_rate=1.0, ema=0.01, steps=40)).run()
    assert result.stopped
    assert result.steps < 40
    assert result.best_step == 0
    looks = json.loads((tmp_path / "guard.json").read_text())
    assert looks[-1]["negative_log_likelihood"] > looks[0]["negative_log_likelihood"]


def test_a_network_that_gives_no_numbers_is_stopped_and_not_kept(weights, films, guard, tmp_path):
    run = AdaptationRun(weights, films, guard, tmp_path, settings())
    step = run._step

    def broken(number):
        step(number)
        for value in run.average.state.values():
            value.fill_(math.nan)
        run.teacher.load_state_dict(run.average.state, strict=False)
        return math.nan

    run._step = broken
    result = run.run()
    assert result.stopped
    assert result.steps == 2
    assert result.best_step == 0
    assert not any(value.isnan().any() for value in run.best.values())


def test_the_teacher_is_the_students_average_from_the_first_step_on(weights, films, guard, tmp_path):
    run = AdaptationRun(weights, films, guard, tmp_path, settings(ema=0.9, learning_rate=1e-2))
    before = {name: value.clone() for name, value in run.teacher.state_dict().items()}
    run._step(0)
    name = "trunk.conv1.weight"
    expected = 0.9 * before[name] + 0.1 * run.student.state_dict()[name]
    torch.testing.assert_close(run.teacher.state_dict()[name], expected)
    assert not torch.equal(run.student.state_dict()[name], before[name])


def test_a_stopped_adaptation_goes_on_bit_for_bit(weights, films, guard, tmp_path):
    def stop(done, total, loss):
        if done == 3:
            raise KeyboardInterrupt

    folders = [tmp_path / "whole", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    whole = AdaptationRun(weights, films, guard, folders[0], settings())
    expected = whole.run()
    with pytest.raises(KeyboardInterrupt):
        AdaptationRun(weights, films, guard, folders[1], settings()).run(stop)
    second = AdaptationRun(weights, films, guard, folders[1], settings())
    assert second.run() == expected
    for name, value in whole.teacher.state_dict().items():
        torch.testing.assert_close(second.teacher.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(RecipeError, match="other settings"):
        AdaptationRun(weights, films, guard, folders[1], settings(tau=1)).run()
    assert AdaptationRun(weights, films, guard, folders[1], settings(steps=6)).run().steps == 6


def test_what_cannot_be_adapted_is_a_sentence(weights, films, guard, tmp_path):
    with pytest.raises(RecipeError, match="a batch needs 64"):
        AdaptationRun(weights, films, guard, tmp_path, settings(batch_size=64))
    with pytest.raises(RecipeError, match="5 people are too few"):
        AdaptationRun(weights, films, load_rows(guard, 10), tmp_path, settings())
    with pytest.raises(RecipeError, match="not YAML"):
        load_adaptation(["steps=["])
    with pytest.raises(RecipeError, match="A person's films"):
        AdaptationRun(weights, films, films, tmp_path, settings())
    with pytest.raises(RecipeError, match="stepz"):
        load_adaptation(["stepz=3"])
    with pytest.raises(RecipeError, match="steps"):
        load_adaptation(["steps=0"])


def test_labels_of_the_films_are_not_looked_at(weights, films, guard, tmp_path):
    hidden = replace(films, targets=np.full_like(films.targets, np.nan))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = AdaptationRun(weights, films, guard, tmp_path / "a", settings()).run()
    assert AdaptationRun(weights, hidden, guard, tmp_path / "b", settings()).run() == first
