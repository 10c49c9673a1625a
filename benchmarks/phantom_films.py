"""How the shipped detector does on phantom films of a seed that it never saw, every layout and nuisance.

    python benchmarks/phantom_films.py [--number 60] [--seed 778]

Prints, as JSON: films whose knees and sides are all right (a film without a knee must give none), the same for as many
distractors, and the distance of articular landmarks from the truth in millimetres of the film's plane.
"""

import argparse
import json

import numpy as np

from kneegrade.anatomy import LandmarkDetector, refusal
from kneegrade.anatomy.landmarks import ARTICULAR
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import FilmOptions, render_film


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=778)
    arguments = parser.parse_args()
    detector, right, quiet, errors = LandmarkDetector(), 0, 0, []
    for index in range(arguments.number):
        film = render_film(arguments.seed, index, FilmOptions(longest_px=800))
        knees = accepted(detector, film.pixels)
        agree = [knee.side for knee in knees] == [knee.side for knee in film.knees]
        right += agree
        for found, true in zip(knees, film.knees, strict=True) if agree else ():
            distance = np.linalg.norm(found.landmarks_px - true.landmarks_px, axis=1)[list(ARTICULAR)]
            errors.append(distance * film.pixel_spacing_mm)
        quiet += not accepted(
            detector, render_film(arguments.seed + 1, index, FilmOptions("none", longest_px=500)).pixels
        )
    result = {
        "films": arguments.number,
        "knees_and_sides_right": right,
        "distractors_without_a_knee": quiet,
        "knees": len(errors),
        "articular_error_mm": {
            "median": round(float(np.median(errors)), 3),
            "p95": round(float(np.quantile(errors, 0.95)), 3),
        },
    }
    print(json.dumps(result, indent=1))


def accepted(detector: LandmarkDetector, pixels: np.ndarray) -> list:
    knees, _ = detector.find(read_radiograph(pixels))
    return [knee for knee in knees if refusal(knee) is None or refusal(knee).code != "view"]


if __name__ == "__main__":
    main()
