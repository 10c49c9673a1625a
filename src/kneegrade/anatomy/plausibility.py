"""Whether what was found can be graded honestly: a first gate on landmarks and picture."""

import numpy as np

from kneegrade.anatomy.knee import Knee
from kneegrade.results import Finding

MIN_CONFIDENCE = 0.5  # of the landmarks; below it what was found is not taken for a knee in a frontal view
MIN_ARTICULAR_SHARE = 0.9  # of the articular landmarks that must lie on the film

VIEW = Finding("view", "The outline of the joint is not that of a natural knee in a frontal view.")
JOINT_CUT_OFF = Finding("joint_cut_off", "The joint is cut off by the border of the film.")


def refusal(knee: Knee) -> Finding | None:
    """Why a found knee cannot be graded honestly, or None.

    A first plausibility gate: landmarks too uncertain for a frontal view of a natural knee, joint cut off by the
    film's border, a region that is blurred or badly exposed.
    """
    if knee.landmark_confidence < MIN_CONFIDENCE or not np.isfinite(knee.landmarks_px).all():
        return VIEW
    if knee.on_film_share < MIN_ARTICULAR_SHARE:
        return JOINT_CUT_OFF
    return knee.poor[0] if knee.poor else None
