"""Recognition and reading of DICOM files, with the test files of pydicom."""

from pathlib import Path

import pydicom
import pytest
from films import dataset, dicom_bytes

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Limits, Radiograph, find_sources, read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.dicom_file import file_meta, is_dicom

FILM = dicom_bytes(dataset())
PYDICOM_DATA = Path(pydicom.__file__).parent / "data"


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
        assert file_meta(data) == ("", 0)
        assert (decode(data, Limits()).pixels == expected).all()


def test_big_endian_without_meta_group_is_recognised() -> None:
    assert is_dicom(b"\x00\x08\x00\x05CS\x00\x0a")
    assert not is_dicom(b"\x00\x08")


def test_the_meta_group_gives_the_transfer_syntax_and_its_own_end() -> None:
    syntax, end = file_meta(FILM)
    assert syntax == "1.2.840.10008.1.2.1"
    assert FILM[end : end + 2] == b"\x08\0"
    assert file_meta(FILM[132:]) == (syntax, end - 132)
    implicit = b"\2\0\x10\0" + (4).to_bytes(4, "little") + b"1.2\0"
    assert file_meta(implicit + b"\0" * 8) == ("1.2", len(implicit))
    assert file_meta(b"\2\0\x00\x00UL") == ("", 0)


def test_deflated_data_hidden_by_an_unusual_meta_group_are_not_inflated() -> None:
    data = (PYDICOM_DATA / "test_files" / "image_dfl.dcm").read_bytes()
    hidden = data.replace(b"\2\0\x10\0", b"\2\0\x0f\0", 1)  # hidden from `file_meta`
    with pytest.raises(KneeGradeError):
        decode(hidden, Limits())


def test_every_test_file_of_pydicom_is_read_or_rejected_as_expected() -> None:
    outcomes: dict[str, Radiograph | KneeGradeError] = {}
    for source in find_sources([PYDICOM_DATA]):
        try:
            outcomes[source.name] = read_radiograph(source)
        except KneeGradeError as error:
            outcomes[source.name] = error
    films = {name for name, outcome in outcomes.items() if isinstance(outcome, Radiograph)}
    assert len(outcomes) > 60  # pydicom 3.0.1 brings fewer files than 3.0.2
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
    assert codes["test_files/SC_rgb_rle_2frame.dcm"] == "multi_frame"
    assert "test_files/image_dfl.dcm" in films
    assert all(outcome.message for outcome in outcomes.values() if isinstance(outcome, KneeGradeError))


@pytest.mark.parametrize(
    ("name", "code"),
    [("MR_small", "modality"), ("CT_small", "modality"), ("test-SR", "not_an_image"), ("waveform_ecg", "not_an_image")],
)
def test_objects_that_are_not_films_are_left_out_of_a_folder_and_refused_by_themselves(name: str, code: str) -> None:
    path = PYDICOM_DATA / "test_files" / f"{name}.dcm"
    assert path.name not in {Path(source.name).name for source in find_sources([PYDICOM_DATA / "test_files"])}
    with pytest.raises(KneeGradeError) as refused:
        read_radiograph(path)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "name",
    ["JPEG-lossy", "JPGExtended", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "693_J2KI",
     "examples_palette", "examples_jpeg2k", "MR_small_bigendian", "MR_small_padded", "J2K_pixelrep_mismatch"],
)  # fmt: skip
def test_images_of_other_modalities_are_decoded_when_declared_as_radiographs(name: str) -> None:
    path = PYDICOM_DATA / "test_files" / f"{name}.dcm"
    if not path.exists():
        pytest.skip("this pydicom does not ship the file")
    with pydicom.config.disable_value_validation():
        made = pydicom.dcmread(path)
        made.Modality = "OT"
        data = dicom_bytes(made)
    assert decode(data, Limits()).pixels.shape == (made.Rows, made.Columns)
