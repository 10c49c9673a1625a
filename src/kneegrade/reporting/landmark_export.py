"""Landmarks of many films → `.pts`, KNEEL's CSV, COCO keypoints and pictures, the formats that other programs read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy import DetectedRadiograph, Knee, LandmarkDetector, UserHints, measure
from kneegrade.anatomy.coco_keypoints import CocoFilm, CocoKnee, write_coco
from kneegrade.anatomy.joint_space import FIXED_AT, LATERAL_AT, gap_line
from kneegrade.anatomy.landmark_files import kneel_row, write_kneel_csv, write_pts
from kneegrade.anatomy.landmark_scheme import FEMUR, TIBIA
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.pixel_aspect import square_radiograph
from kneegrade.errors import UsageError
from kneegrade.files import make_directory, replacing
from kneegrade.grader import detect_film
from kneegrade.imaging import Source
from kneegrade.imaging.own_pictures import own_picture_mark
from kneegrade.imaging.sources import unique_stem
from kneegrade.measurements import JointSpace
from kneegrade.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

LANDMARK_FORMATS = ("pts", "csv", "coco", "png")
_PICTURE = "landmarks.png"  # ending of the overlays
TABLES = {"csv": "landmarks.csv", "coco": "landmarks.json"}  # format → file for all films
SURE, UNSURE, UNSEEN, WIDTH = (60, 220, 90), (255, 150, 0), (120, 120, 255), (255, 255, 90)  # colours of `overlay`
CONFIDENT = 0.5  # smallest point confidence drawn as SURE

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ExportedKnee:
    """A knee and its joint space."""

    knee: Knee
    joint_space: JointSpace


@dataclass(frozen=True)
class ExportedFilm:
    """A film whose landmarks were exported.

    Attributes:
        film: the film without its pixels.
        knees: its knees in a frontal view; what is no such knee is left out.
        stem: name of its files, without the ending; unique within a run, and shortened if it is too long.
    """

    film: DetectedRadiograph
    knees: tuple[ExportedKnee, ...]
    stem: str


def write_landmarks(
    sources: Iterable[Source], directory: Path, formats: Sequence[str], detector: LandmarkDetector,
    hints: UserHints | None = None, progress: Progress | None = None,
) -> list[ExportedFilm]:  # fmt: skip
    """The films with their knees, in order, after their landmarks were written to `directory`.

    `pts` and `png` write a file per film with knees: `NAME.pts` (of two knees, the 74 points of the right one come
    first) and `NAME.landmarks.png`, which shows a film whose pixels are not square without its stretch. `csv` writes
    `landmarks.csv`, `coco` writes `landmarks.json`. Each file appears complete or not at all. A film that cannot be
    read is returned with its reason. If a KeyboardInterrupt stops it, the tables have the films until then.

    Args:
        sources: from `kneegrade.imaging.find_sources`.
        directory: folder for the files; created if it does not exist.
        formats: any of `LANDMARK_FORMATS`.
        detector: detects the knees.
        hints: what the user states about the films.
        progress: called after each film.

    Raises:
        UsageError: a format is unknown, or there is none.
    """
    if not formats or set(formats) - set(LANDMARK_FORMATS):
        raise UsageError(
            f"{','.join(formats)!r} is not a list of landmark formats; choose from {', '.join(LANDMARK_FORMATS)}."
        )
    make_directory(directory)
    films: list[ExportedFilm] = []
    coco: list[CocoFilm] = []
    stems: set[str] = set()
    listed = list(sources)
    try:
        for source in listed:
            detected = detect_film(source, detector, hints or UserHints())
            film = _exported_film(detected, stems)
            try:
                _write_film(directory, formats, film, detected)
            except UsageError as error:
                raise _incomplete(error, formats, len(films), len(listed)) from error
            films.append(film)
            coco += _coco_film(film, detected)
            if progress:
                progress(len(films), len(listed))
    except KeyboardInterrupt:
        if films:
            _write_tables(directory, formats, films, coco)
        raise
    _write_tables(directory, formats, films, coco)
    return films


def _incomplete(error: UsageError, formats: Sequence[str], written: int, total: int) -> UsageError:
    """The error with what was written before it."""
    tables = [name for key, name in TABLES.items() if key in formats]
    missing = f" {' and '.join(tables)} {'is' if len(tables) == 1 else 'are'} missing." if tables else ""
    before = f"The files of {written} of {total} films were written before."
    return UsageError(f"{error.message} {before}{missing}", code=error.code)


def _coco_film(film: ExportedFilm, detected: DetectedRadiograph) -> list[CocoFilm]:
    """The entry of a film in the COCO file, if it could be read."""
    if detected.radiograph is None:
        return []
    knees = (k.knee for k in film.knees)
    annotations = tuple(CocoKnee(k.side, k.landmarks_px, k.landmarks.seen, k.landmark_confidence) for k in knees)
    height, width = detected.radiograph.pixels.shape
    return [CocoFilm(detected.source, (height, width), annotations)]


def _write_tables(
    directory: Path, formats: Sequence[str], films: Sequence[ExportedFilm], coco: Sequence[CocoFilm]
) -> None:
    """Write the files that hold all films."""
    if "coco" in formats:
        write_coco(directory / TABLES["coco"], coco)
    if "csv" in formats:
        rows = [kneel_row(f.stem, k.knee.side, k.knee.landmarks_px) for f in films for k in f.knees]
        write_kneel_csv(directory / TABLES["csv"], rows)


def _write_film(directory: Path, formats: Sequence[str], film: ExportedFilm, detected: DetectedRadiograph) -> None:
    """Write the files of one film."""
    if film.knees and "pts" in formats:
        write_pts(_file_path(directory, film.stem, "pts"), np.stack([k.knee.landmarks_px for k in film.knees]))
    if film.knees and "png" in formats:
        _write_picture(_file_path(directory, film.stem, _PICTURE), detected, film.knees)


def _exported_film(detected: DetectedRadiograph, stems: set[str]) -> ExportedFilm:
    """The film with its measured knees, and a stem that `stems` does not contain yet."""
    pairs = zip(detected.knees, detected.refusals, strict=True)
    kept = [knee for knee, refusal in pairs if refusal is None or refusal.code != "view"]
    spacing = None if detected.spacing_mm is None else detected.spacing_mm[1]
    knees = tuple(ExportedKnee(knee, measure(knee.square_landmarks, spacing)) for knee in kept)
    stem = unique_stem(detected.source, stems, len(f".{_PICTURE}"))
    return ExportedFilm(replace(detected, radiograph=None), knees, stem)


def _file_path(directory: Path, stem: str, ending: str) -> Path:
    path = directory / f"{stem}.{ending}"
    make_directory(path.parent)
    return path


def _write_picture(path: Path, detected: DetectedRadiograph, knees: Sequence[ExportedKnee]) -> None:
    if detected.radiograph is None:
        return
    film, _ = square_radiograph(detected.radiograph, knees[0].knee.pixel_aspect)  # widths are measured without stretch
    labels = [(k.knee.square_landmarks, f"{k.knee.side} {k.knee.landmark_confidence:.2f}") for k in knees]
    with replacing(path, "wb") as stream:
        overlay(film.pixels, labels).save(stream, format="PNG", optimize=True, pnginfo=own_picture_mark())


def overlay(
    pixels: NDArray[np.float32], knees: Iterable[tuple[Landmarks, str]], longest_px: int = 1600, widths: bool = True
) -> "Image":
    """An RGB picture of the film with the outlines of its knees and a label for each.

    Green: the landmark lies within 2 % of the tibial width of its true position with a probability of at least 0.5.
    Orange: with a smaller probability. Blue: outside the film, placed by the shape model. Yellow bars: joint space
    width at the fixed positions.

    Args:
        pixels: (H, W) float32 in [0, 1].
        knees: landmarks in pixels of the film, and the label for each knee.
        longest_px: longer side of the picture; smaller films are not enlarged.
        widths: whether to draw the bars.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    factor = min(1.0, longest_px / max(picture.size))
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, longest_px // 70))
    for landmarks, label in knees:
        points = (landmarks.points_px + 0.5) * factor - 0.5
        for bone in (FEMUR, TIBIA):
            for i in range(bone.start, bone.stop - 1):
                draw.line([tuple(points[i]), tuple(points[i + 1])], fill=_colour(landmarks, i))
        if widths:
            for x in sorted({*FIXED_AT, LATERAL_AT}):
                bar = (gap_line(landmarks.points_px, x) + 0.5) * factor - 0.5
                draw.line([tuple(bar[0]), tuple(bar[1])], fill=WIDTH)
        corner = points[list(FEMUR)].min(0)
        draw.text((max(0.0, corner[0]), max(0.0, corner[1])), label, SURE, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def _colour(landmarks: Landmarks, index: int) -> Colour:
    if not landmarks.seen[index]:
        return UNSEEN
    return SURE if landmarks.point_confidence[index] >= CONFIDENT else UNSURE
