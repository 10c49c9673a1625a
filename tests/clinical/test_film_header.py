"""The film's header: what it holds, what it withholds, and that it never shows the patient."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from clinical_films import ClinicalVariant, PhantomPair, file_of, having, without
from PIL import Image

from kneegrade.clinical import FilmHeader, read_film_header
from kneegrade.errors import UnsupportedFileError, UsageError


def header(pair: PhantomPair, change=lambda dataset: None) -> FilmHeader:
    return read_film_header(ClinicalVariant("", change).file(pair))


def test_geometry_and_digests_are_those_of_the_film(pair: PhantomPair) -> None:
    read = header(pair)
    assert (read.size, read.laterality, read.orientation) == ((444, 640), "B", ("L", "F"))
    assert read.spacing_mm == pytest.approx((pair.spacing_mm, pair.spacing_mm), rel=1e-5)
    assert (read.inverse, read.instance_number, read.timezone_offset) == (True, 1, None)
    assert read.sop_instance_uid == pair.dataset.SOPInstanceUID
    assert read.pixel_sha256 == hashlib.sha256(pair.dataset.PixelData).hexdigest()


def test_the_representation_shows_nothing_of_the_patient(pair: PhantomPair) -> None:
    read = header(pair)
    assert str(read.identity.PatientID) == pair.dataset.PatientID
    assert repr(read) == str(read) == "FilmHeader(...)"


def test_the_source_image_of_highdicom_has_an_empty_identity(pair: PhantomPair) -> None:
    read = header(pair)
    assert {str(read.image[keyword].value) for keyword in ("PatientID", "PatientName", "StudyDate")} == {""}
    assert str(read.image.Modality) == "DX"


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("change", [without, lambda keyword: having(**{keyword: "1.2.CANARY"})])
def test_a_film_without_valid_uids_has_no_identity(keyword: str, change, pair: PhantomPair) -> None:
    with pytest.raises(UnsupportedFileError, match=f"no valid {keyword}") as caught:
        header(pair, change(keyword))
    assert caught.value.code == "no_identity"
    assert "CANARY" not in caught.value.message


@pytest.mark.parametrize("keyword", ["RescaleSlope", "WindowCenter", "PixelSpacing", "InstanceNumber"])
def test_a_text_where_the_standard_has_a_number_is_left_out(keyword: str, pair: PhantomPair) -> None:
    def change(dataset: pydicom.Dataset) -> None:
        dataset[keyword] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "LO", "CANARY")

    read = header(pair, change)
    assert keyword not in read.image
    assert keyword in read.withheld


def test_a_plain_picture_is_not_dicom() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, format="PNG")
    with pytest.raises(UnsupportedFileError) as caught:
        read_film_header(stream.getvalue())
    assert caught.value.code == "not_dicom"


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_film_header(tmp_path / "none.dcm")


def test_the_file_is_not_parsed_in_this_process(pair: PhantomPair, monkeypatch: pytest.MonkeyPatch) -> None:
    content = file_of(pair.dataset)
    monkeypatch.setattr(pydicom, "dcmread", None)
    monkeypatch.setattr(pydicom.filereader, "dcmread", None)
    assert read_film_header(content).sop_instance_uid == pair.dataset.SOPInstanceUID


@pytest.mark.parametrize(
    ("keyword", "value"), [("PatientSex", "W"), ("StudyDate", "2024.03.27"), ("PatientAge", "51 years")]
)
def test_attributes_that_do_not_conform_are_withheld(keyword: str, value: str, pair: PhantomPair) -> None:
    read = header(pair, having(**{keyword: value}))
    assert read.withheld == (keyword,)
    assert str(read.identity.get(keyword, "")) == ""


@pytest.mark.parametrize(("keyword", "value"), [("PatientID", "X" * 80), ("AccessionNumber", "A" * 20)])
def test_identifiers_are_copied_even_if_they_are_too_long(keyword: str, value: str, pair: PhantomPair) -> None:
    """Without its identifier, an object would belong to another patient or order."""
    read = header(pair, having(**{keyword: value}))
    assert read.withheld == ()
    assert read.identity[keyword].value == value


def test_an_undeclared_character_set_keeps_the_bytes_of_the_name(pair: PhantomPair) -> None:
    content = ClinicalVariant("", having(SpecificCharacterSet="ISO_IR 6", PatientName="QQQQQQ^QQ")).file(pair)
    read = read_film_header(content.replace(b"QQQQQQ^QQ", b"M\xfcller^JJ"))
    assert "SpecificCharacterSet" not in read.identity
    written = pydicom.dcmread(io.BytesIO(file_of_identity(read)), force=True)
    assert written.get_item("PatientName").value.rstrip() == b"M\xfcller^JJ"


def file_of_identity(read: FilmHeader) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, read.identity, implicit_vr=False, little_endian=True)
    return stream.getvalue()


@pytest.mark.parametrize("offset", ["+2500", "0100", "+01:00", "CET"])
def test_an_invalid_time_zone_counts_as_none(offset: str, pair: PhantomPair) -> None:
    assert header(pair, having(TimezoneOffsetFromUTC=offset)).timezone_offset is None
