import numpy as np
import pandas as pd
import pytest

from kneegrade.errors import RecipeError
from kneegrade.evaluation.two_sample import SiteProfile, compare_profiles, drift_table
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS


def profile(seed, subjects=60, shift=0.0, kl=(0.2,) * 5, weights="w"):
    """A profile with two knees per subject and six features; every knee has the same KL distribution."""
    generator = np.random.default_rng(seed)
    number = 2 * subjects
    shares = np.zeros((number, ONE_HOT_LENGTH), dtype=np.float32)
    shares[:, TARGETS[0].one_hot] = kl
    for target in TARGETS[1:]:
        shares[:, target.one_hot] = 0.25
    features = generator.normal(size=(number, 6)).astype(np.float32) + np.float32(shift)
    return SiteProfile(features, shares, np.repeat(np.arange(subjects).astype(str), 2), weights)


def test_two_samples_of_one_population_show_no_drift():
    drift = compare_profiles(profile(2), profile(3))
    assert 0.35 < drift.feature_auc < 0.65
    assert drift.feature_p_value > 0.05
    assert drift.grades["kl"].total_variation == pytest.approx(0, abs=1e-6)
    assert drift.grades["kl"].p_value == 1


def test_a_shifted_population_is_separated_and_the_shift_is_measured():
    drift = compare_profiles(profile(0), profile(1, shift=2.0, kl=(0.5, 0.2, 0.1, 0.1, 0.1)))
    assert drift.feature_auc > 0.95
    assert drift.feature_p_value == pytest.approx(1 / 200)
    assert drift.feature_auc_chance < 0.7
    own = drift.grades["kl"]
    assert own.site == pytest.approx((0.5, 0.2, 0.1, 0.1, 0.1), abs=1e-6)
    assert own.total_variation == pytest.approx(0.3, abs=1e-6)
    assert own.stability_index == pytest.approx(0.3 * np.log(2.5) + 3 * 0.1 * np.log(2), abs=1e-5)
    assert own.p_value == pytest.approx(1 / 1000)
    assert drift.grades["jsn_medial"].p_value == 1
    assert "20 → 50" in drift_table(drift).rows[0][1]


def test_identical_knees_at_both_sites_are_not_separated():
    """The copy of a test knee must not be in the training fold with the other label: the AUC would be far below 0.5."""
    drift = compare_profiles(profile(0), profile(0))
    assert drift.feature_auc == pytest.approx(0.5)


def test_p_values_are_uniform_without_a_difference():
    """One population with features and grades that are equal within a subject: p < 0.05 in 5 % of comparisons only."""
    significant = separated = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        both = []
        for _ in range(2):
            own = profile(seed, subjects=20)
            kl = np.repeat(generator.integers(0, 5, 20), 2)  # equal in both knees of a person
            own.probabilities[:, TARGETS[0].one_hot] = np.eye(5)[kl]
            both.append(own)
            shift = generator.normal(size=(20, 6)).repeat(2, axis=0)  # also in the features
            own.features[:] = shift + 0.1 * generator.normal(size=shift.shape)
        found = compare_profiles(*both)
        significant += found.grades["kl"].p_value < 0.05
        separated += found.feature_p_value < 0.05
    assert significant <= 6
    assert separated <= 6


def test_a_profile_is_saved_and_loaded_and_unsuitable_ones_are_refused(tmp_path):
    own = profile(3)
    own.save(tmp_path / "p.parquet")
    loaded = SiteProfile.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(loaded.features, own.features)
    np.testing.assert_array_equal(loaded.probabilities, own.probabilities)
    assert loaded.subject.tolist() == own.subject.tolist()
    assert loaded.weights == "w"
    with pytest.raises(RecipeError, match="two networks"):
        compare_profiles(own, profile(4, weights="v"))
    with pytest.raises(RecipeError, match="9 subjects"):
        compare_profiles(own, profile(4, subjects=9))
    pd.read_parquet(tmp_path / "p.parquet").head(0).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(RecipeError, match="not a profile"):
        SiteProfile.load(tmp_path / "empty.parquet")
    (tmp_path / "x.parquet").write_bytes(b"x")
    with pytest.raises(RecipeError, match="not a profile"):
        SiteProfile.load(tmp_path / "x.parquet")
