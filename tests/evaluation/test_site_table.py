import json

import numpy as np
import pytest

from kneegrade.evaluation import Predictions
from kneegrade.evaluation.site_table import scale_measures, scales_table
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS


def predictions_of(kl, labelled):
    """Predictions of knees of two per person, equal to their labels; the first `labelled` knees have one."""
    number = len(kl)
    probabilities = np.full((number, ONE_HOT_LENGTH), 0.25, dtype=np.float32)
    probabilities[:, :5] = np.eye(5)[kl]
    targets = np.full((number, ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    targets[:labelled, :5] = np.eye(5)[kl[:labelled]]
    subject, grades = (np.arange(number) // 2).astype(str), np.zeros((number, 7), dtype=np.int64)
    grades[:, 0] = kl
    sets = np.ones(probabilities.shape, dtype=np.bool_)
    return Predictions(probabilities, targets, subject, np.arange(number), grades, sets)


def test_an_undefined_kappa_is_null_in_json_and_a_dash_in_the_table():
    constant = predictions_of(np.full(60, 2), 60)
    measures = json.loads(json.dumps(scale_measures(constant, TARGETS[0]), allow_nan=False))
    assert (measures["accuracy"], measures["kappa"]) == (1, None)
    (row,) = scales_table(constant, constant, {"kl": "identity"}, "North").rows
    assert row[:4] == ("kl", "identity", "1.000 → 1.000", "– → –")


def test_the_table_counts_the_knees_that_were_compared_with_labels():
    some = predictions_of(np.arange(80) % 5, 60)
    table = scales_table(some, some, {"kl": "identity"}, "North")
    assert table.notes[0].startswith("60 knees of 30 subjects, compared with the labels")
    assert scale_measures(some, TARGETS[0])["kappa"] == pytest.approx(1)
