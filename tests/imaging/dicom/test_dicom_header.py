import pytest
from films import dataset, dicom_bytes
from pydicom import DataElement, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.dicom.dicom_values import check_nesting, get_items, get_numbers, get_text
from kneegrade.imaging.limits import Limits


def decoded_image(made: Dataset, limits: Limits | None = None):
    return decode(dicom_bytes(made), limits or Limits())


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


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


@pytest.mark.parametrize(
    ("value", "side"),
    [("RIGHT", "R"), ("left", "L"), ("LT", "L"), ("BOTH", "both"), (["R", "L"], "both"), ("R/L", "both"),
     (["R", "R"], "R"), ("RIGHTISH", "unknown"), (["R", "X"], "unknown"), ("Rechts", "R"), ("links", "L"),
     ("right knee", "R"), ("R+L", "both"), ("Gauche", "L"), ("Beidseits", "both"), ("left leg and right leg", "both")],
)  # fmt: skip
def test_laterality_written_unusually(value, side: str) -> None:
    image = decoded_image(dataset(ImageLaterality=value))
    assert (image.laterality, image.laterality_source) == (side, "ImageLaterality" if side != "unknown" else None)


@pytest.mark.parametrize(
    ("value", "warned"), [("D", True), ("RIGHTISH", True), ("U", False), ("", False), ("R", False)]
)
def test_a_laterality_that_is_not_understood_gives_a_warning(value: str, warned: bool) -> None:
    assert codes(decoded_image(dataset(Laterality=value)).warnings) == (["laterality_unclear"] if warned else [])


def test_an_unknown_image_laterality_leaves_the_side_to_laterality() -> None:
    image = decoded_image(dataset(ImageLaterality="U", Laterality="RIGHT"))
    assert (image.laterality, image.laterality_source) == ("R", "Laterality")


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


@pytest.mark.parametrize("modality", ["DR", "XR", ["CR", "DX"], "CR/DX", "CR, DX", ["DX", "SC"]])
def test_modalities_written_unusually_give_a_warning(modality) -> None:
    assert codes(decoded_image(dataset(Modality=modality)).warnings) == ["modality_unusual"]


@pytest.mark.parametrize("modality", [["CR", "MG"], "CT/DX", "CRDX"])
def test_unusual_modalities_that_are_not_radiographs_are_rejected(modality) -> None:
    with pytest.raises(UnsupportedFileError) as caught:
        decoded_image(dataset(Modality=modality))
    assert caught.value.code == "modality"


@pytest.mark.parametrize(
    ("elements", "warned"),
    [
        ({"ViewPosition": "LL"}, ["view_declared"]),
        ({"ViewPosition": "lateral"}, ["view_declared"]),
        ({"ViewPosition": "SKYLINE"}, ["view_declared"]),
        ({"ViewPosition": "PA", "BodyPartExamined": "KNEE"}, []),
        ({"ViewPosition": "AP", "BodyPartExamined": "LEG"}, []),
        ({"BodyPartExamined": "CHEST"}, ["body_part"]),
        ({"ViewPosition": "RLD", "BodyPartExamined": "Hand"}, ["view_declared", "body_part"]),
        ({"ViewPosition": "<b>", "BodyPartExamined": "<b>"}, []),
    ],
)
def test_another_view_or_body_part_gives_a_warning(elements, warned) -> None:
    assert codes(decoded_image(dataset(**elements)).warnings) == warned


@pytest.mark.parametrize(
    ("meaning", "warned"),
    [("medio-lateral", ["view_declared"]), ("antero-posterior", []), ("Oblique", ["view_declared"])],
)
def test_a_coded_view_that_is_not_frontal_gives_a_warning(meaning: str, warned: list[str]) -> None:
    code = Dataset()
    code.CodeMeaning = meaning
    assert codes(decoded_image(dataset(ViewCodeSequence=[code])).warnings) == warned


ORIENTATION_CASES = [
    (["L", "F"], []), (["R", "H"], []), (["H", "L"], []), (["A", "F"], []), (["L"], []), ([], []),
    (["R", "F"], ["orientation_mirrored"]), (["L", "H"], ["orientation_mirrored"]),
    (["RA", "FP"], ["orientation_mirrored"]), (["F", "L"], ["orientation_mirrored"]),
]  # fmt: skip


@pytest.mark.parametrize(("orientation", "warned"), ORIENTATION_CASES)
def test_a_mirrored_orientation_gives_a_warning(orientation, warned) -> None:
    assert codes(decoded_image(dataset(PatientOrientation=orientation)).warnings) == warned


@pytest.mark.parametrize("number", [0, 1, ""])
def test_one_frame_or_none_declared_is_one_frame(number) -> None:
    assert decoded_image(dataset(NumberOfFrames=number)).pixels.shape == (150, 160)


@pytest.mark.parametrize("content", [b"", None])
def test_empty_pixel_data_are_named(content) -> None:
    made = dataset()
    made["PixelData"].value = content
    with pytest.raises(UnreadableFileError, match="empty pixel data") as caught:
        decoded_image(made)
    assert caught.value.code == "truncated"


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


def test_a_dicomdir_is_named() -> None:
    with pytest.raises(UnsupportedFileError, match="DICOMDIR") as caught:
        decoded_image(dataset(Modality=None, PixelData=None, DirectoryRecordSequence=[Dataset()]))
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
    assert get_text(broken, "Modality") == ""
    assert get_numbers(broken, "PixelSpacing") == ()
    assert get_items(broken, "VOILUTSequence") == ()
    made = Dataset()
    made[0x00280030] = DataElement(0x00280030, "OB", b"\1\2")
    assert get_numbers(made, "PixelSpacing") == ()


def test_broken_sequences_do_not_prevent_reading_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    made = nested(1)
    original = Dataset.__getitem__

    def broken(self, key):
        if key == 0x00081110:
            raise ValueError
        return original(self, key)

    monkeypatch.setattr(Dataset, "__getitem__", broken)
    check_nesting(made, Limits(nesting=1))

    def endless(self, key):
        raise RecursionError

    monkeypatch.setattr(Dataset, "__getitem__", endless)
    with pytest.raises(RecursionError):
        check_nesting(made, Limits())


def test_messages_contain_no_patient_data() -> None:
    for elements in ({"Modality": "MR"}, {"Rows": 9000}, {"NumberOfFrames": 2}, {"PixelData": None}):
        with pytest.raises(KneeGradeError) as caught:
            decoded_image(dataset(**elements))
        assert "Nobody" not in str(caught.value)
