"""`EvidenceService`: the contribution of each landmark to each grade, computed when a reader asks for it."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy import Landmarks, build_knee
from kneegrade.anatomy.geometry import square_pixels_matrix
from kneegrade.anatomy.knee import points_inside
from kneegrade.anatomy.laterality import SideAssignment
from kneegrade.anatomy.pixel_aspect import square_radiograph
from kneegrade.errors import WeightsError
from kneegrade.imaging import Radiograph
from kneegrade.results import Evidence
from kneegrade.schema import TARGETS

if TYPE_CHECKING:
    from kneegrade.grader import Grader

DIGITS = 4

Points = NDArray[np.float64]


class EvidenceService:
    """Runs the grading network at the landmarks of a report or of a reader. The network is loaded at the first use.

    Args:
        weights: safetensors file of the grader; None: the shipped weights.
        detector: safetensors file of the landmark detector; None: the shipped weights.
    """

    def __init__(self, weights: Path | None = None, detector: Path | None = None) -> None:
        self._weights, self._detector = weights, detector
        self._grader: Grader | None = None
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Load the network."""
        with self._lock:
            if self._grader is None:
                from kneegrade.grader import Grader

                self._grader = Grader("cpu", self._weights, self._detector)

    def of(
        self, pixels: NDArray[np.float32], outlines: list[tuple[Points, float]], sha256: str
    ) -> list[dict[str, Any]]:
        """Evidence on each knee, as JSON values.

        Args:
            pixels: (H, W) float32 in [0, 1], bone bright.
            outlines: (74, 2) landmarks in pixels of the film, and the stretch of its pixels, for each knee.
            sha256: of the weights that graded the film.

        Raises:
            WeightsError: they are not the weights of this service.
        """
        self.warm_up()
        with self._lock:
            grader = self._grader
            assert grader is not None
            if grader.identity.sha256 != sha256:
                raise WeightsError(
                    "The films were graded with other weights than those of this page, so there is no evidence. Start "
                    "the viewer with --weights and the file that graded them."
                )
            knees = []
            for points, aspect in outlines:
                square, factor = square_radiograph(Radiograph(pixels), aspect)
                matrix = square_pixels_matrix(factor)
                moved = points @ matrix[:, :2].T + matrix[:, 2]
                seen = points_inside(moved, square.pixels.shape)
                landmarks = Landmarks(moved, np.tile(np.eye(2), (len(moved), 1, 1)), seen)
                side = SideAssignment("unknown", 1.0)
                knees.append(
                    build_knee(square, landmarks, side, landmark_confidence=1.0, roi_px=grader.network.config.roi_px)
                )
            return [_values(evidence) for evidence in grader.evidence(knees)]


def _values(evidence: Evidence) -> dict[str, Any]:
    """Grade → class → contribution of each landmark (None where the grade does not read it), and the other terms."""
    result: dict[str, Any] = {}
    for target in TARGETS:
        if target.name not in evidence.contributions:
            continue
        shares = evidence.contributions[target.name]
        read = np.any(shares != 0.0, axis=1) & evidence.landmark_visible
        result[target.name] = {
            "points": [
                [round(float(v), DIGITS) for v in row] if use else None for row, use in zip(shares, read, strict=True)
            ],
            "region": [round(float(v), DIGITS) for v in evidence.region_term[target.name]],
            "constant": [round(float(v), DIGITS) for v in evidence.constant[target.name]],
        }
    return result
