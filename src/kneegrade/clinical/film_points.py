"""Points of a report in the convention of DICOM, in which (0, 0) is the corner of the first pixel."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import LATERAL_AT, gap_line, narrowest_medial_at
from kneegrade.anatomy.landmark_scheme import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.results import FEMUR, TIBIA

Points = NDArray[np.float64]
BONES = {"femur": FEMUR, "tibia": TIBIA}


def dicom_points(points_px: Points, size: tuple[int, int]) -> Points:
    """(N, 2) points as SCOORD and graphic annotations count them: 0.5 more than kneegrade's, within the image.

    Args:
        points_px: (N, 2), (x, y) with the centre of the first pixel at (0, 0).
        size: (rows, columns) of the image.
    """
    rows, columns = size
    return np.clip(np.asarray(points_px, np.float64) + 0.5, 0.0, [columns, rows])


def outline_runs(points: Points, outside: Collection[int], bone: slice) -> list[Points]:
    """The stretches (M, 2) of the outline of a bone that are on the film, each of at least two points.

    Args:
        points: (74, 2).
        outside: indices of landmarks outside the film, where the shape model guesses.
        bone: `FEMUR` or `TIBIA`.
    """
    runs: list[list[Points]] = [[]]
    for index in range(bone.start, bone.stop):
        if index in outside or not np.isfinite(points[index]).all():
            runs.append([])
        else:
            runs[-1].append(points[index])
    return [np.array(run) for run in runs if len(run) > 1]


def calipers(landmarks_px: Points) -> dict[str, Points]:
    """(2, 2) lines along which the medial and lateral joint space and the plateau are measured, in the same pixels."""
    return {
        "medial": gap_line(landmarks_px, narrowest_medial_at(landmarks_px)),
        "lateral": gap_line(landmarks_px, LATERAL_AT),
        "plateau": landmarks_px[[TIBIA_PLATEAU_MEDIAL, TIBIA_PLATEAU_LATERAL]],
    }
