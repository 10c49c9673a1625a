import numpy as np
import pandas as pd
import pytest

from kneegrade.coherence import one_hot
from kneegrade.cohorts import load_labels
from kneegrade.errors import CohortError
from kneegrade.evaluation import Predictions
from kneegrade.evaluation.audit import (
    audit_labels,
    audited_knees,
    falling_grades,
    implausible_joint_spaces,
    with_rows_of_whole_file,
)
from kneegrade.schema import TARGET_NAMES, TARGETS


@pytest.fixture
def labels(label_file):
    return load_labels(label_file)


@pytest.fixture
def predictions(labels):
    """Confident predictions of the labels, but KL 4 for knee d, whose label is 0."""
    truth = labels[list(TARGET_NAMES)].astype("Int64").fillna(0).to_numpy(dtype=int)
    predicted = truth.copy()
    predicted[3, 0] = 4
    probabilities = 0.94 * one_hot(predicted) + 0.01
    for target in TARGETS:
        probabilities[:, target.one_hot] /= probabilities[:, target.one_hot].sum(1, keepdims=True)
    subject = labels["subject_id"].to_numpy(dtype=str)
    return Predictions(probabilities.astype(np.float32), one_hot(truth).astype(np.float32), subject, np.arange(5))


def test_grades_that_fall_over_visits(labels):
    found = falling_grades(labels)
    assert [(row, finding.message) for row, finding in found] == [
        (1, "Kellgren–Lawrence decreases from 2 at 0 months to 1 at 12 months.")
    ]


def test_measured_widths_that_do_not_fit_the_narrowing_grade(labels):
    found = implausible_joint_spaces(labels.assign(joint_space_medial_mm=[3.9, 4.2, 4.8, 1.0, np.nan]))
    assert [row for row, _ in found] == [3]
    assert (
        "Joint space narrowing, medial 0 with a joint space width of 1.0 mm; knees with this grade have 4.9 ± 0.9 mm."
        in found[0][1].message
    )


def test_confident_predictions_raise_the_score(labels, predictions):
    table = audit_labels(labels, predictions).set_index("knee_id")
    assert table.loc["d", "disagreement_grade"] == "kl"
    assert table.loc["d", "predicted"] == 4
    assert table.loc["d", "score"] == table.loc["d", "disagreement_score"] > 3
    assert "confident_disagreement" in table.loc["d", "codes"]
    assert table["disagreement_grade"].notna().sum() == 1


def test_predictions_of_other_knees_are_refused(labels, predictions):
    beyond = Predictions(predictions.probabilities[:1], predictions.targets[:1], np.array(["z"]), np.array([9]))
    with pytest.raises(CohortError, match="other knees than these labels"):
        audit_labels(labels, beyond)


def test_rows_of_a_split_become_rows_of_the_file(labels, predictions):
    table = labels.assign(split=["test", "train", "test", "train", "test"])
    first_two = Predictions(
        predictions.probabilities[:2], predictions.targets[:2], predictions.subject[:2], predictions.knee[:2]
    )
    assert with_rows_of_whole_file(first_two, table, "test").knee.tolist() == [0, 2]
    with pytest.raises(CohortError, match="The labels have 2 knees in split 'train'"):
        with_rows_of_whole_file(predictions, table, "train")


def test_the_picture_of_an_audited_knee_is_that_of_its_row(labels):
    def picture_of(row: pd.DataFrame) -> np.ndarray | None:
        return np.full((4, 4), len(row), dtype=np.uint8) if row["knee_id"].iloc[0] == "c" else None

    knees = audited_knees(audit_labels(labels), 1, picture_of)
    assert [(knee.name, knee.suspect, knee.expected) for knee in knees] == [("c", "jsn_medial", 3)]
    assert knees[0].crop.tolist() == [[1] * 4] * 4
    others = audited_knees(audit_labels(labels), 40, picture_of)[1:]
    assert all(knee.crop is None for knee in others)
