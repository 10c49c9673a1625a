r"""Audit of human labels: which knees should be reviewed, and which of their grades.

Two scores, both natural logarithms of odds of an alternative grade against the label:

- Coherence (`audit_grades`): for grade i of a knee, given its other labels, the joint table gives the probability of
  each class. The log-odds

      s_i = max_c log p(c | y_{-i}) − log p(y_i | y_{-i})

  are 0 if the label is the most probable class. The score of a knee is its largest s_i, and that grade is the suspect.
  Missing grades are summed out. A rare but consistent combination of grades has a low score; the log-probability of the
  combination and its rank among all cells are reported beside the score.
- Disagreement with the confident predictions of a network (`confident_disagreement`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.coherence.rules import broken_rules
from kneegrade.schema import TARGET_NAMES

MIN_PROBABILITY = 1e-4  # smaller probabilities are raised to it before the logarithm

Array = NDArray[np.float64]
Grades = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class CoherenceAudit:
    """Coherence of the labels of N knees.

    Attributes:
        score: (N,) float64 ≥ 0, largest log-odds of the most probable alternative against a label.
        suspect: (N,) index of that grade, -1 if a knee has no label.
        expected: (N,) most probable class of the suspect given the other labels, -1 if a knee has no label.
        log_probability: (N,) of the labels under the joint table.
        rank: (N,) rank of the combination of grades among all cells, 1 for the most probable; 0 if a grade is missing.
        rules: for each knee the codes of the violated rules, hard rules first.
    """

    score: Array
    suspect: NDArray[np.int64]
    expected: NDArray[np.int64]
    log_probability: Array
    rank: NDArray[np.int64]
    rules: tuple[tuple[str, ...], ...]


def audit_grades(grades: Grades, table: Array) -> CoherenceAudit:
    """Return the audit of labels against a joint table.

    Args:
        grades: (N, 7), -1 for a missing grade.
        table: (5, 4, 4, 4, 4, 4, 4), all positive.
    """
    tuples, inverse = np.unique(grades, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    descending = np.sort(table.reshape(-1))[::-1]
    audited = [_audit_tuple(row, table, descending) for row in tuples.tolist()]
    score, suspect, expected, log_probability, rank = (
        np.array(column)[inverse] for column in zip(*audited, strict=True)
    )  # fmt: skip
    named = [{name: g for name, g in zip(TARGET_NAMES, row, strict=True) if g >= 0} for row in tuples.tolist()]
    rules = [tuple(rule.code for rule in broken_rules(known)) for known in named]
    return CoherenceAudit(
        score.astype(np.float64), suspect.astype(np.int64), expected.astype(np.int64),
        log_probability.astype(np.float64), rank.astype(np.int64), tuple(rules[i] for i in inverse),
    )  # fmt: skip


def _audit_tuple(row: Sequence[int], table: Array, descending: Array) -> tuple[float, int, int, float, int]:
    """Return (score, suspect, expected, log-probability, rank) of one combination of grades.

    Args:
        row: seven grades, -1 for a missing one.
        table: joint distribution.
        descending: its values, sorted.
    """
    missing = tuple(axis for axis, grade in enumerate(row) if grade < 0)
    known = [(axis, grade) for axis, grade in enumerate(row) if grade >= 0]
    if not known:
        return 0.0, -1, -1, 0.0, 0
    marginal = table.sum(missing)
    cell = tuple(grade for _, grade in known)
    probability = float(marginal[cell])
    score, suspect, expected = 0.0, known[0][0], known[0][1]
    for position, (axis, _) in enumerate(known):
        alternatives = marginal[(*cell[:position], slice(None), *cell[position + 1 :])]  # all classes of this grade
        log_odds = float(np.log(alternatives.max() / probability))
        if log_odds > score:
            score, suspect, expected = log_odds, axis, int(alternatives.argmax())
    rank = 0 if missing else int(np.searchsorted(-descending, -probability)) + 1
    return score, suspect, expected, float(np.log(probability)), rank


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Confident disagreement between predictions and labels of N knees.

    Attributes:
        score: (N,) float64 ≥ 0, largest log p(predicted) − log p(label) over the grades that disagree, 0 without a
            disagreement; comparable to the score of `CoherenceAudit`.
        grade: (N,) index of that grade, -1 without a disagreement.
        predicted: (N,) predicted class of that grade, -1 without a disagreement.
    """

    score: Array
    grade: NDArray[np.int64]
    predicted: NDArray[np.int64]


def confident_disagreement(grades: Grades, probabilities: Sequence[Array]) -> Disagreement:
    """Return the labels that predictions contradict with confidence, after Northcutt, Jiang and Chuang (2021).

    A class is predicted with confidence if its probability is at least its mean probability among the knees with this
    label. A label disagrees if another class is predicted with confidence and is more probable than the label.

    Args:
        grades: (N, 7) labels, -1 for a missing one.
        probabilities: seven arrays (N, classes), predicted by networks that were not trained on these labels.
    """
    number = len(grades)
    score, suspect, predicted_class = np.zeros(number), np.full(number, -1), np.full(number, -1)
    for index, all_probabilities in enumerate(probabilities):
        known = np.flatnonzero((grades[:, index] >= 0) & np.isfinite(all_probabilities).all(axis=1))
        if not len(known):
            continue
        p, labels = all_probabilities[known], grades[known, index]  # (M, classes), (M,)
        classes = range(p.shape[1])
        threshold = np.array([p[labels == c, c].mean() if (labels == c).any() else np.inf for c in classes])
        confident = np.where(p >= threshold, p, -np.inf)
        predicted = confident.argmax(axis=1)
        log_p = np.log(np.maximum(p, MIN_PROBABILITY))
        row = np.arange(len(known))
        margin = log_p[row, predicted] - log_p[row, labels]
        disagrees = np.isfinite(confident.max(axis=1)) & (predicted != labels) & (margin > score[known])
        knees = known[disagrees]
        score[knees], suspect[knees], predicted_class[knees] = margin[disagrees], index, predicted[disagrees]
    return Disagreement(score, suspect.astype(np.int64), predicted_class.astype(np.int64))
