import numpy as np
import pytest

from kneegrade.evaluation import agreement


def test_hand_computed_agreement():
    """Errors 0, 1, 0, 2 on grades 0, 1, 2, 3; kappa = 1 − Σd²·n / Σ over all pairs (i − j)²."""
    truth, guess = np.array([0, 1, 2, 3]), np.array([0, 2, 2, 1])
    result = agreement(truth, guess, 4)
    assert result["accuracy"] == 0.5
    assert result["rmse"] == pytest.approx(np.sqrt(5 / 4))
    chance = np.subtract.outer(truth, guess) ** 2
    assert result["kappa"] == pytest.approx(1 - (5 / 4) / chance.mean())


def test_absent_classes_do_not_move_kappa():
    truth, guess = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert agreement(truth, guess, 3)["kappa"] == pytest.approx(agreement(truth, guess, 5)["kappa"])
