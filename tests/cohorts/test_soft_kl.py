import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.cohorts import chen2018_manifest
from kneegrade.cohorts.chen2018 import kl_from_oarsi, softened
from kneegrade.cohorts.manifest import target_distributions
from kneegrade.errors import RecipeError
from kneegrade.schema import OARSI_NAMES, grade_tuple_counts

PRIOR = np.array([0.4, 0.18, 0.26, 0.13, 0.03])


def sure(grade):
    return np.full(4, 0.01) + 0.96 * np.eye(4)[grade]


def test_oarsi_grades_point_to_the_kl_that_goes_with_them():
    """KL is nearly a function of the six: from sure ones it comes out right far more often than the commonest grade."""
    counts = grade_tuple_counts()
    tuples = np.array(list(counts))
    drawn = tuples[
        np.random.default_rng(0).choice(len(tuples), 600, p=np.array(list(counts.values())) / sum(counts.values()))
    ]
    oarsi = {name: np.stack([sure(g) for g in drawn[:, 1 + i]]) for i, name in enumerate(OARSI_NAMES)}
    prior = np.bincount(drawn[:, 0], minlength=5) / len(drawn)
    opinion = kl_from_oarsi(oarsi, prior)
    np.testing.assert_allclose(opinion.sum(1), 1, atol=1e-9)
    assert (opinion.argmax(1) == drawn[:, 0]).mean() > 0.85
    assert opinion[drawn[:, 0] == 0, 3:].max() < 0.05


def test_six_grades_that_say_nothing_leave_the_prior():
    flat = {name: np.full((3, 4), 0.25) for name in OARSI_NAMES}
    said = kl_from_oarsi(flat, PRIOR)
    assert np.abs(said - said[0]).max() < 1e-12
    assert said[0].argmax() == 0


def test_the_reading_stays_likeliest_below_a_half():
    opinion = np.array([[0, 0, 0, 0, 1.0]])
    np.testing.assert_allclose(softened(np.array([1]), opinion, 0.4), [[0, 0.6, 0, 0, 0.4]])
    assert softened(np.array([1]), opinion, 0.0).argmax() == 1


@pytest.fixture
def crops(tmp_path):
    rows = []
    for split, kl, name, osteophyte in (
        ("train", 0, "9000001R", 3),
        ("train", 3, "9000002L", 2),
        ("val", 2, "9000003R", 2),
    ):
        path = tmp_path / "crops" / split / str(kl) / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
        row = {"path": f"{split}/{kl}/{name}.jpg", "landmarks_px": [1.0] * 148, "landmark_confidence": 0.9}
        for grade in OARSI_NAMES:
            row[f"{grade}_image"] = sure(osteophyte).tolist()
            row[f"{grade}_given_kl"] = sure(0).tolist()
        rows.append(row)
    pd.DataFrame(rows).to_parquet(tmp_path / "soft.parquet")
    return tmp_path


def test_only_training_crops_are_softened_and_landmarks_may_be_left_out(crops):
    table = chen2018_manifest(crops / "crops", crops / "soft.parquet", known_landmarks=False, soften_kl=0.4)
    assert "landmarks_px" not in table
    kl = target_distributions(table)[:, :5]
    first, second, third = (kl[table["knee_id"].str.contains(n)][0] for n in ("9000001", "9000002", "9000003"))
    assert 0.6 <= first[0] < 0.8  # read 0, although all six say otherwise
    assert first[1:].sum() > 0.2
    assert second.argmax() == 3
    np.testing.assert_array_equal(third, [0, 0, 1, 0, 0])
    assert (table["jsn_medial_probabilities"].str[0] > 0.9).all()  # OARSI labels themselves are those given KL


def test_without_soft_labels_nothing_can_be_softened(crops):
    with pytest.raises(RecipeError, match="soft OARSI labels"):
        chen2018_manifest(crops / "crops", soften_kl=0.4)
