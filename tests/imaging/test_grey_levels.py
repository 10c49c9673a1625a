import numpy as np
import pytest
from films import dataset, dicom_bytes, knee, stored
from pydicom.dataset import Dataset

from kneegrade.imaging import read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.grey_levels import apply_voi, apply_window, padding_mask, read_lut
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


def table(first: int, entries: np.ndarray, bits: int = 16, as_bytes: bool = True) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first % 65536, bits]
    item["LUTDescriptor"].VR = "US"
    if as_bytes:
        item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    else:
        item.add_new(0x00283006, "US", entries.tolist())
    return item


@pytest.mark.parametrize("as_bytes", [True, False])
def test_modality_lut_is_applied_before_voi_lut(as_bytes: bool) -> None:
    made = dataset()
    made.ModalityLUTSequence = [table(0, np.arange(4096)[::-1], as_bytes=as_bytes)]
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    made.VOILUTSequence = [table(1000, np.arange(2000) * 3, as_bytes=as_bytes)]
    expected = np.clip(4095 - stored(12).astype(int) - 1000, 0, 1999) * 3
    np.testing.assert_array_equal(decoded_image(made).pixels, expected)


def test_lut_of_signed_values_starts_below_zero() -> None:
    made = dataset(stored(12, signed=True), VOILUTSequence=[table(-2048, np.arange(4096) * 2)])
    np.testing.assert_array_equal(decoded_image(made).pixels, (stored(12, signed=True).astype(int) + 2048) * 2)


def test_lut_with_8_bits_and_lut_with_65536_entries() -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.add_new(0x00283006, "OW", bytes([9, 7, 5, 3]))
    assert read_lut(item, Dataset())[0].tolist() == [9, 7, 5, 3]
    entries, first = read_lut(table(0, np.arange(65536)), Dataset())
    assert (len(entries), first, entries[-1]) == (65536, 0, 65535)


def test_malformed_luts_are_ignored() -> None:
    made = dataset()
    made.ModalityLUTSequence = [Dataset()]
    empty = table(0, np.arange(4))
    empty["LUTData"].value = b""
    made.VOILUTSequence = [empty]
    np.testing.assert_array_equal(decoded_image(made).pixels, stored(12))


def test_linear_window_follows_the_standard() -> None:
    made = dataset(WindowCenter=["2048", "10"], WindowWidth=["2000", "10"])
    expected = np.clip((stored(12) - 2047.5) / 1999 + 0.5, 0, 1)
    np.testing.assert_allclose(decoded_image(made).pixels, expected, atol=1e-5)


def test_linear_exact_and_sigmoid_windows_follow_the_standard() -> None:
    ramp = np.array([[0, 50, 100]], dtype=np.float32)
    np.testing.assert_allclose(apply_window(ramp, 50, 100, "LINEAR_EXACT"), [[0, 0.5, 1]])
    np.testing.assert_allclose(
        apply_window(ramp, 50, 100, "SIGMOID"), [[1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2)]], rtol=1e-5
    )


@pytest.mark.parametrize("window", [("nan", "100"), ("100", "0"), ("100", "-5"), ("x", "1")])
def test_invalid_windows_are_ignored(window: tuple[str, str]) -> None:
    made = Dataset()
    for tag, value in zip((0x00281050, 0x00281051), window, strict=True):
        made.add_new(tag, "LO", value)
    grey = stored(12).astype(np.float32)
    assert apply_voi(grey, made, np.zeros(grey.shape, bool))[0] is grey


def test_a_window_that_clips_nearly_all_pixels_is_ignored_with_a_warning() -> None:
    image = decoded_image(dataset(WindowCenter="60000", WindowWidth="10"))
    np.testing.assert_array_equal(image.pixels, stored(12))
    assert [finding.code for finding in image.warnings] == ["window_ignored"]


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
