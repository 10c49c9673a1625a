from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest

from kneegrade.clinical import read_clinical_film
from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.result_picture import LONGEST_PX, result_picture
from kneegrade.clinical.secondary_capture import secondary_capture

pytest.importorskip("highdicom", reason='needs pip install "kneegrade[dicom]"')


@pytest.fixture(scope="module")
def capture(bilateral):
    return pydicom.dcmread(BytesIO(file_bytes(secondary_capture(bilateral))))


def with_elements(graded, **elements):
    """The graded film with other attributes of the image in its header."""
    film = pydicom.dcmread(graded.content)
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    stream = BytesIO()
    film.save_as(stream)
    return read_clinical_film(replace(graded.film, sha256=None), stream.getvalue(), graded.job)


def test_the_pixels_are_those_of_the_picture(bilateral, capture):
    note = f"kneegrade {bilateral.job.version}, weights {bilateral.job.weights.name}"
    picture = result_picture(bilateral.film, bilateral.radiograph.pixels, set_level=bilateral.job.set_level, note=note)
    assert (capture.PhotometricInterpretation, capture.file_meta.TransferSyntaxUID) == ("RGB", "1.2.840.10008.1.2.1")
    assert np.array_equal(capture.pixel_array, picture.pixels)
    assert max(capture.Rows, capture.Columns) <= LONGEST_PX


def test_it_states_how_it_was_made(bilateral, capture):
    assert capture.ConversionType == "WSD"
    assert "Research use only" in capture.DerivationDescription
    (source,) = capture.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == bilateral.header.sop_instance_uid
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_the_spacing_is_that_of_the_detector_at_the_scale_of_the_picture(bilateral, capture):
    stated, shown = pydicom.dcmread(bilateral.content).ImagerPixelSpacing, capture.NominalScannedPixelSpacing
    width = np.ptp(bilateral.film.knees[0].landmarks_px[:, 0])
    picture = result_picture(bilateral.film, bilateral.radiograph.pixels, set_level=None)
    assert float(shown[1]) * width * picture.scale == pytest.approx(float(stated[1]) * width)
    assert "PixelSpacing" not in capture


def test_without_spacing_none_is_stated(single):
    assert "NominalScannedPixelSpacing" not in secondary_capture(single)


@pytest.mark.parametrize(("stated", "written"), [("NO", "NO"), ("YES", "YES"), ("", "YES")])
def test_burned_in_text_is_denied_only_where_the_film_denies_it(single, stated, written):
    assert secondary_capture(with_elements(single, BurnedInAnnotation=stated)).BurnedInAnnotation == written


@pytest.mark.parametrize(("stated", "written"), [("R", "R"), ("L", "L"), ("B", ""), ("U", "")])
def test_laterality(single, stated, written):
    assert secondary_capture(with_elements(single, ImageLaterality=stated)).Laterality == written


def test_it_belongs_to_the_patient_and_study_of_the_film(bilateral, capture):
    film = pydicom.dcmread(bilateral.content)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert capture[keyword].value == film[keyword].value
    assert capture.SeriesInstanceUID != film.SeriesInstanceUID
    assert capture.SeriesNumber == 9903
