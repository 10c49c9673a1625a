import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.cohorts import (
    check_manifest,
    chen2018_folder,
    chen2018_manifest,
    landmark_array,
    load_manifest,
    target_distributions,
)
from kneegrade.errors import RecipeError
from kneegrade.schema import OARSI_NAMES, TARGETS


def manifest(**changes) -> pd.DataFrame:
    columns = {
        "image_path": ["a.png", "b.png"], "knee_id": ["1R", "2L"], "subject_id": ["1", "2"], "side": ["R", "L"],
        "split": ["train", "val"], "source": ["x", "x"], "kl": pd.array([2, None], dtype="Int64"),
    }  # fmt: skip
    return pd.DataFrame({**columns, **changes})


def test_a_missing_grade_is_missing_not_zero():
    distributions = target_distributions(manifest())
    assert distributions[0, :5].tolist() == [0, 0, 1, 0, 0]
    assert np.isnan(distributions[1]).all()
    assert np.isnan(distributions[0, 5:]).all()


def test_soft_labels_take_the_place_of_the_grade():
    soft = [[0.1, 0.2, 0.3, 0.4], None]
    distributions = target_distributions(manifest(jsn_medial=[0, 1], jsn_medial_probabilities=soft))
    target = TARGETS[2]
    assert distributions[0, target.one_hot].tolist() == pytest.approx(soft[0])
    assert distributions[1, target.one_hot].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "absent", [None, np.nan, pd.NA, [np.nan] * 5, np.full(5, np.nan, dtype=np.float32), [None] * 5]
)
def test_a_known_grade_stays_where_its_soft_label_is_missing(absent, tmp_path):
    table = manifest(kl=[2, 3], kl_probabilities=pd.Series([absent, [0, 0, 0, 0.5, 0.5]], dtype=object))
    check_manifest(table)
    expected = [[0, 0, 1, 0, 0], [0, 0, 0, 0.5, 0.5]]
    assert target_distributions(table)[:, :5].tolist() == expected
    table.to_parquet(tmp_path / "m.parquet")
    assert target_distributions(load_manifest(tmp_path / "m.parquet"))[:, :5].tolist() == expected


def test_a_column_without_any_soft_label_leaves_all_grades():
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
        ([0.5, 0.5, 0, 0, np.nan], "not a finite number"),
        ([0.5, 0.5, 0, 0, None], "not a finite number"),
        ([0.5, 0.5, 0, 0, np.inf], "not a finite number"),
        ([1.2, -0.2, 0, 0, 0], "negative"),
        ([0.5, 0.4, 0, 0, 0], "a sum of 0.9"),
        ([0.5, 0.502, 0, 0, 0], "a sum of 1.002"),
        ([0, 0, 0, 0, 0], "a sum of 0"),
        ([[0.5, 0.5, 0, 0, 0]], "no list of numbers"),
        ("0.5 0.5 0 0 0", "no list of numbers"),
        (["a", "b", "c", "d", "e"], "no list of numbers"),
        (0.5, "no list of numbers"),
    ],
)
def test_a_soft_label_that_is_no_distribution_is_named(soft, found):
    table = manifest(kl=[2, 3], kl_probabilities=pd.Series([None, soft], dtype=object))
    for reader in (check_manifest, target_distributions):
        with pytest.raises(RecipeError, match=f"Column kl_probabilities, row 1: .*{found}"):
            reader(table)


def test_soft_labels_that_sum_to_nearly_one_are_normalised():
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
        ({"kl": [2, 5]}, "kl, row 1: 5"),
        ({"subject_id": ["1", "1"]}, "more than one split"),
    ],
)
def test_a_broken_rule_is_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        check_manifest(manifest(**changes))


def test_a_missing_column_and_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match="split"):
        check_manifest(manifest().drop(columns="split"))
    with pytest.raises(RecipeError, match="no manifest"):
        load_manifest(tmp_path / "none.parquet")


def test_image_paths_count_from_the_manifests_folder(tmp_path):
    manifest().to_parquet(tmp_path / "m.parquet")
    assert load_manifest(tmp_path / "m.parquet")["image_path"][0] == str(tmp_path / "a.png")


def test_landmarks_are_needed():
    with pytest.raises(RecipeError, match="landmarks_px"):
        landmark_array(manifest())
    points = np.arange(148.0)
    assert landmark_array(manifest(landmarks_px=[points, points]))[1, 3].tolist() == [6.0, 7.0]


@pytest.fixture
def crops(tmp_path):
    for split, kl, name in (("train", 0, "9R"), ("train", 3, "9L"), ("val", 2, "8R")):
        (tmp_path / split / str(kl)).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / split / str(kl) / f"{name}.png")
    return tmp_path


def test_chen2018_from_its_folders(crops):
    table = chen2018_manifest(crops)
    assert table["kl"].tolist() == [0, 3, 2]
    assert table["side"].tolist() == ["R", "L", "R"]
    assert table["subject_id"].nunique() == 2
    assert set(table["split"]) == {"train", "val"}


def test_chen2018_with_soft_labels(crops):
    rows = {"path": ["val/2/8R.jpg", "train/0/9R.jpg", "train/3/9L.jpg"], "landmark_confidence": [0.5, 0.6, 0.7],
            "landmarks_px": [np.full(148, v) for v in (1.0, 2.0, 3.0)]}  # fmt: skip
    for name in OARSI_NAMES:
        rows[f"{name}_given_kl"] = [[1.0, 0, 0, 0]] * 3
        rows[f"{name}_image"] = [[0.0, 1, 0, 0]] * 3
    pd.DataFrame(rows).to_parquet(crops / "soft.parquet")
    table = chen2018_manifest(crops, crops / "soft.parquet")
    assert [points[0] for points in table["landmarks_px"]] == [2.0, 3.0, 1.0]
    assert target_distributions(table)[0, 5] == 1
    assert target_distributions(chen2018_manifest(crops, crops / "soft.parquet", given_kl=False))[0, 6] == 1
    pd.DataFrame(rows).iloc[:2].to_parquet(crops / "soft.parquet")
    with pytest.raises(RecipeError, match="1 crops"):
        chen2018_manifest(crops, crops / "soft.parquet")


def test_an_empty_folder(tmp_path):
    with pytest.raises(RecipeError, match="no crops"):
        chen2018_manifest(tmp_path)


def zipped(crops, prefixes):
    path = crops / "chen.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for prefix in prefixes:
            for file in sorted(crops.rglob("*.png")):
                archive.write(file, prefix + file.relative_to(crops).as_posix())
        archive.writestr("../../train/0/9000009R.png", b"x")
    return path


def test_chen2018_from_the_archive_as_published(crops):
    """In both sizes below a folder of its own; a name that leads out of it stays within."""
    with chen2018_folder(zipped(crops, ["ClsKLData/kneeKL224/", "ClsKLData/kneeKL299/"])) as folder:
        table = chen2018_manifest(folder)
        assert table["kl"].tolist() == [0, 3, 2]
        assert not (folder.parents[1] / "train").exists()
    assert not folder.exists()
    with chen2018_folder(zipped(crops, ["kneeKL224/"])) as folder:
        assert len(chen2018_manifest(folder)) == 4
    with pytest.raises(RecipeError, match="more than once"), chen2018_folder(zipped(crops, ["a/", "b/"])):
        pass
    with pytest.raises(RecipeError, match="neither a folder nor a zip"), chen2018_folder(crops / "train/0/9R.png"):
        pass


def test_chen2018_one_folder_deeper(crops):
    (crops / "deep" / "kneeKL299").mkdir(parents=True)
    for split in ("train", "val"):
        (crops / split).rename(crops / "deep" / "kneeKL299" / split)
    assert len(chen2018_manifest(crops)) == 3
    shutil.copytree(crops / "deep" / "kneeKL299", crops / "deep" / "kneeKL224")
    assert all("kneeKL299" in path for path in chen2018_manifest(crops)["image_path"])
    shutil.move(crops / "deep" / "kneeKL299", crops / "deep" / "other")
    with pytest.raises(RecipeError, match="in several folders"):
        chen2018_manifest(crops / "deep")
