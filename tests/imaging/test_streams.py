from io import BytesIO

import pytest
from films import COLUMNS, ROWS, compressed, dataset, stored, through_gdcm
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import get_frame

from kneegrade.imaging.dicom_codecs import declared_size


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_size_of_what_pydicom_encodes(syntax: uid.UID) -> None:
    frame = get_frame(compressed(dataset(), syntax).PixelData, 0, number_of_frames=1)
    assert declared_size(frame) == (ROWS, COLUMNS)


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEGExtendedProcess2_4"])
def test_size_of_what_gdcm_encodes(name: str, tmp_path) -> None:
    made = dcmread(BytesIO(through_gdcm(dataset(), name, tmp_path)))
    assert declared_size(get_frame(made.PixelData, 0, number_of_frames=1)) == (ROWS, COLUMNS)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG2000", {})])
def test_size_of_what_pillow_encodes(kind: str, options: dict[str, bool]) -> None:
    stream = BytesIO()
    Image.fromarray(stored(8)).save(stream, kind, **options)
    assert declared_size(stream.getvalue()) == (ROWS, COLUMNS)


def test_fill_bytes_and_restart_markers_are_stepped_over() -> None:
    frame = b"\xff\xc0\x00\x0b\x08\x00\x05\x00\x07\x01\x01\x11\x00"
    assert declared_size(b"\xff\xd8\xff\xff\xff\xd0" + frame) == (5, 7)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xc0\x00\x0b",
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x07\x01\x01\x11\x00",
        b"\xff\x4f\xff\x51\x00",
        b"run lengths",
    ],
)
def test_no_size_is_none(stream: bytes) -> None:
    assert declared_size(stream) is None
