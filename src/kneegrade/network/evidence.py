"""`evidence_of`: the attribution of a knee's logits and its crop, as a report shows them."""

import numpy as np

from kneegrade.anatomy import Knee
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.network.model import Attribution
from kneegrade.results import Evidence


def evidence_of(knee: Knee, attribution: Attribution, row: int) -> Evidence:
    """The evidence on one knee of a graded batch.

    Args:
        knee: the knee.
        attribution: of a network that reads the 74 landmarks; read points after them count to the region term.
        row: of the knee in the batch.
    """
    share = {name: s[row].double().cpu().numpy() for name, s in attribution.contributions.items()}
    return Evidence(
        roi=np.rint(knee.roi * 255).astype(np.uint8),
        landmarks_roi_px=knee.roi_landmarks_px,
        landmark_visible=knee.visible,
        contributions={name: s[:NUM_LANDMARKS] for name, s in share.items()},
        region_term={name: s[NUM_LANDMARKS:].sum(0) for name, s in share.items()},
        constant={name: c.double().cpu().numpy() for name, c in attribution.constant.items()},
    )
