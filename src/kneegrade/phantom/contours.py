"""Closed, smooth bone contours in millimetres from the 74-point outline, with what the renderer needs along them.

The frame is the shape model's: origin at landmark 55, x medial positive, y distal positive, lateral on the left.
A contour runs along the landmarks; u is the landmark number as a real number, so u = 11.5 lies halfway between
landmarks 11 and 12. Shafts go on beyond the first and last landmark of a bone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.float64]

STEP_MM = 0.4
JOINT_SHARE = 0.3  # of a spur's foot: it carries the joint surface on and falls back to the shaft slowly
TIP_MM = 0.5  # roundness of a spur's tip
SHAFT_STATIONS_MM = (14.0, 32.0, 60.0, 100.0, 160.0, 230.0, 320.0)
SPUR_ANCHORS: dict[str, float] = {
    "osteophyte_femur_lateral": 11.6,
    "osteophyte_femur_medial": 24.5,
    "osteophyte_tibia_lateral": 46.7,
    "osteophyte_tibia_medial": 63.3,
}


@dataclass(frozen=True)
class Spur:
    """One osteophyte: a bump of the bone's margin.

    Attributes:
        target: name of its grade.
        grade: 1 … 3.
        length_mm: how far its tip stands out.
        base_mm: width of its foot along the margin, three tenths of it on the side of the joint.
        lift_deg: angle of its axis towards the joint space (negative: away from it).
        sharpness: 1 = triangular, larger = slender tip on a broad foot, smaller = blunt.
    """

    target: str
    grade: int
    length_mm: float
    base_mm: float
    lift_deg: float
    sharpness: float

    @property
    def area_mm2(self) -> float:
        """Area of the bump, length times base over (sharpness + 1)."""
        return self.length_mm * self.base_mm / (self.sharpness + 1.0)


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed bone contour.

    Attributes:
        points: (M, 2) float64 mm, the last point joins the first.
        station: (M,) float64, u along the landmarks (beyond them on the shaft).
    """

    points: Array
    station: Array


@dataclass(frozen=True)
class ShaftShape:
    """How a shaft goes on beyond the landmarks: final half-width (mm), lean (mm lateral per mm), taper length (mm)."""

    half_width_mm: float
    lean: float
    taper_mm: float


def bone_contour(outline: Array, bone: str, shaft: ShaftShape, spurs: Sequence[Spur] = ()) -> Contour:
    """The closed contour of "femur" or "tibia", its shaft drawn on and its spurs raised."""
    start, away = (0, -1.0) if bone == "femur" else (37, 1.0)
    knots = outline[start : start + 37]
    lateral, medial = _shaft(knots[0], knots[-1], away, shaft)
    control = np.concatenate([lateral[::-1], knots, medial])
    extra = len(lateral)
    spline, parameter = _centripetal(control)
    length = np.hypot(*np.diff(control, axis=0).T).sum()
    where = np.linspace(0, parameter[-1], int(length / STEP_MM))
    station = np.interp(where, parameter, np.arange(len(control))) - extra + start
    points = np.asarray(spline(where))
    for spur in spurs:
        points = raise_spur(points, station, spur)
    return Contour(points, station)


def raise_spur(points: Array, station: Array, spur: Spur) -> Array:
    """Points (M, 2) with one spur pushed out of the contour at its anchor."""
    anchor = int(np.abs(station - SPUR_ANCHORS[spur.target]).argmin())
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    # stations grow from lateral to medial, so the joint lies at higher ones of a lateral margin
    from_joint = (arc[anchor] - arc) * (1 if spur.target.endswith("lateral") else -1)
    foot = spur.base_mm * np.where(from_joint < 0, JOINT_SHARE, 1 - JOINT_SHARE)
    height = np.clip(1 - np.abs(from_joint) / foot, 0, None) ** spur.sharpness
    height = gaussian_filter1d(height, TIP_MM / STEP_MM)
    height /= height.max()
    outward = -1.0 if spur.target.endswith("lateral") else 1.0
    towards_joint = 1.0 if "femur" in spur.target else -1.0
    lift = np.deg2rad(spur.lift_deg)
    axis = np.array([outward * np.cos(lift), towards_joint * np.sin(lift)])
    return np.asarray(points + spur.length_mm * height[:, None] * axis)


def fibula_contour(outline: Array, head: tuple[float, float], head_half_mm: float, shaft_half_mm: float) -> Contour:
    """The closed contour of the fibula, its head's centre at `head` mm from landmark 47 (lateral plateau)."""
    x, y = outline[47] + np.asarray(head)
    ankle_x = x + 12.0
    # (distance below the head's centre, centre line, half-width as a share of the head's)
    stations = np.array([-9.0, -4.0, 4.0, 12.0, 24.0, 45.0, 80.0, 140.0, 220.0, 320.0])
    share = np.array([0.42, 0.86, 1.0, 0.86, 0.62, 0.5, 0.5, 0.52, 0.5, 0.6])
    half = np.where(stations > 20, share * 2 * shaft_half_mm, share * head_half_mm)
    middle = np.interp(stations, [-9, 0, 30, 90, 320], [x - 1.5, x, x + 4.0, x + 7.0, ankle_x])
    left = np.stack([middle - half, y + stations], axis=1)
    right = np.stack([middle + half, y + stations], axis=1)
    tip = np.array([[x - 1.0, y - 13.0]])
    control = np.concatenate([left[::-1], tip, right])
    spline, parameter = _centripetal(control)
    length = np.hypot(*np.diff(control, axis=0).T).sum()
    where = np.linspace(0, parameter[-1], int(length / STEP_MM))
    depth = np.asarray(spline(where))[:, 1] - y
    return Contour(np.asarray(spline(where)), depth)


def _centripetal(knots: Array) -> tuple[CubicSpline, Array]:
    """A cubic spline through points (N, 2), its parameter growing with the square root of the chord."""
    parameter = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(knots, axis=0).T) ** 0.6)])
    return CubicSpline(parameter, knots, bc_type="natural"), parameter


def _shaft(lateral_end: Array, medial_end: Array, away: float, shaft: ShaftShape) -> tuple[Array, Array]:
    """Control points of the shaft's lateral and medial border, from the landmarks outwards, each (7, 2)."""
    distance = np.asarray(SHAFT_STATIONS_MM)
    centre_x, centre_y = (lateral_end + medial_end) / 2
    skew = (lateral_end - medial_end)[1] / 2 * np.exp(-distance / 30.0)
    half = np.hypot(*(lateral_end - medial_end)) / 2
    half_width = shaft.half_width_mm + (half - shaft.half_width_mm) * np.exp(-distance / shaft.taper_mm)
    middle = centre_x - shaft.lean * distance
    y = centre_y + away * distance
    return np.stack([middle - half_width, y + skew], axis=1), np.stack([middle + half_width, y - skew], axis=1)
