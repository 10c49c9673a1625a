"""Synthetic reports with random but reproducible content."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kneegrade.measurements import JointSpace, Measurement
from kneegrade.results import (
    Coherence,
    Evidence,
    Finding,
    GradedKnee,
    GradedRadiograph,
    GradeResult,
    Report,
    Side,
    WeightsIdentity,
)
from kneegrade.schema import TARGETS

READ_BY = {
    "all": range(74), "FL": range(19), "FM": range(18, 37), "TL": range(37, 56), "TM": range(55, 74),
}  # fmt: skip
JOINT_SPACE = JointSpace(  # a tibia of 500 px at 0.16 mm: 3.27 and 5.918 mm
    Measurement(3.27 / 80, 0.002), Measurement(5.918 / 80, 0.003),
    {0.15: Measurement(0.05, 0.002), 0.7: Measurement(0.07, 0.002)},
    Measurement(-1.5, 0.4), Measurement(500.0, 2.5), 0.16,
)  # fmt: skip
WEIGHTS = WeightsIdentity("phantom-test", "0123456789abcdef" * 4)


def make_outlines(size: int) -> NDArray[np.float64]:
    """(74, 2) float64: two arcs for femur and tibia, whose ends lie outside the crop."""
    t = np.linspace(-1.0, 1.0, 37)
    x = size * (0.5 + 0.36 * np.sign(t) * np.abs(t) ** 0.5)
    femur = np.stack([x, size * (0.46 - 0.6 * np.abs(t) ** 6)], axis=1)
    tibia = np.stack([x, size * (0.54 + 0.6 * np.abs(t) ** 6)], axis=1)
    return np.concatenate([femur, tibia])


def make_evidence(rng: np.random.Generator, size: int = 96) -> Evidence:
    landmarks = make_outlines(size)
    visible = ((landmarks >= 0) & (landmarks <= size - 1)).all(axis=1)
    landmarks[0] = np.nan
    visible[0] = False
    contributions = {}
    for target in TARGETS:
        shares = np.zeros((74, target.classes))
        read = list(READ_BY[target.compartment])
        shares[read] = rng.normal(scale=0.1, size=(len(read), target.classes))
        contributions[target.name] = shares - shares.mean(axis=1, keepdims=True)
    return Evidence(
        roi=rng.integers(0, 256, (size, size), dtype=np.uint8),
        landmarks_roi_px=landmarks,
        landmark_visible=visible,
        contributions=contributions,
        region_term={target.name: rng.normal(size=target.classes) for target in TARGETS},
        constant={target.name: rng.normal(size=target.classes) for target in TARGETS},
    )


def make_knee(
    rng: np.random.Generator, side: Side = "R", evidence: Evidence | None = None, *, plain: bool = False
) -> GradedKnee:
    """A graded knee; `plain` leaves out all optional values."""
    grades = {}
    for target in TARGETS:
        p = rng.dirichlet(np.full(target.classes, 0.5))
        mode = int(p.argmax())
        held = None if plain else tuple(range(max(mode - 1, 0), mode + 1))
        grades[target.name] = GradeResult(mode, tuple(p.tolist()), held)
    if plain:
        return GradedKnee(side, grades=grades, landmark_confidence=0.5)
    finding = Finding("kl2_with_oarsi_zero", "KL 2 is given although no osteophyte is graded.")
    return GradedKnee(
        side,
        grades=grades,
        coherence=Coherence(float(rng.normal(scale=5)), 3, (finding,)),
        joint_space=JOINT_SPACE,
        point_confidence=rng.uniform(size=74),
        landmarks_outside=(0, 73),
        side_confidence=0.98,
        landmarks_px=make_outlines(900) + 100.0,
        landmark_confidence=0.81234567,
        evidence=evidence or make_evidence(rng),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20210927)


@pytest.fixture
def report(rng: np.random.Generator) -> Report:
    """A film with two knees, one half refused, one plain, one refused, one failed with a hostile name."""
    refused = Finding("implant", "The knee contains a metal implant; grades would be meaningless.")
    spacing = Finding("no_spacing", "The file states no pixel spacing, so no joint space in mm is given.")
    return Report(
        radiographs=(
            GradedRadiograph("pair.dcm", (make_knee(rng, "R"), make_knee(rng, "L")), warnings=(spacing,)),
            GradedRadiograph("half.dcm", (make_knee(rng, "L"), GradedKnee("R", reason=refused))),
            GradedRadiograph("plain.png", (make_knee(rng, "unknown", plain=True),)),
            GradedRadiograph("hip.dcm", reason=Finding("no_knee", "No knee was found; give a knee radiograph.")),
            GradedRadiograph(
                "=<script>alert(1)</script>.dcm",
                reason=Finding("unreadable", "The file is damaged; give another copy."),
                failed=True,
            ),
        ),
        weights=WEIGHTS,
        version="0.1.0",
        set_level=0.9,
    )
