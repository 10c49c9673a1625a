"""Values whose header declares other bits than they have."""

import numpy as np
import pytest
from films import dataset, dicom_bytes, knee, stored
from scipy import ndimage

from kneegrade.imaging import read_radiograph
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.limits import Limits


def read(made):
    image = decode(dicom_bytes(made), Limits())
    return image.pixels, [finding.code for finding in image.warnings]


def smooth(bits):
    """The knee without grain, with gradual edges as on a radiograph."""
    return np.rint(ndimage.gaussian_filter(knee(), 3) * ((1 << bits) - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 11])
def test_values_larger_than_bits_stored_are_read_whole(bits):
    values, found = read(dataset(stored(12), bits=bits))
    np.testing.assert_array_equal(values, stored(12))
    assert found == ["stored_bits"]


def test_few_values_larger_than_bits_stored_do_not_wrap():
    values = smooth(12)
    limit = int(np.quantile(values, 0.98))
    values = (values.astype(int) + 2047 - limit).clip(0).astype(np.uint16)  # 2 % of the pixels need a twelfth bit
    assert 0 < np.mean(values > 2047) < 0.03
    pixels, found = read(dataset(values, bits=11))
    np.testing.assert_array_equal(pixels, values)
    assert found == ["stored_bits"]


@pytest.mark.parametrize("bits", [12, 16])
def test_unsigned_values_declared_as_signed_do_not_wrap(bits):
    values, found = read(dataset(smooth(bits), bits=bits, PixelRepresentation=1))
    np.testing.assert_array_equal(values, smooth(bits))
    assert found == ["stored_bits"]


def test_signed_values_declared_as_unsigned_do_not_wrap():
    signed = (smooth(16).astype(int) - 32768).astype(np.int16)
    values, found = read(dataset(signed.view(np.uint16), bits=16))
    np.testing.assert_array_equal(values, signed)
    assert found == ["stored_bits"]


def test_values_in_the_low_bits_keep_their_precision_when_the_high_bit_is_wrong():
    values, found = read(dataset(stored(12), bits=12, HighBit=15))
    np.testing.assert_array_equal(values, stored(12))
    assert found == ["stored_bits"]


def test_lines_of_an_overlay_above_the_stored_bits_are_removed_without_a_warning():
    values = stored(12)
    values[20:24, 30:90] |= 1 << 12
    values[40:110, 50:53] |= 1 << 15
    assert read(dataset(values, bits=12))[1] == []
    np.testing.assert_array_equal(read(dataset(values, bits=12))[0], stored(12))


@pytest.mark.parametrize("values", [stored(12), stored(12) // 2 + 1000])
def test_declared_bits_are_read_where_nothing_wraps(values):
    pixels, found = read(dataset(values.astype(np.int16), bits=16))
    np.testing.assert_array_equal(pixels, values)
    assert found == []


def test_an_unsigned_border_of_the_largest_value_does_not_make_the_values_signed():
    values = np.pad(stored(12), 20, constant_values=65535)
    pixels, found = read(dataset(values, bits=16))
    np.testing.assert_array_equal(pixels, values)
    assert found == []


def test_bone_as_bright_as_the_padding_stays_bright():
    film = stored(12)
    film[50:90, 70:90] = 4095  # saturated bone
    made = dataset(np.pad(film, 20, constant_values=4095), PixelPaddingValue=4095)
    made["PixelPaddingValue"].VR = "US"
    pixels = read_radiograph(made).pixels
    assert pixels[:20].max() == 0
    assert pixels[70:110, 90:110].min() == 1


def test_markers_far_above_the_stored_bits_do_not_darken_the_film():
    values = stored(12)
    values[5:20, 5:15] = 65535  # a burnt-in letter
    plain, marked = read_radiograph(dataset(stored(12))), read_radiograph(dataset(values, bits=16))
    np.testing.assert_allclose(marked.pixels[30:], plain.pixels[30:], atol=0.03)


def test_the_synthetic_knee_uses_its_whole_range():
    assert knee().max() == pytest.approx(stored(12).max() / 4095, abs=1e-3)
