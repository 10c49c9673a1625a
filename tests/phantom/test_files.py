import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.cohorts import check_manifest, landmark_array, load_manifest
from kneegrade.errors import UsageError
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import (
    Cohort,
    DicomOptions,
    FilmOptions,
    render_film,
    write_cohort,
    write_example_study,
    write_film,
)
from kneegrade.phantom import phantom_cohort as cohort_module
from kneegrade.phantom.film_dicom import stored_values
from kneegrade.phantom.phantom_cohort import dicom_options
from kneegrade.schema import TARGET_NAMES

FILM = render_film(8, 1, FilmOptions("single_left", longest_px=128))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("compression", "bits"), [("none", 16), ("jpeg2000", 12), ("rle", 10)])
def test_written_film_reads_back(tmp_path, photometric, compression, bits):
    options = DicomOptions(bits, photometric, compression=compression)
    write_film(tmp_path / "film.dcm", FILM, options)
    dataset = pydicom.dcmread(tmp_path / "film.dcm")
    np.testing.assert_array_equal(dataset.pixel_array, stored_values(FILM, options))
    shown = dataset.pixel_array / (2**bits - 1)
    shown = 1 - shown if photometric == "MONOCHROME1" else shown
    np.testing.assert_allclose(shown, FILM.pixels, atol=0.51 / (2**bits - 1) + 1e-6)
    assert dataset.ImageLaterality == "L"
    assert dataset.ImagerPixelSpacing[0] == pytest.approx(FILM.pixel_spacing_mm, rel=1e-5)
    assert str(dataset.PatientName).startswith("PHANTOM^")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("photometric", "spacing", "compression"),
    [
        ("MONOCHROME1", "ImagerPixelSpacing", "jpeg2000"),
        ("MONOCHROME2", "none", "rle"),
        ("MONOCHROME1", "PixelSpacing", "none"),
    ],
)
def test_read_radiograph_sees_bone_bright_with_side_and_spacing(tmp_path, photometric, spacing, compression):
    film = render_film(8, 3, FilmOptions("single_left", pixel_spacing_mm=0.4))  # above 1 mm it is not believed
    write_film(tmp_path / "film.dcm", film, DicomOptions(12, photometric, spacing, compression))
    radiograph = read_radiograph(tmp_path / "film.dcm")
    assert radiograph.pixels.shape == film.pixels.shape
    assert np.corrcoef(radiograph.pixels.ravel(), film.pixels.ravel())[0, 1] > 0.95
    points = film.knees[0].landmarks_px
    upwards = (points[14] - points[49]) / np.hypot(*(points[14] - points[49])) / film.pixel_spacing_mm
    condyle, gap = points[14] + 8.0 * upwards, (points[14] + points[49]) / 2
    bone, joint = (radiograph.pixels[round(float(y)), round(float(x))] for x, y in (condyle, gap))
    assert bone > joint
    assert (radiograph.laterality, radiograph.view) == ("L", "AP")
    if spacing == "none":
        assert radiograph.pixel_spacing_mm is None
    else:
        assert radiograph.spacing_source == spacing
        assert radiograph.pixel_spacing_mm == pytest.approx((film.pixel_spacing_mm,) * 2, rel=1e-5)


def test_same_film_gives_the_same_bytes(tmp_path):
    for name in ("one.dcm", "two.dcm"):
        film = render_film(8, 2, FilmOptions("bilateral", longest_px=96))
        write_film(tmp_path / name, film, DicomOptions(compression="jpeg2000"))
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()


def test_uids_are_valid_and_differ(tmp_path):
    films = [render_film(8, index, FilmOptions("single_right", longest_px=48)) for index in range(3)]
    for number, film in enumerate(films):
        write_film(tmp_path / f"{number}.dcm", film)
    instances = [pydicom.dcmread(path).SOPInstanceUID for path in sorted(tmp_path.glob("*.dcm"))]
    assert len(set(instances)) == 3
    assert all(instance.is_valid for instance in instances)


def test_films_of_other_populations_have_other_identifiers(tmp_path):
    identifiers = []
    for number, options in enumerate((FilmOptions(), FilmOptions(prevalence="uniform"), FilmOptions(implants=1.0))):
        film = render_film(8, 1, replace(options, layout="single_left", longest_px=48))
        write_film(tmp_path / f"{number}.dcm", film)
        dataset = pydicom.dcmread(tmp_path / f"{number}.dcm")
        identifiers += [dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.AccessionNumber]
        assert len(dataset.AccessionNumber) <= 16
    assert len(set(identifiers)) == 9


def test_a_dx_of_a_cohort_states_its_detectors_spacing():
    stored = [dicom_options(3, index) for index in range(80)]
    assert {options.spacing for options in stored if options.modality == "DX"} == {"ImagerPixelSpacing"}
    assert {options.spacing for options in stored if options.modality == "CR"} == {
        "ImagerPixelSpacing",
        "PixelSpacing",
        "none",
    }
    assert {options.compression for options in stored} == {"none", "jpeg2000", "rle"}


def test_spacing_and_side_can_be_left_out(tmp_path):
    write_film(tmp_path / "f.dcm", FILM, DicomOptions(spacing="none", laterality=False, modality="CR"))
    dataset = pydicom.dcmread(tmp_path / "f.dcm")
    assert "PixelSpacing" not in dataset
    assert "ImagerPixelSpacing" not in dataset
    assert "ImageLaterality" not in dataset
    assert dataset.Modality == "CR"


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(UsageError, match="10 to 16"):
        DicomOptions(bits=8)
    with pytest.raises(UsageError, match="folder"):
        write_film(tmp_path / "absent" / "f.dcm", FILM)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_example_study(folder)
    return folder


def test_example_study_is_what_it_promises(study):
    bilateral, single = (pydicom.dcmread(study / name) for name in ("bilateral.dcm", "single_right.dcm"))
    assert bilateral.PhotometricInterpretation == "MONOCHROME1"
    assert bilateral.BitsStored == 12
    assert bilateral.file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless
    assert 0.15 <= bilateral.ImagerPixelSpacing[0] <= 0.2
    assert single.BitsStored == 16
    assert "ImagerPixelSpacing" not in single
    assert all(path.stat().st_size <= 3_000_000 for path in study.iterdir())
    for name, side, spaced in (("bilateral.dcm", "both", True), ("single_right.dcm", "R", False)):
        radiograph = read_radiograph(study / name)
        assert radiograph.laterality == side
        assert (radiograph.pixel_spacing_mm is not None) == spaced
    truth = json.loads((study / "truth.json").read_text("utf-8"))
    assert [knee["side"] for knee in truth["bilateral.dcm"]["knees"]] == ["R", "L"]
    assert len({knee["grades"]["kl"] for knee in truth["bilateral.dcm"]["knees"]}) == 2


def test_shipped_examples_are_those_of_the_generator(study):
    shipped = Path(__file__).parents[2] / "examples"
    assert (shipped / "truth.json").read_text("utf-8") == (study / "truth.json").read_text("utf-8")
    for name in ("bilateral.dcm", "single_right.dcm"):
        one, two = (pydicom.dcmread(folder / name).pixel_array.astype(int) for folder in (shipped, study))
        assert np.abs(one - two).mean() < 0.002 * one.max()
        assert np.quantile(np.abs(one - two), 0.999) < 0.03 * one.max()


def test_roi_cohort_does_not_depend_on_its_number_and_resumes(tmp_path):
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


def test_a_broken_off_roi_cohort_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_module, "CHUNK", 1)
    whole = Cohort(3, seed=3, kind="rois")
    write_cohort(tmp_path / "whole", whole)

    def stop(done, number):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "broken", whole, stop)
    assert not (tmp_path / "broken" / "rois.npy").exists()
    done = []
    write_cohort(tmp_path / "broken", whole, lambda number, all_of_them: done.append(number))
    assert done == [3]
    one, two = ((tmp_path / name / "rois.npy").read_bytes() for name in ("whole", "broken"))
    assert one == two


def test_film_cohort_has_a_manifest_and_goes_on(tmp_path, monkeypatch):
    from kneegrade.phantom import film

    monkeypatch.setattr(film, "SPACING_RANGE_MM", (0.9, 1.0))  # coarse films, to be quick
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
    from kneegrade.phantom import film

    monkeypatch.setattr(film, "SPACING_RANGE_MM", (0.9, 1.0))
    table = pd.read_parquet(write_cohort(tmp_path, Cohort(6, seed=1, distractors=0.5)))
    empty = pd.read_csv(tmp_path / "no_knee.csv")["image_path"].tolist()
    assert 0 < len(empty) < 6
    assert all((tmp_path / name).is_file() for name in empty)
    assert set(table["image_path"]).isdisjoint(empty)
    assert len(set(table["image_path"])) + len(empty) == 6


def test_a_manifest_is_written_in_groups(tmp_path, monkeypatch):
    whole = pd.read_parquet(write_cohort(tmp_path / "a", Cohort(5, seed=6, kind="rois", implants=0.5)))
    monkeypatch.setattr(cohort_module, "CHUNK", 2)
    parts = pd.read_parquet(write_cohort(tmp_path / "b", Cohort(5, seed=6, kind="rois", implants=0.5)))
    pd.testing.assert_frame_equal(whole, parts)
    assert len(whole) == 5


def test_two_cohorts_do_not_mix(tmp_path):
    write_cohort(tmp_path, Cohort(1, seed=1, kind="rois"))
    with pytest.raises(UsageError, match="another cohort"):
        write_cohort(tmp_path, Cohort(1, seed=2, kind="rois"))
    with pytest.raises(UsageError, match="at least 1"):
        Cohort(0)
    with pytest.raises(UsageError, match="uniform"):
        Cohort(1, "rare")
    with pytest.raises(UsageError, match="between 0 and 1"):
        Cohort(1, implants=2.0)
