import numpy as np
import pytest

from kneegrade.coherence import one_hot, smoothed_table
from kneegrade.evaluation import incoherent_tuples
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGET_NAMES, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder
from kneegrade.uncertainty.joint_decoding import prior_vector, rake_to_labels, zero_support


@pytest.fixture(scope="module")
def table():
    return smoothed_table(grade_tuple_counts())


def population(number, seed=0):
    counts = grade_tuple_counts()
    tuples = np.array(list(counts))
    weights = np.array(list(counts.values())) / sum(counts.values())
    return tuples[np.random.default_rng(seed).choice(len(tuples), number, p=weights)]


def noisy(truth, seed=1, sharp=0.55):
    """Calibrated predictions: the most probable grade is the true one with probability `sharp`, else any other."""
    generator = np.random.default_rng(seed)
    parts = []
    for index, target in enumerate(TARGETS):
        other = (truth[:, index] + generator.integers(1, target.classes, len(truth))) % target.classes
        predicted = np.where(generator.random(len(truth)) < sharp, truth[:, index], other)
        rest = (1 - sharp) / (target.classes - 1)
        parts.append(np.where(np.eye(target.classes)[predicted] > 0, sharp, rest))
    return np.concatenate(parts, axis=1)


def test_exponents_of_zero_change_nothing(table):
    shares = noisy(population(20))
    np.testing.assert_allclose(CoherentDecoder(table, 0, 0).marginals(shares), shares, rtol=1e-9)


def test_marginals_agree_with_bayes_rule(table):
    """One knee, computed on the whole table."""
    shares = noisy(population(1, seed=5))
    decoder = CoherentDecoder(table, 0.5, 0.8)
    starts = np.cumsum([0, *CLASSES])
    prior = prior_vector(table)
    weights = table**0.8
    for axis, (start, k) in enumerate(zip(starts, CLASSES, strict=False)):
        evidence = shares[0, start : start + k] / prior[start : start + k] ** 0.5
        weights = weights * evidence.reshape([-1 if a == axis else 1 for a in range(7)])
    weights /= weights.sum()
    np.testing.assert_allclose(decoder.marginals(shares)[0], prior_vector(weights), rtol=1e-8)


def test_grades_break_no_hard_rule_and_keep_the_most_probable_grades_where_these_break_none(table):
    shares = np.random.default_rng(0).dirichlet(np.ones(4) * 0.3, (200, 7))
    vector = np.concatenate([np.random.default_rng(1).dirichlet(np.ones(5), 200), *shares[:, 1:].swapaxes(0, 1)], 1)
    decoder = CoherentDecoder(table, 1, 1)
    grades = decoder.grades(vector)
    hard, _ = incoherent_tuples(grades)
    assert not hard.any()
    most_probable = np.stack([vector[:, t.one_hot].argmax(1) for t in TARGETS], axis=1)
    coherent = ~incoherent_tuples(most_probable)[0]
    assert coherent.any()
    assert (grades[coherent] == most_probable[coherent]).all()
    assert not coherent.all()


def marginals_of(kl, zero):
    """(1, 29) marginals: KL's distribution, and six OARSI grades that are 0 with a probability, else 1."""
    return np.array([[*kl, *[zero, 1 - zero, 0, 0] * 6]])


@pytest.mark.parametrize(
    ("kl", "zero", "reported"),
    [
        ((0.05, 0.1, 0.8, 0.05, 0), 0.6, (2, 1)),  # KL is the surer one
        ((0.05, 0.4, 0.5, 0.05, 0), 0.9, (1, 0)),  # the OARSI zeros are
        ((0, 0.02, 0.98, 0, 0), 0.95, (2, 0)),  # at least 0.68 for KL 2 and six zeros
        ((0.1, 0.6, 0.3, 0, 0), 0.9, (1, 0)),  # not such a tuple
    ],
)
def test_kl_2_beside_six_zeros_is_reported_only_where_it_is_more_probable_than_not(table, kl, zero, reported):
    (grades,) = CoherentDecoder(table, 0, 0.7).grades(marginals_of(kl, zero))
    assert (grades[0], grades[1:].max()) == reported
    assert grades[1:].sum() == reported[1]  # at most one OARSI grade is raised


def test_each_knee_of_many_is_decided_by_its_own_support(table):
    plain, supported = marginals_of((0.05, 0.4, 0.5, 0.05, 0), 0.9), marginals_of((0, 0.02, 0.98, 0, 0), 0.95)
    pattern = np.arange(600) % 7 == 0  # more knees than are decoded together
    grades = CoherentDecoder(table, 0, 0.7).grades(np.where(pattern[:, None], supported, plain))
    np.testing.assert_array_equal(grades[:, 0], np.where(pattern, 2, 1))


def test_the_support_is_a_lower_bound_of_the_probability_in_a_joint_distribution():
    joint = np.random.default_rng(3).dirichlet(np.full(20480, 0.01), 20).reshape(20, *CLASSES)
    joint[:, 2, 0, 0, 0, 0, 0, 0] += 30.0  # KL 2 and six zeros
    joint /= joint.sum(axis=tuple(range(1, 8)), keepdims=True)
    probability = joint[:, 2:, 0, 0, 0, 0, 0, 0].sum(1)
    bound = zero_support(np.stack([prior_vector(each) for each in joint]))
    assert (bound <= probability + 1e-12).all()
    assert (bound > 0).any()


def test_the_table_is_raked_to_the_labels_and_keeps_its_other_conditional_distributions(table):
    truth = population(400)
    truth = truth[truth[:, 0] <= 1]
    targets = one_hot(truth)
    targets[:, 5:] = np.nan
    raked = rake_to_labels(table, targets)
    share = np.bincount(truth[:, 0], minlength=5) + 0.5
    np.testing.assert_allclose(prior_vector(raked)[:5], share / share.sum(), atol=1e-6)
    rows, before = (each.reshape(5, -1) for each in (raked, table))
    np.testing.assert_allclose(*(each / each.sum(1, keepdims=True) for each in (rows, before)), atol=1e-9)


def test_no_knees_give_no_rows(table):
    decoder = CoherentDecoder(table, 1, 1)
    assert decoder.marginals(np.empty((0, ONE_HOT_LENGTH))).shape == (0, ONE_HOT_LENGTH)
    assert decoder.grades(np.empty((0, ONE_HOT_LENGTH))).shape == (0, len(TARGET_NAMES))
