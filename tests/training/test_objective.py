import numpy as np
import pytest
import torch
from torch.nn import functional

from kneegrade.coherence import concatenate_probabilities, incoherence_loss, one_hot, smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.network import GradeLogits
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.training.config import Loss
from kneegrade.training.losses import SemiSupervisedLoss, classification_loss, regression_loss

COUNTS = grade_tuple_counts()
ROWS = np.repeat(np.array(list(COUNTS)), list(COUNTS.values()), axis=0)[::11]
TARGET_ROWS = one_hot(ROWS).astype(np.float32)


def output(number=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = {t.name: torch.randn(number, t.classes, generator=generator) for t in TARGETS}
    numbers = {t.name: torch.randn(number, generator=generator) for t in TARGETS}
    return GradeLogits(logits, torch.zeros(number, 1, 1), numbers)


def test_eq_5_is_the_weighted_sum_of_its_parts():
    objective = SemiSupervisedLoss(Loss(lambda_cls=0.5, lambda_gmm=2, tau=0.75), TARGET_ROWS, seed=0)
    said, targets = output(), torch.from_numpy(TARGET_ROWS[:6])
    parts = objective(said, targets, coherent=True)
    cls = classification_loss(said.logits, targets, objective.class_weights)
    g = objective.mixture.log_probability(concatenate_probabilities(said.logits))
    torch.testing.assert_close(parts["loss"], 0.5 * cls + 2 * incoherence_loss(g, 0.75).mean())


def test_warming_up_leaves_coherence_out():
    objective = SemiSupervisedLoss(Loss(), TARGET_ROWS, seed=0)
    parts = objective(output(), torch.from_numpy(TARGET_ROWS[:6]), coherent=False)
    assert set(parts) == {"loss", "cls"}
    torch.testing.assert_close(parts["loss"], parts["cls"])


def test_unlabelled_knees_feel_coherence_alone():
    objective = SemiSupervisedLoss(Loss(), TARGET_ROWS, seed=0)
    said = output()
    for logits in said.logits.values():
        logits.requires_grad_(True)
    targets = torch.from_numpy(TARGET_ROWS[:6].copy())
    targets[3:] = torch.nan
    objective(said, targets, coherent=False)["loss"].backward()
    assert all((logits.grad[3:] == 0).all() for logits in said.logits.values())
    objective(said, targets, coherent=True)["loss"].backward()
    assert all((logits.grad[3:] != 0).any() for logits in said.logits.values())


def test_exact_coherence_falls_when_grades_agree():
    objective = SemiSupervisedLoss(Loss(lambda_gmm=0, lambda_joint=1), TARGET_ROWS, seed=0)
    agreed, odd = (0, 0, 0, 0, 0, 0, 0), (4, 0, 0, 0, 0, 0, 0)
    losses = []
    for grades in (agreed, odd):
        logits = {t.name: 8 * torch.eye(t.classes)[[grade]] for t, grade in zip(TARGETS, grades, strict=True)}
        said = GradeLogits(logits, torch.zeros(1, 1, 1), {})
        losses.append(objective(said, torch.full((1, 29), torch.nan), coherent=True)["joint"].item())
    assert losses[0] < losses[1] - 1


def test_coherence_is_made_of_the_labels_or_of_the_packaged_counts():
    few = TARGET_ROWS[:20]
    with pytest.raises(RecipeError, match="packaged"):
        SemiSupervisedLoss(Loss(), few, seed=0)
    packaged = smoothed_table(COUNTS)
    np.testing.assert_allclose(
        SemiSupervisedLoss(Loss(grades_from="packaged"), few, seed=0).joint.values, packaged, rtol=1e-5
    )
    assert not np.allclose(SemiSupervisedLoss(Loss(), TARGET_ROWS, seed=0).joint.values, packaged, rtol=1e-2)
    assert SemiSupervisedLoss(Loss(lambda_gmm=0), few, seed=0).class_weights.shape == (29,)


def test_regression_loss_is_the_sum_of_squared_errors():
    said, targets = output(), torch.from_numpy(TARGET_ROWS[:6].copy())
    targets[0, 5:9] = torch.nan
    expected = torch.zeros(())
    for index, target in enumerate(TARGETS):
        rows = slice(1, 6) if target.name == "jsn_lateral" else slice(0, 6)
        truth = torch.from_numpy(ROWS[:6, index]).float()[rows]
        expected = expected + functional.mse_loss(said.numbers[target.name][rows], truth)
    torch.testing.assert_close(regression_loss(said.numbers, targets), expected)


def test_a_soft_label_counts_as_its_mean_grade():
    targets = torch.full((1, 29), torch.nan)
    targets[0, :5] = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    numbers = {t.name: torch.tensor([2.5]) for t in TARGETS}
    assert regression_loss(numbers, targets).item() == pytest.approx(1.0)
