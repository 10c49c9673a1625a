"""Metrics of a site, against scikit-learn where it has them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from kneegrade.schema import ONE_HOT_LENGTH


def table(grades, probabilities, **columns):
    rows = {
        "image": [f"{i}.png" for i in range(len(grades))],
        "knee": 0,
        "confidence": 0.9,
        "refused": "",
        "abstain": False,
        "grades": [list(row) for row in grades],
        "probabilities": list(probabilities),
        "sets": [[1] * ONE_HOT_LENGTH for _ in grades],
    }
    return pd.DataFrame(rows | columns)


@pytest.fixture
def knees():
    rng = np.random.default_rng(0)
    kl = rng.integers(0, 5, 80)
    probabilities = np.full((80, ONE_HOT_LENGTH), 0.25)
    probabilities[:, :5] = rng.dirichlet(np.ones(5), 80) + 0.5 * np.eye(5)[kl]
    probabilities[:, :5] /= probabilities[:, :5].sum(1, keepdims=True)
    grades = np.zeros((80, 7), dtype=int)
    grades[:, 0] = probabilities[:, :5].argmax(1)
    group = [f"g{i // 2}" for i in range(80)]
    return table(grades.tolist(), probabilities.tolist(), kl=kl, group=group)


def test_agreement_is_that_of_scikit_learn(knees):
    from site_metrics import column, knee_metrics

    metrics = {name: values[0] for name, values in knee_metrics(knees).items()}
    kl, shares, grades = knees["kl"], column(knees, "probabilities")[:, :5], column(knees, "grades")[:, 0]
    assert metrics["kappa"] == pytest.approx(cohen_kappa_score(kl, grades, weights="quadratic"))
    assert metrics["auc_kl2"] == pytest.approx(roc_auc_score(kl >= 2, shares[:, 2:].sum(1)))
    assert metrics["auc_kl3"] == pytest.approx(roc_auc_score(kl >= 3, shares[:, 3:].sum(1)))
    assert metrics["spearman"] == pytest.approx(spearmanr(kl, shares @ np.arange(5)).statistic)
    assert (metrics["coverage"], metrics["set_size"]) == (1, 5)


def test_a_pictures_shift_is_second_minus_first(knees):
    from site_metrics import two_pictures

    other = knees.copy()
    other["grades"] = [[min(g[0] + 1, 4), *g[1:]] for g in knees["grades"]]
    pair = two_pictures(knees, other)
    raised = np.mean([g[0] < 4 for g in knees["grades"]])
    assert pair["kl_shift"] == pytest.approx(raised)
    assert pair["kl_equal"] == pytest.approx(1 - raised)
    assert pair["expected_kl_shift"] == 0


def test_refused_knees_are_counted_by_reason_and_not_as_graded(knees):
    from site_metrics import refusal_counts

    refused = ["implant"] * 8 + ["view"] * 2 + [""] * 70
    counts = refusal_counts(knees.assign(refused=refused, abstain=[True] * 24 + [False] * 56), 80)
    assert (counts["refused implant"], counts["refused view"], counts["graded"]) == (8, 2, 70)
    assert counts["abstained_share"] == pytest.approx(14 / 70)


def test_only_kl_2_or_more_beside_six_zeros_counts():
    from site_metrics import beside_zeros

    grades = np.array([[2, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 1]])
    assert beside_zeros(grades).tolist() == [True, False, False]


def test_an_image_counts_once_with_its_gradable_knee(knees):
    from site_metrics import one_knee_per_image

    extra = knees.iloc[:1].assign(knee=1, confidence=0.99, grades=None, refused="view")
    kept = one_knee_per_image(pd.concat([extra, knees], ignore_index=True))
    assert len(kept) == 80
    assert (kept["refused"] == "").all()


def test_drawn_knees_are_whole_groups(knees):
    from site_metrics import drawn_groups

    group = knees["group"].to_numpy(dtype=str)
    fitted = drawn_groups(group, 31, seed=1)
    assert fitted.sum() == 32
    assert not np.isin(group[fitted], group[~fitted]).any()


def test_a_scale_that_knows_the_labels_is_better_in_every_draw(knees):
    from site_metrics import calibrated_draws

    kl = knees["kl"].to_numpy()
    sure = np.full((len(kl), ONE_HOT_LENGTH), 0.25)
    sure[:, :5] = np.eye(5)[kl]
    answers = {tuple(p): own for p, own in zip(knees["probabilities"], sure, strict=True)}

    def fit(_probabilities, _grades, _kl, _group):
        def scale(probabilities, grades):
            own = np.array([answers[tuple(p)] for p in probabilities])
            return own, np.c_[own[:, :5].argmax(1), grades[:, 1:]], own > 0.5

        return scale

    means = calibrated_draws(knees, fit, number=30, draws=4)
    assert (means["accuracy"], means["kappa"], means["better"], means["coverage"]) == (1, 1, 1, 1)
    assert means["set_size"] == 1
