import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from kneegrade.phantom.phantom_knee import sample_knee
from kneegrade.phantom.prevalence import (
    KAPPA,
    NATURAL_KL,
    PAPER_COUNTS,
    reader_confusion,
    second_reading,
    tuple_probabilities,
)
from kneegrade.schema import TARGET_NAMES


def test_paper_prevalence_has_the_marginals_of_the_paper():
    tuples, probabilities = tuple_probabilities("paper")
    for column, name in enumerate(TARGET_NAMES):
        expected = np.array(PAPER_COUNTS[name]) / sum(PAPER_COUNTS[name])
        marginal = np.bincount(tuples[:, column], probabilities, minlength=len(expected))
        np.testing.assert_allclose(marginal, expected, atol=0.01)


def test_natural_and_uniform_prevalence_have_their_kellgren_lawrence_marginals():
    for prevalence, expected in (("natural", NATURAL_KL), ("uniform", [0.2] * 5)):
        tuples, probabilities = tuple_probabilities(prevalence)
        np.testing.assert_allclose(np.bincount(tuples[:, 0], probabilities), expected, atol=1e-9)


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_second_reader_has_the_specified_kappa(name):
    confusion = reader_confusion(name)
    np.testing.assert_allclose(confusion.sum(axis=1), 1)
    assert (confusion.argmax(axis=1) == np.arange(len(confusion))).all()
    tuples, probabilities = tuple_probabilities("paper")
    column = TARGET_NAMES.index(name)
    rng = np.random.default_rng(0)
    truth = tuples[rng.choice(len(tuples), 4000, p=probabilities), column]
    read = np.array([rng.choice(len(confusion), p=confusion[grade]) for grade in truth])
    kappa = cohen_kappa_score(truth, read, weights="quadratic")
    assert kappa == pytest.approx(KAPPA[name.split("_")[0]], abs=0.03)


def test_second_reading_is_reproducible_and_differs_between_knees():
    grades = sample_knee(11, 0, "paper").grades
    readings = [second_reading(grades, 1, index) for index in range(30)]
    assert readings[0] == second_reading(grades, 1, 0)
    assert len({tuple(reading.values()) for reading in readings}) > 5
    assert list(readings[0]) == list(grades)
