"""What was found of a knee → a `GradedKnee`: grades, coherence, joint space, landmarks, evidence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy import Knee, measure
from kneegrade.anatomy.landmarks import NUM_LANDMARKS
from kneegrade.coherence import rule_findings
from kneegrade.network import Attribution
from kneegrade.results import Coherence, Evidence, Finding, GradedKnee, GradeResult
from kneegrade.schema import TARGETS

Spacing = tuple[float, float] | None


def graded_knee(
    knee: Knee, spacing_mm: Spacing, probabilities: NDArray[np.float64], log_probability: float, evidence: Evidence
) -> GradedKnee:
    """The graded knee: each grade the likeliest of its class, coherence, joint space where the spacing is trusted.

    Args:
        knee: what was found.
        spacing_mm: (row, column) of the film, or None.
        probabilities: (29,) calibrated, in the order of the schema.
        log_probability: of `probabilities` under the mixture.
        evidence: for pictures.
    """
    grades = {t.name: _grade_result(probabilities[t.one_hot]) for t in TARGETS}
    findings = rule_findings({name: result.grade for name, result in grades.items()})
    return GradedKnee(
        side=knee.side,
        grades=grades,
        coherence=Coherence(log_probability, findings),
        joint_space=measure(knee.outline, None if spacing_mm is None else spacing_mm[1]),
        evidence=evidence,
        **_landmarks(knee),
    )


def evidence_of(knee: Knee, attribution: Attribution, row: int) -> Evidence:
    """What pictures of the knee in row `row` of a graded batch are drawn from.

    What was read at no landmark (a global branch) counts to the remainder.
    """
    share = {name: s[row].double().cpu().numpy() for name, s in attribution.contributions.items()}
    rest = {name: r.double().cpu().numpy() for name, r in attribution.remainder.items()}
    return Evidence(
        roi=np.rint(knee.roi * 255).astype(np.uint8),
        landmarks_roi_px=knee.roi_landmarks_px,
        landmark_visible=knee.visible,
        contributions={name: s[:NUM_LANDMARKS] for name, s in share.items()},
        remainder={name: r + share[name][NUM_LANDMARKS:].sum(0) for name, r in rest.items()},
    )


def refused_knee(knee: Knee, reason: Finding) -> GradedKnee:
    """The knee with its reason instead of grades."""
    return GradedKnee(side=knee.side, reason=reason, **_landmarks(knee))


def _landmarks(knee: Knee) -> dict[str, Any]:
    """What a graded or refused knee says of its landmarks."""
    return {
        "landmarks_px": knee.landmarks_px,
        "landmark_confidence": knee.landmark_confidence,
        "point_confidence": knee.outline.point_confidence,
        "landmarks_outside": tuple(np.flatnonzero(~knee.outline.seen).tolist()),
        "side_confidence": knee.side_confidence,
    }


def _grade_result(probabilities: NDArray[np.float64]) -> GradeResult:
    shares = probabilities / probabilities.sum()
    return GradeResult(int(shares.argmax()), tuple(float(p) for p in shares))
