import numpy as np
import pytest
from films import dataset, dicom_bytes, knee, stored
from pydicom.dataset import Dataset

from kneegrade.imaging import read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.grey_levels import padding_mask
from kneegrade.imaging.limits import Limits


def decoded_image(made: Dataset):
    return decode(dicom_bytes(made), Limits())


def bone_minus_air(pixels: np.ndarray) -> float:
    return float(pixels[10:40, 60:100].mean() - pixels[:, :10].mean())


@pytest.mark.parametrize(
    ("photometric", "shape", "is_negative"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_tags_invert_exactly_once(photometric: str, shape: str | None, is_negative: bool) -> None:
    values = 4095 - stored(12) if is_negative else stored(12)
    made = dataset(values, PhotometricInterpretation=photometric)
    if shape:
        made.PresentationLUTShape = shape
    radiograph = read_radiograph(made)
    assert bone_minus_air(radiograph.pixels) > 0.5
    assert [finding.code for finding in radiograph.warnings] == []
    np.testing.assert_allclose(radiograph.pixels, read_radiograph(dataset()).pixels, atol=1e-5)


def test_a_negative_without_tag_is_inverted_by_its_pixels() -> None:
    radiograph = read_radiograph(dataset(4095 - stored(12)))
    assert bone_minus_air(radiograph.pixels) > 0.5
    assert [finding.code for finding in radiograph.warnings] == ["inverted_by_pixels"]


def test_rescale_is_applied() -> None:
    made = dataset(RescaleSlope="2.5", RescaleIntercept="-100", RescaleType="US")
    np.testing.assert_allclose(decoded_image(made).pixels, stored(12) * 2.5 - 100, rtol=1e-6)


@pytest.mark.parametrize(
    ("elements", "declared"),
    [
        ({}, "MONOCHROME2"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"PresentationLUTShape": "INVERSE"}, "PresentationLUTShape INVERSE"),
        ({"PhotometricInterpretation": None}, None),
    ],
)
def test_the_declared_polarity_comes_with_the_radiograph(elements: dict, declared: str | None) -> None:
    values = 4095 - stored(12) if "1" in str(elements) or "INVERSE" in str(elements) else stored(12)
    polarity = read_radiograph(dataset(values, **elements)).polarity
    assert polarity.declared_by == declared
    assert not polarity.inverted
    assert polarity.score > 0.25


def test_colour_declares_no_polarity() -> None:
    assert read_radiograph(dataset(np.stack([stored(8)] * 3, axis=-1), 8)).polarity.declared_by is None


def test_a_negative_rescale_slope_inverts_the_film() -> None:
    radiograph = read_radiograph(dataset(4095 - stored(12), RescaleSlope="-10", RescaleIntercept="40950"))
    np.testing.assert_allclose(radiograph.pixels, read_radiograph(dataset()).pixels, atol=1e-5)
    assert radiograph.warnings == ()


def test_padding_becomes_black_and_does_not_change_the_other_grey_levels() -> None:
    values = stored(12)
    values[:, :20] = 4000
    values[values == 4000] = 4001
    values[:, :20] = 4000
    made = dataset(values, PixelPaddingValue=4000)
    made["PixelPaddingValue"].VR = "US"
    image = decoded_image(made)
    assert np.isnan(image.pixels).sum() == 20 * len(values)
    radiograph = read_radiograph(made)
    assert radiograph.pixels[:, :20].max() == 0
    np.testing.assert_allclose(radiograph.pixels[:, 20:], read_radiograph(values[:, 20:]).pixels, atol=0.02)


@pytest.mark.parametrize(
    ("representation", "padding", "limit", "masked"),
    [(0, 0, 2, [0, 1, 2]), (0, 2, 0, [0, 1, 2]), (1, 65534, None, [-2]), (0, -1, None, [65535])],
)
def test_padding_ranges_and_signs(representation: int, padding: int, limit: int | None, masked: list[int]) -> None:
    made = Dataset()
    made.BitsAllocated, made.PixelRepresentation = 16, representation
    made.add_new(0x00280120, "IS", padding)
    if limit is not None:
        made.add_new(0x00280121, "IS", limit)
    values = np.array([[-2, -1, 0, 1, 2, 3, 65535]])
    assert values[padding_mask(values, made)].tolist() == masked


def test_a_film_with_padding_only_becomes_black() -> None:
    made = dataset(np.full((130, 140), 7, np.uint16), PixelPaddingValue=7)
    made["PixelPaddingValue"].VR = "US"
    assert read_radiograph(made).pixels.max() == 0


def test_the_synthetic_knee_is_a_positive() -> None:
    assert bone_minus_air(knee()) > 0.5
