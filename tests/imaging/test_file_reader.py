from pathlib import Path

import numpy as np
import pytest
from films import dataset, dicom_bytes, knee, stored
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UsageError
from kneegrade.imaging import Limits, Source, file_reader, read_radiograph


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom_bytes(dataset(PixelSpacing=[0.2, 0.2], ImageLaterality="R", ViewPosition="AP")))
    return path


def test_every_type_of_source_gives_the_same_radiograph(film: Path) -> None:
    data = film.read_bytes()
    sources = [
        str(film),
        film,
        data,
        bytearray(data),
        dcmread(film),
        Source("film", film),
        Source("m", load=lambda: data),
    ]
    first, *others = [read_radiograph(source) for source in sources]
    assert first.pixels.dtype == np.float32
    assert (first.pixels.min(), first.pixels.max()) == (0, 1)
    assert (first.pixel_spacing_mm, first.laterality, first.view) == ((0.2, 0.2), "R", "AP")
    for other in others:
        np.testing.assert_array_equal(other.pixels, first.pixels)
        assert (other.pixel_spacing_mm, other.laterality, other.view) == ((0.2, 0.2), "R", "AP")
        assert other.identity == first.identity


def test_data_set_without_file_meta_is_read() -> None:
    made = dataset()
    del made.file_meta
    np.testing.assert_array_equal(read_radiograph(made).pixels, read_radiograph(dataset()).pixels)


def test_data_set_without_transfer_syntax_keeps_its_encoding(tmp_path: Path) -> None:
    made = dataset()
    made.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom_bytes(made))
    read = dcmread(path)
    del read.file_meta.TransferSyntaxUID
    np.testing.assert_array_equal(read_radiograph(read).pixels, read_radiograph(dataset()).pixels)


def test_data_set_that_cannot_be_written_is_an_error() -> None:
    made = dataset()
    made["Rows"].value = "many"
    with pytest.raises(KneeGradeError):
        read_radiograph(made)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_arrays_of_any_real_dtype_are_read(dtype) -> None:
    radiograph = read_radiograph((knee() * 100).astype(dtype))
    assert (radiograph.pixels.min(), radiograph.pixels.max()) == (0, 1)
    assert radiograph.pixels[20, 80] > radiograph.pixels[20, 2]


def test_floats_in_the_unit_range_keep_their_values_and_the_input_is_not_modified() -> None:
    unit = (0.2 + 0.5 * knee()).astype(np.float32)
    before = unit.copy()
    np.testing.assert_array_equal(read_radiograph(unit).pixels, before)
    negative = read_radiograph(1 - unit)
    np.testing.assert_allclose(negative.pixels, before, atol=1e-6)
    assert [finding.code for finding in negative.warnings] == ["inverted_by_pixels"]
    np.testing.assert_array_equal(unit, before)


def test_a_constant_array_becomes_black() -> None:
    assert read_radiograph(np.full((130, 130), 77, np.uint8)).pixels.max() == 0


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5)), np.zeros(5), np.zeros((0, 4)), np.zeros((4, 4), complex)])
def test_arrays_of_another_shape_or_dtype_are_rejected(array: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"The array has the (shape|dtype) .*expected"):
        read_radiograph(array)


def test_an_array_with_too_many_pixels_is_rejected() -> None:
    with pytest.raises(LimitExceededError):
        read_radiograph(np.zeros((20, 20)), limits=Limits(pixels=399))


def test_side_and_spacing_of_the_user_complete_the_file() -> None:
    radiograph = read_radiograph(stored(12), laterality="L", pixel_spacing_mm=(0.1, 0.1))
    assert (radiograph.laterality, radiograph.laterality_source) == ("L", "user")
    assert (radiograph.pixel_spacing_mm, radiograph.spacing_source) == ((0.1, 0.1), "user")
    assert read_radiograph(stored(12), laterality="R").laterality == "R"


def test_side_and_spacing_of_the_file_take_precedence_over_the_user(film: Path) -> None:
    radiograph = read_radiograph(film, laterality="L", pixel_spacing_mm=(0.1, 0.1))
    assert (radiograph.laterality, radiograph.laterality_source) == ("R", "ImageLaterality")
    assert (radiograph.pixel_spacing_mm, radiograph.spacing_source) == ((0.2, 0.2), "PixelSpacing")
    assert [finding.code for finding in radiograph.warnings] == ["laterality_conflict", "spacing_conflict"]
    assert read_radiograph(film, laterality="R", pixel_spacing_mm=(0.2, 0.2)).warnings == ()


@pytest.mark.parametrize(
    "arguments",
    [
        {"laterality": "left"},
        {"laterality": "both"},
        {"pixel_spacing_mm": (0, 0.1)},
        {"pixel_spacing_mm": (float("nan"), 1)},
        {"pixel_spacing_mm": (0.1, 0.1, 0.1)},
    ],
)
def test_invalid_arguments_are_rejected(arguments) -> None:
    with pytest.raises(UsageError):
        read_radiograph(stored(12), **arguments)


def test_invalid_sources_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_radiograph(tmp_path / "none.dcm")
    assert caught.value.code == "no_such_file"
    with pytest.raises(UsageError) as caught:
        read_radiograph(tmp_path)
    assert caught.value.code == "not_a_file"
    assert caught.value.message == "The path is a folder; give the path of a file."
    with pytest.raises(UsageError) as caught:
        read_radiograph(42)  # type: ignore[arg-type]
    assert caught.value.code == "source"
    with pytest.raises(UnreadableFileError) as caught:
        read_radiograph("nul\0byte")
    assert caught.value.code == "cannot_open"


def test_files_larger_than_allowed_are_rejected_before_they_are_opened(film: Path, monkeypatch) -> None:
    monkeypatch.setattr(file_reader, "decoding_process", None)  # must not be called
    for source in (film, film.read_bytes()):
        with pytest.raises(LimitExceededError) as caught:
            read_radiograph(source, limits=Limits(file_bytes=100))
        assert caught.value.code == "file_size"


def test_limits_must_be_positive() -> None:
    with pytest.raises(UsageError, match="child_seconds"):
        Limits(child_seconds=0)


def test_a_png_file_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "knee.png"
    Image.fromarray(stored(16)).save(path)
    radiograph = read_radiograph(path, laterality="L")
    assert radiograph.pixels.shape == (150, 160)
    assert radiograph.laterality == "L"


def test_an_empty_data_set_is_an_error() -> None:
    with pytest.raises(KneeGradeError):
        read_radiograph(Dataset())
