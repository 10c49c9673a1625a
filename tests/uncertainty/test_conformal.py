import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.uncertainty import ConformalSets, fit_sets
from kneegrade.uncertainty.conformal import mass_before


def drawn(seed, number, sharpness=1.0):
    """Probabilities and one-hot labels drawn from them: the predictions of a perfectly calibrated network."""
    generator = np.random.default_rng(seed)
    shares, labels = np.zeros((number, ONE_HOT_LENGTH)), np.zeros((number, ONE_HOT_LENGTH))
    for target in TARGETS:
        own = generator.dirichlet(np.full(target.classes, sharpness), number)
        shares[:, target.one_hot] = own
        picked = (generator.random((number, 1)) > own.cumsum(1)).sum(1)
        labels[np.arange(number), target.offset + picked] = 1
    return shares, labels


def coverage(sets, labels):
    """Share of the sets of each grade that contain the label."""
    return [(sets[:, t.one_hot] * labels[:, t.one_hot]).sum(1).mean() for t in TARGETS]


def slow_mass_before(row):
    """Reference implementation with a loop, one grade at a time."""
    low = high = int(np.argmax(row))
    before, mass = [0.0] * len(row), row[low]
    while high - low + 1 < len(row):
        left = row[low - 1] if low > 0 else -1
        right = row[high + 1] if high + 1 < len(row) else -1
        if left >= right:
            low -= 1
            before[low] = mass
            mass += left
        else:
            high += 1
            before[high] = mass
            mass += right
    return before


@given(st.lists(st.floats(0.001, 1), min_size=4, max_size=5))
def test_mass_before_agrees_with_a_loop(values):
    row = np.array(values) / sum(values)
    np.testing.assert_allclose(mass_before(row[None])[0], slow_mass_before(row), atol=1e-12)


def test_sets_contain_the_true_grade_with_the_stated_probability():
    fitted = fit_sets(*drawn(0, 2000), level=0.9)
    shares, labels = drawn(1, 4000)
    sets = fitted.sets(shares, np.array([[shares[i, t.one_hot].argmax() for t in TARGETS] for i in range(4000)]))
    for share in coverage(sets, labels):
        assert 0.872 < share < 0.928  # 0.9 ± three standard errors of both samples


def test_coverage_holds_even_for_a_useless_network():
    """Probabilities that are independent of the labels: the sets grow until they contain them."""
    shares, _ = drawn(2, 2000, sharpness=0.2)
    _, labels = drawn(3, 2000)
    fitted = fit_sets(shares[:1000], labels[:1000], level=0.9)
    predicted = np.array([[row[t.one_hot].argmax() for t in TARGETS] for row in shares[1000:]])
    sets = fitted.sets(shares[1000:], predicted)
    assert min(coverage(sets, labels[1000:])) > 0.855  # three standard errors


def test_the_threshold_is_the_right_order_statistic():
    """Nine knees, one grade: the (9 + 1) · 0.8 = 8th smallest score."""
    shares = np.full((9, ONE_HOT_LENGTH), np.nan)
    labels = np.full((9, ONE_HOT_LENGTH), np.nan)
    kl = TARGETS[0].one_hot
    for row in range(9):
        top = 0.3 + 0.05 * row
        shares[row, kl] = [top, 1 - top, 0, 0, 0] if top > 0.5 else [1 - top, top, 0, 0, 0]
        labels[row, kl] = [0, 1, 0, 0, 0]
    shares = np.nan_to_num(shares, nan=0.25)
    scores = sorted(mass_before(shares[:, kl])[:, 1])
    fitted = fit_sets(shares, labels, level=0.8)
    assert float(fitted.threshold[0]) == pytest.approx(scores[7], abs=1e-6)
    assert float(fitted.threshold[0]) >= scores[7]
    assert fitted.threshold[1:].tolist() == [1.0] * 6  # no label: the whole scale
    assert fit_sets(shares, labels, level=0.95).threshold[0] == 1.0  # nine knees are too few for this level


def test_soft_labels_are_weighted_by_their_probability():
    shares, labels = drawn(4, 50)
    soft = 0.5 * labels + 0.5 * shares
    twice = np.concatenate([shares, shares])
    hard = fit_sets(twice, np.concatenate([labels, labels]), level=0.7)
    assert fit_sets(twice, np.concatenate([soft, soft]), level=0.7).threshold.tolist() != hard.threshold.tolist()


def test_sets_are_contiguous_and_contain_the_reported_grade():
    fitted = ConformalSets()
    fitted.threshold.fill_(0.0)
    shares, _ = drawn(5, 200)
    reported = np.random.default_rng(0).integers(0, 4, (200, 7))
    sets = fitted.sets(shares, reported)
    for index, target in enumerate(TARGETS):
        members = sets[:, target.one_hot]
        assert members[np.arange(200), reported[:, index]].all()
        assert members[np.arange(200), shares[:, target.one_hot].argmax(1)].all()
        assert (np.abs(np.diff(np.pad(members, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) == 2).all()


def test_unusual_knees_get_the_sets_of_the_stricter_level():
    """Sets at 0.9 of usual knees; those of unusual knees cover 0.95 and contain the others."""
    fitted, (shares, labels) = fit_sets(*drawn(6, 2000), level=0.9), drawn(7, 4000)
    predicted = np.array([[row[t.one_hot].argmax() for t in TARGETS] for row in shares])
    unusual = np.arange(4000) % 2 == 0
    mixed, usual = fitted.sets(shares, predicted, unusual), fitted.sets(shares, predicted)
    np.testing.assert_array_equal(mixed[~unusual], usual[~unusual])
    assert (mixed | ~usual).all()
    for share in coverage(mixed[unusual], labels[unusual]):
        assert 0.928 < share < 0.972  # 0.95 ± three standard errors of both samples
