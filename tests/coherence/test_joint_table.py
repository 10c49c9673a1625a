import itertools

import numpy as np
import pytest
import torch

from kneegrade.coherence import JointTable, concatenate_probabilities, raked_table, smoothed_table
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts


def small_case(shape=(3, 2, 4), batch=5, seed=0):
    generator = np.random.default_rng(seed)
    table = generator.random(shape) + 0.01
    predictions = [generator.dirichlet(np.ones(k), batch) for k in shape]
    return table / table.sum(), predictions


def test_log_expectation_against_enumeration_of_a_small_table():
    table, predictions = small_case()
    expected = np.zeros(5)
    for cell in itertools.product(*map(range, table.shape)):
        expected += table[cell] * np.prod([p[:, i] for p, i in zip(predictions, cell, strict=True)], axis=0)
    module = JointTable(table)
    ours = module.log_expectation(torch.from_numpy(np.concatenate(predictions, axis=1)))
    np.testing.assert_allclose(ours.numpy(), np.log(expected), rtol=1e-5, atol=1e-6)


def test_gradient_against_finite_differences_in_float64():
    table, predictions = small_case()
    module = JointTable(table).double()
    point = torch.from_numpy(np.concatenate(predictions, axis=1)).requires_grad_(True)
    assert torch.autograd.gradcheck(module.log_expectation, (point,))


def test_one_hot_predictions_give_the_log_probability_of_their_cell():
    table = smoothed_table(grade_tuple_counts())
    module = JointTable(table)
    cell = (2, 0, 1, 0, 1, 0, 1)
    certain = torch.cat([torch.eye(k)[grade] for k, grade in zip(CLASSES, cell, strict=True)])[None]
    assert module.log_expectation(certain).item() == pytest.approx(np.log(table[cell]), rel=1e-5)


def test_value_and_gradient_are_finite_for_extreme_logits():
    module = JointTable(smoothed_table(grade_tuple_counts()))
    logits = {t.name: torch.full((2, t.classes), -300.0) for t in TARGETS}
    for index, target in enumerate(TARGETS):
        logits[target.name][:, index % target.classes] = 300.0
        logits[target.name].requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        value = module.log_expectation(concatenate_probabilities(logits))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert value.dtype == torch.float32
    assert all(torch.isfinite(part.grad).all() for part in logits.values())


def test_smoothing_keeps_counted_cells_and_gives_unseen_cells_at_most_the_good_turing_share():
    counts = grade_tuple_counts()
    table = smoothed_table(counts)
    seen = np.zeros(CLASSES, dtype=bool)
    for cell in counts:
        seen[cell] = True
    total, singles = sum(counts.values()), sum(number == 1 for number in counts.values())
    assert table.min() > 0
    assert table.sum() == pytest.approx(1)
    assert table[~seen].sum() < singles / total
    none = (0,) * 7
    assert table[none] >= (1 - singles / total) * counts[none] / total


@pytest.mark.parametrize(
    "counts", [{(0, 0): 4, (1, 1): 4}, {(0, 0): 1, (1, 1): 1}], ids=["no cell with count 1", "all cells with count 1"]
)
def test_few_counts_give_a_positive_table_with_higher_counted_cells(counts):
    table = smoothed_table(counts, (2, 2))
    assert table.min() > 0
    assert table[0, 0] > 2 * table[0, 1]


def test_raking_gives_the_required_marginals_and_keeps_odds_ratios():
    table, _ = small_case((3, 2, 4))
    required = {0: np.array([0.2, 0.3, 0.5]), 2: np.array([0.1, 0.2, 0.3, 0.4])}
    raked = raked_table(table, required)
    np.testing.assert_allclose(raked.sum((1, 2)), required[0], atol=1e-9)
    np.testing.assert_allclose(raked.sum((0, 1)), required[2], atol=1e-9)
    odds = [t[0, 0, 0] * t[1, 0, 1] / (t[0, 0, 1] * t[1, 0, 0]) for t in (table, raked)]
    assert odds[1] == pytest.approx(odds[0])


def test_the_table_has_the_shape_of_the_schema():
    assert sum(CLASSES) == ONE_HOT_LENGTH
    assert smoothed_table(grade_tuple_counts()).shape == CLASSES
