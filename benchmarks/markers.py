"""Side markers: how many are read, how many readings are false, and which films get a warning.

    python benchmarks/markers.py films FILMS LABELS.csv [--split report]
    python benchmarks/markers.py pictures FOLDER [FOLDER …]
    python benchmarks/markers.py phantoms [--number 100] [--seed 31]
    python benchmarks/markers.py speed

`films`: whole films with a table of their markers, made by eye: columns `film` (file name), `letter` (R or L; empty for
a film without a marker), `x_px`, `y_px` (its centre) and `split` ("choose" for films that were used for training or
choices, "report" for the others). Every film is read as it is and mirrored. `pictures`: crops that are supposed to have
no markers. `phantoms`: phantom films with their drawn letters, and the same films without letters; a letter counts as
legible where it is on the open field and differs from what is close to it. All print JSON. `warned` counts the films
with a warning from markers, by its code.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter

from kneegrade.anatomy import LandmarkDetector, Marker, check_markers
from kneegrade.imaging import read_radiograph
from kneegrade.phantom.film import FilmOptions, FilmScene, compose_film, render_scene
from kneegrade.phantom.film_content import Overlay, draw_collimation, draw_markers

NEAR_SHARE = 0.03  # of the longer side: a reading this close to a marker is a reading of it
MIN_CONTRAST = 0.12  # of a legible letter of a phantom
PICTURES = (".jpg", ".jpeg", ".png")

Place = tuple[str, float, float, float]  # letter, x, y, and how near a reading of it is


@dataclass
class Counts:
    """What was counted on films of one kind."""

    films: int = 0
    markers: int = 0
    read: int = 0
    mirrored_right: int = 0
    wrong_letter: int = 0
    wrong_direction: int = 0
    readings_without_marker: int = 0
    warned: Counter = field(default_factory=Counter)
    films_with_marker: int = 0
    films_with_marker_warned: int = 0
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)

    def add(self, name: str, markers: list[Place], read: tuple[Marker, ...], codes: list[str], mirrored: bool) -> None:
        """Count a film that was read, of a known direction."""
        self.films += 1
        self.warned.update(codes)
        self.films_with_marker += bool(markers)
        self.films_with_marker_warned += bool(markers) and bool(codes)
        left = list(read)
        for letter, x, y, near in markers:
            self.markers += 1
            own = [one for one in left if max(abs(one.x - x), abs(one.y - y)) <= near]
            left = [one for one in left if one not in own]
            if any(one.letter == letter for one in own):
                self.read += 1
                self.mirrored_right += own[0].mirrored is mirrored
                self.wrong_direction += own[0].mirrored is (not mirrored)
            else:
                self.missed.append(f"{name} {letter}")
            self.wrong_letter += any(one.letter != letter for one in own)
        self.readings_without_marker += len(left)
        self.false += [f"{name} {one.letter} at {one.x:.0f}, {one.y:.0f} ({one.probability:.2f})" for one in left]


def warnings_of(pixels: NDArray[np.float32], detector: LandmarkDetector) -> list[str]:
    """Codes of the warnings from markers on a film."""
    radiograph = read_radiograph(pixels)
    knees, _ = detector.find(radiograph)
    return [finding.code for finding in check_markers(knees, radiograph, detector.marker_reader)[1]]


def mirrored_places(markers: list[Place], columns: int) -> list[Place]:
    """The markers of the mirrored film."""
    return [(letter, columns - 1 - x, y, near) for letter, x, y, near in markers]


def count_both(
    kinds: dict[str, Counts], name: str, pixels: NDArray[np.float32], markers: list[Place], detector: LandmarkDetector
) -> None:
    """Count a film as it is and mirrored."""
    for mirrored, kind in ((False, "as they are"), (True, "mirrored")):
        film = np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels
        places = mirrored_places(markers, pixels.shape[1]) if mirrored else markers
        read, codes = detector.marker_reader.read(film), warnings_of(film, detector)
        kinds.setdefault(kind, Counts()).add(name, places, read, codes, mirrored)


def on_films(arguments: argparse.Namespace, detector: LandmarkDetector) -> dict[str, Counts]:
    """Counts on whole films with a table of markers."""
    table = pd.read_csv(arguments.labels)
    kinds: dict[str, Counts] = {}
    for name, rows in table[table["split"] == arguments.split].groupby("film"):
        pixels = read_radiograph(arguments.films / str(name)).pixels
        near = NEAR_SHARE * max(pixels.shape)
        rows = rows[rows["letter"].isin(["R", "L"])]
        markers = [(row.letter, row.x_px, row.y_px, near) for row in rows.itertuples()]
        count_both(kinds, str(name), pixels, markers, detector)
    return kinds


def on_pictures(arguments: argparse.Namespace, detector: LandmarkDetector) -> dict[str, Counts]:
    """Counts of readings on pictures without markers, and of the warnings that they get."""
    kinds: dict[str, Counts] = {}
    for folder in arguments.folders:
        counts = kinds.setdefault(folder.name, Counts())
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES):
            pixels = read_radiograph(path).pixels
            read = detector.marker_reader.read(pixels)
            codes = warnings_of(pixels, detector) if read else []
            counts.add(path.name, [], read, codes, False)
    return kinds


def on_phantoms(arguments: argparse.Namespace, detector: LandmarkDetector) -> dict[str, Counts]:
    """Counts on phantom films with letters, mirrored with letters, and without letters."""
    kinds: dict[str, Counts] = {}
    for index in range(arguments.number):
        layout = ("bilateral", "single_right", "bilateral", "single_left")[index % 4]
        scene = compose_film(arguments.seed, index, FilmOptions(layout, longest_px=arguments.longest_px))
        blank = replace(scene.overlay, letters=("",) * len(scene.overlay.letters))
        plain = render_scene(replace(scene, overlay=replace(blank, text="", ruler="", ball_mm=0, shutter_mm=(0,) * 4)))
        pixels = finished(plain.pixels, scene, scene.overlay)
        markers = legible(pixels, scene)
        shown = sum(letter != "" for letter in scene.overlay.letters)
        if shown == len(markers):  # films with a letter that cannot be read are left out
            count_both(kinds, f"{index} {scene.overlay.box}", pixels, markers, detector)
        without = finished(plain.pixels, scene, blank)
        read = detector.marker_reader.read(without)
        codes = warnings_of(without, detector) if read else []
        kinds.setdefault("without letters", Counts()).add(str(index), [], read, codes, False)
    return kinds


def finished(pixels: NDArray[np.float32], scene: FilmScene, overlay: Overlay) -> NDArray[np.float32]:
    """A phantom film with an overlay."""
    return draw_collimation(draw_markers(pixels, scene.knee_mm, overlay), scene.knee_mm, overlay)


def legible(pixels: NDArray[np.float32], scene: FilmScene) -> list[Place]:
    """The letters of a phantom film that are on its open field, free and different from what is close to them."""
    result, overlay, black = [], scene.overlay, np.zeros(scene.shape, dtype=np.float32)
    open_field = draw_collimation(np.ones_like(black), scene.knee_mm, replace(overlay, shutter_grey=0.0)) > 0
    others = draw_markers(black, scene.knee_mm, replace(overlay, letters=("",) * len(overlay.letters))) > 0
    for i, (letter, (x, y)) in enumerate(zip(overlay.letters, overlay.places, strict=True)):
        alone = replace(overlay, letters=tuple(letter if i == j else "" for j in range(len(overlay.letters))),
                        text="", ruler="", ball_mm=0, box="plain")  # fmt: skip
        ink = draw_markers(black, scene.knee_mm, alone)
        if not letter or not (ink > 0.5).any():
            continue
        near = maximum_filter(ink, size=2 * max(1, round(0.08 * overlay.height_mm / scene.knee_mm)) + 1) - ink
        rows, columns = np.nonzero(ink > 0.5)
        inside = rows.min() > 2 and columns.min() > 2 and rows.max() < ink.shape[0] - 3
        inside = inside and columns.max() < ink.shape[1] - 3 and open_field[near + ink > 0.5].all()
        levels = [(weight * pixels).sum() / weight.sum() for weight in (ink, near)]
        if inside and not (others & (near + ink > 0)).any() and abs(levels[0] - levels[1]) >= MIN_CONTRAST:
            result.append((letter, x * ink.shape[1], y * ink.shape[0], NEAR_SHARE * max(ink.shape)))
    return result


def speed(detector: LandmarkDetector) -> dict[str, float]:
    """Median process time in ms of reading a film of 10 megapixels with two letters, on one thread."""
    torch.set_num_threads(1)
    scene = compose_film(5, 2, FilmOptions("bilateral", longest_px=900))
    film = Image.fromarray(render_scene(scene).pixels).resize((3600, 2800))
    pixels, times = np.asarray(film), []
    for _ in range(12):
        start = time.process_time()
        detector.marker_reader.read(pixels)
        times.append(1000 * (time.process_time() - start))
    return {"ms": round(float(np.median(times)), 1), "shortest_ms": round(min(times), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    films, pictures = kinds.add_parser("films"), kinds.add_parser("pictures")
    films.add_argument("films", type=Path)
    films.add_argument("labels", type=Path)
    films.add_argument("--split", default="report", choices=["choose", "report"])
    pictures.add_argument("folders", type=Path, nargs="+")
    phantoms = kinds.add_parser("phantoms")
    phantoms.add_argument("--number", type=int, default=100)
    phantoms.add_argument("--seed", type=int, default=31)
    phantoms.add_argument("--longest-px", type=int, default=1200)
    kinds.add_parser("speed")
    arguments = parser.parse_args()
    detector = LandmarkDetector()
    if arguments.kind == "speed":
        print(json.dumps(speed(detector)))
        return
    count = {"films": on_films, "pictures": on_pictures, "phantoms": on_phantoms}[arguments.kind]
    print(json.dumps({kind: vars(counts) for kind, counts in count(arguments, detector).items()}, indent=1))


if __name__ == "__main__":
    main()
