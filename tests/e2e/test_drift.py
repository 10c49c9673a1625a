"""`kneegrade drift` on phantoms."""

import json

import pytest


@pytest.mark.slow
def test_drift_between_films_and_a_dataset(kneegrade, tmp_path):
    assert kneegrade("cohort", "fake-most", "-o", tmp_path / "most", "--subjects", 12).returncode == 0
    assert kneegrade("phantom", "--dataset", "-n", 24, "--seed", 8, "-o", tmp_path / "data", "-q").returncode == 0
    done = kneegrade("drift", "--images", tmp_path / "most", "--reference", tmp_path / "data", "-o", tmp_path / "drift")
    assert done.returncode == 0, done.stderr
    assert "AUC" in done.stdout
    profile = tmp_path / "drift" / "profile.parquet"
    done = kneegrade("drift", "--images", profile, "--reference", profile, "-o", tmp_path / "same", "--json")
    assert done.returncode == 0, done.stderr
    same = json.loads(done.stdout)
    assert same["grades"]["kl"]["total_variation"] == pytest.approx(0)


def test_a_missing_reference_is_a_usage_error(kneegrade_here, tmp_path):
    done = kneegrade_here("drift", "--images", tmp_path, "--reference", tmp_path / "x.parquet", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "kneegrade: There is no file" in done.stderr
