import struct
from io import BytesIO

import numpy as np
import pytest
from films import knee, stored
from PIL import Image, TiffImagePlugin

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.limits import Limits


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels_of(data: bytes, limits: Limits | None = None) -> np.ndarray:
    return decode(data, limits or Limits()).pixels


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 16])
def test_lossless_files_keep_every_value(kind: str, bits: int) -> None:
    np.testing.assert_array_equal(pixels_of(saved(Image.fromarray(stored(bits)), kind)), stored(bits))


def test_big_endian_tiff_keeps_every_value() -> None:
    image = Image.frombytes("I;16B", (160, 150), stored(16).astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels_of(saved(image, "TIFF")), stored(16))


def test_floating_point_tiff_keeps_every_value() -> None:
    np.testing.assert_array_equal(
        pixels_of(saved(Image.fromarray(knee().astype(np.float32)), "TIFF")), knee().astype(np.float32)
    )


def test_jpeg_is_read_within_its_compression_error() -> None:
    assert np.abs(pixels_of(saved(Image.fromarray(stored(8)), "JPEG", quality=98)) - stored(8)).max() <= 8


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "RGBA", "LA"])
def test_grey_images_in_colour_modes_keep_their_values(mode: str) -> None:
    grey = Image.fromarray(stored(8))
    image = grey.quantize(256) if mode == "P" else grey.convert("RGB").convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert np.abs(pixels_of(saved(image, kind)) - stored(8)).max() <= 2


def test_colour_becomes_luminance() -> None:
    image = Image.new("RGB", (4, 3), (255, 0, 0))
    assert np.abs(pixels_of(saved(image, "PNG")) - 0.299 * 255).max() <= 1


def test_transparent_pixels_are_black() -> None:
    image = Image.fromarray(stored(8)).convert("RGBA")
    alpha = np.full(stored(8).shape, 255, np.uint8)
    alpha[:, :40] = 0
    image.putalpha(Image.fromarray(alpha))
    pixels = pixels_of(saved(image, "PNG"))
    assert pixels[:, :40].max() == 0
    np.testing.assert_array_equal(pixels[:, 40:], stored(8)[:, 40:])


@pytest.mark.parametrize(
    ("orientation", "upright"), [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))]
)
def test_exif_orientation_is_applied(orientation: int, upright) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(stored(8)), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels_of(data), upright(stored(8)))


def test_print_resolution_is_not_used_as_pixel_spacing() -> None:
    data = saved(Image.fromarray(stored(8)), "PNG", dpi=(254, 254))
    radiograph = read_radiograph(data)
    assert radiograph.pixel_spacing_mm is None
    assert radiograph.spacing_source is None


def test_several_pages_are_rejected() -> None:
    page = Image.fromarray(stored(8))
    with pytest.raises(UnsupportedFileError) as caught:
        pixels_of(saved(page, "TIFF", save_all=True, append_images=[page]))
    assert caught.value.code == "multi_frame"


@pytest.mark.parametrize("first", ["film", "thumbnail"])
@pytest.mark.parametrize("is_flagged", [True, False])
def test_a_page_with_a_thumbnail_is_ignored(first: str, is_flagged: bool) -> None:
    film = Image.fromarray(stored(8))
    thumbnail = film.resize((film.width // 4, film.height // 4))
    pages = [film, thumbnail] if first == "film" else [thumbnail, film]
    stream = BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream) as writer:
        for page in pages:
            options = {"tiffinfo": {254: 1}} if is_flagged and page is thumbnail else {}
            page.save(writer, "TIFF", **options)
            writer.newFrame()
    np.testing.assert_array_equal(pixels_of(stream.getvalue()), stored(8))


def test_pages_of_unequal_shape_are_rejected() -> None:
    page = Image.fromarray(stored(8))
    with pytest.raises(UnsupportedFileError) as caught:
        pixels_of(saved(page, "TIFF", save_all=True, append_images=[page.resize((20, 60))]))
    assert caught.value.code == "multi_frame"


def tiff(values: np.ndarray, sample_format: int, byte_order: str = "<") -> bytes:
    """An uncompressed TIFF file with these grey values."""
    samples = values.astype(values.dtype.newbyteorder(byte_order)).tobytes()
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, 8 * values.itemsize), (259, 1), (262, 1),
            (273, 8), (277, 1), (278, values.shape[0]), (279, len(samples)), (339, sample_format)]  # fmt: skip
    magic = b"II*\0" if byte_order == "<" else b"MM\0*"
    entries = b"".join(
        struct.pack(byte_order + "HHL", tag, 4 if tag in (273, 279) else 3, 1)
        + (struct.pack(byte_order + ("L" if tag in (273, 279) else "H"), value)).ljust(4, b"\0")
        for tag, value in tags
    )
    directory = struct.pack(byte_order + "H", len(tags)) + entries + bytes(4)
    return magic + struct.pack(byte_order + "L", 8 + len(samples)) + samples + directory


def test_unsigned_32_bit_values_do_not_wrap() -> None:
    values = np.array([[0, 1000], [2**31, 2**32 - 256]], np.uint32)
    np.testing.assert_array_equal(pixels_of(tiff(values, 1)), values.astype(np.float32))


def test_signed_32_bit_values_keep_their_sign() -> None:
    values = np.array([[-(2**31), -1], [0, 2**30]], np.int32)
    np.testing.assert_array_equal(pixels_of(tiff(values, 2)), values.astype(np.float32))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (tiff(stored(8).astype(np.float16), 3), "16-bit floating-point"),
        (tiff(stored(8).astype(np.uint64), 1), "64-bit unsigned"),
        (tiff(stored(8).astype(np.uint32), 1, ">"), "32-bit unsigned"),
        (bytes.fromhex("ffd8ffe8000400000000fff7000b080010001001011100ffda"), "damaged"),
        (bytes.fromhex("ffd8ffe800040000fff7000b080010001001011100ffda"), "JPEG-LS"),
        (bytes.fromhex("ffd8ffc3000b0c0010001001011100ffda"), "lossless JPEG"),
        (bytes.fromhex("ffd8ffc1000b0c0010001001011100ffda"), "12 bits"),
    ],
)
def test_sound_files_of_unsupported_kinds_are_named(data: bytes, name: str) -> None:
    with pytest.raises(KneeGradeError, match=name) as caught:
        pixels_of(data)
    assert caught.value.code == ("damaged" if name == "damaged" else "format")


@pytest.mark.parametrize("alpha", [0, 1, 128])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_image_that_is_equally_transparent_everywhere_is_read_with_a_warning(alpha: int, mode: str) -> None:
    image = Image.fromarray(stored(8)).convert(mode)
    image.putalpha(alpha)
    decoded = decode(saved(image, "PNG"), Limits())
    np.testing.assert_array_equal(decoded.pixels, stored(8))
    assert [finding.code for finding in decoded.warnings] == ["alpha_ignored"]


def test_more_pixels_than_allowed_are_rejected_by_the_header() -> None:
    with pytest.raises(LimitExceededError) as caught:
        pixels_of(saved(Image.fromarray(stored(8)), "PNG"), Limits(pixels=100))
    assert caught.value.code == "pixels"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_truncated_files_are_rejected(kind: str) -> None:
    data = saved(Image.fromarray(stored(8)), kind)
    with pytest.raises(UnreadableFileError) as caught:
        pixels_of(data[: len(data) // 2])
    assert caught.value.code == "damaged"
