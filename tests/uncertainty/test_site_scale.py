from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad
from sklearn.metrics import log_loss

from kneegrade.coherence import breaks_hard_rule, smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import (
    Calibration,
    CoherentDecoder,
    ConformalSets,
    Postprocessor,
    SiteMap,
    SiteScale,
    cross_fitted_scale,
    fit_site_scale,
    threshold_positions,
)
from kneegrade.uncertainty.site_maps import FAMILIES, Inputs, fit_map
from kneegrade.weights import load_weights, save_weights

KL = TARGETS[0]


def knees_of(number, seed, reader=(1, 2, 3, 4)):
    """Study distributions (N, 29) around a latent severity, labels of KL by a reader with these borders, and people."""
    generator = np.random.default_rng(seed)
    latent = generator.uniform(0, 5, number)
    study = np.zeros((number, ONE_HOT_LENGTH))
    for target in TARGETS:
        seen = latent + generator.normal(0, 0.5, number)
        centres = (np.arange(target.classes) + 0.5) * 5 / target.classes
        weights = np.exp(-0.5 * np.square((seen[:, None] - centres) / 0.8))
        study[:, target.one_hot] = weights / weights.sum(1, keepdims=True)
    targets = np.full(study.shape, np.nan, dtype=np.float32)
    targets[:, KL.one_hot] = np.eye(5)[np.digitize(latent, reader)]
    return study, targets, (np.arange(number) // 2).astype(str)


def loss_of(probabilities, targets):
    return log_loss(targets[:, KL.one_hot].argmax(1), probabilities[:, KL.one_hot], labels=range(5))


@pytest.mark.parametrize("family", ["thresholds", "multinomial"])
@pytest.mark.parametrize("target", [TARGETS[0], TARGETS[1]])
def test_the_gradient_of_a_map_is_that_of_its_likelihood(family, target):
    study, _, _ = knees_of(30, 0)
    generator, one = np.random.default_rng(1), FAMILIES[family]
    inputs, labels = Inputs.of(study, target), np.eye(target.classes)[generator.integers(target.classes, size=30)]
    at = 0.1 * generator.normal(size=len(one.spread(target.classes)))
    error = check_grad(
        lambda p: -(labels * np.log(one.apply(p, inputs))).sum(), lambda p: one.slope(p, inputs, labels), at
    )
    assert error < 1e-3


def test_parameters_of_zero_change_nothing():
    study, _, _ = knees_of(50, 0)
    inputs = Inputs.of(study, KL)
    for family, tolerance in (("multinomial", 1e-2), ("thresholds", 2e-2)):  # probabilities below 0.001; 2 % uniform
        none = np.zeros(len(FAMILIES[family].spread(5)))
        np.testing.assert_allclose(FAMILIES[family].apply(none, inputs), inputs.shares, atol=tolerance)


def test_thresholds_find_the_borders_of_the_reader():
    study, targets, _ = knees_of(2000, 1, reader=(1.8, 2.8, 3.8, 4.6))
    found = threshold_positions(fit_map("thresholds", Inputs.of(study, KL), targets[:, KL.one_hot]).parameters)
    np.testing.assert_allclose(found, [1.8, 2.8, 3.8, 4.6], atol=0.25)


def test_a_reader_on_the_scale_of_the_study_keeps_the_identity():
    study, _, people = knees_of(100, 2)
    drawn = np.array([np.random.default_rng(i).choice(5, p=p) for i, p in enumerate(study[:, KL.one_hot])])
    targets = np.full(study.shape, np.nan)
    targets[:, KL.one_hot] = np.eye(5)[drawn]
    decoder = CoherentDecoder(smoothed_table(grade_tuple_counts()), 0.0, 0.7, 0.3)
    grades = decoder.grades(study)
    assert (grades != decoder.independent_grades(study))[:, 0].any()  # rules and guard move grades of KL
    scale = fit_site_scale(study, targets, people, name="s", ordinal_smoothing=0.3)
    assert scale.maps["kl"].family == "identity"
    np.testing.assert_allclose(scale.probabilities(study), study, atol=1e-6)
    np.testing.assert_array_equal(scale.grades(scale.probabilities(study), grades), grades)


def test_corrected_prevalences_keep_the_rules_of_the_readers():
    decoder = CoherentDecoder(smoothed_table(grade_tuple_counts()), 0.0, 0.7, 0.3)
    study, _, _ = knees_of(400, 11)
    logits = {t.name: torch.from_numpy(np.log(study[:, t.one_hot])) for t in TARGETS}
    for severity in (0.0, -0.8):
        maps = {t.name: SiteMap("bias", severity * np.arange(t.classes)) for t in TARGETS}
        scale = SiteScale("s", 60, maps, ConformalSets(), 0.3)
        found = Postprocessor(Calibration().requires_grad_(False), decoder, ConformalSets(), scale)(logits)
        assert breaks_hard_rule(decoder.independent_grades(found.probabilities)).any()  # a choice per grade would
        assert not breaks_hard_rule(found.grades).any()
        assert np.array_equal(found.grades, found.study.grades) == (severity == 0)


@pytest.mark.parametrize("number", [50, 100])
def test_few_labels_of_another_reader_improve_other_knees(number):
    study, targets, people = knees_of(number, 3, reader=(2, 3, 4, 4.6))
    scale = fit_site_scale(study, targets, people, name="s")
    others, truth, _ = knees_of(500, 4, reader=(2, 3, 4, 4.6))
    mapped = scale.probabilities(others)
    assert loss_of(mapped, truth) < loss_of(others, truth) - 0.2
    np.testing.assert_array_equal(mapped[:, 5:], others[:, 5:])  # KL alone is mapped
    sets = scale.sets.sets(mapped, scale.grades(mapped, np.zeros((500, 7), dtype=np.int64)))
    coverage = (sets[:, KL.one_hot] * truth[:, KL.one_hot]).sum(1).mean()
    assert 0.86 < coverage < 0.98


def test_cross_fitted_knees_do_not_depend_on_their_own_labels():
    study, targets, people = knees_of(60, 5, reader=(2, 3, 4, 4.6))
    grades = np.zeros((60, 7), dtype=np.int64)
    first = cross_fitted_scale(study, grades, targets, people)
    changed = targets.copy()
    changed[:2, KL.one_hot] = np.eye(5)[[4, 4]]  # the two knees of one person
    second = cross_fitted_scale(study, grades, changed, people)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[:2], other[:2])
    assert not np.array_equal(first[0], second[0])


def test_grades_without_labels_keep_the_sets_of_the_study():
    study, targets, people = knees_of(60, 6)
    sets = ConformalSets()
    sets.threshold[:] = 0.25
    scale = fit_site_scale(study, targets, people, name="s", study_sets=sets)
    assert scale.sets.threshold[1:].tolist() == [0.25] * 6
    assert scale.sets.threshold[0] != 0.25


def test_a_site_is_saved_and_loaded_unchanged_and_old_weights_have_none(tmp_path):
    study, targets, people = knees_of(100, 7, reader=(2, 3, 4, 4.6))
    scale = fit_site_scale(study, targets, people, name="North", ordinal_smoothing=0.4)
    logits = {t.name: torch.from_numpy(np.log(study[:, t.one_hot])) for t in TARGETS}
    plain = Postprocessor(Calibration().requires_grad_(False), sets=ConformalSets())
    mapped = replace(plain, site=scale)
    about = {"name": "w", "kind": "grader", "site": {"name": "North", "knees": 100}}
    save_weights(tmp_path / "w.safetensors", mapped.tensors(), about)
    save_weights(tmp_path / "old.safetensors", plain.tensors(), {"name": "w", "kind": "grader"})
    loaded = Postprocessor.of(load_weights(tmp_path / "w.safetensors", "grader"))
    assert (loaded.site.name, loaded.site.knees) == ("North", 100)
    first, second = mapped(logits), loaded(logits)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    np.testing.assert_array_equal(first.grades, second.grades)
    np.testing.assert_array_equal(first.sets, second.sets)
    old = Postprocessor.of(load_weights(tmp_path / "old.safetensors", "grader"))
    assert old.site is None
    np.testing.assert_array_equal(first.study.grades, old(logits).grades)
    assert first.findings(0) == old(logits).findings(0)
    results = first.results(0)
    assert results["kl"].study == old(logits).results(0)["kl"]
    assert results["jsn_medial"].study is None


@pytest.mark.parametrize(("number", "people"), [(49, 25), (60, 19)])
def test_too_few_knees_or_people_are_refused(number, people):
    study, targets, _ = knees_of(number, 8)
    subject = (np.arange(number) % people).astype(str)
    with pytest.raises(RecipeError, match=f"at most {number} labelled knees of {people} subjects"):
        fit_site_scale(study, targets, subject, name="s")


def test_cross_fitting_maps_only_grades_that_the_scale_of_all_knees_maps():
    study, targets, _ = knees_of(60, 10, reader=(2, 3, 4, 4.6))
    few_people = (np.arange(60) % 19).astype(str)
    probabilities, grades, _ = cross_fitted_scale(study, np.zeros((60, 7), dtype=np.int64), targets, few_people)
    np.testing.assert_array_equal(probabilities, study)
    assert not grades.any()


def test_every_family_gives_distributions_for_every_scale():
    study, _, _ = knees_of(20, 9)
    generator = np.random.default_rng(0)
    for target in TARGETS:
        for family in FAMILIES.values():
            parameters = generator.normal(0, family.spread(target.classes))
            shares = family.apply(parameters, Inputs.of(study, target))
            assert shares.shape == (20, CLASSES[TARGETS.index(target)])
            np.testing.assert_allclose(shares.sum(1), 1)
