import struct

import pytest
from films import dataset, dicom_bytes
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.dicom_spacing import spacing_problem
from kneegrade.imaging.limits import Limits


def decoded_image(made: Dataset):
    return decode(dicom_bytes(made), Limits())


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("elements", "spacing", "source", "warned"),
    [
        ({"PixelSpacing": [0.15, 0.15]}, (0.15, 0.15), "PixelSpacing", []),
        ({"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.2, 0.2]}, (0.15, 0.15), "PixelSpacing", []),
        (
            {"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.2, 0.2]},
            (0.2, 0.2),
            "PixelSpacing",
            ["magnification_uncorrected"],
        ),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "ImagerPixelSpacing", ["magnification_uncorrected"]),
        ({"PixelSpacing": [0.15, 0.151]}, (0.15, 0.151), "PixelSpacing", []),
        ({"PixelSpacing": [0.15, 0.16]}, None, None, ["spacing_unequal", "aspect_ratio"]),
        ({"PixelSpacing": [0, 0]}, None, None, ["spacing_invalid"]),
        ({"PixelSpacing": [-0.1, -0.1]}, None, None, ["spacing_invalid"]),
        ({"PixelSpacing": [3, 3]}, None, None, ["spacing_implausible"]),
        ({"PixelSpacing": [0.001, 0.001]}, None, None, ["spacing_implausible"]),
        ({"PixelSpacing": None}, None, None, []),
        ({"PixelAspectRatio": [1, 2]}, None, None, ["aspect_ratio"]),
        ({"PixelAspectRatio": [1, 1]}, None, None, []),
    ],
)
def test_pixel_spacing_its_source_and_warnings(elements, spacing, source, warned) -> None:
    made = dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    image = decoded_image(made)
    assert (image.pixel_spacing_mm, image.spacing_source, codes(image.warnings)) == (spacing, source, warned)


@pytest.mark.parametrize("values", [(), (0.1,), (0.1, float("nan")), (float("inf"), 0.1), (0.1, 0.1, 0.1)])
def test_spacing_that_is_not_a_pair_of_lengths_is_invalid(values: tuple[float, ...]) -> None:
    problem = spacing_problem("PixelSpacing", values)
    assert problem is not None
    assert problem.code == "spacing_invalid"


BAD_SPACINGS = {
    "absent": (None, []),
    "empty": ("", []),
    "zero": ([0, 0], ["spacing_invalid"]),
    "negative": ([-0.1, -0.1], ["spacing_invalid"]),
    "unequal": ([0.15, 0.16], ["spacing_unequal"]),
    "implausible": ([3, 3], ["spacing_implausible"]),
    "one number": ([0.15], ["spacing_invalid"]),
    "three numbers": ([0.15, 0.15, 0.15], ["spacing_invalid"]),
    "text": ("wide", ["spacing_invalid"]),
    "commas between numbers": ("0.15,0.15", ["spacing_invalid"]),
    "placeholder": ([1, 1], ["spacing_placeholder"]),
    "not a number": (["nan", "nan"], ["spacing_invalid"]),
    "second number missing": (["0.15", ""], ["spacing_invalid"]),
    "half a double": (b"abcd", ["spacing_invalid"]),
}


def spacing_file(pixel: object, imager: object) -> bytes:
    """A film with these two elements as they stand, even where the standard forbids it; bytes: as type FD."""
    made, replaced = dataset(), {}
    for tag, value in ((0x00280030, pixel), (0x00181164, imager)):
        if value is not None:
            text = value.decode() if isinstance(value, bytes) else value
            text = text if isinstance(text, str) else "\\".join(map(str, text))
            made[tag] = DataElement(tag, "LO", text)
            head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
            replaced[head + b"LO"] = head + (b"FD" if isinstance(value, bytes) else b"DS")
    data = dicom_bytes(made)
    for as_text, as_number in replaced.items():
        data = data.replace(as_text, as_number)
    return data


@pytest.mark.parametrize("kind", BAD_SPACINGS)
def test_imager_pixel_spacing_replaces_an_invalid_pixel_spacing(kind: str) -> None:
    pixel, problems = BAD_SPACINGS[kind]
    image = decode(spacing_file(pixel, [0.2, 0.2]), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == ((0.2, 0.2), "ImagerPixelSpacing")
    assert codes(image.warnings) == [*problems, "magnification_uncorrected"]
    messages = [finding.message for finding in image.warnings]
    assert not any("millimetres are withheld" in message for message in messages)
    assert all(message.startswith("PixelSpacing") for message in messages[:-1])


@pytest.mark.parametrize("kind", BAD_SPACINGS)
def test_an_invalid_pixel_spacing_alone_gives_no_spacing(kind: str) -> None:
    pixel, problems = BAD_SPACINGS[kind]
    image = decode(spacing_file(pixel, None), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == (None, None)
    assert codes(image.warnings) == [*problems, *(["aspect_ratio"] if kind == "unequal" else [])]


def test_two_invalid_spacings_are_both_reported() -> None:
    image = decode(spacing_file([0, 0], [0.15, 0.16]), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == (None, None)
    assert codes(image.warnings) == ["spacing_invalid", "spacing_unequal", "aspect_ratio"]
    assert [finding.message.split()[0] for finding in image.warnings[:2]] == ["PixelSpacing", "ImagerPixelSpacing"]


def test_a_valid_pixel_spacing_takes_precedence_over_an_invalid_imager_pixel_spacing() -> None:
    image = decode(spacing_file([0.15, 0.15], [0, 0]), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == ((0.15, 0.15), "PixelSpacing")
    assert image.warnings == ()


def test_spacing_is_a_pair_of_builtin_floats() -> None:
    spacing = decoded_image(dataset(PixelSpacing=[0.2, 0.2])).pixel_spacing_mm
    assert spacing is not None
    assert all(type(value) is float for value in spacing)
    assert spacing == (0.2, 0.2)


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing"])
def test_decimal_commas_are_read_with_a_warning(keyword: str) -> None:
    texts = ["0,15", "0,15"]
    pixel, imager = (texts, None) if keyword == "PixelSpacing" else (None, texts)
    image = decode(spacing_file(pixel, imager), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == ((0.15, 0.15), keyword)
    assert codes(image.warnings)[0] == "spacing_decimal_comma"
    assert keyword in image.warnings[0].message
    assert "0.15 and 0.15 mm" in image.warnings[0].message


def test_decimal_comma_that_is_implausible_gives_no_spacing() -> None:
    image = decode(spacing_file(["14,3", "14,3"], None), Limits())
    assert (image.pixel_spacing_mm, codes(image.warnings)) == (None, ["spacing_implausible"])


def test_the_estimated_magnification_is_named() -> None:
    made = dataset(ImagerPixelSpacing=[0.2, 0.2], EstimatedRadiographicMagnificationFactor="1.15")
    (finding,) = decoded_image(made).warnings
    assert finding.code == "magnification_uncorrected"
    assert "1.15" in finding.message


@pytest.mark.parametrize(
    ("elements", "aspect"),
    [
        ({"PixelAspectRatio": [2, 1]}, 2.0),
        ({"PixelAspectRatio": [3, 4]}, 0.75),
        ({"PixelSpacing": [0.15, 0.3]}, 0.5),
        ({"PixelSpacing": [0, 0], "PixelAspectRatio": [2, 1]}, 2.0),
        ({"PixelSpacing": [0.15, 0.15], "PixelAspectRatio": [2, 1]}, None),
        ({"PixelAspectRatio": [1, 100]}, None),
        ({"PixelAspectRatio": [0, 1]}, None),
    ],
)
def test_declared_pixels_that_are_not_square(elements, aspect) -> None:
    image = decoded_image(dataset(**elements))
    assert image.pixel_aspect == aspect
    assert ("aspect_ratio" in codes(image.warnings)) == (aspect is not None)
