"""The presentation state, read back and drawn by a small viewer of the tests (`gsps_renderer`) and by dcmtk's."""

import shutil
import subprocess
from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest
from gsps_renderer import displayed_values, render, rgb_of
from PIL import Image

from kneegrade.clinical import film_objects, read_clinical_film
from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.graphic_layers import OUTLINES
from kneegrade.clinical.gsps import presentation_state
from kneegrade.errors import UnsupportedFileError
from kneegrade.results import Finding

pytest.importorskip("highdicom", reason='needs pip install "kneegrade[dicom]"')
NEGATIVE = Finding("inverted_by_pixels", "The image is a negative.")


def film_of(graded):
    return pydicom.dcmread(graded.content)


def changed(graded, tmp_path, **elements):
    """The film with other elements (None removes one), and the same results."""
    film = film_of(graded)
    if film.file_meta.TransferSyntaxUID.is_compressed:
        film.decompress()
    for keyword, value in elements.items():
        if value is None:
            delattr(film, keyword)
        else:
            setattr(film, keyword, value)
    path = tmp_path / "film.dcm"
    film.save_as(path)
    return read_clinical_film(replace(graded.film, sha256=None), path, graded.job)


@pytest.mark.parametrize("name", ["bilateral", "single"])
def test_the_state_shows_bone_bright(name, request):
    """`bilateral` is MONOCHROME1, `single` MONOCHROME2."""
    graded = request.getfixturevalue(name)
    shown = displayed_values(presentation_state(graded), film_of(graded))
    assert np.corrcoef(shown.ravel(), graded.radiograph.pixels.ravel())[0, 1] > 0.99


@pytest.mark.skipif(shutil.which("dcmp2pgm") is None, reason="needs dcmtk: apt-get install dcmtk")
@pytest.mark.parametrize("name", ["bilateral", "single"])
def test_dcmtk_applies_the_state_to_the_same_picture(name, request, tmp_path):
    graded = changed(request.getfixturevalue(name), tmp_path)
    (tmp_path / "state.dcm").write_bytes(file_bytes(presentation_state(graded)))
    command = ["dcmp2pgm", "-p", tmp_path / "state.dcm", tmp_path / "film.dcm", tmp_path / "shown.pgm"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    shown = np.asarray(Image.open(tmp_path / "shown.pgm")) / 255
    assert np.corrcoef(shown.ravel(), graded.radiograph.pixels.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("photometric", "shape", "warnings", "expected"),
    [
        ("MONOCHROME1", "INVERSE", (), "INVERSE"),
        ("MONOCHROME1", None, (), "INVERSE"),
        ("MONOCHROME2", "INVERSE", (), "INVERSE"),
        ("MONOCHROME2", "IDENTITY", (), "IDENTITY"),
        ("MONOCHROME2", None, (NEGATIVE,), "INVERSE"),
        ("MONOCHROME1", None, (NEGATIVE,), "IDENTITY"),
    ],
)
def test_polarity_follows_declaration_and_pixels(single, tmp_path, photometric, shape, warnings, expected):
    graded = changed(single, tmp_path, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    graded = replace(graded, film=replace(graded.film, warnings=warnings))
    assert presentation_state(graded).PresentationLUTShape == expected


def test_outlines_are_drawn_on_the_landmarks(bilateral):
    state = presentation_state(bilateral)
    picture = np.asarray(render(state, film_of(bilateral))).astype(int)
    green = np.array(rgb_of(state.GraphicLayerSequence[0].GraphicLayerRecommendedDisplayCIELabValue))
    assert state.GraphicLayerSequence[0].GraphicLayer == OUTLINES.name
    for x, y in np.rint(bilateral.film.knees[1].landmarks_px[20:60]).astype(int):
        around = picture[y - 2 : y + 3, x - 2 : x + 3]
        assert np.abs(around - green).sum(axis=2).min() < 60, (x, y)


def test_one_text_object_per_line(bilateral):
    state = presentation_state(bilateral)
    texts = [
        text.UnformattedTextValue
        for annotation in state.GraphicAnnotationSequence
        for text in annotation.get("TextObjectSequence") or ()
    ]
    assert "Right knee: KL 1 (90 %: 0-2)" in texts
    assert not any("\n" in text or "\r" in text for text in texts)
    assert all(text.isascii() for text in texts)


def test_the_first_of_two_windows_is_repeated(bilateral, tmp_path):
    graded = changed(bilateral, tmp_path, WindowCenter=[2048, 1000], WindowWidth=[4096, 100])
    (window,) = presentation_state(graded).SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (2048, 4096)


def test_a_window_that_kneegrade_ignored_is_not_repeated(bilateral):
    ignored = Finding("window_ignored", "The window clips the image.")
    graded = replace(bilateral, film=replace(bilateral.film, warnings=(ignored,)))
    assert "SoftcopyVOILUTSequence" not in presentation_state(graded)
    assert "SoftcopyVOILUTSequence" in presentation_state(bilateral)


@pytest.mark.parametrize(("stated", "written"), [("R", "R"), ("L", "L"), ("B", ""), ("U", ""), (None, "")])
def test_laterality(single, tmp_path, stated, written):
    assert presentation_state(changed(single, tmp_path, ImageLaterality=stated)).Laterality == written


def test_a_colour_film_has_no_grey_state(single, tmp_path):
    graded = changed(single, tmp_path, SamplesPerPixel=3)
    with pytest.raises(UnsupportedFileError, match="colour"):
        presentation_state(graded)


def test_a_colour_film_gets_the_other_objects_and_a_reason(single, tmp_path):
    graded = changed(single, tmp_path, SamplesPerPixel=3)
    contents, reasons = film_objects(graded.film, graded.content, graded.job, ["gsps", "fhir"])
    assert list(contents) == ["fhir"]
    assert [reason.code for reason in reasons] == ["colour_film"]


def test_the_state_refers_to_the_film_and_belongs_to_its_patient(bilateral):
    film, state = film_of(bilateral), pydicom.dcmread(BytesIO(file_bytes(presentation_state(bilateral))))
    reference = state.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == film.SeriesInstanceUID
    assert reference.ReferencedImageSequence[0].ReferencedSOPInstanceUID == film.SOPInstanceUID
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert state[keyword].value == film[keyword].value
    assert (state.SeriesNumber, state.Modality) == (9902, "PR")


@pytest.mark.parametrize(
    ("elements", "ratio"),
    [
        ({}, [1, 1]),
        ({"PixelAspectRatio": [4, 3]}, [4, 3]),
        ({"PixelSpacing": [0.2, 0.15]}, [20000, 15000]),
        ({"PixelSpacing": [0.2, 0.2], "PixelAspectRatio": [4, 3]}, [1, 1]),
    ],
)
def test_the_shape_of_the_pixels_is_that_of_the_film(single, tmp_path, elements, ratio):
    (area,) = presentation_state(changed(single, tmp_path, **elements)).DisplayedAreaSelectionSequence
    assert area.PresentationPixelAspectRatio == ratio
    assert "PixelOriginInterpretation" not in area
