from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.training import fit
from kneegrade.training.predict_films import KneePredictions
from kneegrade.uncertainty import OODFeatures
from kneegrade.weights import read_description, shipped_path


def predicted(number, graded, jsn_lateral=0):
    """Simulated predictions of knees, two per person: the first `graded` have a KL label, a few narrowing too."""
    generator = np.random.default_rng(0)
    targets = np.full((number, ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    kl = generator.integers(5, size=number)
    targets[:graded, :5] = np.eye(5)[kl[:graded]]
    targets[:jsn_lateral, 5:9] = [1, 0, 0, 0]
    noise = {t.name: generator.normal(size=(number, t.classes)) for t in TARGETS}
    noise["kl"] += 2 * np.eye(5)[kl]
    logits = {name: torch.from_numpy(each.astype(np.float32)) for name, each in noise.items()}
    source = np.where(np.arange(number) < graded, "read", "unread")
    subject = (np.arange(number) // 2).astype(str)
    return KneePredictions(np.arange(number), subject, source, targets, "manifest", (), logits)


def test_knees_without_a_grade_do_not_count_as_calibration_knees(monkeypatch, tmp_path):
    monkeypatch.setattr(fit, "predict_knees", lambda *_, **__: predicted(200, 90))
    with pytest.raises(RecipeError, match="Found 90 graded knees to calibrate on; at least 100"):
        fit.calibrate(pd.DataFrame(), tmp_path / "w.safetensors", share=1)
    assert not (tmp_path / "w.safetensors").exists()


def test_calibrated_weights_describe_the_graded_knees_and_name_the_grades_that_were_not_fitted(monkeypatch, tmp_path):
    monkeypatch.setattr(fit, "predict_knees", lambda *_, **__: predicted(160, 120, jsn_lateral=3))
    predictions, lines = fit.calibrate(pd.DataFrame(), tmp_path / "w.safetensors", share=1)
    assert predictions is None
    about = read_description(tmp_path / "w.safetensors")["calibrated"]
    assert (about["knees"], about["subjects"], about["sources"], about["grades"]) == (120, 60, ["read"], ["kl"])
    (line,) = lines
    assert "fewer than 50 knees or 20 subjects: jsn_lateral, jsn_medial," in line
    assert line.endswith("their prediction sets are those of the input weights.")


@pytest.fixture
def quality_control(monkeypatch, tmp_path):
    """Runs `quality_control_from_manifest` on the shipped weights without its networks; returns the new description."""

    def predict_knees(source, weights, *, features, device, progress):
        for done in range(len(source)):
            progress(done + 1, len(source))
        rows = len(source)
        drawn = OODFeatures(np.zeros((rows, 2)), np.zeros(rows), np.zeros((rows, 15)), np.zeros((rows, 4, 4), np.uint8))
        return SimpleNamespace(ood_features=drawn)

    monkeypatch.setattr(fit, "predict_knees", predict_knees)
    monkeypatch.setattr(
        fit, "fit_implants_of_manifests", lambda *_, **__: (SimpleNamespace(network=None, limits=None), {})
    )
    monkeypatch.setattr(fit, "fit_quality_control", lambda *_, **__: SimpleNamespace(state_dict=dict))
    monkeypatch.setattr(fit, "_measures_on_phantoms", lambda *_: {})
    monkeypatch.setattr(fit, "_measures_on_films", lambda *_: {})
    subject = np.array([f"p{index}" for index in range(400)])
    path = [f"films/{index}.png" for index in range(400)]
    split = np.where(np.arange(400) < 120, "train", "val")
    table = pd.DataFrame({"image_path": path, "subject_id": subject, "split": split, "source": "north"})
    implant = np.where(np.arange(240) % 2, "nail", None)
    pd.DataFrame({"subject_id": np.arange(240) // 2, "implant": implant}).to_parquet(tmp_path / TABLE_FILE)
    np.save(tmp_path / ROI_FILE, np.zeros((240, 4, 4), dtype=np.uint8))

    def run(**settings):
        fit.quality_control_from_manifest(table, tmp_path, tmp_path / "w.safetensors", **settings)
        return read_description(tmp_path / "w.safetensors")

    return run


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_progress_of_quality_control_counts_every_film_up_to_all(quality_control, share):
    """Networks are replaced; of the phantoms with implants only the fifth that is measured on counts."""
    calls = []
    quality_control(share=share, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, calls[0][1]) for done in range(1, calls[0][1] + 1)]
    assert len(calls) == 400 + 240 - 96


def test_a_new_implant_network_is_not_described_as_the_one_before(quality_control):
    before = read_description(shipped_path("grader"))
    other = pd.DataFrame({"image_path": ["a.png"], "source": ["south"]})
    found = quality_control(other_sites=[other])
    assert "implants" in before
    assert "implants" not in found
    assert found["attribution"] == before["recipe"]["attribution"] == before["attribution"][:4]
    gate = found["gate"]
    assert (gate["sources"], gate["implant_sources"], gate["other_site_sources"]) == (["north"], ["north"], ["south"])
