import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kneegrade.coherence import audit_grades, confident_disagreement, smoothed_table
from kneegrade.schema import CLASSES, TARGET_NAMES, TARGETS, grade_tuple_counts


@pytest.fixture(scope="module")
def table():
    return smoothed_table(grade_tuple_counts())


def test_score_suspect_and_rank_against_values_computed_by_hand():
    """A table with two counted cells; the second knee has narrowing 0 instead of 3."""
    counts = {(0,) * 7: 90, (4, 0, 3, 2, 2, 2, 2): 10}
    small = smoothed_table(counts)
    audit = audit_grades(np.array([[4, 0, 3, 2, 2, 2, 2], [4, 0, 0, 2, 2, 2, 2]]), small)
    assert audit.score[0] == 0
    assert audit.rank.tolist()[0] == 2
    assert TARGET_NAMES[audit.suspect[1]] == "jsn_medial"
    assert audit.expected[1] == 3
    expected = np.log(small[4, 0, 3, 2, 2, 2, 2] / small[4, 0, 0, 2, 2, 2, 2])
    assert audit.score[1] == pytest.approx(expected)
    assert audit.log_probability[1] == pytest.approx(np.log(small[4, 0, 0, 2, 2, 2, 2]))
    assert audit.rules[1] == ("kl4_needs_jsn3",)


def test_missing_grades_are_summed_out(table):
    partial = np.array([[3, 0, 1, -1, -1, -1, -1], [-1] * 7, [2, -1, -1, -1, -1, -1, -1]])
    audit = audit_grades(partial, table)
    marginal = table.sum((3, 4, 5, 6))
    assert audit.score[0] == pytest.approx(
        max(np.log(marginal[:, 0, 1].max()), np.log(marginal[3, 0].max()), np.log(marginal[3, :, 1].max()))
        - np.log(marginal[3, 0, 1])
    )
    assert audit.rank.tolist() == [0, 0, 0]
    assert (audit.score[1], audit.suspect[1]) == (0, -1)


def with_planted_errors(seed=0):
    """Counts of half of the knees; the other half, of which 5 % have one grade changed by 2 or more."""
    generator = np.random.default_rng(seed)
    counts = grade_tuple_counts()
    tuples, numbers = np.array(list(counts)), np.array(list(counts.values()))
    half = generator.binomial(numbers, 0.5)
    grades = np.repeat(tuples, numbers - half, axis=0)
    wrong = generator.random(len(grades)) < 0.05
    moved = np.zeros(len(grades), dtype=int)
    for row in np.flatnonzero(wrong):
        options = [(q, g) for q, t in enumerate(TARGETS) for g in range(t.classes) if abs(g - grades[row, q]) >= 2]
        moved[row], grades[row, moved[row]] = options[generator.integers(len(options))]
    return dict(zip(map(tuple, tuples[half > 0].tolist()), half[half > 0].tolist(), strict=True)), grades, wrong, moved


def test_planted_errors_are_detected_best_if_they_break_a_hard_rule_or_fall_into_an_unseen_cell():
    """From labels alone, on knees that were not counted for the table."""
    known, grades, wrong, moved = with_planted_errors()
    audit = audit_grades(grades, smoothed_table(known))
    unseen = np.array([tuple(row) not in known for row in grades.tolist()])
    breaking = wrong & (
        unseen | np.array([any(c.startswith(("kl4", "jsn3", "kl3", "low")) for c in own) for own in audit.rules])
    )
    assert breaking.sum() > 50
    others = ~wrong
    assert roc_auc_score(breaking[breaking | others], audit.score[breaking | others]) >= 0.85
    silent = wrong & ~breaking
    assert roc_auc_score(silent[silent | others], audit.score[silent | others]) > 0.6
    assert (audit.suspect[wrong] == moved[wrong]).mean() > 0.75


def test_only_confident_predictions_disagree_with_labels():
    labels = np.full((30, 7), -1)
    labels[:, 0] = np.repeat([0, 2, 4], 10)
    probabilities = [np.full((30, k), 1 / k) for k in CLASSES]
    probabilities[0] = np.full((30, 5), 0.05)
    probabilities[0][np.arange(30), labels[:, 0]] = 0.8
    probabilities[0][3] = [0.02, 0.02, 0.92, 0.02, 0.02]  # label 0, 2 predicted with confidence
    probabilities[0][4] = [0.3, 0.1, 0.4, 0.1, 0.1]  # label 0, 2 more probable but not with confidence
    found = confident_disagreement(labels, probabilities)
    assert np.flatnonzero(found.score).tolist() == [3]
    assert (found.grade[3], found.predicted[3]) == (0, 2)
    assert found.score[3] == pytest.approx(np.log(0.92 / 0.02))
