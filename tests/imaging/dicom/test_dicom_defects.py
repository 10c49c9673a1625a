"""Files with missing attributes or sloppy encapsulation are read where they have one sensible reading."""

import struct

import numpy as np
import pytest
from films import compressed, dataset, dicom_bytes, stored
from pydicom import uid
from pydicom.encaps import encapsulate, generate_fragments, parse_basic_offsets

from kneegrade.errors import UnreadableFileError
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.dicom_file import is_dicom
from kneegrade.imaging.limits import Limits

DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
SYNTAXES = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless]


@pytest.mark.parametrize(
    "keyword",
    ["PhotometricInterpretation", "SamplesPerPixel", "PixelRepresentation", "BitsAllocated", "HighBit"],
)
def test_a_missing_attribute_gets_its_usual_value_and_a_warning_that_names_it(keyword: str) -> None:
    image = decode(dicom_bytes(dataset(**{keyword: None})), Limits())
    np.testing.assert_array_equal(image.pixels, stored(12))
    (finding,) = image.warnings
    assert finding.code == "attributes_missing"
    assert keyword in finding.message


def test_all_missing_attributes_are_named_in_one_warning() -> None:
    missing = ("SamplesPerPixel", "BitsStored", "HighBit", "PixelRepresentation")
    image = decode(dicom_bytes(dataset(bits=16, **dict.fromkeys(missing))), Limits())
    np.testing.assert_array_equal(image.pixels, stored(16))
    (finding,) = image.warnings
    assert all(keyword in finding.message for keyword in missing)


def test_samples_per_pixel_of_a_colour_image_follow_from_its_photometric_interpretation() -> None:
    colour = np.stack([stored(8)] * 3, axis=-1)
    image = decode(dicom_bytes(dataset(colour, bits=8, SamplesPerPixel=None, PlanarConfiguration=None)), Limits())
    assert np.abs(image.pixels - stored(8)).max() < 0.01


def test_attributes_without_one_sensible_value_are_named_in_the_error() -> None:
    colour = dataset(np.stack([stored(8)] * 3, axis=-1), bits=8, PhotometricInterpretation=None)
    packed = compressed(dataset(), uid.JPEG2000Lossless)
    del packed.BitsAllocated
    for made, keyword in ((colour, "PhotometricInterpretation"), (packed, "BitsAllocated")):
        with pytest.raises(UnreadableFileError, match=keyword) as caught:
            decode(dicom_bytes(made), Limits())
        assert caught.value.code == "attributes_missing"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compressed_files_without_sequence_delimiter_are_read(syntax: uid.UID) -> None:
    data = dicom_bytes(compressed(dataset(), syntax))
    assert data.endswith(DELIMITER)
    np.testing.assert_array_equal(decode(data[: -len(DELIMITER)], Limits()).pixels, stored(12))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_compressed_files_that_are_cut_off_are_named_so(syntax: uid.UID, share: float) -> None:
    data = dicom_bytes(compressed(dataset(), syntax))
    start = data.index(b"\xe0\x7f\x10\0") + 40
    with pytest.raises(UnreadableFileError, match="cut off") as caught:
        decode(data[: start + int(share * (len(data) - start))], Limits())
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("missing", [10, 1000, 40_000])
def test_uncompressed_files_that_are_cut_off_are_named_so(missing: int) -> None:
    with pytest.raises(UnreadableFileError, match="cut off") as caught:
        decode(dicom_bytes(dataset())[:-missing], Limits())
    assert caught.value.code == "truncated"


def test_a_longer_element_than_the_image_needs_may_be_cut_off() -> None:
    made = dataset()
    made.PixelData += bytes(100)
    np.testing.assert_array_equal(decode(dicom_bytes(made)[:-50], Limits()).pixels, stored(12))


@pytest.mark.parametrize("table", [(8,), (0, 64), (4096, 8192, 10**9)])
@pytest.mark.parametrize("number", [1, 3])
def test_a_wrong_offset_table_is_ignored(table: tuple[int, ...], number: int) -> None:
    made = compressed(dataset(), uid.JPEG2000Lossless)
    *_, frame = generate_fragments(made.PixelData[parse_length(made.PixelData) :])
    items = encapsulate([frame], fragments_per_frame=number, has_bot=False)[8:]
    offsets = struct.pack(f"<{len(table)}L", *table)
    made.PixelData = b"\xfe\xff\0\xe0" + struct.pack("<L", len(offsets)) + offsets + items
    np.testing.assert_array_equal(decode(dicom_bytes(made), Limits()).pixels, stored(12))


def parse_length(pixel_data: bytes) -> int:
    """Bytes of the item with the basic offset table."""
    return 8 + 4 * len(parse_basic_offsets(pixel_data))


def test_a_wrong_extended_offset_table_is_ignored() -> None:
    made = compressed(dataset(), uid.JPEG2000Lossless)
    made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = struct.pack("<Q", 10**6), struct.pack("<Q", 10)
    np.testing.assert_array_equal(decode(dicom_bytes(made), Limits()).pixels, stored(12))


def test_a_file_without_meta_group_may_begin_at_the_patient_group() -> None:
    data = dicom_bytes(dataset())
    bare = data[data.index(b"\x10\0\x10\0PN") :]
    assert is_dicom(bare)
    np.testing.assert_array_equal(decode(bare, Limits()).pixels, stored(12))


@pytest.mark.parametrize("size", [{"Rows": 100}, {"Columns": 80}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}])
@pytest.mark.parametrize("syntax", [None, uid.RLELossless])
def test_pixel_data_longer_than_the_declared_size_get_a_warning(size: dict[str, int], syntax: uid.UID | None) -> None:
    made = dataset() if syntax is None else compressed(dataset(), syntax)
    if syntax is not None and "BitsAllocated" in size:
        pytest.skip("the number of RLE segments shows that the bits are wrong")
    for keyword, value in size.items():
        setattr(made, keyword, value)
    assert "pixel_data_excess" in {finding.code for finding in decode(dicom_bytes(made), Limits()).warnings}


def test_bytes_inserted_into_the_pixels_get_a_warning_and_padding_after_them_does_not() -> None:
    data = dicom_bytes(dataset())
    at = data.index(b"\xe0\x7f\x10\0") + 5000
    (finding,) = decode(data[:at] + b"\x11\x22OW" * 4 + data[at:], Limits()).warnings
    assert finding.code == "trailing_bytes"
    assert decode(data + bytes(16), Limits()).warnings == ()
    padding = b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0abcd"  # DataSetTrailingPadding
    assert decode(data + padding, Limits()).warnings == ()
