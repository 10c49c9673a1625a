"""Radiograph → Knee: landmark scheme, shape model, detector, sides, region of interest, joint space."""

from kneegrade.anatomy.detector import LandmarkDetector
from kneegrade.anatomy.joint_space import gap_at, joint_space_width
from kneegrade.anatomy.knee import Knee
from kneegrade.anatomy.plausibility import refusal
from kneegrade.anatomy.roi import ROI_WIDTHS, RoiFrame, roi_frame

__all__ = ["ROI_WIDTHS", "Knee", "LandmarkDetector", "RoiFrame", "gap_at", "joint_space_width", "refusal", "roi_frame"]
