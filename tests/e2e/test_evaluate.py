"""`kneegrade evaluate`, `compare`, `tables` and `reproduce` on phantoms."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade import Grader
from kneegrade.errors import WeightsError
from kneegrade.evaluation import Predictions, agreement
from kneegrade.network import ModelConfig
from kneegrade.schema import TARGETS
from kneegrade.weights import save_weights


def test_evaluate_prints_one_object_and_writes_the_predictions(evaluation, labelled_films):
    folder, done = evaluation
    metrics = json.loads(done.stdout)
    predictions = Predictions.load(folder / "predictions.parquet")
    assert metrics["knees"] == len(predictions) == (pd.read_parquet(labelled_films)["split"] == "test").sum()
    assert metrics["weights"]["name"] == "kneegrade-lite0"
    assert (metrics["split"], metrics["landmarks_from"]) == ("test", "manifest")
    expected = agreement(predictions.truth()[:, 0], predictions.guess()[:, 0], TARGETS[0].classes)
    assert metrics["kl"]["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-5)
    assert len(metrics["kl"]["accuracy_interval"]) == 2
    assert {"n", "balanced_accuracy", "rmse", "mae", "kappa", "one_off_accuracy", "majority_accuracy"} <= metrics[
        "oarsi_mean"
    ].keys()
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert "| KL |" in (folder / "metrics.md").read_text(encoding="utf-8")


def test_evaluate_detects_the_knees_on_request(kneegrade_here, evaluation, labelled_films, tmp_path):
    done = kneegrade_here("evaluate", "--manifest", labelled_films, "--detect", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "RMSE" in done.stdout
    by_landmarks = json.loads(evaluation[1].stdout)
    detected = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert detected["landmarks_from"] == "detector"
    assert detected["knees"] + detected["not_graded"] == by_landmarks["knees"]


def test_evaluate_reads_the_published_layout_of_chen_2018(kneegrade_here, tmp_path):
    for name, grade in (("9000001L", 0), ("9000002R", 4)):
        folder = tmp_path / "chen" / "val" / str(grade)
        folder.mkdir(parents=True)
        Image.fromarray(np.full((299, 299), 90, np.uint8)).save(folder / f"{name}.png")
    arguments = ("--cohort", "chen2018", "--root", tmp_path / "chen", "--split", "val", "-o", tmp_path / "out")
    done = kneegrade_here("evaluate", *arguments)
    assert done.returncode == 2
    assert "None of the 2 knees could be graded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --manifest, or --cohort"),
        (("--cohort", "oai", "--root", "x"), "'oai' is not known"),
        (("--cohort", "chen2018"), "--root"),
        (("--manifest", "nowhere.parquet"), "no manifest"),
    ],
)
def test_evaluate_names_missing_or_wrong_options(kneegrade_here, arguments, message, tmp_path):
    done = kneegrade_here("evaluate", *arguments, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_split_is_named(kneegrade_here, labelled_films, tmp_path):
    done = kneegrade_here("evaluate", "--manifest", labelled_films, "--split", "val", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "no knee in split 'val'; its splits are test, train" in done.stderr


def test_tables_and_reproduce_name_what_they_expect(kneegrade_here, tmp_path):
    done = kneegrade_here("tables", tmp_path, "-o", tmp_path / "tables")
    assert done.returncode == 2
    assert "No finished run" in done.stderr
    done = kneegrade_here("reproduce", "--scale", "tiny", "--cohort", "oai", "-o", tmp_path / "runs")
    assert done.returncode == 2
    assert "neither `phantom` nor a" in done.stderr


@pytest.mark.slow
def test_reproduce_at_the_tiny_scale(kneegrade, tmp_path):
    """One command trains and writes the tables; the second call has nothing left to train."""
    arguments = ("reproduce", "--scale", "tiny", "--output", tmp_path / "runs")
    done = kneegrade(*arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tables" / "table3.tex").is_file()
    weights = tmp_path / "runs" / "proposed-seed0" / "weights.safetensors"
    again = kneegrade(*arguments)
    assert again.returncode == 0
    assert again.stderr.count("done already") == 2
    shown = kneegrade("tables", tmp_path / "runs", "-o", tmp_path / "tables")
    assert str(tmp_path / "tables" / "table2.md") in shown.stdout
    assert weights.is_file()


def test_compare_pairs_the_knees_of_two_files_of_predictions(kneegrade_here, evaluation, tmp_path):
    folder, file = evaluation[0], evaluation[0] / "predictions.parquet"
    same = json.loads(kneegrade_here("compare", file, file, "--json").stdout)
    assert (same["kl"]["accuracy"], same["kl"]["accuracy_interval"]) == (0, [0, 0])
    assert kneegrade_here("compare", folder, file, "--json").returncode == 0
    assert same["kl"]["p_value"] == 1
    assert "| KL | +0.000 [+0.000, +0.000] |" in kneegrade_here("compare", file, file).stdout
    assert kneegrade_here("compare", file, tmp_path / "none.parquet").returncode == 2


@pytest.mark.parametrize("config", [ModelConfig(pooling="global"), ModelConfig(heads="ordinal")])
def test_the_grader_refuses_weights_without_evidence(config, tmp_path):
    save_weights(tmp_path / "w.safetensors", {}, {"name": "w", "kind": "grader", "model": asdict(config)})
    with pytest.raises(WeightsError, match="evidence"):
        Grader(weights=tmp_path / "w.safetensors")
