import struct

import numpy as np
import pytest
from films import dataset, dicom_bytes
from pydicom import DataElement, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import dicom_header as header
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.limits import Limits


def decoded_image(made: Dataset, limits: Limits | None = None):
    return decode(dicom_bytes(made), limits or Limits())


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
        ({"PixelSpacing": [0.15, 0.16]}, None, None, ["spacing_unequal"]),
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
    problem = header.spacing_problem("PixelSpacing", values)
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
    "decimal comma": (["0,15", "0,15"], ["spacing_invalid"]),
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
    assert codes(image.warnings) == problems


def test_two_invalid_spacings_are_both_reported() -> None:
    image = decode(spacing_file([0, 0], [0.15, 0.16]), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == (None, None)
    assert codes(image.warnings) == ["spacing_invalid", "spacing_unequal"]
    assert [finding.message.split()[0] for finding in image.warnings] == ["PixelSpacing", "ImagerPixelSpacing"]


def test_a_valid_pixel_spacing_takes_precedence_over_an_invalid_imager_pixel_spacing() -> None:
    image = decode(spacing_file([0.15, 0.15], [0, 0]), Limits())
    assert (image.pixel_spacing_mm, image.spacing_source) == ((0.15, 0.15), "PixelSpacing")
    assert image.warnings == ()


@pytest.mark.parametrize(
    ("keyword", "value", "side"),
    [
        ("ImageLaterality", "R", "R"),
        ("ImageLaterality", "l", "L"),
        ("Laterality", "L", "L"),
        ("ImageLaterality", "B", "both"),
        ("ImageLaterality", "U", "unknown"),
        ("Laterality", "", "unknown"),
    ],
)
def test_laterality_and_its_source(keyword: str, value: str, side: str) -> None:
    image = decoded_image(dataset(**{keyword: value}))
    assert (image.laterality, image.laterality_source) == (side, keyword if side != "unknown" else None)


def test_image_laterality_takes_precedence_over_laterality() -> None:
    assert decoded_image(dataset(Laterality="L", ImageLaterality="R")).laterality == "R"


def test_laterality_in_functional_groups_and_in_anatomic_region_modifiers() -> None:
    anatomy, groups = Dataset(), Dataset()
    anatomy.FrameLaterality = "R"
    groups.FrameAnatomySequence = Sequence([anatomy])
    image = decoded_image(dataset(SharedFunctionalGroupsSequence=[groups]))
    assert (image.laterality, image.laterality_source) == ("R", "FrameLaterality")
    modifier, region = Dataset(), Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator = "7771000", "SCT"
    region.AnatomicRegionModifierSequence = Sequence([modifier])
    image = decoded_image(dataset(AnatomicRegionSequence=[region]))
    assert (image.laterality, image.laterality_source) == ("L", "AnatomicRegionModifierSequence")


def test_view_and_identity() -> None:
    image = decoded_image(dataset(ViewPosition="PA"))
    assert image.view == "PA"
    assert image.identity.sop_instance_uid == "1.2.3"
    assert "1.2.3" not in repr(image)


@pytest.mark.parametrize("modality", ["CR", "DX", "RF", "XA", "RG", "OT", ""])
def test_radiographic_modalities_are_read(modality: str) -> None:
    assert decoded_image(dataset(Modality=modality)).pixels.size


@pytest.mark.parametrize("modality", ["MR", "CT", "US", "NM", "MG", "IO", "<b>"])
def test_other_modalities_are_rejected(modality: str) -> None:
    with pytest.raises(UnsupportedFileError) as caught:
        decoded_image(dataset(Modality=modality))
    assert caught.value.code == "modality"
    assert "<" not in caught.value.message


@pytest.mark.parametrize(
    ("elements", "warned"),
    [
        ({"BurnedInAnnotation": "YES"}, ["burned_in_text"]),
        ({"BurnedInAnnotation": "NO", "SOPClassUID": uid.SecondaryCaptureImageStorage}, []),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, ["burned_in_text"]),
        ({}, []),
    ],
)
def test_burned_in_text_gives_a_warning(elements, warned) -> None:
    assert codes(decoded_image(dataset(**elements)).warnings) == warned


def test_several_frames_are_rejected() -> None:
    with pytest.raises(UnsupportedFileError) as caught:
        decoded_image(dataset(NumberOfFrames=3))
    assert caught.value.code == "multi_frame"


def test_more_pixels_than_allowed_are_rejected_by_the_header() -> None:
    with pytest.raises(LimitExceededError) as caught:
        decoded_image(dataset(Rows=20_000, Columns=20_000))
    assert caught.value.code == "pixels"


@pytest.mark.parametrize("size", [{"Rows": 0}, {"Columns": None}, {"Rows": 151}, {"Rows": 9000}])
def test_sizes_that_do_not_match_the_pixel_data_are_rejected(size) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        decoded_image(dataset(**size))
    assert caught.value.code == "damaged"


def test_documents_without_image_are_rejected() -> None:
    with pytest.raises(UnsupportedFileError) as caught:
        decoded_image(dataset(Modality="SR", PixelData=None))
    assert caught.value.code == "not_an_image"


def nested(levels: int) -> Dataset:
    made = dataset()
    parent = made
    for _ in range(levels):
        child = Dataset()
        parent.ReferencedStudySequence = Sequence([child])
        parent = child
    return made


def test_nesting_is_limited() -> None:
    assert decoded_image(nested(5), Limits(nesting=5)).pixels.size
    with pytest.raises(LimitExceededError) as caught:
        decoded_image(nested(6), Limits(nesting=5))
    assert caught.value.code == "nesting"


def test_values_that_cannot_be_converted_are_treated_as_absent() -> None:
    class Broken(Dataset):
        def get(self, *args, **kwargs):
            raise ValueError("patient's name")

    broken = Broken()
    assert header.get_text(broken, "Modality") == ""
    assert header.get_numbers(broken, "PixelSpacing") == ()
    assert header.get_items(broken, "VOILUTSequence") == ()
    made = Dataset()
    made[0x00280030] = DataElement(0x00280030, "OB", b"\1\2")
    assert header.get_numbers(made, "PixelSpacing") == ()


def test_broken_sequences_do_not_prevent_reading_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    made = nested(1)
    original = Dataset.__getitem__

    def broken(self, key):
        if key == 0x00081110:
            raise ValueError
        return original(self, key)

    monkeypatch.setattr(Dataset, "__getitem__", broken)
    header.check_nesting(made, Limits(nesting=1))

    def endless(self, key):
        raise RecursionError

    monkeypatch.setattr(Dataset, "__getitem__", endless)
    with pytest.raises(RecursionError):
        header.check_nesting(made, Limits())


def test_messages_contain_no_patient_data() -> None:
    for elements in ({"Modality": "MR"}, {"Rows": 9000}, {"NumberOfFrames": 2}, {"PixelData": None}):
        with pytest.raises(KneeGradeError) as caught:
            decoded_image(dataset(**elements))
        assert "Nobody" not in str(caught.value)


def test_spacing_is_a_pair_of_builtin_floats() -> None:
    spacing = decoded_image(dataset(PixelSpacing=[0.2, 0.2])).pixel_spacing_mm
    assert spacing is not None
    assert all(type(value) is float for value in spacing)
    assert np.isclose(spacing[0], 0.2)
