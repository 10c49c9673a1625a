from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.coherence import breaks_hard_rule, smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import (
    Calibration,
    Graded,
    Postprocessor,
    fit_calibration,
    fit_postprocessor,
    fit_sets,
    tuned_claims,
)
from kneegrade.weights import load_weights, save_weights


@pytest.fixture(scope="module")
def table():
    return smoothed_table(grade_tuple_counts())


@pytest.fixture(scope="module")
def knees(table):
    """Logits of 600 knees, noisy pictures of grades drawn from the table; and the grades, one-hot."""
    generator = np.random.default_rng(0)
    cells = generator.choice(table.size, 600, p=table.reshape(-1) / table.sum())
    grades = np.stack(np.unravel_index(cells, CLASSES), axis=1)
    labels, logits = np.zeros((600, ONE_HOT_LENGTH), dtype=np.float32), {}
    for index, target in enumerate(TARGETS):
        own = np.eye(target.classes, dtype=np.float32)[grades[:, index]]
        labels[:, target.one_hot] = own
        noise = generator.normal(size=own.shape).astype(np.float32)
        logits[target.name] = torch.from_numpy(3 * own + 2 * noise)
    return Graded(logits, labels, np.repeat(np.arange(300), 2).astype(str))


FIRST = np.arange(600) < 300


@pytest.fixture(scope="module")
def fitted(knees, table):
    return fit_postprocessor(knees.part(FIRST), table)


def test_claims_survive_a_file(knees, fitted, tmp_path):
    logits, claims = knees.logits, fitted
    save_weights(tmp_path / "w.safetensors", claims.tensors(), {"name": "w", "kind": "grader"})
    read = Postprocessor.of(load_weights(tmp_path / "w.safetensors", "grader"))
    first, second = claims(logits), read(logits)
    np.testing.assert_array_equal(second.probabilities, first.probabilities)
    np.testing.assert_array_equal(second.grades, first.grades)
    np.testing.assert_array_equal(second.sets, first.sets)


def test_decoding_helps_breaks_no_rule_and_sets_cover(knees, fitted):
    labels, rest, claims = knees.targets, knees.part(~FIRST), fitted
    claim, alone = claims(rest.logits), Postprocessor(claims.calibration)(rest.logits)
    assert claims.decoder.joint_exponent > 0
    truth = np.stack([labels[300:, t.one_hot].argmax(1) for t in TARGETS], axis=1)
    assert (claim.grades == truth).mean() > (alone.grades == truth).mean() + 0.02
    assert breaks_hard_rule(alone.grades).any()
    assert not breaks_hard_rule(claim.grades).any()
    for target in TARGETS:
        held = (claim.sets[:, target.one_hot] * labels[300:, target.one_hot]).sum(1).mean()
        assert held > 0.85
    np.testing.assert_allclose([claim.probabilities[:, t.one_hot].sum(1) for t in TARGETS], 1, atol=1e-9)


def test_grades_without_labels_keep_the_calibration_they_had(knees, table):
    before = fit_calibration(knees.logits, torch.from_numpy(knees.targets))
    few = knees.part(np.arange(600) < 100)
    only_kl = few.targets.copy()
    only_kl[:, 5:] = np.nan
    claims = fit_postprocessor(Graded(few.logits, only_kl, few.subject), table, before=before)
    for target in TARGETS[1:]:
        assert claims.calibration.log_temperature[target.name] == before.log_temperature[target.name]
        assert torch.equal(claims.calibration.bias[target.name], before.bias[target.name])
    assert claims.calibration.log_temperature["kl"] != before.log_temperature["kl"]
    sets = claims(knees.logits).sets
    assert sets[:, 5:].all()  # the whole scale where nothing is known


def test_sets_are_fitted_on_what_claims_say_of_other_people(knees, table):
    """Thresholds of the same claims on the knees that tuned them would be smaller: they know these knees too well."""
    few = knees.part(np.arange(600) < 80)
    claims = fit_postprocessor(few, table)
    own = fit_sets(Postprocessor(claims.calibration, claims.decoder)(few.logits).probabilities, few.targets)
    assert claims.sets.threshold.mean() > own.threshold.mean() + 0.01


def make_splits(few, table, monkeypatch):
    """Claims of some knees, and which of them every fold was fitted on and which it left out."""
    asked, real = [], Graded.part

    def part(self, rows):
        asked.append(rows)
        return real(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Graded, "part", part)
        claims = fit_postprocessor(few, table)
    return claims, list(zip(asked[::2], asked[1::2], strict=True))


def test_every_person_is_left_out_with_both_knees(knees, table, monkeypatch):
    _, pairs = make_splits(knees.part(np.arange(600) < 60), table, monkeypatch)
    assert len(pairs) == 5
    for kept, out in pairs:
        assert (kept ^ out).all()
        assert (out[::2] == out[1::2]).all()  # a person's knees stand side by side


def test_every_fold_chooses_its_exponent_on_the_people_that_it_is_fitted_on(knees, table, monkeypatch):
    few = knees.part(np.arange(600) // 60 == 2)  # some folds choose another exponent than all of these knees do
    claims, pairs = make_splits(few, table, monkeypatch)
    said, exponents = np.zeros(few.targets.shape), []
    for kept, out in pairs:
        own = tuned_claims(few.part(kept), table)
        exponents.append(own.decoder.joint_exponent)
        said[out] = own(few.part(out).logits).probabilities
    assert set(exponents) != {claims.decoder.joint_exponent}  # else nothing is tested
    assert torch.equal(claims.sets.threshold, fit_sets(said, few.targets).threshold)


@pytest.mark.parametrize(("people", "graded"), [(1, 100), (9, 100), (5, 10)])
def test_too_few_people_for_folds_are_refused(knees, table, people, graded):
    """With one person a fold would have nobody to be fitted on; people without a grade do not count."""
    few = knees.part(np.arange(600) < 100)
    labels = few.targets.copy()
    labels[graded:] = np.nan
    subject = few.subject if graded < 100 else (np.arange(100) % people).astype(str)
    of_few = replace(few, targets=labels, subject=subject)
    with pytest.raises(
        RecipeError, match=f"{graded} graded knees of {people} people to calibrate on; at least 10 people"
    ):
        fit_postprocessor(of_few, table)


def test_credit_moves_grades_towards_what_else_is_possible(knees, fitted):
    between = replace(fitted, decoder=replace(fitted.decoder, ordinal_smoothing=0.5))
    plain = replace(fitted, decoder=replace(fitted.decoder, ordinal_smoothing=0.0))
    rest = knees.part(~FIRST)
    truth = rest.targets[:, :5].argmax(1)
    near, likeliest = between(rest.logits).grades[:, 0], plain(rest.logits).grades[:, 0]
    assert np.square(near - truth).mean() < np.square(likeliest - truth).mean()


def test_without_a_table_the_likeliest_grades_are_given_and_no_sets(knees):
    logits = knees.logits
    claim = Postprocessor(Calibration())(logits)
    assert claim.sets is None
    assert (claim.alone == claim.grades).all()
    assert (claim.grades[:, 0] == logits["kl"].argmax(1).numpy()).all()
