"""`find_film`: the first half of the corridor, from a file to its knees, or to the reason why there are none."""

from dataclasses import dataclass, replace
from typing import Literal

from kneegrade.anatomy import Knee, LandmarkDetector, MarkedPoints, marked_knees, refusal
from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Radiograph, Source, film_quality, read_radiograph
from kneegrade.results import Finding

Spacing = tuple[float, float] | None


@dataclass(frozen=True)
class Said:
    """What the user says of films: side of a single knee and (row, column) spacing where the file does not say, and
    landmarks to take instead of the detector's.
    """  # noqa: D205

    side: Literal["R", "L"] | None = None
    pixel_spacing_mm: Spacing = None
    landmarks: MarkedPoints | None = None


@dataclass(frozen=True, eq=False)
class FoundFilm:
    """One film on its way: its knees, and refusals by their place among them.

    Attributes:
        source: as a report shows it.
        radiograph: the film, or None where it could not be read or is needed no more.
        spacing_mm: (row, column) where it is trusted, else None.
        knees: at most two, as an upright viewer sees them from left to right.
        refusals: for each knee why it cannot be graded, or None.
        warnings: of the film and its sides.
        reason: why there are no knees, or None.
        failed: the file could not be read.
    """

    source: str
    radiograph: Radiograph | None = None
    spacing_mm: Spacing = None
    knees: tuple[Knee, ...] = ()
    refusals: tuple[Finding | None, ...] = ()
    warnings: tuple[Finding, ...] = ()
    reason: Finding | None = None
    failed: bool = False


def find_film(source: Source, detector: LandmarkDetector, said: Said) -> FoundFilm:
    """The knees of a source; whatever is wrong with it becomes its reason, nothing is raised."""
    try:
        radiograph = read_radiograph(source.open(), laterality=said.side, pixel_spacing_mm=said.pixel_spacing_mm)
        return find_knees(source.name, radiograph, detector, said.landmarks)
    except KneeGradeError as error:
        return FoundFilm(source.name, failed=True, reason=Finding(error.code, error.message))
    except Exception as error:  # one film must never end a run of many
        reason = Finding("internal", f"kneegrade itself failed on this film ({type(error).__name__}).")
        return FoundFilm(source.name, failed=True, reason=reason)


def find_knees(
    name: str, radiograph: Radiograph, detector: LandmarkDetector, landmarks: MarkedPoints | None = None
) -> FoundFilm:
    """The knees of a radiograph, found by the detector or at the user's own landmarks."""
    film = FoundFilm(name, radiograph, radiograph.pixel_spacing_mm, warnings=radiograph.warnings)
    poor = film_quality(radiograph)
    if poor:
        return replace(film, reason=poor[0])
    if landmarks is None:
        knees, warnings = detector.find(radiograph)
    else:
        try:
            knees, warnings = marked_knees(radiograph, landmarks.of(name, radiograph), detector.roi_px)
        except KneeGradeError as error:  # the film is sound, the landmarks are not
            return replace(film, reason=Finding(error.code, error.message))
    film = replace(film, warnings=(*film.warnings, *warnings))
    if not knees:
        return replace(film, reason=Finding("no_knee", "No knee in a frontal view was found in this picture."))
    return replace(film, knees=knees, refusals=tuple(refusal(knee) for knee in knees))
