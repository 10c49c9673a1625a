"""`evaluate`, `tables` and `reproduce` as a user calls them, on phantoms."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade import Grader
from kneegrade.errors import RecipeError, WeightsError
from kneegrade.evaluation import Predictions, agreement
from kneegrade.network import ModelConfig
from kneegrade.phantom import Cohort, write_cohort
from kneegrade.schema import TARGETS
from kneegrade.training.predict import evaluate_manifest
from kneegrade.weights import save_weights

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four phantom films with labels, the last people's in split "test"."""
    directory = tmp_path_factory.mktemp("films")
    path = write_cohort(directory, Cohort(4, seed=12))
    table = pd.read_parquet(path)
    people = sorted(table["subject_id"].unique())
    table["split"] = np.where(table["subject_id"].isin(people[1:]), "test", "train")
    table.to_parquet(path)
    return path


def test_evaluate_prints_one_object_and_leaves_the_predictions(kneegrade, manifest, tmp_path):
    done = kneegrade("evaluate", "--manifest", manifest, "--output", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    predictions = Predictions.load(tmp_path / "out" / "predictions.parquet")
    assert metrics["knees"] == len(predictions) == (pd.read_parquet(manifest)["split"] == "test").sum()
    assert metrics["weights"]["name"] == "kneegrade-taught"
    assert (metrics["split"], metrics["landmarks_from"]) == ("test", "manifest")
    expected = agreement(predictions.truth()[:, 0], predictions.guess()[:, 0], TARGETS[0].classes)
    assert metrics["kl"]["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-5)
    assert len(metrics["kl"]["accuracy_interval"]) == 2
    assert {"n", "balanced_accuracy", "rmse", "mae", "kappa", "one_off_accuracy", "majority_accuracy"} <= metrics[
        "oarsi_mean"
    ].keys()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert "| KL |" in (tmp_path / "out" / "metrics.md").read_text(encoding="utf-8")


def test_evaluate_finds_the_knees_itself_when_told_so(kneegrade, manifest, tmp_path):
    done = kneegrade("evaluate", "--manifest", manifest, "--detect", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "RMSE" in done.stdout
    by_landmarks = json.loads(kneegrade("evaluate", "--manifest", manifest, "-o", tmp_path / "x", "--json").stdout)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["knees"] + found["not_graded"] == by_landmarks["knees"]


def test_evaluate_reads_the_published_layout_of_chen_2018(kneegrade, tmp_path):
    for name, grade in (("9000001L", 0), ("9000002R", 4)):
        folder = tmp_path / "chen" / "val" / str(grade)
        folder.mkdir(parents=True)
        Image.fromarray(np.full((299, 299), 90, np.uint8)).save(folder / f"{name}.png")
    arguments = ("--cohort", "chen2018", "--root", tmp_path / "chen", "--split", "val", "-o", tmp_path / "out")
    done = kneegrade("evaluate", *arguments)
    assert done.returncode == 2
    assert "None of the 2 knees could be graded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either --manifest, or --cohort"),
        (("--cohort", "oai", "--root", "x"), "'oai' is not known"),
        (("--cohort", "chen2018"), "--root"),
        (("--manifest", "nowhere.parquet"), "no manifest"),
    ],
)
def test_evaluate_says_what_is_missing(kneegrade, arguments, told, tmp_path):
    done = kneegrade("evaluate", *arguments, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert told in done.stderr


def test_a_split_that_is_not_there_is_named(kneegrade, manifest, tmp_path):
    done = kneegrade("evaluate", "--manifest", manifest, "--split", "val", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "no knee in split 'val'; it has test, train" in done.stderr


def test_tables_and_reproduce_say_what_they_expected(kneegrade, tmp_path):
    done = kneegrade("tables", tmp_path, "-o", tmp_path / "tables")
    assert done.returncode == 2
    assert "No finished run" in done.stderr
    done = kneegrade("reproduce", "--scale", "tiny", "--cohort", "oai", "-o", tmp_path / "runs")
    assert done.returncode == 2
    assert "neither `phantom` nor a store" in done.stderr


@pytest.mark.slow
def test_reproduce_at_the_tiny_scale(kneegrade, tmp_path):
    """One command from nothing to tables; the second call has nothing left to train."""
    arguments = ("reproduce", "--scale", "tiny", "--output", tmp_path / "runs")
    done = kneegrade(*arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tables" / "table3.tex").is_file()
    weights = tmp_path / "runs" / "proposed-seed0" / "weights.safetensors"
    again = kneegrade(*arguments)
    assert again.returncode == 0
    assert again.stderr.count("done already") == 2
    told = kneegrade("tables", tmp_path / "runs", "-o", tmp_path / "tables")
    assert str(Path(tmp_path / "tables" / "table2.md")) in told.stdout
    assert weights.is_file()


def test_two_files_of_predictions_are_compared_in_pairs(kneegrade, manifest, tmp_path):
    assert kneegrade("evaluate", "--manifest", manifest, "-o", tmp_path / "a", "--quiet").returncode == 0
    file = tmp_path / "a" / "predictions.parquet"
    same = json.loads(kneegrade("compare", file, file, "--json").stdout)
    assert (same["kl"]["accuracy"], same["kl"]["accuracy_interval"]) == (0, [0, 0])
    assert kneegrade("compare", tmp_path / "a", file, "--json").returncode == 0
    assert same["kl"]["p_value"] == 1
    assert "| KL | +0.000 [+0.000, +0.000] |" in kneegrade("compare", file, file).stdout
    assert kneegrade("compare", file, tmp_path / "none.parquet").returncode == 2


def test_the_only_knee_found_is_not_taken_for_both_sides():
    """A film with one knee, listed with two: its grades go to the side that was found, the other is missed."""
    row = {"image_path": str(EXAMPLES / "single_right.dcm"), "subject_id": "a", "split": "test", "source": "x", "kl": 1}
    table = pd.DataFrame([{**row, "side": side, "knee_id": side} for side in ("L", "R")])
    told: list[tuple[int, int]] = []
    result = evaluate_manifest(table, "test", device="cpu", progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    assert result.landmarks == "detector"
    assert result.predictions.knee.tolist() == [1]
    assert len(result.missed) == 1
    assert "no gradable L knee" in result.missed[0]


def test_landmarks_of_some_knees_only_and_no_grades_are_refused(manifest):
    table = pd.read_parquet(manifest)
    table["image_path"] = [str(manifest.parent / path) for path in table["image_path"]]
    first = table.index[table["split"] == "test"][0]
    partial = table.copy()
    partial.at[first, "landmarks_px"] = None
    with pytest.raises(RecipeError, match=r"1 of the .* have no landmarks; --detect"):
        evaluate_manifest(partial, "test")
    with pytest.raises(RecipeError, match="has a grade to compare with"):
        evaluate_manifest(table.assign(**{t.name: None for t in TARGETS}), "test")


@pytest.mark.parametrize("plan", [ModelConfig(pooling="global"), ModelConfig(heads="ordinal")])
def test_weights_that_cannot_explain_themselves_are_refused_by_the_grader(plan, tmp_path):
    save_weights(tmp_path / "w.safetensors", {}, {"name": "w", "kind": "grader", "model": asdict(plan)})
    with pytest.raises(WeightsError, match="cannot give a report's evidence"):
        Grader(weights=tmp_path / "w.safetensors")
