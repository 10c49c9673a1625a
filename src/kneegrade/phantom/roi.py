"""`render_roi`: the picture of one knee alone, with its landmarks."""

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmarks import FEMUR_ARTICULAR, TIBIA_ARTICULAR
from kneegrade.phantom.knee import PhantomKnee
from kneegrade.phantom.rasterise import FloatImage, Placement
from kneegrade.phantom.thickness import leg_maps
from kneegrade.phantom.xray import Exposure, attenuation, develop, expose, sample_exposure, trabeculae

MAX_ROTATION_DEG = 10.0


def roi_placement(knee: PhantomKnee, size_px: int, fov_mm: float, rotation_deg: float) -> Placement:
    """Where the knee lies in its own square: the joint in the middle, a left knee mirrored."""
    matrix = Placement.of((0.0, 0.0), size_px / fov_mm, rotation_deg, knee.side == "L").matrix
    femur, tibia = knee.outline_mm[list(FEMUR_ARTICULAR)], knee.outline_mm[list(TIBIA_ARTICULAR)]
    joint = np.asarray(matrix) @ ((femur.mean(axis=0) + tibia.mean(axis=0)) / 2)
    middle = (size_px - 1) / 2
    return Placement(matrix, (float(middle - joint[0]), float(middle - joint[1])))


def render_roi(
    knee: PhantomKnee,
    size_px: int = 320,
    fov_mm: float = 130.0,
    *,
    rotation_deg: float | None = None,
    exposure: Exposure | None = None,
) -> tuple[FloatImage, NDArray[np.float64]]:
    """Pixels (S, S) float32 in [0, 1], bone bright, and landmarks (74, 2) float64 in pixels, of one knee.

    The knee appears as it would on a film: the lateral side of a right knee on the image's left, of a left knee on
    its right. The same knee gives the same picture every time.

    Args:
        knee: what to draw.
        size_px: side S of the square.
        fov_mm: what the side shows, in millimetres of the knee.
        rotation_deg: clockwise rotation; drawn within ±10° if None.
        exposure: technique and look; drawn if None.
    """
    rng, drawn_rotation = _start(knee)
    drawn_exposure = sample_exposure(rng)
    look = exposure or drawn_exposure
    placement = roi_placement(knee, size_px, fov_mm, drawn_rotation if rotation_deg is None else rotation_deg)
    shape, pixel_mm = (size_px, size_px), fov_mm / size_px
    leg = leg_maps(knee, placement, shape, trabeculae(shape, pixel_mm, rng))
    measured = expose(attenuation([leg], look), pixel_mm, look, rng)
    pixels = develop(measured, leg.muscle + leg.fat > 0, pixel_mm, look, rng)
    return pixels, placement.to_px(knee.outline_mm)


def roi_landmarks(knee: PhantomKnee, size_px: int = 320, fov_mm: float = 130.0) -> NDArray[np.float64]:
    """The landmarks (74, 2) that `render_roi` returns with its own rotation, without drawing."""
    return roi_placement(knee, size_px, fov_mm, _start(knee)[1]).to_px(knee.outline_mm)


def _start(knee: PhantomKnee) -> tuple[np.random.Generator, float]:
    """The generator of a knee's picture and the rotation drawn from it first."""
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 1]))
    return rng, float(np.clip(rng.normal(0.0, 4.0), -MAX_ROTATION_DEG, MAX_ROTATION_DEG))
