"""`kneegrade drift` and `kneegrade adapt`, in processes of their own, on phantoms."""

import json

import pytest

from kneegrade.weights import read_description


@pytest.mark.slow
def test_drift_and_adaptation_to_films(kneegrade, tmp_path):
    assert kneegrade("cohort", "fake-most", "-o", tmp_path / "most", "--subjects", 12).returncode == 0
    assert kneegrade("phantom", "--store", "-n", 24, "--seed", 8, "-o", tmp_path / "store", "-q").returncode == 0
    done = kneegrade(
        "drift", "--images", tmp_path / "most", "--reference", tmp_path / "store", "-o", tmp_path / "drift"
    )
    assert done.returncode == 0, done.stderr
    assert "Features tell the two apart with AUC" in done.stdout
    profile = tmp_path / "drift" / "profile.parquet"
    done = kneegrade("drift", "--images", profile, "--reference", profile, "-o", tmp_path / "same", "--json")
    assert done.returncode == 0, done.stderr
    same = json.loads(done.stdout)
    assert same["grades"]["kl"]["total_variation"] == pytest.approx(0)
    small = ("--set", "steps=2", "--set", "batch_size=4", "--set", "guard_steps=1")
    manifest = tmp_path / "most.parquet"
    assert kneegrade("cohort", "most", "--root", tmp_path / "most", "-o", manifest).returncode == 0
    done = kneegrade(
        "adapt", "--images", tmp_path / "store", "--labelled", manifest, "-o", tmp_path / "out", *small, "-q"
    )
    assert done.returncode in (0, 1), done.stderr
    refused = kneegrade("adapt", "--images", tmp_path / "most", "--labelled", manifest, "-o", tmp_path / "no", *small)
    assert refused.returncode == 2
    assert "must not be learnt from" in refused.stderr
    guard = json.loads((tmp_path / "out" / "guard.json").read_text())
    assert guard[0]["step"] == 0
    assert (tmp_path / "out" / "weights.safetensors").is_file() == (done.returncode == 0)
    if done.returncode == 0:
        assert read_description(tmp_path / "out" / "weights.safetensors")["lineage"][0]["guard_knees"] > 0


def test_what_cannot_be_compared_is_a_sentence(kneegrade, tmp_path):
    done = kneegrade("drift", "--images", tmp_path, "--reference", tmp_path / "x.parquet", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "kneegrade: " in done.stderr
    done = kneegrade(
        "adapt", "--images", tmp_path, "--labelled", tmp_path / "m", "-o", tmp_path / "out", "--set", "stepz=1"
    )
    assert done.returncode == 2
    assert "stepz" in done.stderr
