import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from kneegrade.errors import UsageError
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import DicomOptions, FilmOptions, render_film, write_example_study, write_film
from kneegrade.phantom.film_dicom import stored_values

FILM = render_film(8, 1, FilmOptions("single_left", longest_px=128))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("compression", "bits"), [("none", 16), ("jpeg2000", 12), ("rle", 10)])
def test_a_written_film_can_be_read_back(tmp_path, photometric, compression, bits):
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
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("photometric", "spacing", "compression"),
    [
        ("MONOCHROME1", "ImagerPixelSpacing", "jpeg2000"),
        ("MONOCHROME2", "none", "rle"),
        ("MONOCHROME1", "PixelSpacing", "none"),
    ],
)
def test_read_radiograph_returns_bright_bone_side_and_spacing(tmp_path, photometric, spacing, compression):
    film = render_film(8, 3, FilmOptions("single_left", pixel_spacing_mm=0.4))  # spacings above 1 mm are rejected
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


def test_the_same_film_gives_the_same_bytes(tmp_path):
    for name in ("one.dcm", "two.dcm"):
        film = render_film(8, 2, FilmOptions("bilateral", longest_px=96))
        write_film(tmp_path / name, film, DicomOptions(compression="jpeg2000"))
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()


def test_uids_are_valid_and_unique(tmp_path):
    films = [render_film(8, index, FilmOptions("single_right", longest_px=48)) for index in range(3)]
    for number, film in enumerate(films):
        write_film(tmp_path / f"{number}.dcm", film)
    instances = [pydicom.dcmread(path).SOPInstanceUID for path in sorted(tmp_path.glob("*.dcm"))]
    assert len(set(instances)) == 3
    assert all(instance.is_valid for instance in instances)


def test_films_of_different_populations_have_different_identifiers(tmp_path):
    identifiers = []
    for number, options in enumerate((FilmOptions(), FilmOptions(prevalence="uniform"), FilmOptions(implants=1.0))):
        film = render_film(8, 1, replace(options, layout="single_left", longest_px=48))
        write_film(tmp_path / f"{number}.dcm", film)
        dataset = pydicom.dcmread(tmp_path / f"{number}.dcm")
        identifiers += [dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.AccessionNumber]
        assert len(dataset.AccessionNumber) <= 16
    assert len(set(identifiers)) == 9


def test_spacing_and_side_can_be_omitted(tmp_path):
    write_film(tmp_path / "f.dcm", FILM, DicomOptions(spacing="none", laterality=False, modality="CR"))
    dataset = pydicom.dcmread(tmp_path / "f.dcm")
    assert "PixelSpacing" not in dataset
    assert "ImagerPixelSpacing" not in dataset
    assert "ImageLaterality" not in dataset
    assert dataset.Modality == "CR"


def test_invalid_options_and_missing_folders_raise_errors(tmp_path):
    with pytest.raises(UsageError, match="10 to 16"):
        DicomOptions(bits=8)
    with pytest.raises(UsageError, match="folder"):
        write_film(tmp_path / "absent" / "f.dcm", FILM)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_example_study(folder)
    return folder


def test_example_study_has_the_documented_properties(study):
    bilateral, single = (pydicom.dcmread(study / name) for name in ("bilateral.dcm", "single_right.dcm"))
    assert bilateral.PhotometricInterpretation == "MONOCHROME1"
    assert bilateral.BitsStored == 12
    assert bilateral.file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless
    assert 0.15 <= bilateral.ImagerPixelSpacing[0] <= 0.2
    assert single.BitsStored == 16
    assert "ImagerPixelSpacing" not in single
    assert all(path.stat().st_size <= 3_000_000 for path in study.iterdir())
    for name, side, has_spacing in (("bilateral.dcm", "both", True), ("single_right.dcm", "R", False)):
        radiograph = read_radiograph(study / name)
        assert radiograph.laterality == side
        assert (radiograph.pixel_spacing_mm is not None) == has_spacing
    truth = json.loads((study / "truth.json").read_text("utf-8"))
    assert [knee["side"] for knee in truth["bilateral.dcm"]["knees"]] == ["R", "L"]
    assert len({knee["grades"]["kl"] for knee in truth["bilateral.dcm"]["knees"]}) == 2


def test_shipped_examples_match_the_generator(study):
    shipped = Path(__file__).parents[2] / "examples"
    assert (shipped / "truth.json").read_text("utf-8") == (study / "truth.json").read_text("utf-8")
    for name in ("bilateral.dcm", "single_right.dcm"):
        one, two = (pydicom.dcmread(folder / name).pixel_array.astype(int) for folder in (shipped, study))
        assert np.abs(one - two).mean() < 0.002 * one.max()
        assert np.quantile(np.abs(one - two), 0.999) < 0.03 * one.max()
