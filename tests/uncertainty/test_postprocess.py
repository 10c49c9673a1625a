from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.coherence import breaks_hard_rule, smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import (
    Calibration,
    CalibrationKnees,
    Postprocessor,
    fit_calibration,
    fit_postprocessor,
    fit_sets,
    tuned_postprocessor,
)
from kneegrade.weights import load_weights, save_weights


@pytest.fixture(scope="module")
def table():
    return smoothed_table(grade_tuple_counts())


@pytest.fixture(scope="module")
def knees(table):
    """Noisy logits and one-hot labels of 600 knees whose grades are drawn from the table, two knees per person."""
    generator = np.random.default_rng(0)
    cells = generator.choice(table.size, 600, p=table.reshape(-1) / table.sum())
    grades = np.stack(np.unravel_index(cells, CLASSES), axis=1)
    labels, logits = np.zeros((600, ONE_HOT_LENGTH), dtype=np.float32), {}
    for index, target in enumerate(TARGETS):
        own = np.eye(target.classes, dtype=np.float32)[grades[:, index]]
        labels[:, target.one_hot] = own
        noise = generator.normal(size=own.shape).astype(np.float32)
        logits[target.name] = torch.from_numpy(3 * own + 2 * noise)
    return CalibrationKnees(logits, labels, np.repeat(np.arange(300), 2).astype(str))


FIRST_HALF = np.arange(600) < 300


@pytest.fixture(scope="module")
def fitted(knees, table):
    return fit_postprocessor(knees.part(FIRST_HALF), table)


def test_a_postprocessor_is_saved_and_loaded_unchanged(knees, fitted, tmp_path):
    save_weights(tmp_path / "w.safetensors", fitted.tensors(), {"name": "w", "kind": "grader"})
    loaded = Postprocessor.of(load_weights(tmp_path / "w.safetensors", "grader"))
    first, second = fitted(knees.logits), loaded(knees.logits)
    np.testing.assert_array_equal(second.probabilities, first.probabilities)
    np.testing.assert_array_equal(second.grades, first.grades)
    np.testing.assert_array_equal(second.sets, first.sets)


def test_weights_without_thresholds_for_unusual_knees_use_the_probabilities(knees, fitted, tmp_path):
    """Files of earlier versions: the sets of unusual knees have a calibrated probability of 0.95 or more."""
    tensors = {name: value for name, value in fitted.tensors().items() if name != "sets.strict_threshold"}
    save_weights(tmp_path / "w.safetensors", tensors, {"name": "w", "kind": "grader"})
    loaded = Postprocessor.of(load_weights(tmp_path / "w.safetensors", "grader"))
    grades = loaded(knees.logits, np.ones(600, dtype=bool))
    for target in TARGETS:
        mass = (grades.probabilities * grades.sets)[:, target.one_hot].sum(1)
        assert mass.min() > 0.95 - 1e-9
    np.testing.assert_array_equal(loaded(knees.logits).sets, fitted(knees.logits).sets)


def test_decoding_improves_accuracy_breaks_no_rule_and_sets_have_their_coverage(knees, fitted):
    labels, rest = knees.targets, knees.part(~FIRST_HALF)
    decoded, calibrated = fitted(rest.logits), Postprocessor(fitted.calibration)(rest.logits)
    assert fitted.decoder.joint_exponent > 0
    truth = np.stack([labels[300:, t.one_hot].argmax(1) for t in TARGETS], axis=1)
    assert (decoded.grades == truth).mean() > (calibrated.grades == truth).mean() + 0.02
    assert breaks_hard_rule(calibrated.grades).any()
    assert not breaks_hard_rule(decoded.grades).any()
    for target in TARGETS:
        coverage = (decoded.sets[:, target.one_hot] * labels[300:, target.one_hot]).sum(1).mean()
        assert coverage > 0.85
    np.testing.assert_allclose([decoded.probabilities[:, t.one_hot].sum(1) for t in TARGETS], 1, atol=1e-9)


def test_grades_without_labels_keep_their_previous_calibration(knees, table):
    previous = fit_calibration(knees.logits, torch.from_numpy(knees.targets))
    few = knees.part(np.arange(600) < 100)
    only_kl = few.targets.copy()
    only_kl[:, 5:] = np.nan
    fitted = fit_postprocessor(CalibrationKnees(few.logits, only_kl, few.subject), table, previous=previous)
    for target in TARGETS[1:]:
        assert fitted.calibration.log_temperature[target.name] == previous.log_temperature[target.name]
        assert torch.equal(fitted.calibration.bias[target.name], previous.bias[target.name])
    assert fitted.calibration.log_temperature["kl"] != previous.log_temperature["kl"]
    sets = fitted(knees.logits).sets
    assert sets[:, 5:].all()  # the whole scale for grades without labels


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


@pytest.mark.parametrize(("people", "graded"), [(1, 100), (9, 100), (5, 10)])
def test_too_few_people_for_cross_validation_are_refused(knees, table, people, graded):
    """With one person a fold would have nobody to fit on; people without a grade do not count."""
    few = knees.part(np.arange(600) < 100)
    labels = few.targets.copy()
    labels[graded:] = np.nan
    subject = few.subject if graded < 100 else (np.arange(100) % people).astype(str)
    of_few = replace(few, targets=labels, subject=subject)
    with pytest.raises(
        RecipeError, match=f"{graded} graded knees of {people} subjects to calibrate on; at least 10 subjects"
    ):
        fit_postprocessor(of_few, table)


def test_ordinal_smoothing_moves_grades_towards_other_probable_grades(knees, fitted):
    smoothed = replace(fitted, decoder=replace(fitted.decoder, ordinal_smoothing=0.5))
    plain = replace(fitted, decoder=replace(fitted.decoder, ordinal_smoothing=0.0))
    rest = knees.part(~FIRST_HALF)
    truth = rest.targets[:, :5].argmax(1)
    near, most_probable = smoothed(rest.logits).grades[:, 0], plain(rest.logits).grades[:, 0]
    assert np.square(near - truth).mean() < np.square(most_probable - truth).mean()


def test_without_a_table_the_most_probable_grades_are_reported_and_no_sets(knees):
    calibrated = Postprocessor(Calibration())(knees.logits)
    assert calibrated.sets is None
    assert (calibrated.independent_grades == calibrated.grades).all()
    assert (calibrated.grades[:, 0] == knees.logits["kl"].argmax(1).numpy()).all()
