"""`write_landmarks`: the landmarks of many films in the formats that other programs read.

Beside the grades' corridor: files → knees → `.pts`, KNEEL's CSV, COCO keypoints JSON, pictures to look at.

`overlay`: a film with the outlines of its knees drawn over it, for people to judge.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import FIXED_AT, LATERAL_AT, gap_line
from kneegrade.anatomy.landmark_scheme import FEMUR, TIBIA
from kneegrade.anatomy.landmarks import Landmarks

if TYPE_CHECKING:
    from PIL.Image import Image
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from kneegrade.anatomy import Knee, LandmarkDetector, measure
from kneegrade.anatomy.landmark_files import CocoFilm, CocoKnee, kneel_row, write_coco, write_kneel_csv, write_pts
from kneegrade.errors import UsageError
from kneegrade.grader import DetectedRadiograph, UserHints, detect_film
from kneegrade.imaging import Source, stem_of
from kneegrade.reporting import make_directory
from kneegrade.results import JointSpace

SURE, UNSURE, UNSEEN, WIDTH = (60, 220, 90), (255, 150, 0), (120, 120, 255), (255, 255, 90)
DOUBTFUL = 0.5  # point confidence

Colour = tuple[int, int, int]


def overlay(
    pixels: NDArray[np.float32], knees: Iterable[tuple[Landmarks, str]], longest_px: int = 1600, widths: bool = True
) -> "Image":
    """A picture of the film, at most `longest_px` long, with each outline and its label.

    Green: a landmark likely to be right within 2 % of the tibial width; orange: less likely; blue: outside the film,
    placed by the shape model. Yellow bars: joint space at the fixed positions.

    Args:
        pixels: (H, W) in [0, 1].
        knees: outlines in pixels of the film, and what to write beside each.
        longest_px: of the picture; smaller films are not enlarged.
        widths: whether to draw the bars.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    factor = min(1.0, longest_px / max(picture.size))
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, longest_px // 70))
    for outline, label in knees:
        points = (outline.points_px + 0.5) * factor - 0.5
        for part in (FEMUR, TIBIA):
            for i in range(part.start, part.stop - 1):
                draw.line([tuple(points[i]), tuple(points[i + 1])], fill=_colour(outline, i))
        if widths:
            for x in sorted({*FIXED_AT, LATERAL_AT}):
                bar = (gap_line(outline.points_px, x) + 0.5) * factor - 0.5
                draw.line([tuple(bar[0]), tuple(bar[1])], fill=WIDTH)
        place = points[list(FEMUR)].min(0)
        draw.text((max(0.0, place[0]), max(0.0, place[1])), label, SURE, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def _colour(outline: Landmarks, index: int) -> Colour:
    if not outline.seen[index]:
        return UNSEEN
    return SURE if outline.point_confidence[index] >= DOUBTFUL else UNSURE


LANDMARK_FORMATS = ("pts", "csv", "coco", "png")
KNEEL_FILE, COCO_FILE = "landmarks.csv", "landmarks.json"
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ExportedKnee:
    """One row of what was found: the knee and its measures."""

    knee: Knee
    joint_space: JointSpace


@dataclass(frozen=True)
class ExportedFilm:
    """One film of a run: `film` without its pixels, its knees but for those that are none, and its stem among files."""

    film: DetectedRadiograph
    knees: tuple[ExportedKnee, ...]
    stem: str


def write_landmarks(
    sources: Iterable[Source], directory: Path, formats: Sequence[str], detector: LandmarkDetector,
    said: UserHints | None = None, progress: Progress | None = None,
) -> list[ExportedFilm]:  # fmt: skip
    """Find the knees of all sources, write their landmarks, and return what was found, in order.

    `pts` and `png` write a file per film with knees, `NAME.pts` (the right knee's 74 points first where there are two)
    and `NAME.landmarks.png`; `csv` writes `landmarks.csv`, `coco` writes `landmarks.json`. Each file appears whole or
    not at all; a film that cannot be read is a row with its reason.

    Args:
        sources: from `kneegrade.imaging.find_sources`.
        directory: where files go; made if missing.
        formats: any of `LANDMARK_FORMATS`.
        detector: finds the knees.
        said: what the user says of the films.
        progress: called with the number of films done.

    Raises:
        UsageError: an unknown format.
    """
    if not formats or set(formats) - set(LANDMARK_FORMATS):
        raise UsageError(f"Landmark formats {','.join(formats)!r}: choose among {','.join(LANDMARK_FORMATS)}.")
    make_directory(directory)
    films: list[ExportedFilm] = []
    coco: list[CocoFilm] = []
    stems: set[str] = set()
    for source in sources:
        found = detect_film(source, detector, said or UserHints())
        film = _outlined(found, stems)
        if film.knees and "pts" in formats:
            write_pts(_place(directory, film.stem, "pts"), np.stack([k.knee.landmarks_px for k in film.knees]))
        if film.knees and "png" in formats:
            _write_picture(_place(directory, film.stem, "landmarks.png"), found, film.knees)
        if found.radiograph is not None:
            knees = (k.knee for k in film.knees)
            shown = tuple(CocoKnee(k.side, k.landmarks_px, k.outline.seen, k.landmark_confidence) for k in knees)
            height, width = found.radiograph.pixels.shape
            coco.append(CocoFilm(found.source, (height, width), shown))
        films.append(film)
        if progress:
            progress(len(films))
    if "coco" in formats:
        write_coco(directory / COCO_FILE, coco)
    if "csv" in formats:
        rows = [kneel_row(f.stem, k.knee.side, k.knee.landmarks_px) for f in films for k in f.knees]
        write_kneel_csv(directory / KNEEL_FILE, rows)
    return films


def _outlined(found: DetectedRadiograph, stems: set[str]) -> ExportedFilm:
    kept = [knee for knee, no in zip(found.knees, found.refusals, strict=True) if no is None or no.code != "view"]
    spacing = None if found.spacing_mm is None else found.spacing_mm[1]
    knees = tuple(ExportedKnee(knee, measure(knee.outline, spacing)) for knee in kept)
    names = chain((stem_of(found.source), found.source), (f"{found.source}-{i}" for i in count(2)))
    stem = next(name for name in names if name not in stems)
    stems.add(stem)
    return ExportedFilm(replace(found, radiograph=None), knees, stem)


def _place(directory: Path, stem: str, ending: str) -> Path:
    path = directory / f"{stem}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_picture(path: Path, found: DetectedRadiograph, knees: Sequence[ExportedKnee]) -> None:
    if found.radiograph is None:
        return
    labels = [(k.knee.outline, f"{k.knee.side} {k.knee.landmark_confidence:.2f}") for k in knees]
    partial = path.with_name(path.name + ".tmp")
    overlay(found.radiograph.pixels, labels).save(partial, format="PNG", optimize=True)
    partial.replace(path)
