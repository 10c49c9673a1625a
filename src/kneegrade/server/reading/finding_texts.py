"""Sentences for the codes of findings; the tables of `kneegrade batch` have only the codes."""

from typing import Final

from kneegrade.anatomy.laterality import ONE_KNEE_OF_TWO
from kneegrade.anatomy.pixel_aspect import NOT_SQUARE
from kneegrade.coherence import RULES
from kneegrade.imaging.dicom.dicom_header import BURNED_IN, LATERALITY_UNCLEAR, MAYBE_BURNED_IN, MODALITY_UNUSUAL
from kneegrade.imaging.dicom.dicom_spacing import MAGNIFICATION
from kneegrade.uncertainty.quality_control import IMPLANT_FINDING, OOD_FINDINGS, POSSIBLE_IMPLANT_FINDING

_SPACING: Final = "A pixel spacing in the file is not used, so lengths in mm can be missing."
_CONSTANT: Final = (
    *OOD_FINDINGS, IMPLANT_FINDING, POSSIBLE_IMPLANT_FINDING, ONE_KNEE_OF_TWO, NOT_SQUARE, MAYBE_BURNED_IN, BURNED_IN,
    LATERALITY_UNCLEAR, MODALITY_UNUSUAL, MAGNIFICATION,
)  # fmt: skip
_GENERAL: Final = {  # of findings whose messages differ between films
    "side_conflict": "The side according to the anatomy differs from the stated one or from the position on the film.",
    "laterality_tag": "The file states one side, but two knees were detected; check the sides.",
    "laterality_conflict": "The given side differs from that of the file, which is used.",
    "more_knees": "More than two knees were seen, so the picture shows several films; two were graded.",
    "knees_stacked": "The two knees lie one above the other, so the picture may show two films; check the sides.",
    "mirrored_film": "Side markers were read as mirror images, so the film is probably mirrored; check the sides.",
    "mirrored_marker": "A side marker was read as a mirror image, but on the expected side; check the sides.",
    "marker_contradicts_side": "A side marker contradicts the side of a knee; check the sides.",
    "orientation_mirrored": "The file declares a mirror image; check the sides.",
    "spacing_conflict": "The given pixel spacing differs from that of the file, which is used.",
    "spacing_invalid": _SPACING,
    "spacing_unequal": _SPACING,
    "spacing_implausible": _SPACING,
    "spacing_placeholder": _SPACING,
    "spacing_decimal_comma": "The pixel spacing in the file has decimal commas.",
    "attributes_missing": "Required DICOM attributes are missing.",
    "pixel_data_excess": "The pixel data are longer than an image of the declared size; the rest was ignored.",
    "trailing_bytes": "Bytes that are no DICOM elements follow the pixel data, which may be shifted; check the image.",
    "view_declared": "The file declares a view that is not frontal.",
    "body_part": "The file declares another body part than the knee.",
    "aspect_ratio": "The file declares pixels that are not square.",
    "window_ignored": "The first display window of the file hides the knee and was not applied.",
    "display_curve_applied": "A display curve of the file changes the contrast strongly; it was applied.",
    "stored_bits": "The declared bits of the pixels do not fit the pixel values.",
    "alpha_ignored": "The image is equally transparent everywhere; its transparency was ignored.",
    "inverted_by_pixels": "The image is a negative, which its file does not declare; it was inverted.",
    "polarity_kept": "The grey values suggest a negative, but only the image as stored shows a knee; it was kept.",
    "polarity_undecided": "The grey values suggest a negative, but neither polarity shows a knee for certain.",
    "grade_moved": "A reported grade is not the most probable one, which would contradict the other grades.",
    "grade_between": "A reported grade is not the most probable one, but is closer to the other probable grades.",
}
FINDING_TEXTS: Final = {
    **_GENERAL,
    **{rule.code: rule.message for rule in RULES},
    **{finding.code: finding.message for finding in _CONSTANT},
}


def finding_text(code: str) -> str:
    """A sentence for the code of a finding; the code itself if it is not known."""
    return FINDING_TEXTS.get(code, code)
