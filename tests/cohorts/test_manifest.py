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
