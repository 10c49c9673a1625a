"""Radiograph → Knee: landmark scheme, shape model, detector, sides, region of interest, joint space."""

from kneegrade.anatomy.detector import LandmarkDetector
from kneegrade.anatomy.joint_space import gap_at, joint_space_width
from kneegrade.anatomy.knee import Knee, knee_at
from kneegrade.anatomy.marked import MarkedPoints, marked_knees
from kneegrade.anatomy.measures import measure
from kneegrade.anatomy.outline import Outline
from kneegrade.anatomy.plausibility import refusal
from kneegrade.anatomy.roi import ROI_WIDTHS, RoiFrame, roi_frame

__all__ = [
    "ROI_WIDTHS",
    "Knee",
    "LandmarkDetector",
    "MarkedPoints",
    "Outline",
    "RoiFrame",
    "gap_at",
    "joint_space_width",
    "knee_at",
    "marked_knees",
    "measure",
    "refusal",
    "roi_frame",
]
