"""The side of the body of each knee, from its position on the film, the laterality tag and the anatomy.

Standard display: the patient's right is on the image's left, so an upright right knee has its fibula, the
lateral side, on the image's left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kneegrade.imaging.radiograph import Laterality
from kneegrade.results import Finding, Side

SURE = 0.9  # anatomy contradicts only when it is this sure
ENOUGH = 0.8  # anatomy alone decides only when it is this sure


@dataclass(frozen=True)
class SideCall:
    """The side that is reported and how sure the anatomy is of its own call, 0.5 … 1."""

    side: Side
    confidence: float


def assign_sides(lateral_left: Sequence[float], stated: Laterality) -> tuple[list[SideCall], tuple[Finding, ...]]:
    """Sides of the 0, 1 or 2 knees of one film.

    Args:
        lateral_left: per knee, in order across the film, the probability that lateral is on the left.
        stated: what the tag, or else the user, says of the film.

    Returns:
        A call per knee, and warnings. A contradiction gives "unknown": the grades stay, since medial and lateral are
        told from the anatomy.
    """
    expected = _expected(len(lateral_left), stated)
    calls: list[SideCall] = []
    warnings: list[Finding] = []
    for chance, side in zip(lateral_left, expected, strict=True):
        seen: Side = "R" if chance >= 0.5 else "L"
        confidence = max(chance, 1 - chance)
        if side == "unknown":
            calls.append(SideCall(seen if confidence >= ENOUGH else "unknown", confidence))
        elif side != seen and confidence >= SURE:
            calls.append(SideCall("unknown", confidence))
            warnings.append(_conflict(side, seen, len(lateral_left)))
        else:
            calls.append(SideCall(side, confidence))
    if len(lateral_left) == 2 and stated in ("R", "L"):
        warnings.append(Finding("laterality_tag", f"The file states one side ({stated}) but two knees are seen."))
    if len(lateral_left) == 1 and stated == "both":
        warnings.append(Finding("one_knee_of_two", "The file states both sides but only one knee was found."))
    return calls, tuple(warnings)


def _expected(number: int, stated: Laterality) -> list[Side]:
    if number == 2:
        return ["R", "L"]
    single: Side = stated if stated in ("R", "L") else "unknown"
    return [single] * number


def _conflict(expected: Side, seen: Side, number: int) -> Finding:
    names = {"R": "right", "L": "left"}
    source = "its place on the film" if number == 2 else "the stated laterality"
    return Finding(
        "side_conflict",
        f"By {source} this is a {names[expected]} knee, by its anatomy a {names[seen]} one: the film may be mirrored "
        "or mislabelled. The side is reported as unknown; medial and lateral follow the anatomy.",
    )
