"""Grading real crops; needs a copy of the Chen 2018 archive, which is not part of this project."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kneegrade import Grader
from kneegrade.cohorts import chen2018_manifest
from kneegrade.evaluation import agreement
from kneegrade.imaging import Source, find_sources
from kneegrade.training.predict import evaluate_manifest

ARCHIVE = Path(os.environ.get("KNEEGRADE_REAL_DATA", "nowhere")) / "chen2018_kneeKL299_train_val.zip"


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.is_file(), reason="KNEEGRADE_REAL_DATA names no folder with the Chen 2018 archive")
def test_two_hundred_validation_crops(tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("val/") and name.endswith(".jpg"))
        chosen = np.random.default_rng(0).permutation(names)[:200].tolist()
        archive.extractall(tmp_path, members=chosen)
    report = Grader(device="cpu").grade_sources(find_sources([tmp_path]))
    assert report.all_graded
    truth = np.array([int(r.source.split("/")[1]) for r in report.radiographs])
    guess = np.array([r.knees[0].grades["kl"].grade for r in report.radiographs])
    assert agreement(truth, guess, 5)["kappa"] >= 0.65
    right = [Path(r.source).stem[-1] == r.knees[0].side for r in report.radiographs]
    assert np.mean(right) >= 0.98


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.is_file(), reason="KNEEGRADE_REAL_DATA names no folder with the Chen 2018 archive")
def test_evaluate_on_the_published_layout(tmp_path):
    """`kneegrade evaluate --cohort chen2018`: the metrics are those of the grades that `Grader` gives."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("val/") and name.endswith(".jpg"))
        archive.extractall(tmp_path, members=np.random.default_rng(1).permutation(names)[:40].tolist())
    table = chen2018_manifest(tmp_path)
    result = evaluate_manifest(table, "val", device="cpu")
    assert result.landmarks == "detector"
    assert len(result.predictions) + len(result.left_out) == 40
    kept = table.iloc[result.predictions.knee]
    assert result.predictions.truth()[:, 0].tolist() == kept["kl"].tolist()
    report = Grader(device="cpu").grade_sources([Source(Path(p).name, Path(p)) for p in kept["image_path"]])
    assert result.predictions.guess()[:, 0].tolist() == [r.knees[0].grades["kl"].grade for r in report.radiographs]
