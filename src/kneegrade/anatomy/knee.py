"""`Knee`: one knee of a radiograph, found and brought into the normalised orientation.

Whether what was found can be graded honestly: a first gate on landmarks and picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import RoiFrame, extract_crop, roi_frame, stretch_contrast
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.laterality import SideCall
from kneegrade.imaging.film_quality import REGION_PX, check_crop
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding, Side


@dataclass(frozen=True, eq=False)
class Knee:
    """One knee as the network sees it.

    Attributes:
        side: of the patient's body; "unknown" where tag, position and anatomy disagree.
        side_confidence: probability of the anatomy's call, 0.5 … 1.
        outline: the 74 points in pixels of the source film, and their errors.
        landmark_confidence: 0 … 1, mean of the outline's `point_confidence` over the articular points, times the
            probability that this is a knee seen from the front (1 for landmarks that the user brought).
        roi: (S, S) float32 in [0, 1], lateral on the left, bone bright, padding 0.
        inside: (S, S) bool, False where the film ends.
        roi_landmarks_px: (74, 2) float64 in pixels of `roi`.
        visible: (74,) bool, False for a landmark outside the region or the film.
        on_film_share: share of the articular landmarks that lie on the film, 0 … 1.
        frame: from region to source.
        poor: what forbids to grade the knee by its picture (`check_crop`), found on a region of 224 px whatever S.
    """

    side: Side
    side_confidence: float
    outline: Landmarks
    landmark_confidence: float
    roi: NDArray[np.float32]
    inside: NDArray[np.bool_]
    roi_landmarks_px: NDArray[np.float64]
    visible: NDArray[np.bool_]
    on_film_share: float
    frame: RoiFrame
    poor: tuple[Finding, ...]

    @property
    def landmarks_px(self) -> NDArray[np.float64]:
        """(74, 2) float64 (x, y) in pixels of the source film."""
        return self.outline.points_px


def knee_at(radiograph: Radiograph, outline: Landmarks, call: SideCall, how: tuple[float, int]) -> Knee:
    """The knee of an outline in film pixels.

    Args:
        radiograph: the film.
        outline: in its pixels.
        call: of the side.
        how: confidence of the landmarks, and side of the region in pixels.
    """
    confidence, roi_px = how
    frame = roi_frame(outline.points_px, roi_px)
    roi, inside = _region(radiograph, frame)
    judged = roi if roi_px == REGION_PX else _region(radiograph, roi_frame(outline.points_px, REGION_PX))[0]
    points = frame.to_roi(outline.points_px)
    on_film = points_inside(outline.points_px, radiograph.pixels.shape)
    return Knee(
        side=call.side,
        side_confidence=call.confidence,
        outline=outline,
        landmark_confidence=confidence,
        roi=roi,
        inside=inside,
        roi_landmarks_px=points,
        visible=points_inside(points, inside.shape) & on_film,
        on_film_share=float(on_film[list(ARTICULAR)].mean()),
        frame=frame,
        poor=check_crop(judged),
    )


def _region(radiograph: Radiograph, frame: RoiFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The region of a frame (S, S) float32 in [0, 1], contrast stretched, and where the film covers it (S, S) bool."""
    region, inside = extract_crop(radiograph.pixels, frame)
    return stretch_contrast(region, inside)[0, 0].numpy(), inside[0, 0].numpy()


def points_inside(points_px: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N,) bool: the point (x, y) lies on a picture of `shape` (H, W); False where it is NaN."""
    with np.errstate(invalid="ignore"):
        across = (points_px[:, 0] >= 0) & (points_px[:, 0] <= shape[1] - 1)
        return across & (points_px[:, 1] >= 0) & (points_px[:, 1] <= shape[0] - 1)


MIN_CONFIDENCE = 0.5  # of the landmarks; below it what was found is not taken for a knee in a frontal view
MIN_ARTICULAR_SHARE = 0.9  # of the articular landmarks that must lie on the film

VIEW = Finding("view", "The outline of the joint is not that of a natural knee in a frontal view.")
JOINT_CUT_OFF = Finding("joint_cut_off", "The joint is cut off by the border of the film.")


def refusal(knee: Knee) -> Finding | None:
    """Why a found knee cannot be graded honestly, or None.

    A first plausibility gate: landmarks too uncertain for a frontal view of a natural knee, joint cut off by the
    film's border, a region that is blurred or badly exposed.
    """
    if knee.landmark_confidence < MIN_CONFIDENCE or not np.isfinite(knee.landmarks_px).all():
        return VIEW
    if knee.on_film_share < MIN_ARTICULAR_SHARE:
        return JOINT_CUT_OFF
    return knee.poor[0] if knee.poor else None
