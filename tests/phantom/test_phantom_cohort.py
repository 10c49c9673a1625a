import json

import numpy as np
import pandas as pd
import pydicom
import pytest

from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.cohorts import check_manifest, landmark_array, load_manifest
from kneegrade.errors import UsageError
from kneegrade.phantom import Cohort, FilmOptions, film, phantom_cohort, render_film, write_cohort
from kneegrade.phantom.phantom_cohort import dicom_options
from kneegrade.schema import TARGET_NAMES


def test_roi_cohort_does_not_depend_on_its_size_and_is_not_written_twice(tmp_path):
    steps = []
    small = pd.read_parquet(write_cohort(tmp_path / "a", Cohort(2, seed=3, kind="rois")))
    large = pd.read_parquet(
        write_cohort(tmp_path / "b", Cohort(3, seed=3, kind="rois"), lambda done, whole: steps.append((done, whole)))
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    pd.testing.assert_frame_equal(small, large.iloc[:2])
    images = np.load(tmp_path / "b" / "rois.npy", mmap_mode="r")
    assert images.shape == (3, 320, 320)
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "rois.npy"), images[:2])
    before = (tmp_path / "b" / "rois.npy").stat().st_mtime_ns
    write_cohort(tmp_path / "b", Cohort(3, seed=3, kind="rois"))
    assert (tmp_path / "b" / "rois.npy").stat().st_mtime_ns == before


def test_an_interrupted_roi_cohort_resumes_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_cohort, "CHUNK", 1)
    whole = Cohort(3, seed=3, kind="rois")
    write_cohort(tmp_path / "whole", whole)

    def stop(done, number):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "interrupted", whole, stop)
    assert not (tmp_path / "interrupted" / "rois.npy").exists()
    done = []
    write_cohort(tmp_path / "interrupted", whole, lambda number, total: done.append(number))
    assert done == [3]
    one, two = ((tmp_path / name / "rois.npy").read_bytes() for name in ("whole", "interrupted"))
    assert one == two


def test_film_cohort_has_a_manifest_and_can_be_extended(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "SPACING_RANGE_MM", (0.9, 1.0))  # coarse films render quickly
    write_cohort(tmp_path, Cohort(2, seed=1))
    first = {path.name: path.read_bytes() for path in (tmp_path / "films").iterdir()}
    (tmp_path / "films" / "000001.dcm").unlink()
    table = pd.read_parquet(write_cohort(tmp_path, Cohort(3, seed=1)))
    assert {name: (tmp_path / "films" / name).read_bytes() for name in first} == first
    check_manifest(table)
    assert set(table["split"]) == {"train"}
    assert {"view", "visit", "joint_space_medial_mm", "joint_space_lateral_mm", "bits", "scatter", *TARGET_NAMES} <= {
        *table.columns
    }
    np.testing.assert_array_equal(
        landmark_array(load_manifest(tmp_path / "truth.parquet"))[0, 0], table["landmarks_px"][0][:2]
    )
    assert set(table["image_path"]) == {f"films/{index:06d}.dcm" for index in range(3)}
    assert all(len(points) == 2 * NUM_LANDMARKS for points in table["landmarks_px"])
    for row in table.itertuples():
        dataset = pydicom.dcmread(tmp_path / row.image_path, stop_before_pixels=True)
        x, y = np.reshape(row.landmarks_px, (-1, 2))[55]
        assert 0 < x < dataset.Columns
        assert 0 < y < dataset.Rows
        assert dataset.ViewPosition == row.view
        outline = np.reshape(row.outline_mm, (-1, 2))
        assert joint_space_width(outline).medial == pytest.approx(row.joint_space_medial_mm)
        assert "patella" in json.loads(row.nuisance)["build"]


def test_dx_files_of_a_cohort_have_imager_pixel_spacing():
    encodings = [dicom_options(3, index) for index in range(80)]
    assert {options.spacing for options in encodings if options.modality == "DX"} == {"ImagerPixelSpacing"}
    assert {options.spacing for options in encodings if options.modality == "CR"} == {
        "ImagerPixelSpacing",
        "PixelSpacing",
        "none",
    }
    assert {options.compression for options in encodings} == {"none", "jpeg2000", "rle"}


def test_cohort_with_implants_and_a_second_reader(tmp_path):
    table = pd.read_parquet(write_cohort(tmp_path, Cohort(12, seed=5, kind="rois", implants=1.0, readers=True)))
    check_manifest(table)
    replaced = table["implant"].isin(["total_knee", "partial_knee"])
    assert 0 < replaced.sum() < 12
    for name in TARGET_NAMES:
        assert table.loc[replaced, [name, f"{name}_reader2"]].isna().all(axis=None)
        assert table.loc[~replaced, [name, f"{name}_reader2"]].notna().all(axis=None)
    kept = table[~replaced]
    assert any((kept[name] != kept[f"{name}_reader2"]).any() for name in TARGET_NAMES)


def test_distractors_are_listed_and_have_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "SPACING_RANGE_MM", (0.9, 1.0))
    table = pd.read_parquet(write_cohort(tmp_path, Cohort(6, seed=1, distractors=0.5)))
    empty = pd.read_csv(tmp_path / "no_knee.csv")["image_path"].tolist()
    assert 0 < len(empty) < 6
    assert all((tmp_path / name).is_file() for name in empty)
    assert set(table["image_path"]).isdisjoint(empty)
    assert len(set(table["image_path"])) + len(empty) == 6


def test_a_manifest_written_in_groups_equals_one_written_at_once(tmp_path, monkeypatch):
    whole = pd.read_parquet(write_cohort(tmp_path / "a", Cohort(5, seed=6, kind="rois", implants=0.5)))
    monkeypatch.setattr(phantom_cohort, "CHUNK", 2)
    parts = pd.read_parquet(write_cohort(tmp_path / "b", Cohort(5, seed=6, kind="rois", implants=0.5)))
    pd.testing.assert_frame_equal(whole, parts)
    assert len(whole) == 5


def test_two_cohorts_in_one_folder_and_invalid_cohorts_raise_errors(tmp_path):
    write_cohort(tmp_path, Cohort(1, seed=1, kind="rois"))
    with pytest.raises(UsageError, match="another cohort"):
        write_cohort(tmp_path, Cohort(1, seed=2, kind="rois"))
    with pytest.raises(UsageError, match="at least 1"):
        Cohort(0)
    with pytest.raises(UsageError, match="uniform"):
        Cohort(1, "rare")
    with pytest.raises(UsageError, match="between 0 and 1"):
        Cohort(1, implants=2.0)


def test_a_cohort_that_no_disk_holds_leaves_nothing_behind(tmp_path):
    with pytest.raises(UsageError, match="would be too large"):
        write_cohort(tmp_path, Cohort(2**50, seed=1, kind="rois"))
    assert list(tmp_path.iterdir()) == []


def test_films_of_a_given_size_show_the_same_knees(tmp_path):
    cohort = Cohort(2, seed=9, longest_px=300)
    write_cohort(tmp_path, cohort)
    table = pd.read_parquet(tmp_path / "truth.parquet")
    path = table["image_path"].iloc[0]
    index = int(path.split("/")[-1].removesuffix(".dcm"))
    layout = phantom_cohort._layout(cohort, index)
    drawn = render_film(9, index, FilmOptions(layout, longest_px=300))
    assert max(drawn.pixels.shape) == 300
    assert pydicom.dcmread(tmp_path / path).pixel_array.shape == drawn.pixels.shape
    landmarks = landmark_array(table[table["image_path"] == path])
    np.testing.assert_allclose(landmarks, [knee.landmarks_px for knee in drawn.knees], atol=0.01)
    with pytest.raises(UsageError, match="another cohort"):
        write_cohort(tmp_path, Cohort(2, seed=9, longest_px=400))
