import numpy as np
import pytest
import torch

from kneegrade.coherence import breaks_hard_rule, smoothed_table
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import Calibration, Claims, fit_claims
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
    return logits, labels


def test_claims_survive_a_file(knees, table, tmp_path):
    logits, labels = knees
    claims = fit_claims({k: v[:300] for k, v in logits.items()}, labels[:300], table)
    save_weights(tmp_path / "w.safetensors", claims.tensors(), {"name": "w", "kind": "grader"})
    read = Claims.of(load_weights(tmp_path / "w.safetensors", "grader"))
    first, second = claims(logits), read(logits)
    np.testing.assert_allclose(second.probabilities, first.probabilities, atol=1e-5)
    assert (second.grades == first.grades).mean() > 0.999
    assert (second.sets == first.sets).mean() > 0.999


def test_decoding_helps_breaks_no_rule_and_sets_cover(knees, table):
    logits, labels = knees
    claims = fit_claims({k: v[:300] for k, v in logits.items()}, labels[:300], table)
    rest = {k: v[300:] for k, v in logits.items()}
    claim, alone = claims(rest), Claims(claims.calibration)(rest)
    assert claims.decoder.joint_exponent > 0
    truth = np.stack([labels[300:, t.one_hot].argmax(1) for t in TARGETS], axis=1)
    assert (claim.grades == truth).mean() > (alone.grades == truth).mean() + 0.02
    assert breaks_hard_rule(alone.grades).any()
    assert not breaks_hard_rule(claim.grades).any()
    for target in TARGETS:
        held = (claim.sets[:, target.one_hot] * labels[300:, target.one_hot]).sum(1).mean()
        assert held > 0.85
    np.testing.assert_allclose([claim.probabilities[:, t.one_hot].sum(1) for t in TARGETS], 1, atol=1e-9)


def test_without_a_table_the_likeliest_grades_are_given_and_no_sets(knees):
    logits, _ = knees
    claim = Claims(Calibration())(logits)
    assert claim.sets is None
    assert (claim.grades[:, 0] == logits["kl"].argmax(1).numpy()).all()
