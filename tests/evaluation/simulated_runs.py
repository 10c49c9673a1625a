"""Simulated predictions and finished runs, shared by the tests of the tables."""

import csv
import json

import numpy as np
import yaml

from kneegrade.coherence import one_hot
from kneegrade.evaluation import Predictions
from kneegrade.phantom.prevalence import PAPER_COUNTS
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.training.grid import recipe_folder
from kneegrade.training.recipe_file import load_recipe

ACCURACY = {"resnet50": 0.5, "kpn": 0.55, "cl": 0.6, "proposed": 0.8, "resnet50-20": 0.3, "proposed-20": 0.6}


def simulate(number, accuracy, seed, sharp=0.8):
    """Predictions for the same `number` knees under every seed; a grade is correct with probability `accuracy`."""
    generator, same = np.random.default_rng(seed), np.random.default_rng(7)
    tuples = np.array(list(grade_tuple_counts()))
    truth = tuples[same.integers(0, len(tuples), number)]
    random = np.stack([generator.integers(0, t.classes, number) for t in TARGETS], axis=1)
    predicted = np.where(generator.random((number, 7)) < accuracy, truth, random)
    uniform = np.concatenate([np.full((number, t.classes), 1 / t.classes) for t in TARGETS], axis=1)
    people = np.array([f"s{i // 2}" for i in range(number)])
    shares = (sharp * one_hot(predicted) + (1 - sharp) * uniform).astype(np.float32)
    return Predictions(shares, one_hot(truth).astype(np.float32), people, np.arange(number))


def write_run(folder, name, accuracy, seed, number=200):
    """A run folder as `kneegrade train` leaves it."""
    folder.mkdir(parents=True)
    recipe = load_recipe(recipe_folder() / f"{name}.yaml", [f"train.seed={seed}", "model.trunk=resnet18"])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    knees = {"labelled": 100, "unlabelled": 190, "calibration": 60, "test": number}
    cohort = {"knees": knees, "grades": {k: list(v) for k, v in PAPER_COUNTS.items()}, "init": None}
    (folder / "cohort.json").write_text(json.dumps(cohort))
    simulate(60, accuracy, seed + 100).save(folder / "predictions-calibration.parquet")
    simulate(number, accuracy, seed).save(folder / "predictions-test.parquet")
    (folder / "weights.safetensors").touch()


def read_csv(path):
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
