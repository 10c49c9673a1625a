import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kneegrade.coherence import one_hot
from kneegrade.errors import RecipeError
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.training.config import Data
from kneegrade.training.dataset import KneeDataset
from kneegrade.training.splits import (
    DIVISION,
    EndlessSampler,
    hashed_subject,
    in_first_group,
    left_out,
    make_splits,
    severity,
)
from kneegrade.weights import read_description, shipped_path

ARCHIVE = Path(os.environ.get("KNEEGRADE_REAL_DATA", "nowhere")) / "chen2018_kneeKL299_train_val.zip"


def cohort(number=200, seed=0, unlabelled=0.4):
    """A dataset without images: one to four knees per subject, split by subject, some without labels."""
    generator = np.random.default_rng(seed)
    subject = np.repeat(np.arange(number), generator.integers(1, 5, number))[:number]
    split = np.array(["train", "train", "val", "test"])[generator.integers(0, 4, subject.max() + 1)][subject]
    targets = np.full((number, ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    read = (generator.random(number) >= unlabelled) | (split != "train")
    grades = np.stack([generator.integers(0, t.classes, number) for t in TARGETS], axis=1)
    targets[read] = one_hot(grades[read])
    nothing = np.empty((number, 0))
    return KneeDataset(
        images=nothing, landmarks_px=nothing, visible=nothing, landmark_weight=nothing, targets=targets,
        subject=np.array([f"s{s}" for s in subject]), split=split, source=np.full(number, "x"),
    )  # fmt: skip


def data(**settings):
    return Data.model_validate({"datasets": ["x"], **settings})


SHARES = st.one_of(st.none(), st.floats(0.05, 0.45))


@given(st.integers(0, 50), SHARES, st.floats(0.1, 1.0), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_no_subject_is_in_two_splits(seed, calibration_share, labelled_share, split_seed):
    dataset = cohort(seed=seed)
    splits = make_splits(
        dataset, data(calibration_share=calibration_share, labelled_share=labelled_share, split_seed=split_seed)
    )
    trained = set(dataset.subject[np.r_[splits.labelled, splits.unlabelled]])
    held = set(dataset.subject[splits.calibration])
    assert not trained & held
    assert not (trained | held) & set(dataset.subject[splits.test])
    assert not np.isnan(dataset.targets[splits.labelled]).any()
    assert not set(splits.labelled) & set(splits.unlabelled)


@given(st.integers(0, 50), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=60)
def test_label_shares_are_nested_and_the_rest_is_unlabelled(seed, first, second):
    dataset = cohort(seed=seed)
    small, large = sorted((first, second))
    few, many = (make_splits(dataset, data(calibration_share=None, labelled_share=share)) for share in (small, large))
    assert set(few.labelled) <= set(many.labelled)
    assert set(few.labelled) | set(few.unlabelled) == set(many.labelled) | set(many.unlabelled)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_a_share_has_that_share_of_the_subjects_and_the_same_severity(share):
    dataset = cohort(2000, unlabelled=0)
    whole = make_splits(dataset, data(calibration_share=None)).labelled
    part = make_splits(dataset, data(calibration_share=None, labelled_share=share)).labelled
    people = [len(np.unique(dataset.subject[rows])) for rows in (part, whole)]
    assert people[0] / people[1] == pytest.approx(share, abs=0.01)
    shares = [np.bincount(severity(dataset.targets[rows]), minlength=5) / len(rows) for rows in (part, whole)]
    np.testing.assert_allclose(*shares, atol=0.05)


def test_validation_knees_are_used_without_a_calibration_share():
    dataset = cohort()
    splits = make_splits(dataset, data(calibration_share=None))
    assert (dataset.split[splits.calibration] == "val").all()
    assert (dataset.split[splits.test] == "test").all()
    assert make_splits(dataset, data(test_split="val")).test.tolist() == splits.calibration.tolist()
    for wrong in (data(test_split="val", calibration_share=None), data(test_split="train")):
        with pytest.raises(RecipeError, match="name another split"):
            make_splits(dataset, wrong)


def test_unlabelled_knees_can_be_left_out():
    assert len(make_splits(cohort(), data(unlabelled=False, labelled_share=0.5)).unlabelled) == 0


def test_severity_is_kl_or_the_highest_other_grade():
    targets = one_hot(np.array([[3, 0, 0, 0, 0, 0, 0], [0, 0, 2, 1, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0]])).astype(
        np.float32
    )
    targets[1, :5] = np.nan
    targets[2] = np.nan
    assert severity(targets).tolist() == [3, 2, 0]


@given(st.integers(1, 13), st.integers(1, 30))
def test_a_sampler_gives_one_permutation_after_the_other(length, size):
    rows = np.arange(100, 100 + length)
    whole = np.concatenate([EndlessSampler(rows, [1]).batch(number, size) for number in range(6)])
    for start in range(0, len(whole) - length + 1, length):
        assert sorted(whole[start : start + length]) == rows.tolist()
    assert EndlessSampler(rows, [1]).batch(4, size).tolist() == whole[4 * size : 5 * size].tolist()


def test_permutations_differ():
    sampler = EndlessSampler(np.arange(50), [0])
    assert sampler.batch(0, 50).tolist() != sampler.batch(1, 50).tolist()


PEOPLE = np.array([f"p{number}" for number in range(400)])


def test_the_group_of_a_subject_does_not_depend_on_the_others():
    whole = in_first_group(PEOPLE, 0.5, 0)
    for lost in range(0, 400, 40):
        kept = np.arange(400) != lost
        assert (in_first_group(PEOPLE[kept], 0.5, 0) == whole[kept]).all()


def test_all_knees_of_a_subject_are_in_one_group_of_about_the_requested_share():
    knees = np.concatenate([PEOPLE, PEOPLE[::-1]])
    for share in (0.2, 0.5, 0.8):
        first = in_first_group(knees, share, 0)
        assert (first[:400] == first[400:][::-1]).all()
        assert first.mean() == pytest.approx(share, abs=0.08)
    assert in_first_group(knees, 1.0, 0).all()
    assert not in_first_group(knees, 0.0, 0).any()
    assert (in_first_group(knees, 0.2, 0) <= in_first_group(knees, 0.8, 0)).all()
    assert (in_first_group(PEOPLE, 0.5, 0) != in_first_group(PEOPLE, 0.5, 1)).mean() == pytest.approx(0.5, abs=0.1)


def described(**parts):
    return {"name": "w", "kind": "grader", "sha256": "0", **parts}


def test_knees_that_neither_calibration_nor_quality_control_was_fitted_on_are_left_out():
    calibrated, control = ({"share": 0.5, "seed": seed, "division": "sha256"} for seed in (0, 1))
    out = left_out(described(calibrated=calibrated), PEOPLE)
    assert (out == ~in_first_group(PEOPLE, 0.5, 0)).all()
    both = left_out(described(calibrated=calibrated, gate=control), PEOPLE)
    assert (both == ~(in_first_group(PEOPLE, 0.5, 0) | in_first_group(PEOPLE, 0.5, 1))).all()


def test_listed_people_are_not_left_out_even_with_a_later_division():
    listed = [hashed_subject(person) for person in PEOPLE[:30]]
    old = {"share": 0.5, "seed": 0}
    out = left_out(described(calibrated=old, gate={"seed": 0}, fitted_people=listed), PEOPLE)
    assert np.flatnonzero(~out).tolist() == list(range(30))
    new = {"share": 0.5, "seed": 0, "division": "sha256"}
    out = left_out(described(calibrated=new, gate={"seed": 0}, fitted_people=listed), PEOPLE)
    assert (out == (~in_first_group(PEOPLE, 0.5, 0) & (np.arange(400) >= 30))).all()


@pytest.mark.parametrize("parts", [
    {}, {"calibrated": {"share": 0.5, "seed": 0}}, {"gate": {"share": 0.5, "seed": 0, "division": "sha256"}},
    {"calibrated": {"share": 0.5, "seed": 0, "division": "sha256"}, "gate": {"seed": 0}},
])  # fmt: skip
def test_a_description_that_does_not_state_the_people_is_refused(parts):
    with pytest.raises(RecipeError, match="does not state the subjects"):
        left_out(described(**parts), PEOPLE)


def test_the_shipped_weights_state_how_the_people_they_were_fitted_on_are_found():
    description = read_description(shipped_path("grader"))
    for part in ("calibrated", "gate"):
        assert {key: description[part][key] for key in ("division", "share", "seed")} == {
            "division": DIVISION, "share": 0.5, "seed": 0,
        }  # fmt: skip
    assert "fitted_people" not in description


@pytest.mark.skipif(not ARCHIVE.is_file(), reason="KNEEGRADE_REAL_DATA names no folder with the Chen 2018 archive")
def test_half_of_the_validation_people_are_left_out_of_the_shipped_weights():
    """By a hash; the result does not depend on the other subjects."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"val/\d/\d+[LR]\.jpg", name)]
    subject = np.array([f"oai-{name.split('/')[2][:7]}" for name in names])
    out = left_out(read_description(shipped_path("grader")), subject)
    assert ((~out).sum(), len(np.unique(subject[~out]))) == (382, 191)
    assert (out.sum(), len(np.unique(subject[out]))) == (444, 222)
    kept = subject != subject[0]
    assert (left_out(read_description(shipped_path("grader")), subject[kept]) == out[kept]).all()
