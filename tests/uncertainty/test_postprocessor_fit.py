from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import CalibrationKnees, Postprocessor, fit_postprocessor, fit_sets, tuned_postprocessor
from kneegrade.uncertainty.joint_decoding import prior_vector

JSN_LATERAL = TARGETS[1]


def with_labels(knees, rows, name, labels=None):
    """The knees, of which only `rows` have a label of the grade `name`; `labels` replace those of these rows."""
    target = next(each for each in TARGETS if each.name == name)
    targets = np.full(knees.targets.shape, np.nan, dtype=np.float32)
    targets[:, :5] = knees.targets[:, :5]
    targets[rows, target.one_hot] = knees.targets[rows, target.one_hot] if labels is None else labels
    return replace(knees, targets=targets)


@pytest.mark.parametrize("few", [0, 3, 49])
def test_grades_with_few_labels_keep_their_calibration_and_sets(knees, fitted, table, few):
    """All labels of the few knees are 0, which would give every knee a narrowing of 0 with near certainty."""
    part = knees.part(np.arange(600) >= 400)
    given = with_labels(part, slice(0, few), "jsn_lateral", [1, 0, 0, 0])
    found = fit_postprocessor(given, table, previous=fitted)
    for target in TARGETS[1:]:
        assert found.calibration.log_temperature[target.name] == fitted.calibration.log_temperature[target.name]
        assert torch.equal(found.calibration.bias[target.name], fitted.calibration.bias[target.name])
    assert found.calibration.log_temperature["kl"] != fitted.calibration.log_temperature["kl"]
    for name in ("threshold", "strict_threshold"):
        before, after = getattr(fitted.sets, name), getattr(found.sets, name)
        assert torch.equal(after[1:], before[1:])
        assert after[0] != before[0]
    own = JSN_LATERAL.one_hot
    before, after = (each(knees.logits).probabilities[:, own].mean(0) for each in (fitted, found))
    np.testing.assert_allclose(after, before, atol=0.02)


def test_few_labels_of_a_grade_change_no_other_grade(knees, fitted, table):
    part = knees.part(np.arange(600) >= 400)
    few = fit_postprocessor(with_labels(part, slice(0, 3), "jsn_lateral", [1, 0, 0, 0]), table, previous=fitted)
    none = fit_postprocessor(with_labels(part, slice(0, 0), "jsn_lateral"), table, previous=fitted)
    np.testing.assert_array_equal(few(knees.logits).probabilities, none(knees.logits).probabilities)
    assert few.decoder.joint_exponent == fitted.decoder.joint_exponent
    assert few.decoder.ordinal_smoothing == fitted.decoder.ordinal_smoothing


def test_a_grade_of_50_knees_of_20_people_is_fitted(knees, fitted, table):
    part = knees.part(np.arange(600) >= 400)
    found = fit_postprocessor(with_labels(part, slice(0, 50), "jsn_lateral"), table, previous=fitted)
    assert found.calibration.log_temperature["jsn_lateral"] != fitted.calibration.log_temperature["jsn_lateral"]
    assert torch.equal(found.calibration.bias["jsn_medial"], fitted.calibration.bias["jsn_medial"])


def test_without_an_earlier_calibration_few_labels_leave_the_plain_softmax_and_the_whole_scale(knees, table):
    part = knees.part(np.arange(600) < 60)
    found = fit_postprocessor(with_labels(part, slice(0, 3), "jsn_lateral", [1, 0, 0, 0]), table)
    assert found.calibration.log_temperature["jsn_lateral"] == 0
    assert not found.calibration.bias["jsn_lateral"].any()
    assert found(knees.logits).sets[:, 5:].all()
    prior = prior_vector(found.decoder.table)[JSN_LATERAL.one_hot]
    np.testing.assert_allclose(prior, prior_vector(table)[JSN_LATERAL.one_hot], atol=0.05)


def test_sets_of_two_levels_are_refused(knees, fitted, table):
    only_kl = with_labels(knees.part(np.arange(600) >= 400), slice(0, 0), "jsn_lateral")
    with pytest.raises(RecipeError, match=r"jsn_lateral, .* are for 0\.9, those to fit for 0\.8"):
        fit_postprocessor(only_kl, table, level=0.8, previous=fitted)


def test_sets_are_fitted_on_out_of_fold_predictions(knees, table):
    """Thresholds fitted on the knees that tuned the postprocessor would be smaller."""
    few = knees.part(np.arange(600) < 80)
    fitted = fit_postprocessor(few, table)
    in_sample = Postprocessor(fitted.calibration, fitted.decoder)(few.logits).probabilities
    assert fitted.sets.threshold.mean() > fit_sets(in_sample, few.targets).threshold.mean() + 0.01


def fit_with_folds(few, table, monkeypatch):
    """A fitted postprocessor, and for every fold the masks of the knees it was fitted on and of those left out."""
    requested, real = [], CalibrationKnees.part

    def part(self, rows):
        requested.append(rows)
        return real(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(CalibrationKnees, "part", part)
        fitted = fit_postprocessor(few, table)
    return fitted, list(zip(requested[::2], requested[1::2], strict=True))


def test_every_person_is_left_out_with_both_knees(knees, table, monkeypatch):
    _, folds = fit_with_folds(knees.part(np.arange(600) < 60), table, monkeypatch)
    assert len(folds) == 5
    for kept, left_out in folds:
        assert (kept ^ left_out).all()
        assert (left_out[::2] == left_out[1::2]).all()  # the two knees of a person are consecutive


def test_every_fold_chooses_its_exponent_on_the_people_that_it_is_fitted_on(knees, table, monkeypatch):
    few = knees.part(np.arange(600) // 60 == 2)  # some folds choose another exponent than all of these knees do
    fitted, folds = fit_with_folds(few, table, monkeypatch)
    probabilities, exponents = np.zeros(few.targets.shape), []
    for kept, left_out in folds:
        tuned = tuned_postprocessor(few.part(kept), table)
        exponents.append(tuned.decoder.joint_exponent)
        probabilities[left_out] = tuned(few.part(left_out).logits).probabilities
    assert set(exponents) != {fitted.decoder.joint_exponent}  # otherwise this test shows nothing
    assert torch.equal(fitted.sets.threshold, fit_sets(probabilities, few.targets).threshold)


@pytest.mark.parametrize(("people", "graded"), [(1, 100), (19, 100), (25, 49)])
def test_too_few_knees_or_people_are_refused(knees, table, people, graded):
    """With one person a fold would have nobody to fit on; knees without a grade do not count."""
    few = knees.part(np.arange(600) < 100)
    labels = few.targets.copy()
    labels[graded:] = np.nan
    subject = few.subject if graded < 100 else (np.arange(100) % people).astype(str)
    of_few = replace(few, targets=labels, subject=subject)
    message = f"at most {graded} labelled knees of {people} subjects per grade.*50 knees of 20 subjects"
    with pytest.raises(RecipeError, match=message):
        fit_postprocessor(of_few, table)
