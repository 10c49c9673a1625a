"""`render_rois`: images of single knees, rendered in batches, with their landmarks; `Placement` maps mm to pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS, roi_frame
from kneegrade.anatomy.landmark_scheme import FEMUR_ARTICULAR, TIBIA_ARTICULAR
from kneegrade.phantom.phantom_knee import PhantomKnee
from kneegrade.phantom.render_params import Canvas, RenderParams, render_params_of, stack
from kneegrade.phantom.texture import trabeculae
from kneegrade.phantom.thickness import coarse_step, full_precision, leg_maps
from kneegrade.phantom.xray import Exposure, ExposureBatch, attenuation, develop, expose, sample_exposure

Array = NDArray[np.float64]

ROI_ROTATION_DEG = 10.0  # largest rotation
FOV_MM = 130.0
USUAL_WIDTH_MM = 80.0  # typical width of a tibial plateau


@dataclass(frozen=True)
class Placement:
    """Affine map from a knee to an image: pixel = matrix @ mm + offset.

    Attributes:
        matrix: 2 x 2 as rows: rotation times pixels per mm, with a reflection for a left knee.
        offset: pixel (x, y) of the knee's origin; the centre of the first pixel is (0, 0).
    """

    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset: tuple[float, float]

    @classmethod
    def of(cls, origin_px: tuple[float, float], px_per_mm: float, rotation_deg: float, mirrored: bool) -> "Placement":
        """A placement from the pixel of the knee's origin, the scale, a clockwise rotation and the side."""
        angle = np.deg2rad(rotation_deg)
        matrix = px_per_mm * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if mirrored:
            matrix = matrix * [-1.0, 1.0]
        (a, b), (c, d) = matrix.tolist()
        return cls(((a, b), (c, d)), (float(origin_px[0]), float(origin_px[1])))

    @classmethod
    def level(
        cls, outline_mm: Array, size_px: int, extent_in_plateau_widths: float = ROI_PLATEAU_WIDTHS
    ) -> "Placement":
        """The crop that networks read: level with the plateau, lateral side on the left, not mirrored.

        Args:
            outline_mm: (74, 2) landmarks in mm.
            size_px: side of the crop.
            extent_in_plateau_widths: side of the crop in plateau widths.
        """
        frame = roi_frame(outline_mm, size_px, extent_in_plateau_widths)
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


def render_roi(
    knee: PhantomKnee, size_px: int = 320, fov_mm: float = FOV_MM, *, rotation_deg: float | None = None,
    exposure: Exposure | None = None,
) -> tuple[NDArray[np.float32], Array]:  # fmt: skip
    """Pixels (S, S) float32 in [0, 1], bone bright, and landmarks (74, 2) float64 in pixels, of one knee.

    The knee appears as on a film: the lateral side of a right knee is on the left of the image, that of a left knee on
    the right. The same knee always gives the same image.

    Args:
        knee: the knee to render.
        size_px: side S of the square image.
        fov_mm: field of view along one side, in millimetres of the knee.
        rotation_deg: clockwise rotation; drawn within ±10° if None.
        exposure: exposure and image processing; drawn if None.
    """
    placement = roi_placement(knee, size_px, fov_mm, rotation_deg)
    step = coarse_step(size_px, fov_mm)
    pixels = render_batch(stack([render_params_of(knee)]), [placement], [exposure or roi_exposure(knee)], size_px, step)
    return pixels[0].numpy(), placement.to_px(knee.outline_mm)


def render_rois(
    knees: Sequence[PhantomKnee], size_px: int = 320, extent_in_plateau_widths: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Array]:  # fmt: skip
    """Images (B, S, S) float32 in [0, 1] on a device, and landmarks (B, 74, 2) float64 in pixels, of B knees.

    Args:
        knees: the knees to render; the image of a knee does not depend on the others.
        size_px: side S of the square images.
        extent_in_plateau_widths: if given, render the crop that networks read, with a side of this many plateau widths:
            level with the plateau, lateral side on the left for both sides. If None, render each knee as `render_roi`
            does.
        device: where to render.
    """
    if extent_in_plateau_widths is None:
        side_mm, placements = FOV_MM, [roi_placement(knee, size_px) for knee in knees]
    else:
        side_mm = extent_in_plateau_widths * USUAL_WIDTH_MM
        placements = [Placement.level(knee.outline_mm, size_px, extent_in_plateau_widths) for knee in knees]
    params = stack([render_params_of(knee) for knee in knees], device)
    step = coarse_step(size_px, side_mm)
    pixels = render_batch(params, placements, [roi_exposure(knee) for knee in knees], size_px, step)
    landmarks = [placement.to_px(knee.outline_mm) for placement, knee in zip(placements, knees, strict=True)]
    return pixels, np.stack(landmarks)


def render_batch(
    params: RenderParams, placements: Sequence[Placement], exposures: Sequence[Exposure], size_px: int, step: int
) -> Tensor:
    """Images (B, S, S) float32 in [0, 1] of a batch of knees, on the device of the batch.

    Args:
        params: a batch of B knees.
        placements: where each knee lies in its image.
        exposures: one per knee.
        size_px: side S of the square images.
        step: see `Canvas`.
    """
    device = params.key.device
    to_mm = torch.tensor(np.stack([p.to_mm_matrix() for p in placements]), dtype=torch.float32, device=device)
    canvas = Canvas(to_mm, (size_px, size_px), step)
    exposure_batch = ExposureBatch(exposures, [1 / placement.px_per_mm for placement in placements], device)
    with full_precision(device):
        leg = leg_maps(params, canvas, trabeculae(params.key, canvas.shape, canvas.to_mm))
        soft, hard = attenuation(leg, exposure_batch)
        measured, noise = expose(soft + hard, exposure_batch, params.key)
        return develop(measured, leg.muscle + leg.fat > 0, exposure_batch, noise)


def roi_placement(
    knee: PhantomKnee, size_px: int, fov_mm: float = FOV_MM, rotation_deg: float | None = None
) -> Placement:
    """The placement of a knee in its own square image: joint in the centre, left knees mirrored.

    The rotation is drawn by `roi_rotation_deg` if None.
    """
    rotation_deg = roi_rotation_deg(knee) if rotation_deg is None else rotation_deg
    matrix = Placement.of((0.0, 0.0), size_px / fov_mm, rotation_deg, knee.side == "L").matrix
    femur, tibia = knee.outline_mm[list(FEMUR_ARTICULAR)], knee.outline_mm[list(TIBIA_ARTICULAR)]
    joint = np.asarray(matrix) @ ((femur.mean(axis=0) + tibia.mean(axis=0)) / 2)
    middle = (size_px - 1) / 2
    return Placement(matrix, (float(middle - joint[0]), float(middle - joint[1])))


def roi_rotation_deg(knee: PhantomKnee) -> float:
    """The rotation drawn for a knee's own image, within ±10°."""
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 10]))
    return float(np.clip(rng.normal(0.0, 4.0), -ROI_ROTATION_DEG, ROI_ROTATION_DEG))


def roi_exposure(knee: PhantomKnee) -> Exposure:
    """The exposure drawn for a knee's own image."""
    return sample_exposure(np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 1])))
