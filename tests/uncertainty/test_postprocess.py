from dataclasses import replace

import numpy as np

from kneegrade.coherence import breaks_hard_rule
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import Calibration, Postprocessor
from kneegrade.weights import load_weights, save_weights

FIRST_HALF = np.arange(600) < 300


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
