"""Radiograph → Knee: landmark detection, side of the body, normalised crop and joint space."""

from kneegrade.anatomy.detector import LandmarkDetector
from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, RoiFrame, roi_frame
from kneegrade.anatomy.joint_space import gap_at, joint_space_width, measure
from kneegrade.anatomy.knee import NO_KNEE, DetectedRadiograph, Knee, build_knee, refusal, with_plausible_spacing
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.marker_reader import Marker, MarkerReader
from kneegrade.anatomy.marker_sides import check_markers
from kneegrade.anatomy.user_landmarks import UserHints, UserLandmarks, knees_from_landmarks

__all__ = [
    "NO_KNEE",
    "ROI_PLATEAU_WIDTHS",
    "DetectedRadiograph",
    "Knee",
    "LandmarkDetector",
    "Landmarks",
    "Marker",
    "MarkerReader",
    "RoiFrame",
    "UserHints",
    "UserLandmarks",
    "build_knee",
    "check_markers",
    "gap_at",
    "joint_space_width",
    "knees_from_landmarks",
    "measure",
    "refusal",
    "roi_frame",
    "with_plausible_spacing",
]
