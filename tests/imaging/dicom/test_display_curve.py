"""Windows and lookup tables for display: which change the grey levels that are graded, and which do not."""

import numpy as np
import pytest
from films import dataset, dicom_bytes, knee, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from kneegrade.imaging import read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.display_curve import apply_voi, apply_window, read_lut
from kneegrade.imaging.limits import Limits


def decoded(made):
    image = decode(dicom_bytes(made), Limits())
    return image.pixels, [finding.code for finding in image.warnings]


def table(first: int, entries: np.ndarray, bits: int = 16, as_bytes: bool = True) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first % 65536, bits]
    item["LUTDescriptor"].VR = "US"
    if as_bytes:
        item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    else:
        item.add_new(0x00283006, "US", entries.tolist())
    return item


def logarithm(number: int = 4096) -> np.ndarray:
    """A table that turns an exposure into an image."""
    return np.rint(6000 * np.log1p(np.arange(number) / 8)).astype(int)


WIDE = np.rint(4095 ** np.clip(knee(), 0, 1)).astype(np.uint16)  # exposures, whose logarithm is the image


@pytest.mark.parametrize("window", [
    {"WindowCenter": "2048", "WindowWidth": "4096"},
    {"WindowCenter": ["2048", "10"], "WindowWidth": ["3000", "10"]},
    {"WindowCenter": "1900", "WindowWidth": "3600", "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": "32768", "WindowWidth": "65536"},
    {"WindowCenter": "1800", "WindowWidth": "5000", "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": ["2048", "1000"], "WindowWidth": ["3500", "300"], "VOILUTFunction": "SIGMOID"},
])  # fmt: skip
def test_a_window_that_shows_the_film_changes_nothing(window):
    pixels, found = decoded(dataset(**window))
    np.testing.assert_array_equal(pixels, stored(12))
    assert found == []


@pytest.mark.parametrize("window", [
    {"WindowCenter": "128", "WindowWidth": "256"},  # of the 8-bit original
    {"WindowCenter": ["300", "2048"], "WindowWidth": ["500", "4096"]},  # soft tissue first
    {"WindowCenter": "60000", "WindowWidth": "10"},
    {"WindowCenter": "-600", "WindowWidth": "1500"},  # of a lung
    {"WindowCenter": "0.5", "WindowWidth": "1", "VOILUTFunction": "LINEAR_EXACT"},  # of values from 0 to 1
    {"WindowCenter": "1", "WindowWidth": "1"},
    {"WindowCenter": "500", "WindowWidth": "200", "VOILUTFunction": "SIGMOID"},
])  # fmt: skip
def test_a_window_that_hides_the_bone_is_ignored_with_a_warning(window):
    pixels, found = decoded(dataset(**window))
    np.testing.assert_array_equal(pixels, stored(12))
    assert found == ["window_ignored"]


def test_a_window_hides_the_bone_at_low_values_of_a_monochrome1_film():
    hides, shows = {"WindowCenter": "3000", "WindowWidth": "1600"}, {"WindowCenter": "1500", "WindowWidth": "3000"}
    values = 4095 - stored(12)
    assert decoded(dataset(values, PhotometricInterpretation="MONOCHROME1", **hides))[1] == ["window_ignored"]
    assert decoded(dataset(values, PhotometricInterpretation="MONOCHROME1", **shows))[1] == []


def test_a_window_in_other_units_than_the_rescaled_values_is_ignored_with_a_warning():
    made = dataset(RescaleSlope="0.001", RescaleIntercept="0", WindowCenter="2048", WindowWidth="1000")
    assert decoded(made)[1] == ["window_ignored"]


@settings(max_examples=25)
@given(
    centre=st.floats(-1e5, 1e5),
    width=st.floats(1e-3, 1e6),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "", "NEW"]),
)
def test_no_line_changes_the_grey_levels(centre, width, function):
    made = Dataset()
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = f"{centre:.6g}", f"{width:.6g}", function
    grey = stored(12).astype(np.float32)
    assert apply_voi(grey, made, np.zeros(grey.shape, dtype=bool))[0] is grey


@pytest.mark.parametrize("name", ["mild", "8 bits", "straight", "window beside it"])
def test_a_mild_lut_changes_nothing(name):
    ramp = np.arange(4096) / 4095
    entries = {"mild": 60000 * ramp**0.7, "8 bits": 255 * ramp, "straight": 4095 * ramp, "window beside it": 999 * ramp}
    beside = (
        {"WindowCenter": "128", "WindowWidth": "256"} if name == "window beside it" else {}
    )  # the table comes first
    made = dataset(VOILUTSequence=[table(0, entries[name], 8 if name == "8 bits" else 16)], **beside)
    pixels, found = decoded(made)
    np.testing.assert_array_equal(pixels, stored(12))
    assert found == []


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_strong_curve_is_applied_after_the_modality_lut_with_a_warning(as_bytes):
    made = dataset(4095 - WIDE, VOILUTSequence=[table(0, logarithm(), as_bytes=as_bytes)])
    made.ModalityLUTSequence = [table(0, np.arange(4096)[::-1], as_bytes=as_bytes)]
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    pixels, found = decoded(made)
    np.testing.assert_array_equal(pixels, logarithm()[WIDE])
    assert found == ["display_curve_applied"]


def test_a_strong_curve_of_signed_values_starts_below_zero():
    signed = (WIDE.astype(int) - 2048).astype(np.int16)
    pixels, _ = decoded(dataset(signed, VOILUTSequence=[table(-2048, logarithm())]))
    np.testing.assert_array_equal(pixels, logarithm()[WIDE])


def test_a_falling_lut_inverts_the_film():
    made = dataset(4095 - stored(12), VOILUTSequence=[table(0, np.arange(4096)[::-1])])
    radiograph = read_radiograph(made)
    np.testing.assert_allclose(radiograph.pixels, read_radiograph(dataset()).pixels, atol=1e-5)
    assert radiograph.warnings == ()


@pytest.mark.parametrize(("first", "entries"), [
    (4000, np.arange(4096)),  # everything is before its first value
    (0, np.arange(200) * 300),  # of 8-bit values
    (0, np.r_[0, np.full(4095, 60000)]),
])  # fmt: skip
def test_a_lut_that_hides_the_bone_is_ignored_with_a_warning(first, entries):
    pixels, found = decoded(dataset(VOILUTSequence=[table(first, entries)]))
    np.testing.assert_array_equal(pixels, stored(12))
    assert found == ["window_ignored"]


def test_the_second_lut_is_used_if_the_first_hides_the_bone():
    pixels, found = decoded(dataset(WIDE, VOILUTSequence=[table(4000, np.arange(99)), table(0, logarithm())]))
    np.testing.assert_array_equal(pixels, logarithm()[WIDE])
    assert found == ["window_ignored", "display_curve_applied"]


def test_lut_with_8_bits_and_lut_with_65536_entries():
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.add_new(0x00283006, "OW", bytes([9, 7, 5, 3]))
    assert read_lut(item, Dataset())[0].tolist() == [9, 7, 5, 3]
    entries, first = read_lut(table(0, np.arange(65536)), Dataset())
    assert (len(entries), first, entries[-1]) == (65536, 0, 65535)


def test_malformed_luts_are_ignored():
    made = dataset()
    made.ModalityLUTSequence = [Dataset()]
    empty = table(0, np.arange(4))
    empty["LUTData"].value = b""
    made.VOILUTSequence = [empty]
    np.testing.assert_array_equal(decoded(made)[0], stored(12))


def test_linear_window_follows_the_standard():
    ramp = np.arange(4096, dtype=np.float32)
    expected = np.clip((ramp - 2047.5) / 1999 + 0.5, 0, 1)
    np.testing.assert_allclose(apply_window(ramp, 2048, 2000), expected, atol=1e-5)


def test_linear_exact_and_sigmoid_windows_follow_the_standard():
    ramp = np.array([[0, 50, 100]], dtype=np.float32)
    np.testing.assert_allclose(apply_window(ramp, 50, 100, "LINEAR_EXACT"), [[0, 0.5, 1]])
    np.testing.assert_allclose(
        apply_window(ramp, 50, 100, "SIGMOID"), [[1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2)]], rtol=1e-5
    )


@pytest.mark.parametrize("window", [("nan", "100"), ("100", "0"), ("100", "-5"), ("x", "1")])
def test_invalid_windows_are_ignored(window):
    made = Dataset()
    for tag, value in zip((0x00281050, 0x00281051), window, strict=True):
        made.add_new(tag, "LO", value)
    grey = stored(12).astype(np.float32)
    assert apply_voi(grey, made, np.zeros(grey.shape, bool)) == (grey, ())
