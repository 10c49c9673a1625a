"""Which bytes are taken for what, and the files that pydicom ships."""

from pathlib import Path

import pydicom
import pytest
from films import dataset, dicom_bytes

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import Limits, Radiograph, find_sources, read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom import declared_transfer_syntax, is_dicom

FILM = dicom_bytes(dataset())
SHIPPED = Path(pydicom.__file__).parent / "data"


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (b"", UnreadableFileError, "empty"),
        (b"words in a file renamed .dcm", UnreadableFileError, "format"),
        (b"\0" * 4000, UnreadableFileError, "format"),
        (b"%PDF-1.7 ...", UnsupportedFileError, "format"),
        (b"PK\3\4....", UnsupportedFileError, "format"),
        (b"GIF89a", UnsupportedFileError, "format"),
        (b"\x89PNG\r\n\x1a\n and no more", UnreadableFileError, "damaged"),
        (b"\xff\xd8\xff\xe0", UnreadableFileError, "damaged"),
        (b"II*\0\x08", UnreadableFileError, "damaged"),
        (b"\0" * 128 + b"DICM", UnsupportedFileError, "not_an_image"),
        (FILM[: FILM.index(b"\xe0\x7f\x10\x00")], KneeGradeError, "truncated"),
        (FILM[:-1000], UnreadableFileError, "damaged"),
        (FILM[128:], UnreadableFileError, "format"),
    ],
)
def test_what_is_no_radiograph_has_a_reason_of_one_sentence(data: bytes, error: type, code: str) -> None:
    with pytest.raises(error) as caught:
        decode(data, Limits())
    assert caught.value.code == code
    assert caught.value.message.endswith(".")
    assert caught.value.message.count(". ") == 0


def test_bytes_above_the_cap_are_refused() -> None:
    with pytest.raises(LimitExceededError):
        decode(FILM, Limits(file_bytes=len(FILM) - 1))


def test_dicom_without_preamble_or_without_meta_group_is_read() -> None:
    made = dataset()
    expected = decode(FILM, Limits()).pixels
    assert (decode(FILM[132:], Limits()).pixels == expected).all()
    for name, is_little in (("ImplicitVRLittleEndian", True), ("ExplicitVRLittleEndian", True)):
        stream = pydicom.filebase.DicomBytesIO()
        bare = pydicom.Dataset(made)
        pydicom.dcmwrite(stream, bare, implicit_vr=name.startswith("Implicit"), little_endian=is_little)
        data = stream.getvalue()
        assert is_dicom(data)
        assert declared_transfer_syntax(data) == ""
        assert (decode(data, Limits()).pixels == expected).all()


def test_big_endian_without_meta_group_is_told() -> None:
    assert is_dicom(b"\x00\x08\x00\x05CS\x00\x0a")
    assert not is_dicom(b"\x00\x08")


def test_transfer_syntax_is_found_before_anything_is_unpacked() -> None:
    assert declared_transfer_syntax(FILM) == "1.2.840.10008.1.2.1"
    assert declared_transfer_syntax(FILM[132:]) == "1.2.840.10008.1.2.1"
    implicit = b"\2\0\x10\0" + (4).to_bytes(4, "little") + b"1.2\0"
    assert declared_transfer_syntax(implicit + b"\0" * 8) == "1.2"
    assert declared_transfer_syntax(b"\2\0\x00\x00UL") == ""


def test_deflated_files_are_refused_even_with_an_odd_meta_group() -> None:
    data = (SHIPPED / "test_files" / "image_dfl.dcm").read_bytes()
    with pytest.raises(UnsupportedFileError, match="deflated"):
        decode(data, Limits())
    odd = data.replace(b"\2\0\x10\0", b"\2\0\x0f\0", 1)  # hidden from our own look
    with pytest.raises(KneeGradeError):
        decode(odd, Limits())


def test_every_file_that_pydicom_ships_is_a_radiograph_or_a_reason() -> None:
    outcomes: dict[str, Radiograph | KneeGradeError] = {}
    for source in find_sources([SHIPPED]):
        try:
            outcomes[source.name] = read_radiograph(source)
        except KneeGradeError as error:
            outcomes[source.name] = error
    films = {name for name, outcome in outcomes.items() if isinstance(outcome, Radiograph)}
    assert len(outcomes) > 150
    assert {name for name in films if "CR" in name} == {
        "test_files/dicomdirtests/77654033/CR1/6154",
        "test_files/dicomdirtests/77654033/CR2/6247",
        "test_files/dicomdirtests/77654033/CR3/6278",
    }
    assert "charset_files/chrRuss.dcm" in films
    for name in films:
        pixels = outcomes[name].pixels
        assert 0 <= pixels.min() <= pixels.max() <= 1, name
    codes = {name: outcome.code for name, outcome in outcomes.items() if isinstance(outcome, KneeGradeError)}
    assert codes["test_files/MR_small.dcm"] == codes["test_files/CT_small.dcm"] == "modality"
    assert codes["test_files/SC_rgb_rle_2frame.dcm"] == "multi_frame"
    assert codes["test_files/test-SR.dcm"] == codes["test_files/waveform_ecg.dcm"] == "not_an_image"
    assert codes["test_files/image_dfl.dcm"] == "transfer_syntax"
    assert all(outcome.message for outcome in outcomes.values() if isinstance(outcome, KneeGradeError))


@pytest.mark.parametrize(
    "name",
    ["JPEG-lossy", "JPGExtended", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "693_J2KI",
     "examples_palette", "examples_jpeg2k", "MR_small_bigendian", "MR_small_padded", "J2K_pixelrep_mismatch"],
)  # fmt: skip
def test_pictures_of_other_modalities_decode_once_they_claim_to_be_films(name: str) -> None:
    path = SHIPPED / "test_files" / f"{name}.dcm"
    if not path.exists():
        pytest.skip("this pydicom does not ship the file")
    with pydicom.config.disable_value_validation():
        made = pydicom.dcmread(path)
        made.Modality = "OT"
        data = dicom_bytes(made)
    assert decode(data, Limits()).pixels.shape == (made.Rows, made.Columns)
