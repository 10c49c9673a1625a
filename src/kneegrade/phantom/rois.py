"""`render_rois`: pictures of single knees, many at once, with their landmarks.

Where a knee lies in a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, roi_frame
from kneegrade.anatomy.landmark_scheme import FEMUR_ARTICULAR, TIBIA_ARTICULAR
from kneegrade.phantom.phantom_knee import PhantomKnee
from kneegrade.phantom.render_params import RenderParams, render_params_of, stack
from kneegrade.phantom.texture import trabeculae
from kneegrade.phantom.thickness import Canvas, coarse_step, exact, leg_maps
from kneegrade.phantom.xray import Exposure, Exposures, attenuation, develop, expose, sample_exposure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Where millimetres of a knee lie in a picture: pixel = matrix @ mm + offset.

    Attributes:
        matrix: 2 x 2 as rows, rotation times pixels per mm, a mirror for a left knee.
        offset: pixel (x, y) of the knee's origin, the first pixel's centre at (0, 0).
    """

    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset: tuple[float, float]

    @classmethod
    def of(cls, origin_px: tuple[float, float], px_per_mm: float, rotation_deg: float, mirrored: bool) -> "Placement":
        """A placement by the knee origin's pixel, the scale, a clockwise rotation and the side."""
        angle = np.deg2rad(rotation_deg)
        turn = px_per_mm * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if mirrored:
            turn = turn * [-1.0, 1.0]
        (a, b), (c, d) = turn.tolist()
        return cls(((a, b), (c, d)), (float(origin_px[0]), float(origin_px[1])))

    @classmethod
    def level(cls, outline_mm: Array, size_px: int, widths: float = ROI_PLATEAU_WIDTHS) -> "Placement":
        """The region of interest of an outline (74, 2): level with the plateau, lateral on the left, no mirror."""
        frame = roi_frame(outline_mm, size_px, widths)
        (a, b), (c, d) = np.linalg.inv(frame.matrix[:, :2]).tolist()
        x, y = frame.to_roi(np.zeros((1, 2)))[0].tolist()
        return cls(((a, b), (c, d)), (float(x), float(y)))

    @property
    def px_per_mm(self) -> float:
        """Pixels per millimetre of the knee."""
        return float(np.sqrt(abs(np.linalg.det(np.asarray(self.matrix)))))

    def to_px(self, points_mm: Array) -> Array:
        """(N, 2) mm → (N, 2) pixels."""
        return np.asarray(points_mm @ np.asarray(self.matrix).T + self.offset)

    def to_mm_matrix(self) -> Array:
        """(2, 3) matrix from (x, y, 1) in pixels to millimetres of the knee."""
        inverse = np.linalg.inv(np.asarray(self.matrix))
        return np.concatenate([inverse, -inverse @ np.asarray(self.offset)[:, None]], axis=1)


ROI_ROTATION_DEG = 10.0
FOV_MM = 130.0
USUAL_WIDTH_MM = 80.0  # of a tibial plateau


def render_roi(
    knee: PhantomKnee, size_px: int = 320, fov_mm: float = FOV_MM, *, rotation_deg: float | None = None,
    exposure: Exposure | None = None,
) -> tuple[NDArray[np.float32], Array]:  # fmt: skip
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
    placement = roi_placement(knee, size_px, fov_mm, rotation_deg)
    look = exposure or roi_exposure(knee)
    pixels = render_sheets(stack([render_params_of(knee)]), [placement], [look], size_px, coarse_step(size_px, fov_mm))
    return pixels[0].numpy(), placement.to_px(knee.outline_mm)


def render_rois(
    knees: Sequence[PhantomKnee], size_px: int = 320, widths: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Array]:  # fmt: skip
    """Pictures (B, S, S) float32 in [0, 1] on a device, and landmarks (B, 74, 2) float64 in pixels, of many knees.

    Args:
        knees: what to draw, each as it would be drawn alone.
        size_px: side S.
        widths: if given, the region of interest as networks see it, of so many plateau widths: level, lateral on the
            left in every knee. Otherwise each knee as `render_roi` shows it.
        device: where to render.
    """
    if widths is None:
        placements = [roi_placement(knee, size_px) for knee in knees]
    else:
        placements = [Placement.level(knee.outline_mm, size_px, widths) for knee in knees]
    sheets = stack([render_params_of(knee) for knee in knees], device)
    step = coarse_step(size_px, FOV_MM if widths is None else widths * USUAL_WIDTH_MM)
    pixels = render_sheets(sheets, placements, [roi_exposure(knee) for knee in knees], size_px, step)
    landmarks = [place.to_px(knee.outline_mm) for place, knee in zip(placements, knees, strict=True)]
    return pixels, np.stack(landmarks)


def render_sheets(
    sheets: RenderParams, placements: Sequence[Placement], exposures: Sequence[Exposure], size_px: int, step: int
) -> Tensor:
    """Pictures (B, S, S) float32 in [0, 1] of a batch of knees, on the batch's device; `step` as in `Canvas`."""
    device = sheets.key.device
    to_mm = torch.tensor(np.stack([p.to_mm_matrix() for p in placements]), dtype=torch.float32, device=device)
    canvas = Canvas(to_mm, (size_px, size_px), step)
    with exact(device):
        return _drawn(sheets, canvas, exposures, [1 / place.px_per_mm for place in placements])


def _drawn(sheets: RenderParams, canvas: Canvas, exposures: Sequence[Exposure], pixel_mm: Sequence[float]) -> Tensor:
    """Pictures (B, S, S) of a batch of knees."""
    leg = leg_maps(sheets, canvas, trabeculae(sheets.key, canvas.shape, canvas.to_mm))
    looks = Exposures(exposures, pixel_mm, sheets.key.device)
    soft, hard = attenuation(leg, looks)
    measured, grain = expose(soft + hard, looks, sheets.key)
    return develop(measured, leg.muscle + leg.fat > 0, looks, grain)


def roi_placement(
    knee: PhantomKnee, size_px: int, fov_mm: float = FOV_MM, rotation_deg: float | None = None
) -> Placement:
    """Where the knee lies in its own square: joint in the middle, turned as drawn or as asked, a left one mirrored."""
    turn = roi_rotation_deg(knee) if rotation_deg is None else rotation_deg
    matrix = Placement.of((0.0, 0.0), size_px / fov_mm, turn, knee.side == "L").matrix
    femur, tibia = knee.outline_mm[list(FEMUR_ARTICULAR)], knee.outline_mm[list(TIBIA_ARTICULAR)]
    joint = np.asarray(matrix) @ ((femur.mean(axis=0) + tibia.mean(axis=0)) / 2)
    middle = (size_px - 1) / 2
    return Placement(matrix, (float(middle - joint[0]), float(middle - joint[1])))


def roi_rotation_deg(knee: PhantomKnee) -> float:
    """The rotation drawn for a knee's own picture, within ±10°."""
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 10]))
    return float(np.clip(rng.normal(0.0, 4.0), -ROI_ROTATION_DEG, ROI_ROTATION_DEG))


def roi_exposure(knee: PhantomKnee) -> Exposure:
    """The exposure drawn for a knee's own picture."""
    return sample_exposure(np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 1])))
