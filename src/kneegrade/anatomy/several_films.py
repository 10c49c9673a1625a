"""`several_films`: the warning that a picture shows more than one film, from the number and position of its knees.

Screenshots, contact sheets and figures put films side by side or one above the other. The position of a knee on such a
picture does not tell its side.
"""

import math
from collections.abc import Sequence

from kneegrade.anatomy.geometry import Pose
from kneegrade.results import MORE_KNEES, Finding

MAX_KNEES = 2  # of a film


def several_films(poses: Sequence[Pose], seen: int) -> Finding | None:
    """Return the warning that a picture may show several films, or None.

    Args:
        poses: of the reported knees.
        seen: number of knees on the picture.
    """
    if seen > MAX_KNEES:
        return Finding(
            MORE_KNEES,
            f"{seen} knees were seen on this picture. A film has at most two, so the picture shows several films. "
            f"Only {len(poses)} of them are in the results. Sides are from the anatomy alone. "
            "Save each film as a file of its own, and grade these files.",
        )
    if len(poses) == MAX_KNEES and not _side_by_side(*poses):
        return Finding(
            "knees_stacked",
            "The two knees lie one above the other, so the picture may show two films. Sides are from the anatomy "
            "alone. Check them, or save each film as a file of its own.",
        )
    return None


def _side_by_side(first: Pose, second: Pose) -> bool:
    """Return whether two knees are farther apart across the legs than along them."""
    x, y = second.centre[0] - first.centre[0], second.centre[1] - first.centre[1]
    along = max(abs(x * pose.down[0] + y * pose.down[1]) for pose in (first, second))
    return along < math.hypot(x, y) / math.sqrt(2)
