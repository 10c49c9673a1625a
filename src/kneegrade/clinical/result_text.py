"""Short ASCII lines on a knee, as pictures and presentation states show them."""

import textwrap
from typing import Final

from kneegrade.clinical.codes import OTHER_FINDING, finding_code
from kneegrade.measurements import JointSpace, Measurement
from kneegrade.reporting.report_labels import SHORT_LABELS, SIDE_LABELS, format_width, reason_of
from kneegrade.results import GradedKnee, GradedRadiograph, GradeResult
from kneegrade.terminal_text import fitting

LINE_CHARACTERS: Final = 56
MAX_WARNING_LINES: Final = 3
_OARSI_LINES: Final = (
    ("jsn_medial", "jsn_lateral"),
    ("osteophyte_femur_medial", "osteophyte_femur_lateral", "osteophyte_tibia_medial", "osteophyte_tibia_lateral"),
)
_OST: Final = "osteophyte"


def knee_lines(knee: GradedKnee, set_level: float | None) -> list[str]:
    """The results of a knee in a few lines; for a knee that is not graded, its name and the code of the reason.

    Args:
        knee: graded or refused.
        set_level: of `Report`.
    """
    if knee.grades is None:
        reason = reason_of(knee)
        return [f"{SIDE_LABELS[knee.side]}: not graded", *([] if reason is None else [f"Reason: {reason.code}"])]
    grades = knee.grades
    lines = [f"{SIDE_LABELS[knee.side]}: KL {grades['kl'].grade}{set_text(grades['kl'], set_level)}"]
    for names in _OARSI_LINES:
        words = [f"{SHORT_LABELS[name]} {grades[name].grade}" for name in names]
        lines.append(("OST " if names[0].startswith(_OST) else "") + "  ".join(words))
    if knee.joint_space is not None:
        lines += [f"JSW {words}" for words in width_texts(knee.joint_space)]
    return [*lines, "To be decided by a reader"] if knee.abstain else lines


def set_text(grade: GradeResult, set_level: float | None) -> str:
    """The prediction set of a grade in parentheses, or "" if it has one value or there are no sets.

    Example:
        >>> set_text(GradeResult(2, (0.1, 0.2, 0.4, 0.2, 0.1), (1, 2, 3)), 0.9)
        ' (90 %: 1-3)'
    """
    held = grade.prediction_set or ()
    if len(held) < 2 or set_level is None:
        return ""
    return f" ({100 * set_level:.0f} %: {held[0]}-{held[-1]})"


def width_texts(space: JointSpace) -> list[str]:
    """Medial and lateral width with standard errors, in mm if the spacing is trusted, else in % of the tibial width."""
    return [
        f"{where} {_width(space, width)}" for where, width in (("medial", space.medial), ("lateral", space.lateral))
    ]


def _width(space: JointSpace, width: Measurement) -> str:
    text = fitting(format_width(space, width), "ascii")
    return f"{text} of tibia" if space.mm_per_px is None else text


def warning_lines(film: GradedRadiograph) -> list[str]:
    """The warnings about a film, by the meanings of their codes, in at most `MAX_WARNING_LINES` lines."""
    codes = ((warning, finding_code(warning)) for warning in film.warnings)
    words = (warning.code if code == OTHER_FINDING else code.meaning for warning, code in codes)
    text = "; ".join(dict.fromkeys(words))
    return textwrap.wrap(
        f"Film: {text}" if text else "", LINE_CHARACTERS, max_lines=MAX_WARNING_LINES, placeholder=" ..."
    )


def film_lines(film: GradedRadiograph) -> list[str]:
    """What to say of a film without knees."""
    reason = reason_of(film)
    return ["No knee graded", *([] if reason is None else [f"Reason: {reason.code}"])]
