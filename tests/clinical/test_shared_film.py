from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest
from clinical_films import VARIANTS, ClinicalVariant, PhantomPair, all_of, having, without
from iod_check import iod_problems, needs_dciodvfy

from kneegrade.clinical.pseudonyms import Pseudonyms
from kneegrade.clinical.shared_film import (
    MARGIN,
    TOP,
    knee_region,
    plateau_width,
    shared_dicom,
    shared_picture,
    shared_pixels,
)
from kneegrade.errors import UnsupportedFileError

SHARED_VARIANTS = (  # those whose kept elements differ
    "plain", "empty_type_2", "side_right", "no_side", "side_of_series", "no_orientation", "no_spacing", "pixel_spacing",
    "odd_sex", "japanese", "no_modality", "cr", "secondary_capture", "age_and_weight", "lossy",
)  # fmt: skip
PSEUDONYMS = Pseudonyms(b"s" * 32)


def shared(graded, pseudonyms=PSEUDONYMS, *, whole_film=False):
    """The shared film, read back."""
    radiograph = graded.radiograph
    values = shared_pixels(radiograph, graded.film.knees, whole_film=whole_film)
    made = shared_dicom(values, radiograph, graded.header, pseudonyms, is_masked=not whole_film)
    return pydicom.dcmread(BytesIO(made.content))


def variant_film(pair: PhantomPair, change=lambda dataset: None):
    return ClinicalVariant("film", change).film(pair)


def test_pixels_near_the_knees_are_kept_and_the_others_are_black(bilateral):
    radiograph, knees = bilateral.radiograph, bilateral.film.knees
    kept = np.logical_or.reduce([knee_region(knee, radiograph.pixels.shape) for knee in knees])
    rows, columns = (np.flatnonzero(kept.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    values = shared_pixels(radiograph, knees, whole_film=False)
    assert np.array_equal(values[kept[box]], np.rint(radiograph.pixels * TOP)[kept])
    assert not values[~kept[box]].any()
    assert 0.2 < kept.mean() < 0.8


def test_the_region_is_within_the_margin_of_the_outlines_and_contains_them(bilateral):
    knee = bilateral.film.knees[0]
    region = knee_region(knee, bilateral.radiograph.pixels.shape)
    points = knee.landmarks_px
    assert region[tuple(np.rint(points[:, ::-1]).astype(int).T)].all()
    rows, columns = np.nonzero(region)
    reach = MARGIN * plateau_width(points) + 2
    assert columns.min() >= points[:, 0].min() - reach
    assert columns.max() <= points[:, 0].max() + reach
    assert rows.max() <= points[:, 1].max() + reach


def test_the_corners_of_a_film_are_blank(bilateral):
    shape = bilateral.radiograph.pixels.shape
    for knee in bilateral.film.knees:
        region = knee_region(knee, shape)
        assert not region[[0, 0, -1, -1], [0, -1, 0, -1]].any()


@pytest.mark.parametrize("landmarks", [None, np.full((74, 2), np.nan)])
def test_a_film_without_landmarks_cannot_be_masked(single, landmarks):
    knee = replace(single.film.knees[0], landmarks_px=landmarks)
    with pytest.raises(UnsupportedFileError, match="No knee"):
        shared_pixels(single.radiograph, (knee,), whole_film=False)


def test_a_refused_knee_is_kept_too(single):
    knee = replace(single.film.knees[0], grades=None, joint_space=None)
    assert shared_pixels(single.radiograph, (knee,), whole_film=False).any()


def test_the_dicom_file_holds_the_pixels_and_shows_bone_bright(bilateral):
    film = shared(bilateral)
    values = shared_pixels(bilateral.radiograph, bilateral.film.knees, whole_film=False)
    assert np.array_equal(film.pixel_array, values)
    assert film.PhotometricInterpretation == "MONOCHROME2"


@pytest.mark.parametrize(
    ("change", "keyword", "expected"),
    [
        (having(PatientAge="097Y"), "PatientAge", "089Y"),
        (having(PatientAge="051Y"), "PatientAge", "051Y"),
        (having(PatientAge="011M"), "PatientAge", None),
        (having(PatientSex="F"), "PatientSex", "F"),
        (having(PatientSex="W"), "PatientSex", ""),
        (having(ImagerPixelSpacing=[0.15, 0.15]), "ImagerPixelSpacing", [0.15, 0.15]),
        (having(BodyPartExamined="MUELLER"), "BodyPartExamined", None),
        (having(ViewPosition="MUELLER"), "ViewPosition", None),
        (having(KVP="57"), "KVP", 57),
        (all_of(without("ImageLaterality"), having(Laterality="L")), "ImageLaterality", "L"),
        (without("ImageLaterality", "AnatomicRegionSequence"), "ImageLaterality", "U"),
        (having(Modality="OT"), "Modality", "CR"),
        (without("ImagerPixelSpacing"), "Modality", "CR"),
        (without("PatientOrientation"), "Modality", "CR"),
        (having(BurnedInAnnotation="YES"), "BurnedInAnnotation", "NO"),
    ],
)
def test_what_is_kept(pair, change, keyword, expected):
    assert shared(variant_film(pair, change)).get(keyword) == expected


def test_there_are_no_dates_and_times(pair):
    elements = [element for element in shared(variant_film(pair)).iterall() if element.VR in ("DA", "TM", "DT")]
    assert {element.value for element in elements} == {""}


def test_films_of_a_patient_stay_together(pair):
    one = shared(variant_film(pair))
    other = shared(variant_film(pair, having(SOPInstanceUID="1.2.3.4", PatientName="Married^Name")))
    third = shared(variant_film(pair, having(PatientID="another", SOPInstanceUID="1.2.3.5")))
    assert (one.PatientID, one.StudyInstanceUID) == (other.PatientID, other.StudyInstanceUID)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.PatientID != third.PatientID


def test_the_same_id_of_another_issuer_is_another_patient(pair):
    one, other = (shared(variant_film(pair, having(IssuerOfPatientID=issuer))) for issuer in ("A", "B"))
    assert one.PatientID != other.PatientID


def test_without_an_id_the_study_is_the_patient(pair):
    one = shared(variant_film(pair, having(PatientID="")))
    other = shared(variant_film(pair, having(PatientID="", StudyInstanceUID="1.2.3.4")))
    assert one.PatientID != other.PatientID


def test_the_same_film_gives_the_same_bytes(pair):
    graded = variant_film(pair)
    values = shared_pixels(graded.radiograph, graded.film.knees, whole_film=False)
    once, again = (shared_dicom(values, graded.radiograph, graded.header, PSEUDONYMS, is_masked=True) for _ in range(2))
    assert once == again


def test_how_the_patient_was_removed_is_stated(pair):
    masked, whole = shared(variant_film(pair)), shared(variant_film(pair), whole_film=True)
    assert masked.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in masked.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert [item.CodeValue for item in whole.DeidentificationMethodCodeSequence] == ["113100"]
    assert masked.LongitudinalTemporalInformationModified == "REMOVED"


@needs_dciodvfy
@pytest.mark.parametrize("variant", [pytest.param(v, id=v.name) for v in VARIANTS if v.name in SHARED_VARIANTS])
def test_shared_films_of_many_kinds_are_valid(variant: ClinicalVariant, pair: PhantomPair, tmp_path) -> None:
    graded = variant.film(pair)
    made = shared_dicom(
        shared_pixels(graded.radiograph, pair.film.knees, whole_film=False),
        graded.radiograph, graded.header, PSEUDONYMS, is_masked=True,
    )  # fmt: skip
    assert iod_problems(made.content, tmp_path) == []


def test_a_picture_has_no_metadata(single):
    made = shared_picture(np.full((30, 40), 1000, np.uint16), "KG-0", is_masked=True)
    chunks, position = [], 8
    while position < len(made.content):
        length = int.from_bytes(made.content[position : position + 4], "big")
        chunks.append(made.content[position + 4 : position + 8])
        position += length + 12
    assert chunks == [b"IHDR", b"IDAT", b"IEND"]
    assert made.name == "KG-0.png"
