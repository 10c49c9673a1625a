"""Knees from landmarks that a user brings: `.pts` files or COCO keypoints, found by the film's name."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.knee import Knee, knee_at, points_inside
from kneegrade.anatomy.landmark_files import CocoFilm, Unit, read_coco, read_pts, state_of
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.laterality import assign_sides
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UnreadableFileError, UsageError
from kneegrade.imaging import stem_of
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding

LEAST_INSIDE = 30  # landmarks of a knee that must lie on the film
MOST_RESIDUAL = 0.045  # plateau widths, root mean square from the shape model; of 147 real outlines at most 0.024
MARKED_ERROR = 0.01  # plateau widths: what two people who mark the same point differ by

Points = NDArray[np.float64]


@dataclass(frozen=True)
class UserLandmarks:
    """Where the landmarks of films lie.

    Attributes:
        path: a `.pts` file (of the one film that is graded), a folder with a `.pts` file for each film (of the same
            name but for its ending, in the same subfolder or none), or a COCO keypoints JSON. Beside `NAME.pts` a
            `NAME_f.pts` holds the film's other knee, marked on the flipped film, as BoneFinder writes it.
        unit: of the numbers in `.pts` files.
        mirrored: which knees of `.pts` files were marked on the mirror image of the film. Of two knees in a file the
            right one stands first; a single knee's side is what the film or the user states.

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
            UnreadableFileError: the file is damaged or does not fit the film, or what it holds is no knee.
            UsageError: there are none for this film, or a single knee's side must be said.
        """
        if self.path.suffix.lower() == ".json":
            points = np.array([knee.landmarks_px for knee in self._coco(name).knees]).reshape(-1, NUM_LANDMARKS, 2)
        else:
            points = self._from_pts(self.files(name), radiograph)
        for knee in points:
            if points_inside(knee, radiograph.pixels.shape).sum() < LEAST_INSIDE or not _looks_like_a_knee(knee):
                raise UnreadableFileError(
                    f"The landmarks of {PurePosixPath(name).name} do not lie on a knee of the film; say their unit and "
                    "which knees are mirrored.",
                    code="landmarks",
                )
        return points

    def first(self, names: Iterable[str]) -> str | None:
        """The first of several names that a film may have under which there are landmarks, or None."""
        if self.path.suffix.lower() == ".json":
            known = _coco_names(*state_of(self.path))
            return next((known[part] for name in names for part in (name, stem_of(name)) if part in known), None)
        if self.path.is_file():
            return next((name for name in names if self.path.stem in (name, stem_of(name))), None)
        files = ((name, self.path / f"{part}.pts") for name in names for part in (name, stem_of(name)))
        return next((name for name, file in files if file.is_file()), None)

    def files(self, name: str) -> tuple[Path, ...]:
        """The files that the landmarks of a film are read from."""
        if self.path.suffix.lower() == ".json":
            return (self.path,)
        file = self._pts(name)
        other = file.with_name(file.stem + "_f" + file.suffix)
        return (file, other) if other.is_file() else (file,)

    def _from_pts(self, files: tuple[Path, ...], radiograph: Radiograph) -> Points:
        spacing, flip = radiograph.pixel_spacing_mm, np.array([radiograph.pixels.shape[1] - 1, 0])
        file, *flipped = files
        points = read_pts(file, unit=self.unit, pixel_spacing_mm=spacing)
        sides = ("R", "L") if len(points) == 2 else (radiograph.laterality,)
        if self.mirrored in ("R", "L") and not set(sides) <= {"R", "L"}:
            raise UsageError(
                "The side of a single knee must be said where those of one side are mirrored.", code="side"
            )
        turned = [self.mirrored in ("both", side) for side in sides]
        knees = [p * [-1, 1] + flip if t else p for p, t in zip(points, turned, strict=True)]
        for other in flipped:
            knees += list(read_pts(other, unit=self.unit, pixel_spacing_mm=spacing) * [-1, 1] + flip)
        return np.stack(knees)

    def _pts(self, name: str) -> Path:
        if self.path.is_file():
            return self.path
        stem = stem_of(name)
        for place in (f"{name}.pts", f"{stem}.pts", f"{PurePosixPath(stem).name}.pts"):
            if (self.path / place).is_file():
                return self.path / place
        raise UsageError(
            f"{self.path.name} holds no {PurePosixPath(stem).name}.pts for this film.", code="no_landmarks"
        )

    def _coco(self, name: str) -> CocoFilm:
        films = read_coco(self.path)
        for key in (name, PurePosixPath(name).name):
            if key in films:
                return films[key]
        raise UsageError(f"{self.path.name} holds no landmarks of this film.", code="no_landmarks")


@lru_cache(maxsize=2)
def _coco_names(path: Path, changed_ns: int, size: int) -> dict[str, str]:
    """What films may be called → their key in a COCO file in the state `state_of`."""
    return {part: key for key in read_coco(path) for part in (stem_of(key), key)}


def _looks_like_a_knee(points: Points) -> bool:
    """Whether the shape model comes near the points, each bone lateral → medial, in either orientation."""
    width = float(np.linalg.norm(points[TIBIA_PLATEAU_MEDIAL] - points[TIBIA_PLATEAU_LATERAL]))
    if width == 0:
        return False
    fit = ShapeModel.load().fit(points, np.ones(len(points)), mirrored=pose_of(points).mirrored)
    return fit.residual < MOST_RESIDUAL * width


def knees_from_landmarks(
    radiograph: Radiograph, points: Points, roi_px: int
) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
    """Knees as an upright viewer sees them from left to right, and warnings about their sides.

    Args:
        radiograph: the film.
        points: (K, 74, 2) in its pixels, K ≤ 2, each bone lateral → medial.
        roi_px: side of the regions that are cut.

    Raises:
        UnreadableFileError: more than two knees.
    """
    if len(points) > 2:
        raise UnreadableFileError(
            "More than two knees are marked on this film; at most two are expected.", code="landmarks"
        )
    ordered = sorted(points, key=lambda knee: pose_of(knee).across)
    calls, warnings = assign_sides([0.0 if pose_of(p).mirrored else 1.0 for p in ordered], radiograph.laterality)
    knees = []
    for place, call in zip(ordered, calls, strict=True):
        error = (MARKED_ERROR * pose_of(place).width) ** 2 / 2 * np.tile(np.eye(2), (len(place), 1, 1))
        outline = Landmarks(place, error, points_inside(place, radiograph.pixels.shape))
        knees.append(knee_at(radiograph, outline, call, (1.0, roi_px)))
    return tuple(knees), warnings
