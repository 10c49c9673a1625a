import numpy as np
import pytest
import torch
from torch.nn import functional

from kneegrade.coherence import concatenate_probabilities, incoherence_loss, one_hot, smoothed_table
from kneegrade.errors import RecipeError
from kneegrade.network import GradeLogits
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.training.config import Loss
from kneegrade.training.losses import SemiSupervisedLoss, class_weights, classification_loss, regression_loss

COUNTS = grade_tuple_counts()
ROWS = np.repeat(np.array(list(COUNTS)), list(COUNTS.values()), axis=0)[::11]
TARGET_ROWS = one_hot(ROWS).astype(np.float32)


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


def test_missing_grades_do_not_contribute():
    _, targets, logits = random_case()
    weights = torch.rand(ONE_HOT_LENGTH) + 0.5
    half = {name: values[:25] for name, values in logits.items()}
    expected = classification_loss(half, targets[:25], weights)
    with_missing = targets.clone()
    with_missing[25:] = torch.nan
    torch.testing.assert_close(classification_loss(logits, with_missing, weights), expected)
    all_missing = classification_loss(logits, torch.full_like(targets, torch.nan), weights)
    assert all_missing.item() == 0.0


def test_weights_are_inverse_prevalence_with_mean_one():
    targets = torch.from_numpy(one_hot(np.array([[0] * 7] * 6 + [[1] * 7] * 3 + [[2] * 7]))).float()
    weights = class_weights(targets, cap=100)
    assert weights[:5].tolist() == pytest.approx([1 / 0.6 / 3, 1 / 0.3 / 3, 1 / 0.1 / 3, 0, 0])
    share = targets[:, :5].mean(0)
    assert (weights[:5] * share).sum().item() == pytest.approx(1.0)


def test_the_cap_limits_the_ratio_and_1_means_equal_weights():
    _, targets, _ = random_case(500)
    targets[:, 0] = 0
    targets[:490, :5] = torch.tensor([0.0, 1, 0, 0, 0])
    capped = class_weights(targets, cap=3)[1:5]
    assert (capped.max() / capped[capped > 0].min()).item() == pytest.approx(3.0)
    assert class_weights(targets, cap=1)[1:5].tolist() == pytest.approx([1.0] * 4, rel=0.02)


def random_output(number=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = {t.name: torch.randn(number, t.classes, generator=generator) for t in TARGETS}
    numbers = {t.name: torch.randn(number, generator=generator) for t in TARGETS}
    return GradeLogits(logits, torch.zeros(number, 1, 1), numbers)


def test_regression_loss_is_the_sum_of_squared_errors():
    predicted, targets = random_output(), torch.from_numpy(TARGET_ROWS[:6].copy())
    targets[0, 5:9] = torch.nan
    expected = torch.zeros(())
    for index, target in enumerate(TARGETS):
        rows = slice(1, 6) if target.name == "jsn_lateral" else slice(0, 6)
        truth = torch.from_numpy(ROWS[:6, index]).float()[rows]
        expected = expected + functional.mse_loss(predicted.numbers[target.name][rows], truth)
    torch.testing.assert_close(regression_loss(predicted.numbers, targets), expected)


def test_the_regression_target_of_a_soft_label_is_its_mean_grade():
    targets = torch.full((1, 29), torch.nan)
    targets[0, :5] = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    numbers = {t.name: torch.tensor([2.5]) for t in TARGETS}
    assert regression_loss(numbers, targets).item() == pytest.approx(1.0)


def test_eq_5_is_the_weighted_sum_of_its_parts():
    loss = SemiSupervisedLoss(Loss(lambda_cls=0.5, lambda_gmm=2, tau=0.75), TARGET_ROWS, seed=0)
    predicted, targets = random_output(), torch.from_numpy(TARGET_ROWS[:6])
    parts = loss(predicted, targets, coherent=True)
    cls = classification_loss(predicted.logits, targets, loss.class_weights)
    g = loss.mixture.log_probability(concatenate_probabilities(predicted.logits))
    torch.testing.assert_close(parts["loss"], 0.5 * cls + 2 * incoherence_loss(g, 0.75).mean())


def test_coherence_is_left_out_during_the_warm_up():
    loss = SemiSupervisedLoss(Loss(), TARGET_ROWS, seed=0)
    parts = loss(random_output(), torch.from_numpy(TARGET_ROWS[:6]), coherent=False)
    assert set(parts) == {"loss", "cls"}
    torch.testing.assert_close(parts["loss"], parts["cls"])


def test_unlabelled_knees_contribute_to_coherence_only():
    loss = SemiSupervisedLoss(Loss(), TARGET_ROWS, seed=0)
    predicted = random_output()
    for logits in predicted.logits.values():
        logits.requires_grad_(True)
    targets = torch.from_numpy(TARGET_ROWS[:6].copy())
    targets[3:] = torch.nan
    loss(predicted, targets, coherent=False)["loss"].backward()
    assert all((logits.grad[3:] == 0).all() for logits in predicted.logits.values())
    loss(predicted, targets, coherent=True)["loss"].backward()
    assert all((logits.grad[3:] != 0).any() for logits in predicted.logits.values())


def test_exact_coherence_loss_is_lower_for_plausible_grades():
    loss = SemiSupervisedLoss(Loss(lambda_gmm=0, lambda_joint=1), TARGET_ROWS, seed=0)
    plausible, implausible = (0, 0, 0, 0, 0, 0, 0), (4, 0, 0, 0, 0, 0, 0)
    losses = []
    for grades in (plausible, implausible):
        logits = {t.name: 8 * torch.eye(t.classes)[[grade]] for t, grade in zip(TARGETS, grades, strict=True)}
        predicted = GradeLogits(logits, torch.zeros(1, 1, 1), {})
        losses.append(loss(predicted, torch.full((1, 29), torch.nan), coherent=True)["joint"].item())
    assert losses[0] < losses[1] - 1


def test_coherence_is_based_on_the_labels_or_the_packaged_counts():
    few = TARGET_ROWS[:20]
    with pytest.raises(RecipeError, match="packaged"):
        SemiSupervisedLoss(Loss(), few, seed=0)
    packaged = smoothed_table(COUNTS)
    np.testing.assert_allclose(
        SemiSupervisedLoss(Loss(grades_from="packaged"), few, seed=0).joint.values, packaged, rtol=1e-5
    )
    assert not np.allclose(SemiSupervisedLoss(Loss(), TARGET_ROWS, seed=0).joint.values, packaged, rtol=1e-2)
    assert SemiSupervisedLoss(Loss(lambda_gmm=0), few, seed=0).class_weights.shape == (29,)
