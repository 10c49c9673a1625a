"""Files in the deflated transfer syntax."""

import zlib

import films
import numpy as np
import pytest
from pydicom import uid

from kneegrade.errors import LimitExceededError, UnreadableFileError
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.dicom_file import file_meta
from kneegrade.imaging.limits import Limits


def deflated_film() -> bytes:
    made = films.dataset(Laterality="R", PixelSpacing=[0.2, 0.2])
    made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    return films.dicom_bytes(made)


def repacked(data: bytes, window: int) -> bytes:
    _, end = file_meta(data)
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    return data[:end] + packer.compress(zlib.decompress(data[end:], -zlib.MAX_WBITS)) + packer.flush()


def test_a_deflated_film_is_read_like_the_plain_one() -> None:
    plain = decode(films.dicom_bytes(films.dataset(Laterality="R", PixelSpacing=[0.2, 0.2])), Limits())
    image = decode(deflated_film(), Limits())
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    assert (image.laterality, image.pixel_spacing_mm, image.warnings) == ("R", (0.2, 0.2), ())


def test_a_deflated_film_with_a_zlib_header_or_without_preamble_is_read() -> None:
    with_header = repacked(deflated_film(), zlib.MAX_WBITS)
    assert decode(with_header, Limits()).pixels.shape == (films.ROWS, films.COLUMNS)
    assert decode(deflated_film()[132:], Limits()).pixels.shape == (films.ROWS, films.COLUMNS)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_deflated_film_that_is_cut_off_is_named_so(share: float) -> None:
    data = deflated_film()
    with pytest.raises(UnreadableFileError, match="cut off") as error:
        decode(data[: int(share * len(data))], Limits())
    assert error.value.code == "truncated"


def test_deflated_data_that_are_damaged_are_an_error() -> None:
    data = deflated_film()
    _, end = file_meta(data)
    with pytest.raises(UnreadableFileError, match="deflated data") as error:
        decode(data[:end] + b"\xff" * 500, Limits())
    assert error.value.code == "damaged"


def test_the_inflated_size_is_limited() -> None:
    with pytest.raises(LimitExceededError, match="more than the allowed") as error:
        decode(deflated_film(), Limits(file_bytes=46_000))
    assert error.value.code == "deflated_size"
