"""Joint-space width from the two outlines.

In the frame of the plateau (x along landmarks 63 → 47, from the medial to the lateral edge, as a fraction of the
tibial width), the width at x is the distance, perpendicular to the plateau, between the femur's and the tibia's
articular outlines. `medial` is its minimum over 0.15 ≤ x ≤ 0.30, `lateral` its value at x = 0.825. The fixed
positions follow Duryea et al., "Trainable rule-based algorithm for the measurement of joint space width in digital
radiographic images of the knee", Medical Physics 2000, as used by the OAI; these are gaps between smoothed outlines,
which are narrower in range than that software's.
"""

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmarks import (
    FEMUR_ARTICULAR,
    FEMUR_BODY,
    TIBIA_ARTICULAR,
    TIBIA_BODY,
    TIBIA_PLATEAU_LATERAL,
    TIBIA_PLATEAU_MEDIAL,
)
from kneegrade.results import JointSpaceWidth

MEDIAL_RANGE = (0.15, 0.30)
LATERAL_AT = 0.825

Points = NDArray[np.float64]


def gap_at(landmarks: Points, x: Points) -> Points:
    """Joint-space width at the fractions `x` (M,) of the tibial width from its medial edge, in the landmarks' unit.

    Overlapping outlines give 0.
    """
    origin = landmarks[TIBIA_PLATEAU_MEDIAL]
    across = landmarks[TIBIA_PLATEAU_LATERAL] - origin
    width = float(np.hypot(*across))
    along = across / width
    down = np.array([-along[1], along[0]])
    if float((np.nanmean(landmarks[TIBIA_BODY], axis=0) - np.nanmean(landmarks[FEMUR_BODY], axis=0)) @ down) < 0:
        down = -down
    femur, tibia = (_curve(landmarks[list(part)] - origin, along, down) for part in (FEMUR_ARTICULAR, TIBIA_ARTICULAR))
    gap = np.interp(x * width, *tibia) - np.interp(x * width, *femur)
    return np.maximum(gap, 0.0)


def joint_space_width(landmarks_mm: Points) -> JointSpaceWidth:
    """Medial minimum and lateral width of an outline in millimetres (74, 2)."""
    medial = gap_at(landmarks_mm, np.linspace(*MEDIAL_RANGE, 61)).min()
    lateral = gap_at(landmarks_mm, np.array([LATERAL_AT]))[0]
    return JointSpaceWidth(float(medial), float(lateral))


def _curve(points: Points, along: Points, down: Points) -> tuple[Points, Points]:
    x, y = points @ along, points @ down
    order = np.argsort(x)
    return x[order], y[order]
