import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from kneegrade.evaluation import agreement
from kneegrade.evaluation.metrics import calibration_error, calibration_sums, confusion, matrix_metrics, weighted_auc

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=60).filter(
    lambda pairs: len({t for t, _ in pairs}) > 1 and len({g for _, g in pairs}) > 1
)


@given(PAIRS)
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_every_metric_agrees_with_scikit_learn(pairs):
    truth, predicted = np.array(pairs).T
    ours = agreement(truth, predicted, 5)
    assert ours["n"] == len(pairs)
    assert ours["accuracy"] == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(truth, predicted))
    assert ours["rmse"] == pytest.approx(np.sqrt(oracle.mean_squared_error(truth, predicted)))
    assert ours["mae"] == pytest.approx(oracle.mean_absolute_error(truth, predicted))
    assert ours["kappa"] == pytest.approx(
        oracle.cohen_kappa_score(truth, predicted, labels=range(5), weights="quadratic")
    )
    assert ours["one_off_accuracy"] == pytest.approx(np.mean(np.abs(truth - predicted) <= 1))
    assert ours["majority_accuracy"] == pytest.approx(np.bincount(truth).max() / len(truth))
    np.testing.assert_array_equal(
        confusion(truth, predicted, 5), oracle.confusion_matrix(truth, predicted, labels=range(5))
    )


def test_agreement_by_hand():
    """Errors 0, 1, 0, 2 on grades 0, 1, 2, 3; kappa = 1 − Σd²·n / Σ over all pairs (i − j)²."""
    truth, predicted = np.array([0, 1, 2, 3]), np.array([0, 2, 2, 1])
    result = agreement(truth, predicted, 4)
    assert result["accuracy"] == 0.5
    assert result["rmse"] == pytest.approx(np.sqrt(5 / 4))
    chance = np.subtract.outer(truth, predicted) ** 2
    assert result["kappa"] == pytest.approx(1 - (5 / 4) / chance.mean())


def test_kappa_of_constant_equal_grades_is_undefined():
    assert np.isnan(agreement(np.zeros(4, int), np.zeros(4, int), 4)["kappa"])


def test_metrics_of_an_empty_sample_are_undefined():
    assert np.isnan(matrix_metrics(np.zeros((2, 4, 4)))["accuracy"]).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=4, max_size=60))
@settings(deadline=None)
def test_weighted_auc_agrees_with_scikit_learn(rows):
    positive, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    ours = weighted_auc(positive.astype(bool), score.astype(float), weight.astype(float))
    kept = weight > 0
    if len(set(positive[kept])) < 2:
        assert np.isnan(ours)
    else:
        expected = oracle.roc_auc_score(positive[kept], score[kept], sample_weight=weight[kept])
        assert ours == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Confidence 0.95 with one of two correct, and 0.65 with two of two: (|0.5 − 0.95| + |1 − 0.65|) / 2."""
    shares = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    sums = calibration_sums(np.array([0, 1, 1, 1]), shares)
    assert calibration_error(sums.sum(0)) == pytest.approx((0.45 + 0.35) / 2)
