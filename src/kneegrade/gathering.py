"""What was found of a knee → a `GradedKnee`: grades, coherence, joint space, landmarks, evidence."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kneegrade.anatomy import Knee, measure
from kneegrade.anatomy.landmarks import NUM_LANDMARKS
from kneegrade.coherence import likeliest_grades, rule_findings
from kneegrade.network import Attribution
from kneegrade.results import Coherence, Evidence, Finding, GradedKnee, GradeResult, Quality
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import Claim

Spacing = tuple[float, float] | None


def graded_knee(
    knee: Knee, spacing_mm: Spacing, grades: Mapping[str, GradeResult], coherence: Coherence, evidence: Evidence,
    quality: Quality | None = None,
) -> GradedKnee:  # fmt: skip
    """The graded knee: grades, coherence, joint space where the spacing is trusted.

    Args:
        knee: what was found.
        spacing_mm: (row, column) of the film, or None.
        grades: by name.
        coherence: of the seven grades.
        evidence: what the logits are made of.
        quality: from the weights' gate, if they bring one.
    """
    return GradedKnee(
        side=knee.side,
        grades=grades,
        coherence=coherence,
        joint_space=measure(knee.outline, None if spacing_mm is None else spacing_mm[1]),
        evidence=evidence,
        quality=quality,
        **_landmarks(knee),
    )


def evidence_of(knee: Knee, attribution: Attribution, row: int) -> Evidence:
    """The evidence on the knee in row `row` of a graded batch.

    Args:
        knee: what was found.
        attribution: of a network that pools at the 74 landmarks; places after them count to the region term.
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


def refused_knee(knee: Knee, reason: Finding, quality: Quality | None = None) -> GradedKnee:
    """The knee with its reason instead of grades.

    Args:
        knee: what was found.
        reason: why it is not graded.
        quality: None where the weights bring no gate.
    """
    return GradedKnee(side=knee.side, reason=reason, quality=quality, **_landmarks(knee))


def _landmarks(knee: Knee) -> dict[str, Any]:
    """What a graded or refused knee says of its landmarks."""
    return {
        "landmarks_px": knee.landmarks_px,
        "landmark_confidence": knee.landmark_confidence,
        "point_confidence": knee.outline.point_confidence,
        "landmarks_outside": tuple(np.flatnonzero(~knee.outline.seen).tolist()),
        "side_confidence": knee.side_confidence,
    }


def grade_results(claim: Claim, row: int) -> dict[str, GradeResult]:
    """The seven grades that are claimed of the knee in row `row`, by name."""
    found = {}
    for index, target in enumerate(TARGETS):
        shares = claim.probabilities[row, target.one_hot]
        held = None if claim.sets is None else tuple(np.flatnonzero(claim.sets[row, target.one_hot]).tolist())
        probabilities = tuple((shares / shares.sum()).tolist())
        found[target.name] = GradeResult(int(claim.grades[row, index]), probabilities, held)
    return found


def coherence_findings(claim: Claim, row: int) -> tuple[Finding, ...]:
    """Rules that the grades of one row break, and a finding for every grade that is not its likeliest."""
    given = {target.name: int(claim.grades[row, index]) for index, target in enumerate(TARGETS)}
    likeliest, findings = likeliest_grades(claim.probabilities[row : row + 1])[0], list(rule_findings(given))
    for index, target in enumerate(TARGETS):
        grade, alone, top = claim.grades[row, index], claim.alone[row, index], likeliest[index]
        told = f"{target.label} {grade} is given although {top} alone is likelier: "
        if grade != alone:
            findings.append(Finding("grade_moved", told + "with the other grades that would break a rule."))
        elif grade != top:
            findings.append(Finding("grade_between", told + "it is less far from what else remains possible."))
    return tuple(findings)
