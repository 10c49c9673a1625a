import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kneegrade.coherence import one_hot
from kneegrade.errors import RecipeError
from kneegrade.learning.folds import Stream, folds_of, severity
from kneegrade.learning.recipe import Data
from kneegrade.learning.store import Store
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS


def cohort(number=200, seed=0, unlabelled=0.4):
    """A store without pictures: one to four knees a person, splits by person, some without labels."""
    generator = np.random.default_rng(seed)
    person = np.repeat(np.arange(number), generator.integers(1, 5, number))[:number]
    split = np.array(["train", "train", "val", "test"])[generator.integers(0, 4, person.max() + 1)][person]
    targets = np.full((number, ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    read = (generator.random(number) >= unlabelled) | (split != "train")
    grades = np.stack([generator.integers(0, t.classes, number) for t in TARGETS], axis=1)
    targets[read] = one_hot(grades[read])
    nothing = np.empty((number, 0))
    return Store(
        images=nothing, landmarks_px=nothing, visible=nothing, trust=nothing, targets=targets,
        subject=np.array([f"s{p}" for p in person]), split=split, source=np.full(number, "x"),
    )  # fmt: skip


def data(**settings):
    return Data.model_validate({"stores": ["x"], **settings})


SHARES = st.one_of(st.none(), st.floats(0.05, 0.45))


@given(st.integers(0, 50), SHARES, st.floats(0.1, 1.0), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_no_subject_is_in_two_folds(seed, calibration_share, labelled_share, split_seed):
    store = cohort(seed=seed)
    folds = folds_of(
        store, data(calibration_share=calibration_share, labelled_share=labelled_share, split_seed=split_seed)
    )
    trained = set(store.subject[np.r_[folds.labelled, folds.unlabelled]])
    held = set(store.subject[folds.calibration])
    assert not trained & held
    assert not (trained | held) & set(store.subject[folds.test])
    assert not np.isnan(store.targets[folds.labelled]).any()
    assert not set(folds.labelled) & set(folds.unlabelled)


@given(st.integers(0, 50), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=60)
def test_label_shares_are_nested_and_the_rest_joins_the_unlabelled(seed, first, second):
    store = cohort(seed=seed)
    small, large = sorted((first, second))
    few, many = (folds_of(store, data(calibration_share=None, labelled_share=share)) for share in (small, large))
    assert set(few.labelled) <= set(many.labelled)
    assert set(few.labelled) | set(few.unlabelled) == set(many.labelled) | set(many.unlabelled)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_a_share_holds_that_share_of_people_alike_in_severity(share):
    store = cohort(2000, unlabelled=0)
    whole = folds_of(store, data(calibration_share=None)).labelled
    part = folds_of(store, data(calibration_share=None, labelled_share=share)).labelled
    people = [len(np.unique(store.subject[rows])) for rows in (part, whole)]
    assert people[0] / people[1] == pytest.approx(share, abs=0.01)
    spread = [np.bincount(severity(store.targets[rows]), minlength=5) / len(rows) for rows in (part, whole)]
    np.testing.assert_allclose(*spread, atol=0.05)


def test_validation_knees_serve_where_no_share_is_named():
    store = cohort()
    folds = folds_of(store, data(calibration_share=None))
    assert (store.split[folds.calibration] == "val").all()
    assert (store.split[folds.test] == "test").all()
    assert folds_of(store, data(test_split="val")).test.tolist() == folds.calibration.tolist()
    for wrong in (data(test_split="val", calibration_share=None), data(test_split="train")):
        with pytest.raises(RecipeError, match="name another split"):
            folds_of(store, wrong)


def test_unlabelled_knees_can_be_left_out():
    assert len(folds_of(cohort(), data(unlabelled=False, labelled_share=0.5)).unlabelled) == 0


def test_severity_is_kl_or_the_highest_other_grade():
    targets = one_hot(np.array([[3, 0, 0, 0, 0, 0, 0], [0, 0, 2, 1, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0]])).astype(
        np.float32
    )
    targets[1, :5] = np.nan
    targets[2] = np.nan
    assert severity(targets).tolist() == [3, 2, 0]


@given(st.integers(1, 13), st.integers(1, 30))
def test_a_stream_is_one_permutation_after_the_other(length, size):
    rows = np.arange(100, 100 + length)
    whole = np.concatenate([Stream(rows, [1]).batch(number, size) for number in range(6)])
    for start in range(0, len(whole) - length + 1, length):
        assert sorted(whole[start : start + length]) == rows.tolist()
    assert Stream(rows, [1]).batch(4, size).tolist() == whole[4 * size : 5 * size].tolist()


def test_passes_differ():
    stream = Stream(np.arange(50), [0])
    assert stream.batch(0, 50).tolist() != stream.batch(1, 50).tolist()
