"""Knees from landmarks that a user brings: `.pts` files or COCO keypoints, found by the film's name."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.coco import CocoFilm, read_coco
from kneegrade.anatomy.knee import Knee, knee_at, points_inside
from kneegrade.anatomy.outline import Outline
from kneegrade.anatomy.pts import Unit, read_pts
from kneegrade.anatomy.roi import pose_of
from kneegrade.anatomy.sides import call_sides
from kneegrade.errors import KneeGradeError, UnreadableFileError, UsageError
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding

MARKED_ERROR = 0.01  # plateau widths: what two people who mark the same point differ by

Points = NDArray[np.float64]


@dataclass(frozen=True)
class MarkedPoints:
    """Where the landmarks of films lie.

    Attributes:
        path: a `.pts` file (of the one film that is graded), a folder with a `.pts` file for each film (of the same
            name but for its ending, in the same subfolder or none), or a COCO keypoints JSON.
        unit: of the numbers in `.pts` files.
        mirrored: whether `.pts` files were made of mirror images: "both", or of right ("R") or left ("L") knees alone.

    Raises:
        UsageError: nothing at `path`.
    """

    path: Path
    unit: Unit = "auto"
    mirrored: Literal["none", "R", "L", "both"] = "none"

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise UsageError(f"There are no landmarks at {self.path.name}; check the path.", code="no_such_file")

    def of(self, name: str, radiograph: Radiograph) -> Points:
        """Landmarks (K, 74, 2) in pixels of the film that the report calls `name`.

        Raises:
            UnreadableFileError: the file is damaged or does not fit the film.
            UsageError: there are none for this film.
        """
        width = radiograph.pixels.shape[1]
        if self.path.suffix.lower() == ".json":
            points = np.array([knee.landmarks_px for knee in self._coco(name).knees]).reshape(-1, 74, 2)
        else:
            file = self._pts(name)
            points = read_pts(
                file, unit=self.unit, pixel_spacing_mm=radiograph.pixel_spacing_mm,
                mirrored_px=width if self.mirrored == "both" else None,
            )  # fmt: skip
            if self.mirrored in ("R", "L"):
                points = np.array([self._turned(p, width) for p in points])
        if not all(points_inside(p, radiograph.pixels.shape).sum() >= 30 for p in points):
            raise UnreadableFileError(
                f"The landmarks of {PurePosixPath(name).name} do not lie on the film; say their unit and whether they "
                "are mirrored.",
                code="landmarks",
            )
        return points

    def _turned(self, points: Points, width: int) -> Points:
        """A knee of an export in which those of one side are mirrored, so that all look like the other side."""
        there = points * [-1, 1] + [width - 1, 0]
        return there if (pose_of(there).mirrored == (self.mirrored == "L")) else points

    def _pts(self, name: str) -> Path:
        if self.path.is_file():
            return self.path
        place = PurePosixPath(name).with_suffix(".pts")
        for file in (self.path / place, self.path / place.name, self.path / f"{name}.pts"):
            if file.is_file():
                return file
        raise UsageError(f"{self.path.name} holds no {place.name} for this film.", code="no_landmarks")

    def _coco(self, name: str) -> CocoFilm:
        films = read_coco(self.path)
        for key in (name, PurePosixPath(name).name):
            if key in films:
                return films[key]
        raise UsageError(f"{self.path.name} holds no landmarks of this film.", code="no_landmarks")


def marked_knees(radiograph: Radiograph, points: Points, roi_px: int) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
    """Knees as an upright viewer sees them from left to right, and warnings about their sides.

    Args:
        radiograph: the film.
        points: (K, 74, 2) in its pixels, K ≤ 2, each bone lateral → medial.
        roi_px: side of the regions that are cut.

    Raises:
        KneeGradeError: more than two knees.
    """
    if len(points) > 2:
        raise KneeGradeError("More than two knees are marked on this film; at most two are expected.", code="landmarks")
    ordered = sorted(points, key=lambda p: pose_of(p).centre[0])
    calls, warnings = call_sides([0.0 if pose_of(p).mirrored else 1.0 for p in ordered], radiograph.laterality)
    knees = []
    for place, call in zip(ordered, calls, strict=True):
        error = (MARKED_ERROR * pose_of(place).width) ** 2 / 2 * np.tile(np.eye(2), (len(place), 1, 1))
        outline = Outline(place, error, points_inside(place, radiograph.pixels.shape))
        knees.append(knee_at(radiograph, outline, call, (1.0, roi_px)))
    return tuple(knees), warnings
