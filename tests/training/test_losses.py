import numpy as np
import pytest
import torch
from torch.nn import functional

from kneegrade.coherence import one_hot
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.training.losses import class_weights, classification_loss


def random_case(number=50, seed=0):
    generator = np.random.default_rng(seed)
    rows = np.stack([generator.integers(0, t.classes, number) for t in TARGETS], axis=1)
    logits = {t.name: torch.from_numpy(generator.normal(size=(number, t.classes))).float() for t in TARGETS}
    return rows, torch.from_numpy(one_hot(rows)).float(), logits


def test_unweighted_loss_is_the_sum_of_torchs_cross_entropies():
    rows, targets, logits = random_case()
    expected = sum(
        functional.cross_entropy(logits[t.name], torch.from_numpy(rows[:, i])) for i, t in enumerate(TARGETS)
    )
    torch.testing.assert_close(classification_loss(logits, targets, torch.ones(ONE_HOT_LENGTH)), expected)


def test_missing_grades_contribute_nothing():
    _, targets, logits = random_case()
    weights = torch.rand(ONE_HOT_LENGTH) + 0.5
    half = {name: values[:25] for name, values in logits.items()}
    expected = classification_loss(half, targets[:25], weights)
    with_missing = targets.clone()
    with_missing[25:] = torch.nan
    torch.testing.assert_close(classification_loss(logits, with_missing, weights), expected)
    nothing = classification_loss(logits, torch.full_like(targets, torch.nan), weights)
    assert nothing.item() == 0.0


def test_weights_are_inverse_prevalence_with_mean_one():
    targets = torch.from_numpy(one_hot(np.array([[0] * 7] * 6 + [[1] * 7] * 3 + [[2] * 7]))).float()
    weights = class_weights(targets, cap=100)
    assert weights[:5].tolist() == pytest.approx([1 / 0.6 / 3, 1 / 0.3 / 3, 1 / 0.1 / 3, 0, 0])
    share = targets[:, :5].mean(0)
    assert (weights[:5] * share).sum().item() == pytest.approx(1.0)


def test_the_cap_bounds_the_ratio_and_one_switches_weighting_off():
    _, targets, _ = random_case(500)
    targets[:, 0] = 0
    targets[:490, :5] = torch.tensor([0.0, 1, 0, 0, 0])
    capped = class_weights(targets, cap=3)[1:5]
    assert (capped.max() / capped[capped > 0].min()).item() == pytest.approx(3.0)
    assert class_weights(targets, cap=1)[1:5].tolist() == pytest.approx([1.0] * 4, rel=0.02)
