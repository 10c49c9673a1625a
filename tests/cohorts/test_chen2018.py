import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kneegrade.cohorts import chen2018_folder, chen2018_manifest, target_distributions
from kneegrade.cohorts.chen2018 import kl_from_oarsi, softened_labels
from kneegrade.errors import RecipeError
from kneegrade.schema import OARSI_NAMES, grade_tuple_counts

PRIOR = np.array([0.4, 0.18, 0.26, 0.13, 0.03])


@pytest.fixture
def crops(tmp_path):
    for split, kl, name in (("train", 0, "9R"), ("train", 3, "9L"), ("val", 2, "8R")):
        (tmp_path / split / str(kl)).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / split / str(kl) / f"{name}.png")
    return tmp_path


def test_manifest_from_folders(crops):
    table = chen2018_manifest(crops)
    assert table["kl"].tolist() == [0, 3, 2]
    assert table["side"].tolist() == ["R", "L", "R"]
    assert table["subject_id"].nunique() == 2
    assert set(table["split"]) == {"train", "val"}


def test_manifest_with_soft_labels(crops):
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


def test_empty_folder_is_reported(tmp_path):
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


def test_manifest_from_published_archive(crops):
    """The archive has both sizes in folders; a member name with `..` is written inside the target folder."""
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


def test_crops_below_other_folders_are_found(crops):
    (crops / "deep" / "kneeKL299").mkdir(parents=True)
    for split in ("train", "val"):
        (crops / split).rename(crops / "deep" / "kneeKL299" / split)
    assert len(chen2018_manifest(crops)) == 3
    shutil.copytree(crops / "deep" / "kneeKL299", crops / "deep" / "kneeKL224")
    assert all("kneeKL299" in path for path in chen2018_manifest(crops)["image_path"])
    shutil.move(crops / "deep" / "kneeKL299", crops / "deep" / "other")
    with pytest.raises(RecipeError, match="in several folders"):
        chen2018_manifest(crops / "deep")


def confident(grade):
    return np.full(4, 0.01) + 0.96 * np.eye(4)[grade]


def test_kl_from_confident_oarsi_grades_matches_kl_read():
    """KL is nearly a function of the six OARSI grades: confident grades give the KL read for most knees."""
    counts = grade_tuple_counts()
    tuples = np.array(list(counts))
    drawn = tuples[
        np.random.default_rng(0).choice(len(tuples), 600, p=np.array(list(counts.values())) / sum(counts.values()))
    ]
    oarsi = {name: np.stack([confident(g) for g in drawn[:, 1 + i]]) for i, name in enumerate(OARSI_NAMES)}
    prior = np.bincount(drawn[:, 0], minlength=5) / len(drawn)
    implied = kl_from_oarsi(oarsi, prior)
    np.testing.assert_allclose(implied.sum(1), 1, atol=1e-9)
    assert (implied.argmax(1) == drawn[:, 0]).mean() > 0.85
    assert implied[drawn[:, 0] == 0, 3:].max() < 0.05


def test_kl_from_uniform_oarsi_grades_has_the_mode_of_the_prior():
    flat = {name: np.full((3, 4), 0.25) for name in OARSI_NAMES}
    implied = kl_from_oarsi(flat, PRIOR)
    assert np.abs(implied - implied[0]).max() < 1e-12
    assert implied[0].argmax() == 0


def test_grade_read_stays_most_probable_below_half():
    implied = np.array([[0, 0, 0, 0, 1.0]])
    np.testing.assert_allclose(softened_labels(np.array([1]), implied, 0.4), [[0, 0.6, 0, 0, 0.4]])
    assert softened_labels(np.array([1]), implied, 0.0).argmax() == 1


@pytest.fixture
def crops_with_soft_labels(tmp_path):
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
            row[f"{grade}_image"] = confident(osteophyte).tolist()
            row[f"{grade}_given_kl"] = confident(0).tolist()
        rows.append(row)
    pd.DataFrame(rows).to_parquet(tmp_path / "soft.parquet")
    return tmp_path


def test_only_training_crops_are_softened_and_landmarks_can_be_omitted(crops_with_soft_labels):
    table = chen2018_manifest(
        crops_with_soft_labels / "crops", crops_with_soft_labels / "soft.parquet", known_landmarks=False, soften_kl=0.4
    )
    assert "landmarks_px" not in table
    kl = target_distributions(table)[:, :5]
    first, second, third = (kl[table["knee_id"].str.contains(n)][0] for n in ("9000001", "9000002", "9000003"))
    assert 0.6 <= first[0] < 0.8  # read 0, although all six OARSI grades imply a higher KL
    assert first[1:].sum() > 0.2
    assert second.argmax() == 3
    np.testing.assert_array_equal(third, [0, 0, 1, 0, 0])
    assert (
        table["jsn_medial_probabilities"].str[0] > 0.9
    ).all()  # the OARSI labels themselves are those conditioned on KL


def test_softening_requires_soft_labels(crops_with_soft_labels):
    with pytest.raises(RecipeError, match="soft OARSI labels"):
        chen2018_manifest(crops_with_soft_labels / "crops", soften_kl=0.4)
