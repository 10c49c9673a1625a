"""Elements of DICOM files as JSON, in the process of the test."""

import hashlib
import json

import pytest
from films import dataset, dicom_bytes
from pydicom.dataset import Dataset

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import read_dicom_elements
from kneegrade.imaging.dicom.dicom_elements import listed_elements, read_elements
from kneegrade.imaging.dicom.header_keywords import FILM_KEYWORDS, IDENTITY, IMAGE, INSTANCE, MAX_FILM_BYTES
from kneegrade.imaging.limits import Limits


def film(**values: object) -> dict:
    return json.loads(read_elements(dicom_bytes(dataset(**values)), "film", Limits()))


def test_only_listed_elements_leave_the_process() -> None:
    answer = film(PatientComments="CANARY", PatientID="77", OperatorsName="CANARY")
    assert answer["elements"]["00100020"] == {"vr": "LO", "Value": ["77"]}
    assert "CANARY" not in json.dumps(answer)
    assert answer["left_out"] == []


def test_the_digests_are_of_the_stored_pixels_and_of_the_file() -> None:
    content = dicom_bytes(dataset())
    answer = json.loads(read_elements(content, "film", Limits()))
    assert answer["pixel_sha256"] == hashlib.sha256(dataset().PixelData).hexdigest()
    assert answer["file_sha256"] == hashlib.sha256(content).hexdigest()


def test_large_elements_are_left_out_and_named() -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [0, 0, 16], bytes(2 * 65536)
    lut["LUTData"].VR = "OW"
    answer = film(VOILUTSequence=[lut], PatientName="A^B")
    assert answer["left_out"] == ["VOILUTSequence"]
    assert answer["elements"]["00100010"]["Value"] == [{"Alphabetic": "A^B"}]
    assert len(json.dumps(answer)) < MAX_FILM_BYTES


def test_identity_comes_before_what_fills_the_limit() -> None:
    elements, left_out = listed_elements(dataset(PatientID="7", StationName="S" * 400), FILM_KEYWORDS, 500)
    assert "00100020" in elements
    assert "StationName" in left_out


def test_malformed_elements_are_left_out() -> None:
    content = dicom_bytes(dataset(PatientWeight="77.77777")).replace(b"77.77777", b"too much")
    answer = json.loads(read_elements(content, "film", Limits()))
    assert answer["left_out"] == ["PatientWeight"]


def test_private_and_binary_elements_of_items_are_left_out() -> None:
    item = Dataset()
    item.PatientID = "X"
    item.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "CANARY")
    item.EncapsulatedDocument = b"CANARY"
    answer = film(OtherPatientIDsSequence=[item])
    (kept,) = answer["elements"]["00101002"]["Value"]
    assert kept == {"00100020": {"vr": "LO", "Value": ["X"]}}


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(300), "film", "not_dicom"),
        (dicom_bytes(dataset()), "document", "not_a_report"),
    ],
)
def test_other_files_are_refused(content: bytes, kind: str, code: str) -> None:
    with pytest.raises(KneeGradeError) as caught:
        read_elements(content, kind, Limits())
    assert caught.value.code == code


def test_the_decoding_process_answers_a_request_for_elements_between_images() -> None:
    content = dicom_bytes(dataset(PatientID="77"))
    assert read_dicom_elements(content, "film")["elements"]["00100020"]["Value"] == ["77"]
    with pytest.raises(KneeGradeError) as caught:
        read_dicom_elements(b"", "film")
    assert caught.value.code == "empty"


def test_no_keyword_is_listed_twice() -> None:
    assert len(set(FILM_KEYWORDS)) == len(INSTANCE) + len(IDENTITY) + len(IMAGE)
