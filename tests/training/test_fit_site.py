import numpy as np
import pandas as pd
import pytest
import torch

from kneegrade.coherence import smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.evaluation.two_sample import SiteProfile
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.training import fit_site
from kneegrade.training.fit_site import calibrate_to_site, correct_prevalence
from kneegrade.training.predict_films import KneePredictions
from kneegrade.uncertainty import Calibration, CoherentDecoder, Postprocessor
from kneegrade.weights import load_weights, read_description, save_weights

TABLE = smoothed_table(grade_tuple_counts())


@pytest.fixture
def weights(tmp_path):
    """Calibrated weights without a network."""
    postprocessor = Postprocessor(Calibration(), CoherentDecoder(TABLE, 0.0, 0.7))
    save_weights(tmp_path / "w.safetensors", postprocessor.tensors(), {"name": "w", "kind": "grader", "calibrated": {}})
    return tmp_path / "w.safetensors"


def profile_of(number, seed, kl=None):
    """Knees drawn from the joint table, of these KL grades only, with nearly certain predictions and noisy features."""
    generator = np.random.default_rng(seed)
    cells = generator.choice(TABLE.size, 20 * number, p=TABLE.reshape(-1) / TABLE.sum())
    grades = np.stack(np.unravel_index(cells, CLASSES), axis=1)
    grades = grades[np.isin(grades[:, 0], range(5) if kl is None else kl)][:number]
    shares = np.full((number, ONE_HOT_LENGTH), 0.01)
    for index, target in enumerate(TARGETS):
        shares[np.arange(number), target.offset + grades[:, index]] += 1 - 0.01 * target.classes
    features = grades[:, :1] + generator.normal(size=(number, 4))
    return SiteProfile(features.astype(np.float32), shares.astype(np.float32), np.arange(number).astype(str), "x")


def test_prevalences_of_a_site_without_kl_0_are_found_and_stored(weights, tmp_path):
    site = profile_of(150, 0, kl=(1, 2, 3, 4))
    found = correct_prevalence(site, profile_of(600, 1), tmp_path / "site.safetensors", weights, site="North")
    assert found["kl"][0] < 0.1
    scale = Postprocessor.of(load_weights(tmp_path / "site.safetensors", "grader")).site
    assert (scale.name, scale.knees, scale.maps["kl"].family) == ("North", 150, "bias")
    assert scale.maps["kl"].parameters[0] < -1


def test_a_correction_is_refused_where_the_features_differ(weights, tmp_path):
    site = profile_of(150, 0)
    moved = SiteProfile(site.features + 3, site.probabilities, site.subject, "x")
    with pytest.raises(RecipeError, match="features of the site's knees differ"):
        correct_prevalence(moved, profile_of(600, 1), tmp_path / "site.safetensors", weights, site="North")
    assert not (tmp_path / "site.safetensors").exists()


def test_the_site_describes_the_knees_that_were_read(weights, tmp_path, monkeypatch):
    """The predictions are simulated: 60 knees of 30 people have a KL label, 40 of other people have none."""
    profile = profile_of(100, 2)
    logits = {t.name: torch.from_numpy(np.log(profile.probabilities[:, t.one_hot])) for t in TARGETS}
    targets = np.full((100, ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    targets[:60, :5] = np.eye(5)[profile.probabilities[:60, :5].argmax(1)]
    subject, source = (np.arange(100) // 2).astype(str), np.where(np.arange(100) < 60, "read", "unread")
    knees = KneePredictions(np.arange(100), subject, source, targets, "manifest", (), logits)
    monkeypatch.setattr(fit_site, "predict_knees", lambda *_, **__: knees)
    found = calibrate_to_site(pd.DataFrame(), tmp_path / "site.safetensors", weights, site="North")
    about = read_description(tmp_path / "site.safetensors")["site"]
    assert (about["knees"], about["subjects"], about["sources"]) == (60, 30, ["read"])
    assert found.scale.knees == 60
