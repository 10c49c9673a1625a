"""Texts that several report formats share: labels, units and reasons."""

from collections.abc import Iterator
from typing import Final

from kneegrade.measurements import JointSpace, Measurement
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, Report, Side

RESEARCH_USE: Final = "Research use, not a medical device"
LANDMARK_CONFIDENCE: Final = (
    "expected fraction of the joint-surface landmarks within 2 % of the tibial width of their true position, times "
    "the probability that this is a frontal view of a knee"
)
SIDE_LABELS: Final[dict[Side, str]] = {"R": "Right knee", "L": "Left knee", "unknown": "Knee, side unknown"}
STATUS_LABELS: Final[dict[str, str]] = {"graded": "Graded", "not_gradable": "Not gradable", "failed": "Failed"}
SHORT_LABELS: Final[dict[str, str]] = {
    "kl": "KL",
    "jsn_lateral": "JSN L",
    "jsn_medial": "JSN M",
    "osteophyte_femur_lateral": "FL",
    "osteophyte_femur_medial": "FM",
    "osteophyte_tibia_lateral": "TL",
    "osteophyte_tibia_medial": "TM",
}

_NO_REASON = Finding("not_gradable", "The knee could not be graded; no reason was recorded.")


def knee_rows(report: Report) -> Iterator[tuple[GradedRadiograph, GradedKnee | None]]:
    """Each knee with its radiograph, in order; a radiograph without knees appears once, with None."""
    for radiograph in report.radiographs:
        yield from ((radiograph, knee) for knee in radiograph.knees or (None,))


def reason_of(item: GradedRadiograph | GradedKnee) -> Finding | None:
    """Why `item` has no grades: None if it was graded, otherwise always a finding.

    A radiograph that states no reason itself has the reason of its first knee.
    """
    if item.status == "graded":
        return None
    if item.reason is None and isinstance(item, GradedRadiograph) and item.knees:
        return reason_of(item.knees[0])
    return item.reason or _NO_REASON


def printable(text: str) -> str:
    """`text` with control, bidirectional-override and undecodable characters replaced by U+FFFD.

    File names are untrusted input: an escape sequence must not reach a terminal, and a right-to-left override must not
    disguise a name on a page.

    Example:
        >>> printable("knee" + chr(27) + "[31m.dcm")
        'knee�[31m.dcm'
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def format_width(space: JointSpace, width: Measurement) -> str:
    """A joint space width with its standard error, in mm if the spacing is trusted, otherwise in % of the tibial width.

    Example:
        >>> tibia, angle = Measurement(400.0, 2.0), Measurement(1.0, 0.5)
        >>> space = JointSpace(Measurement(0.05, 0.002), Measurement(0.07, 0.002), {}, angle, tibia)
        >>> format_width(space, space.medial)
        '5.0 ± 0.2 %'
    """
    mm = space.mm(width)
    if mm is None:
        return f"{100 * width.value:.1f} ± {100 * width.error:.1f} %"
    return f"{mm.value:.1f} ± {mm.error:.1f} mm"
