from io import BytesIO

import numpy as np
import pytest
from films import knee, stored
from PIL import Image

from kneegrade.errors import LimitExceededError, UnreadableFileError, UnsupportedFileError
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
