r"""How well human labels go together: which knees to look at again, and at which grade.

For grade i of a knee, given the others as read, the joint table says how likely each of its classes is. The odds

    s_i = max_c log p(c | y_{-i}) − log p(y_i | y_{-i})

are 0 where the grade read is the likeliest and grow as it becomes odd; a knee's score is its largest, and that grade
is the suspect. Grades never read are summed out. What is rare but agrees with itself scores low; the log-probability
of the whole tuple and its rank among all cells stand beside the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.coherence.rules import broken_rules
from kneegrade.schema import TARGET_NAMES

LEAST = 1e-4  # probabilities below it count as it

Array = NDArray[np.float64]
Grades = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class CoherenceAudit:
    """Of N knees.

    Attributes:
        score: (N,) float64 ≥ 0, largest odds of a grade against its likeliest alternative, natural logarithm.
        suspect: (N,) index of that grade, -1 where no grade was read.
        expected: (N,) the likeliest class of the suspect given the other grades, -1 likewise.
        log_probability: (N,) of the grades read under the joint table.
        rank: (N,) place of the tuple among all cells, 1 the likeliest; 0 where a grade is missing.
        rules: per knee the codes of the rules it breaks, hard ones first.
    """

    score: Array
    suspect: NDArray[np.int64]
    expected: NDArray[np.int64]
    log_probability: Array
    rank: NDArray[np.int64]
    rules: tuple[tuple[str, ...], ...]


def audit_grades(grades: Grades, table: Array) -> CoherenceAudit:
    """The audit of (N, 7) grades, -1 where never read, against a joint table (5, 4, 4, 4, 4, 4, 4), all positive."""
    tuples, place = np.unique(grades, axis=0, return_inverse=True)
    place = place.reshape(-1)
    order = np.sort(table.reshape(-1))[::-1]
    audited = [_audit_one(row, table, order) for row in tuples.tolist()]
    score, suspect, expected, log_probability, rank = (
        np.array(column)[place] for column in zip(*audited, strict=True)
    )  # fmt: skip
    named = [{name: g for name, g in zip(TARGET_NAMES, row, strict=True) if g >= 0} for row in tuples.tolist()]
    rules = [tuple(rule.code for rule in broken_rules(known)) for known in named]
    return CoherenceAudit(
        score.astype(np.float64), suspect.astype(np.int64), expected.astype(np.int64),
        log_probability.astype(np.float64), rank.astype(np.int64), tuple(rules[i] for i in place),
    )  # fmt: skip


def _audit_one(row: Sequence[int], table: Array, order: Array) -> tuple[float, int, int, float, int]:
    """(score, suspect, expected, log-probability, rank) of one tuple."""
    missing = tuple(axis for axis, grade in enumerate(row) if grade < 0)
    known = [(axis, grade) for axis, grade in enumerate(row) if grade >= 0]
    if not known:
        return 0.0, -1, -1, 0.0, 0
    marginal = table.sum(missing)
    cell = tuple(grade for _, grade in known)
    value = float(marginal[cell])
    best = (0.0, known[0][0], known[0][1])
    for position, (axis, _) in enumerate(known):
        line = marginal[(*cell[:position], slice(None), *cell[position + 1 :])]
        odds = float(np.log(line.max() / value))
        if odds > best[0]:
            best = (odds, axis, int(line.argmax()))
    rank = 0 if missing else int(np.searchsorted(-order, -value)) + 1
    return best[0], best[1], best[2], float(np.log(value)), rank


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Where predictions and labels of N knees disagree with confidence.

    Attributes:
        score: (N,) float64 ≥ 0; largest log p(predicted) − log p(label) over the grades that disagree, 0 where none
            does: the same unit as the score of coherence.
        grade: (N,) index of that grade, -1 where none disagrees.
        predicted: (N,) the class that is predicted for it, -1 likewise.
    """

    score: Array
    grade: NDArray[np.int64]
    predicted: NDArray[np.int64]


def confident_disagreement(grades: Grades, probabilities: Sequence[Array]) -> Disagreement:
    """Labels that predictions contradict with confidence, after Northcutt, Jiang and Chuang (2021).

    A class is predicted with confidence where its probability reaches the mean that it has among the knees labelled
    so. A label disagrees where another class is so predicted, and is likelier than the label's own.

    Args:
        grades: (N, 7) labels, -1 where never read.
        probabilities: seven arrays (N, classes), of networks that did not learn from these labels.
    """
    number = len(grades)
    score, which, said = np.zeros(number), np.full(number, -1), np.full(number, -1)
    for index, shares in enumerate(probabilities):
        label = grades[:, index]
        read = np.flatnonzero((label >= 0) & np.isfinite(shares).all(axis=1))
        if not len(read):
            continue
        own, labels = shares[read], label[read]
        usual = np.array([own[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(own.shape[1])])
        sure = np.where(own >= usual, own, -np.inf)
        predicted = sure.argmax(axis=1)
        logs = np.log(np.maximum(own, LEAST))
        margin = logs[np.arange(len(read)), predicted] - logs[np.arange(len(read)), labels]
        odd = np.isfinite(sure.max(axis=1)) & (predicted != labels) & (margin > score[read])
        rows = read[odd]
        score[rows], which[rows], said[rows] = margin[odd], index, predicted[odd]
    return Disagreement(score, which.astype(np.int64), said.astype(np.int64))
