"""Side of the body of each knee, from its position on the film, the laterality tag and the anatomy.

In the standard display the patient's right is on the left of the image, so the lateral side of an upright right knee,
where the fibula is, is on the left of the image. Side markers are compared with the sides afterwards
(`kneegrade.anatomy.marker_sides`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kneegrade.imaging.radiograph import Laterality
from kneegrade.results import Finding, Side

CONTRADICTION_PROBABILITY = 0.9  # from here on the anatomy may contradict the position on the film or the tag
DECISION_PROBABILITY = 0.8  # from here on the anatomy alone may decide

SIDE_NAMES = {"R": "right", "L": "left"}


@dataclass(frozen=True)
class SideAssignment:
    """Side of one knee.

    Attributes:
        side: the reported side; "unknown" if it is contradictory or too uncertain.
        confidence: probability, 0.5 … 1, of the side that the anatomy indicates.
    """

    side: Side
    confidence: float


def assign_sides(
    lateral_left: Sequence[float], stated: Laterality, *, several_films: bool = False
) -> tuple[list[SideAssignment], tuple[Finding, ...]]:
    """Return the side of each of the 0, 1 or 2 knees of a film, and warnings.

    If anatomy and position or tag contradict each other, the side is "unknown". The grades are kept, since medial and
    lateral are derived from the anatomy.

    Args:
        lateral_left: for each knee, in order across the film, the probability that lateral is on the left.
        stated: laterality of the film according to the tag or, without one, to the user.
        several_films: True if the knees may be of several films; position and tag then say nothing about their sides.
    """
    if several_films:
        stated = "unknown"
    expected_sides = _expected_sides(len(lateral_left), stated, by_position=not several_films)
    sides: list[SideAssignment] = []
    warnings: list[Finding] = []
    for probability, expected in zip(lateral_left, expected_sides, strict=True):
        anatomical: Side = "R" if probability >= 0.5 else "L"
        confidence = max(probability, 1 - probability)
        if expected == "unknown":
            sides.append(SideAssignment(anatomical if confidence >= DECISION_PROBABILITY else "unknown", confidence))
        elif expected != anatomical and confidence >= CONTRADICTION_PROBABILITY:
            sides.append(SideAssignment("unknown", confidence))
            warnings.append(_side_conflict(expected, anatomical, len(lateral_left)))
        else:
            sides.append(SideAssignment(expected, confidence))
    if len(lateral_left) == 2 and stated in ("R", "L"):
        warnings.append(_one_side_stated(stated))
    if len(lateral_left) == 1 and stated == "both":
        warnings.append(ONE_KNEE_OF_TWO)
    return sides, tuple(warnings)


def _expected_sides(number: int, stated: Laterality, *, by_position: bool) -> list[Side]:
    """Return the sides that position (two knees) or tag (one knee) indicate."""
    if number == 2 and by_position:
        return ["R", "L"]
    single: Side = stated if stated in ("R", "L") else "unknown"
    return [single] * number


ONE_KNEE_OF_TWO = Finding(
    "one_knee_of_two",
    "The laterality of the film is both knees, but only one knee was detected, so one knee may be missing from the "
    "report. Check the film for a second knee.",
)


def _one_side_stated(stated: Side) -> Finding:
    return Finding(
        "laterality_tag",
        f"The laterality of the film is {SIDE_NAMES[stated]} only, but two knees were detected, so the laterality "
        "may be wrong. Sides were assigned by position on the film; check them.",
    )


def _side_conflict(expected: Side, anatomical: Side, number: int) -> Finding:
    source = "its position on the film" if number == 2 else "the stated laterality"
    return Finding(
        "side_conflict",
        f"According to {source} this is a {SIDE_NAMES[expected]} knee, according to its anatomy a "
        f"{SIDE_NAMES[anatomical]} knee, so the film may be mirrored or mislabelled. The side is reported as unknown; "
        "medial and lateral grades follow the anatomy. Check the side marker.",
    )
