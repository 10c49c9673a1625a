"""Knees from landmarks that the user provides, in `.pts` files or a COCO keypoints file, matched by the film's name.

`UserHints` combines them with the side and the pixel spacing that the user states.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.coco_keypoints import CocoFilm, read_coco
from kneegrade.anatomy.geometry import pose_of, square_pixels_matrix
from kneegrade.anatomy.knee import Knee, build_knee, points_inside
from kneegrade.anatomy.landmark_files import Unit, read_pts
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.laterality import assign_sides
from kneegrade.anatomy.pixel_aspect import NOT_SQUARE, in_source, pixel_aspect_of_marked, square_radiograph
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UnreadableFileError, UsageError
from kneegrade.files import file_state, short_name
from kneegrade.imaging import stem_of
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding

MIN_POINTS_ON_FILM = 30  # landmarks of a knee
MAX_SHAPE_RESIDUAL = 0.045  # plateau widths, root mean square; of 147 real outlines at most 0.024
MAX_ENDING_BYTES = len(".landmarks.png")  # room that `write_landmarks` leaves in the names of its files
MANUAL_ERROR = 0.01  # plateau widths; difference between two people who mark the same point

Points = NDArray[np.float64]


@dataclass(frozen=True)
class UserLandmarks:
    """Location and conventions of landmark files that the user provides.

    Attributes:
        path: a `.pts` file (for a single film), a folder with one `.pts` file per film (named like the film except for
            its suffix, in the same subfolder or directly in the folder), or a COCO keypoints JSON file. Beside
            `NAME.pts`, a file `NAME_f.pts` holds the other knee of the film, marked on the flipped film, as BoneFinder
            writes it.
        unit: of the numbers in `.pts` files.
        mirrored: knees of `.pts` files that were marked on the mirror image of the film. If a file holds two knees, the
            right one is first; the side of a single knee is the laterality that the film or the user states.
        film_names: names of all films of the run (`among`). Landmarks that carry only the last part of a film's name
            are refused if several of these films end in it, as films of one name in two folders do.

    Raises:
        UsageError: `path` does not exist.
    """

    path: Path
    unit: Unit = "auto"
    mirrored: Literal["none", "R", "L", "both"] = "none"
    film_names: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise UsageError(f"There are no landmarks at {self.path.name}; check the path.", code="no_such_file")

    def among(self, names: Iterable[str]) -> "UserLandmarks":
        """Return the landmarks for a run of films with these names, of which no two share a landmark file."""
        return replace(self, film_names=frozenset(names))

    def of(self, name: str, radiograph: Radiograph) -> Points:
        """Return the landmarks of a film in its pixels, (K, 74, 2).

        Args:
            name: of the film in the report.
            radiograph: the film.

        Raises:
            UnreadableFileError: the file is damaged, does not fit the film, or its points are not those of a knee.
            UsageError: there are no landmarks for this film, or the side of a single knee is needed but not known.
        """
        if self.path.suffix.lower() == ".json":
            points = np.array([knee.landmarks_px for knee in self._coco_film(name).knees]).reshape(-1, NUM_LANDMARKS, 2)
        else:
            points = self._from_pts(self.files(name), radiograph)
        to_square = square_pixels_matrix(pixel_aspect_of_marked(points, radiograph))
        for knee in points:
            on_film = points_inside(knee, radiograph.pixels.shape).sum() >= MIN_POINTS_ON_FILM
            if not on_film or not _fits_shape_model(knee @ to_square[:, :2].T + to_square[:, 2]):
                raise UnreadableFileError(
                    f"The landmarks of {PurePosixPath(name).name} do not lie on a knee of the film. Check their unit "
                    "and which knees are mirrored, and state both.",
                    code="landmarks",
                )
        return points

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of several possible names of a film for which there are landmarks, or None."""
        if self.path.suffix.lower() == ".json":
            known = _coco_names(*file_state(self.path))
            return next((known[part] for name in names for part in (name, stem_of(name)) if part in known), None)
        if self.path.is_file():
            return next((name for name in names if self.path.stem in (name, stem_of(name))), None)
        files = ((name, self.path / f"{part}.pts") for name in names for part in (name, stem_of(name)))
        return next((name for name, file in files if _is_file(file)), None)

    def files(self, name: str) -> tuple[Path, ...]:
        """Return the files that hold the landmarks of a film.

        Raises:
            UsageError: there is none for this film.
        """
        if self.path.suffix.lower() == ".json":
            return (self.path,)
        file = self._pts_file(name)
        flipped = file.with_name(file.stem + "_f" + file.suffix)
        return (file, flipped) if _is_file(flipped) else (file,)

    def _from_pts(self, files: tuple[Path, ...], radiograph: Radiograph) -> Points:
        """Return the landmarks (K, 74, 2) of `.pts` files, with mirrored knees mirrored back."""
        spacing, last_column = radiograph.pixel_spacing_mm, np.array([radiograph.pixels.shape[1] - 1, 0])
        file, *flipped_files = files
        points = read_pts(file, unit=self.unit, pixel_spacing_mm=spacing)
        sides = ("R", "L") if len(points) == 2 else (radiograph.laterality,)
        if self.mirrored in ("R", "L") and not set(sides) <= {"R", "L"}:
            raise UsageError(
                f"Landmarks of side {self.mirrored} are mirrored, but the side of the single knee of this film is not "
                "known; state the side.",
                code="side",
            )
        is_mirrored = [self.mirrored in ("both", side) for side in sides]
        knees = [p * [-1, 1] + last_column if m else p for p, m in zip(points, is_mirrored, strict=True)]
        for flipped in flipped_files:
            knees += list(read_pts(flipped, unit=self.unit, pixel_spacing_mm=spacing) * [-1, 1] + last_column)
        return np.stack(knees)

    def _pts_file(self, name: str) -> Path:
        if self.path.is_file():
            return self.path
        stem = stem_of(name)
        if own := self._own_pts_file(name):
            return own
        for part in (stem, short_name(stem, MAX_ENDING_BYTES)):  # an exported name that is too long is shortened
            if _is_file(self.path / f"{part}.pts"):
                same = [film for film in self.film_names if stem_of(film) == stem and not self._own_pts_file(film)]
                _check_only_film(same, self.path, f"{part}.pts", f"{name}.pts")
                return self.path / f"{part}.pts"
        last = PurePosixPath(stem).name
        if _is_file(self.path / f"{last}.pts"):
            _check_only_film(self._films_ending_in(last), self.path, f"{last}.pts", f"{stem}.pts")
            return self.path / f"{last}.pts"
        raise UsageError(
            f"{self.path.name} has no file {last}.pts for this film; add it, or grade the film without landmarks."
            + self._in_subfolders(f"{last}.pts"),
            code="no_landmarks",
        )

    def _own_pts_file(self, name: str) -> Path | None:
        """Return the file that has the full name of a film, with its image ending, or None."""
        parts = (name, short_name(name, MAX_ENDING_BYTES))
        return next((file for part in parts if _is_file(file := self.path / f"{part}.pts")), None)

    def _films_ending_in(self, last: str) -> list[str]:
        """Return the films of the run whose names end in `last`, without folders and image ending."""
        return [name for name in self.film_names if PurePosixPath(stem_of(name)).name == last]

    def _in_subfolders(self, file_name: str) -> str:
        """Return a sentence that names the subfolder with a file of this name, or "" if there is none."""
        found = sorted(self.path.glob(f"*/{escape(file_name)}"))
        if not found:
            return ""
        return (
            f" Its subfolder {found[0].parent.name} has such a file: give that folder if it belongs to this film, or "
            "give the films from the folder that the landmarks were written from."
        )

    def _coco_film(self, name: str) -> CocoFilm:
        films = read_coco(self.path)
        last = PurePosixPath(name).name
        if name in films:
            return films[name]
        if last in films:
            _check_only_film(self._films_ending_in(PurePosixPath(stem_of(name)).name), self.path, last, name)
            return films[last]
        raise UsageError(
            f"{self.path.name} has no landmarks for this film; add them, or grade the film without landmarks.",
            code="no_landmarks",
        )


def _check_only_film(films: Sequence[str], path: Path, found: str, expected: str) -> None:
    """Raise a UsageError if there are several films to which the landmarks `found` in `path` may belong."""
    if len(films) > 1:
        raise UsageError(
            f"{path.name} has landmarks named {found}, but {len(films)} films have this name, so it is not known to "
            f"which of them they belong. Give them the full name of the film, here {expected}.",
            code="landmarks_ambiguous",
        )


def _is_file(path: Path) -> bool:
    """Return whether there is a file; False for a name that is too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True)
class UserHints:
    """Information about the films that the user provides.

    Attributes:
        side: side of a single knee, where the file does not state it.
        pixel_spacing_mm: (row, column), where the file does not state it.
        landmarks: landmarks to use instead of the detector's.
    """

    side: Literal["R", "L"] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    landmarks: UserLandmarks | None = None

    def among(self, names: Iterable[str]) -> "UserHints":
        """Return the hints for a run of films with these names (`UserLandmarks.among`)."""
        return self if self.landmarks is None else replace(self, landmarks=self.landmarks.among(names))


@lru_cache(maxsize=2)
def _coco_names(path: Path, changed_ns: int, size: int) -> dict[str, str]:
    """Return the names that films may have → their keys in a COCO file; the arguments are those of `file_state`."""
    return {part: key for key in read_coco(path) for part in (stem_of(key), key)}


def _fits_shape_model(points: Points) -> bool:
    """Return whether the shape model fits the points, each bone from lateral to medial, in either orientation."""
    width = float(np.linalg.norm(points[TIBIA_PLATEAU_MEDIAL] - points[TIBIA_PLATEAU_LATERAL]))
    if width == 0:
        return False
    fit = ShapeModel.load().fit(points, np.ones(len(points)), mirrored=pose_of(points).mirrored)
    return fit.residual < MAX_SHAPE_RESIDUAL * width


def knees_from_landmarks(
    radiograph: Radiograph, points: Points, roi_px: int
) -> tuple[tuple[Knee, ...], tuple[Finding, ...]]:
    """Return the knees at given landmarks, and warnings about their sides and about stretched pixels.

    As in `LandmarkDetector.find`, landmarks are in pixels of the radiograph, and the crop of a knee shows it without
    the stretch, which is estimated from the landmarks (`pixel_aspect_of_marked`).

    Knees are ordered from left to right for a viewer to whom the femur is on top.

    Args:
        radiograph: the film.
        points: (K, 74, 2) in pixels of the film, K ≤ 2, each bone from lateral to medial.
        roi_px: side of the crops for the grading network.

    Raises:
        UnreadableFileError: more than two knees.
    """
    if len(points) > 2:
        raise UnreadableFileError(
            f"{len(points)} knees are marked on this film; at most two are expected.", code="landmarks"
        )
    stretch = pixel_aspect_of_marked(points, radiograph)
    square, aspect = square_radiograph(radiograph, stretch)
    to_square = square_pixels_matrix(aspect)
    points = points @ to_square[:, :2].T + to_square[:, 2]
    ordered = sorted(points, key=lambda knee: pose_of(knee).across)
    sides, warnings = assign_sides([0.0 if pose_of(p).mirrored else 1.0 for p in ordered], radiograph.laterality)
    knees = []
    for knee, side in zip(ordered, sides, strict=True):
        covariance = (MANUAL_ERROR * pose_of(knee).width) ** 2 / 2 * np.tile(np.eye(2), (len(knee), 1, 1))
        landmarks = Landmarks(knee, covariance, points_inside(knee, square.pixels.shape))
        built = build_knee(square, landmarks, side, landmark_confidence=1.0, roi_px=roi_px)
        knees.append(in_source(built, aspect))
    is_estimated = aspect != 1 and stretch != radiograph.pixel_aspect
    return tuple(knees), (*warnings, NOT_SQUARE) if is_estimated else warnings
