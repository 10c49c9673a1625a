"""`Knee`: a knee with landmarks, normalised crop and a first check; `DetectedRadiograph`: a film with its knees."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import (
    RoiFrame,
    extract_crop,
    pose_of,
    roi_frame,
    square_pixels_matrix,
    stretch_contrast,
)
from kneegrade.anatomy.landmark_scheme import ARTICULAR, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.laterality import SideAssignment
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.imaging.film_quality import CROP_CHECK_PX, check_crop
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding, Side

MIN_LANDMARK_CONFIDENCE = 0.5  # below it, the outline itself is checked
MAX_OUTLINE_RESIDUAL = 0.025  # plateau widths; an outline farther from every knee of the shape model is not a knee's
MIN_POINT_CONFIDENCE = 0.25  # mean over the joint surfaces, below which the heat maps show no outline
MIN_FIT_POINTS = 10  # landmarks of the joint surfaces that the shape model is fitted to
MIN_ARTICULAR_SHARE_ON_FILM = 0.9
PLAUSIBLE_TIBIA_MM = (55.0, 110.0)  # width of an adult's plateau on a film, magnification included

VIEW = Finding(
    "view",
    "The bone outlines are not those of a natural knee in a frontal view (perhaps another view, an implant or not a "
    "knee), so the knee is not graded. Check the view, or grade by eye.",
)
NO_KNEE = Finding("no_knee", "No knee in a frontal view was detected on this film. Check the view, or grade by eye.")
JOINT_CUT_OFF = Finding(
    "joint_cut_off",
    "The joint is cut off by the border of the film, so the knee is not graded. Provide a film that shows the whole "
    "joint.",
)


@dataclass(frozen=True, eq=False)
class Knee:
    """A knee in the normalised orientation: the input of the grading network.

    Attributes:
        side: side of the patient's body; "unknown" if tag, position and anatomy contradict each other.
        side_confidence: probability, 0.5 … 1, of the side that the anatomy indicates; 0.5 if a side marker contradicts.
        landmarks: the 74 points in pixels of the source film, with their errors.
        landmark_confidence: 0 … 1; mean of `landmarks.point_confidence` over the articular landmarks, times the
            probability that the detection is a knee in a frontal view (1 for landmarks provided by the user).
        roi: (S, S) float32 in [0, 1], lateral on the left, bone bright, 0 outside the film.
        inside: (S, S) bool, False outside the film.
        roi_landmarks_px: (74, 2) float64, (x, y) in pixels of `roi`.
        visible: (74,) bool, False for a landmark outside the crop or the film.
        on_film_share: share of the articular landmarks that are on the film, 0 … 1.
        frame: affine map from the crop to the source film.
        pixel_aspect: factor by which the source film is stretched horizontally; `roi` shows the knee without it.
        image_findings: reasons in the pixels not to grade the knee (`check_crop`), measured on a crop of 224 px
            whatever S is.
    """

    side: Side
    side_confidence: float
    landmarks: Landmarks
    landmark_confidence: float
    roi: NDArray[np.float32]
    inside: NDArray[np.bool_]
    roi_landmarks_px: NDArray[np.float64]
    visible: NDArray[np.bool_]
    on_film_share: float
    frame: RoiFrame
    image_findings: tuple[Finding, ...]
    pixel_aspect: float = 1.0

    @property
    def landmarks_px(self) -> NDArray[np.float64]:
        """(74, 2) float64, (x, y) in pixels of the source film."""
        return self.landmarks.points_px

    @property
    def square_landmarks(self) -> Landmarks:
        """The landmarks in pixels of the source film without its stretch, in which lengths and angles are right."""
        if self.pixel_aspect == 1:
            return self.landmarks
        return self.landmarks.moved(square_pixels_matrix(self.pixel_aspect))

    def landmark_fields(self) -> dict[str, Any]:
        """The fields of a `GradedKnee` that describe the landmarks."""
        return {
            "landmarks_px": self.landmarks_px,
            "landmark_confidence": self.landmark_confidence,
            "point_confidence": self.square_landmarks.point_confidence,
            "landmarks_outside": tuple(np.flatnonzero(~self.landmarks.seen).tolist()),
            "side_confidence": self.side_confidence,
        }


@dataclass(frozen=True, eq=False)
class DetectedRadiograph:
    """A film after detection: its knees, or the reason why there are none.

    Attributes:
        source: name of the film in the report.
        radiograph: the film, or None where it could not be read or is no longer needed.
        spacing_mm: (row, column) where it is trusted, else None.
        knees: at most two, from left to right as an upright viewer sees them.
        refusals: for each knee the reason why it cannot be graded, or None.
        warnings: about the film and the sides of its knees.
        reason: why there are no knees, or None.
        failed: True where the file could not be read.
        sha256: SHA-256 of the file, or None where it could not be read or there is no file.
    """

    source: str
    radiograph: Radiograph | None = None
    spacing_mm: tuple[float, float] | None = None
    knees: tuple[Knee, ...] = ()
    refusals: tuple[Finding | None, ...] = ()
    warnings: tuple[Finding, ...] = ()
    reason: Finding | None = None
    failed: bool = False
    sha256: str | None = None

    @property
    def accepted(self) -> list[Knee]:
        """The knees that are not refused."""
        return [knee for knee, reason in zip(self.knees, self.refusals, strict=True) if reason is None]


def with_plausible_spacing(film: DetectedRadiograph) -> DetectedRadiograph:
    """Return the film, without its spacing if that makes a tibia of an impossible width.

    A spacing of 1 mm that a program filled in, or that of a film before it was made smaller, gives wrong lengths that
    look like any others. Its magnification needs no warning then. Knees that are refused are left out, because their
    landmarks may be wrong.
    """
    if film.spacing_mm is None:
        return film
    row, column = film.spacing_mm
    for knee, refused in zip(film.knees, film.refusals, strict=True):
        points = knee.landmarks.points_px
        across, down = points[TIBIA_PLATEAU_MEDIAL] - points[TIBIA_PLATEAU_LATERAL]
        width = float(np.hypot(across * column, down * row))
        if refused is None and not PLAUSIBLE_TIBIA_MM[0] <= width <= PLAUSIBLE_TIBIA_MM[1]:
            finding = Finding(
                "spacing_implausible",
                f"With the stated pixel spacing of {column:.3g} mm the tibia would be {width:.0f} mm wide; "
                f"{PLAUSIBLE_TIBIA_MM[0]:.0f} to {PLAUSIBLE_TIBIA_MM[1]:.0f} mm is plausible. The spacing is not used, "
                "and no lengths in mm are reported.",
            )
            others = (one for one in film.warnings if one.code != "magnification_uncorrected")  # of lengths in mm
            return replace(film, spacing_mm=None, warnings=(*others, finding))
    return film


def build_knee(
    radiograph: Radiograph, landmarks: Landmarks, assignment: SideAssignment, *, landmark_confidence: float, roi_px: int
) -> Knee:
    """Return the knee at given landmarks, with its normalised crop.

    Args:
        radiograph: the film.
        landmarks: in pixels of the film.
        assignment: side of the body and its confidence.
        landmark_confidence: see `Knee`, 0 … 1.
        roi_px: side S of the crop in pixels.
    """
    frame = roi_frame(landmarks.points_px, roi_px)
    roi, inside = _normalized_crop(radiograph, frame)
    if roi_px == CROP_CHECK_PX:
        checked = roi
    else:  # the thresholds of `check_crop` hold at one size only
        checked, _ = _normalized_crop(radiograph, roi_frame(landmarks.points_px, CROP_CHECK_PX))
    points = frame.to_roi(landmarks.points_px)
    on_film = points_inside(landmarks.points_px, radiograph.pixels.shape)
    return Knee(
        side=assignment.side,
        side_confidence=assignment.confidence,
        landmarks=landmarks,
        landmark_confidence=landmark_confidence,
        roi=roi,
        inside=inside,
        roi_landmarks_px=points,
        visible=points_inside(points, inside.shape) & on_film,
        on_film_share=float(on_film[list(ARTICULAR)].mean()),
        frame=frame,
        image_findings=check_crop(checked),
    )


def _normalized_crop(radiograph: Radiograph, frame: RoiFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the crop (S, S) float32 in [0, 1] with stretched contrast, and its coverage mask (S, S) bool."""
    crop, inside = extract_crop(radiograph.pixels, frame)
    return stretch_contrast(crop, inside)[0, 0].numpy(), inside[0, 0].numpy()


def points_inside(points_px: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return (N,) bool: True if the point (x, y) is inside an image of `shape` (H, W); False if it is NaN."""
    with np.errstate(invalid="ignore"):
        in_columns = (points_px[:, 0] >= 0) & (points_px[:, 0] <= shape[1] - 1)
        return in_columns & (points_px[:, 1] >= 0) & (points_px[:, 1] <= shape[0] - 1)


def refusal(knee: Knee) -> Finding | None:
    """Return the reason not to grade a detected knee, or None if it passes this first check.

    A knee is refused if its outline cannot be that of a natural knee in a frontal view, if the border of the film cuts
    off the joint, or if the crop is blank, badly exposed or blurred. A low confidence alone is no reason: the knee of a
    crop without shafts often has one although its outline is right.
    """
    unsure = knee.landmark_confidence < MIN_LANDMARK_CONFIDENCE
    if not np.isfinite(knee.landmarks_px).all() or (unsure and not has_outline_of_knee(knee.square_landmarks)):
        return VIEW
    if knee.on_film_share < MIN_ARTICULAR_SHARE_ON_FILM:
        return JOINT_CUT_OFF
    return knee.image_findings[0] if knee.image_findings else None


def has_outline_of_knee(landmarks: Landmarks) -> bool:
    """Return True if landmarks found by the detector can be the outline of a natural knee in a frontal view.

    The heat maps must show the joint surfaces (a mean `point_confidence` of at least `MIN_POINT_CONFIDENCE`), and a
    knee of the shape model must come within `MAX_OUTLINE_RESIDUAL` (root mean square) of those on the film. Right
    outlines have a confidence of at least 0.37 and a residual of at most 0.016 (tight crops and whole films of two
    hospitals). Those on films without a knee have at most 0.18 and at least 0.034 (100 phantom films).
    """
    weight = np.zeros(len(landmarks.points_px))
    weight[list(ARTICULAR)] = landmarks.seen[list(ARTICULAR)]
    if landmarks.confidence < MIN_POINT_CONFIDENCE or weight.sum() < MIN_FIT_POINTS or landmarks.width_px == 0:
        return False
    points = landmarks.points_px
    fit = ShapeModel.load().fit(points, weight, mirrored=pose_of(points).mirrored)
    return fit.residual <= MAX_OUTLINE_RESIDUAL * landmarks.width_px
