import numpy as np
import pandas as pd
import pytest

from kneegrade.cohorts import check_manifest, landmark_array, load_manifest, target_distributions
from kneegrade.errors import RecipeError
from kneegrade.schema import TARGETS


def manifest(**changes) -> pd.DataFrame:
    columns = {
        "image_path": ["a.png", "b.png"], "knee_id": ["1R", "2L"], "subject_id": ["1", "2"], "side": ["R", "L"],
        "split": ["train", "val"], "source": ["x", "x"], "kl": pd.array([2, None], dtype="Int64"),
    }  # fmt: skip
    return pd.DataFrame({**columns, **changes})


def test_missing_grade_is_nan_not_zero():
    distributions = target_distributions(manifest())
    assert distributions[0, :5].tolist() == [0, 0, 1, 0, 0]
    assert np.isnan(distributions[1]).all()
    assert np.isnan(distributions[0, 5:]).all()


def test_soft_label_replaces_grade():
    soft = [[0.1, 0.2, 0.3, 0.4], None]
    distributions = target_distributions(manifest(jsn_medial=[0, 1], jsn_medial_probabilities=soft))
    target = TARGETS[2]
    assert distributions[0, target.one_hot].tolist() == pytest.approx(soft[0])
    assert distributions[1, target.one_hot].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "absent", [None, np.nan, pd.NA, [np.nan] * 5, np.full(5, np.nan, dtype=np.float32), [None] * 5]
)
def test_grade_is_used_where_soft_label_is_missing(absent, tmp_path):
    table = manifest(kl=[2, 3], kl_probabilities=pd.Series([absent, [0, 0, 0, 0.5, 0.5]], dtype=object))
    check_manifest(table)
    expected = [[0, 0, 1, 0, 0], [0, 0, 0, 0.5, 0.5]]
    assert target_distributions(table)[:, :5].tolist() == expected
    table.to_parquet(tmp_path / "m.parquet")
    assert target_distributions(load_manifest(tmp_path / "m.parquet"))[:, :5].tolist() == expected


def test_grades_are_used_if_column_has_no_soft_label():
    table = manifest(kl=[2, 3], kl_probabilities=[np.nan, np.nan])
    check_manifest(table)
    assert target_distributions(table)[:, :5].argmax(axis=1).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("soft", "found"),
    [
        ([0.5, 0.5, 0, 0], "4 numbers"),
        ([0.5, 0.5, 0, 0, 0, 0], "6 numbers"),
        ([], "0 numbers"),
        ([np.nan] * 4, "4 numbers"),
        ([0.5, 0.5, 0, 0, np.nan], "a value that is not a finite number"),
        ([0.5, 0.5, 0, 0, None], "a value that is not a finite number"),
        ([0.5, 0.5, 0, 0, np.inf], "a value that is not a finite number"),
        ([1.2, -0.2, 0, 0, 0], "the negative value -0.2"),
        ([0.5, 0.4, 0, 0, 0], "a sum of 0.9"),
        ([0.5, 0.502, 0, 0, 0], "a sum of 1.002"),
        ([0, 0, 0, 0, 0], "a sum of 0"),
        ([[0.5, 0.5, 0, 0, 0]], "a value that is not a list of numbers"),
        ("0.5 0.5 0 0 0", "a value that is not a list of numbers"),
        (["a", "b", "c", "d", "e"], "a value that is not a list of numbers"),
        (0.5, "a value that is not a list of numbers"),
    ],
)
def test_invalid_soft_label_is_reported_with_column_and_row(soft, found):
    table = manifest(kl=[2, 3], kl_probabilities=pd.Series([None, soft], dtype=object))
    for reader in (check_manifest, target_distributions):
        with pytest.raises(RecipeError, match=f"Column kl_probabilities, row 1: .*{found}"):
            reader(table)


def test_soft_labels_within_tolerance_are_normalised():
    soft = [[0.5, 0.4995, 0, 0, 0], [0.5, 0.5005, 0, 0, 0]]
    table = manifest(kl_probabilities=soft)
    check_manifest(table)
    kl = target_distributions(table)[:, :5]
    np.testing.assert_allclose(kl.sum(1, dtype=np.float64), 1, atol=1e-7)
    np.testing.assert_allclose(kl, soft, atol=5e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": ["R", "right"]}, "row 1"),
        ({"side": ["R", "unknown"], "image_path": ["a.png", "a.png"]}, "row 1: a film with several rows"),
        ({"kl": [2, 5]}, "kl, row 1: 5"),
        ({"subject_id": ["1", "1"]}, "more than one split"),
    ],
)
def test_invalid_manifest_is_reported(changes, message):
    with pytest.raises(RecipeError, match=message):
        check_manifest(manifest(**changes))


def test_missing_column_and_missing_file_are_reported(tmp_path):
    with pytest.raises(RecipeError, match="split"):
        check_manifest(manifest().drop(columns="split"))
    with pytest.raises(RecipeError, match="no manifest"):
        load_manifest(tmp_path / "none.parquet")


def test_image_paths_are_relative_to_manifest_folder(tmp_path):
    manifest().to_parquet(tmp_path / "m.parquet")
    assert load_manifest(tmp_path / "m.parquet")["image_path"][0] == str(tmp_path / "a.png")


def test_landmark_array_requires_landmarks():
    with pytest.raises(RecipeError, match="landmarks_px"):
        landmark_array(manifest())
    points = np.arange(148.0)
    assert landmark_array(manifest(landmarks_px=[points, points]))[1, 3].tolist() == [6.0, 7.0]


def test_a_pixel_aspect_is_a_positive_number_or_missing():
    check_manifest(manifest(pixel_aspect=[1.2, None]))
    with pytest.raises(RecipeError, match="pixel_aspect, row 1"):
        check_manifest(manifest(pixel_aspect=[1.2, -1.0]))
