"""What display windows and curves would do to KL grades if they were applied before grading.

    python benchmarks/display_curves.py FOLDER [--every 3]

FOLDER has radiographs (PNG or JPEG) in subfolders that may be named by the KL grade of a reader. Grey values are taken
for the stored values of a DICOM file. Knees are detected once, on the stored values. For every curve one line: knees,
share whose KL differs from that of the stored values, share that differs by more than one, mean difference, and, where
the folders are named 0 to 4, quadratic kappa and accuracy against the readers. `window 10-99` is a linear window from
the 10th to the 99th percentile of the image; `sigmoid 0.5/0.6` has its centre and width as shares of the range; `logit`
undoes a sigmoid, as if a curve that belongs to the image were left out.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from kneegrade import Grader
from kneegrade.anatomy import Knee, build_knee
from kneegrade.anatomy.detected_knees import DetectedKnee
from kneegrade.anatomy.laterality import assign_sides
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.imaging.photometry import normalised_image

Pixels = NDArray[np.float32]
Curve = Callable[[Pixels], Pixels]
BATCH = 32


def sigmoid(centre: float, width: float) -> Curve:
    return lambda x: 1 / (1 + np.exp(-4 * (x - centre) / width))


def window(low: float, high: float) -> Curve:
    def apply(x: Pixels) -> Pixels:
        a, b = np.percentile(x[::4, ::4], [low, high])
        return np.asarray(np.clip((x - a) / (b - a), 0, 1))

    return apply


def middle_sigmoid(x: Pixels) -> Pixels:
    low, middle, high = np.percentile(x[::4, ::4], [1, 50, 99])
    return sigmoid(middle, high - low)(x)


CURVES: dict[str, Curve] = {
    "stored values": lambda x: x,
    "window 10-99": window(10, 99),
    "window 2-95": window(2, 95),
    "window 25-98": window(25, 98),
    "window 50-99.5": window(50, 99.5),
    "window 5-90": window(5, 90),
    "sigmoid 0.5/1.0": sigmoid(0.5, 1.0),
    "sigmoid 0.5/0.6": sigmoid(0.5, 0.6),
    "sigmoid 0.4/0.4": sigmoid(0.4, 0.4),
    "sigmoid at median": middle_sigmoid,
    "logit": lambda x: np.log((x * 0.96 + 0.02) / (1 - (x * 0.96 + 0.02))),
    "gamma 0.6": lambda x: x**0.6,
    "gamma 1.6": lambda x: x**1.6,
    "gamma 2.2": lambda x: x**2.2,
    "logarithm": lambda x: np.log(x + 0.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, help="folder of radiographs")
    parser.add_argument("--every", type=int, default=1, help="use every n-th radiograph")
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.films.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    grader = Grader(device="cpu")
    films = []
    for path in paths[:: arguments.every]:
        film = read_radiograph(path)
        values = np.asarray(Image.open(path).convert("L")).astype(np.float32) / 255
        is_negative = film.polarity is not None and film.polarity.inverted
        reader = int(path.parent.name) if path.parent.name in set("01234") else None
        films.append((1 - values if is_negative else values, grader.detector.search(film.pixels), reader))
    stored: list[int | None] = []
    for name, curve in CURVES.items():
        grades, readers = kl_grades(grader, films, curve)
        stored = stored or grades
        print(f"{name:20s} {comparison(stored, grades, readers)}", flush=True)


def kl_grades(
    grader: Grader, films: list[tuple[Pixels, list[DetectedKnee], int | None]], curve: Curve
) -> tuple[list[int | None], list[int | None]]:
    """KL grade of every knee after a curve, None where it is refused; and the reader's grade of its film."""
    knees: list[Knee] = []
    readers = []
    for values, found, reader in films:
        image = normalised_image(curve(values).astype(np.float32))
        film = Radiograph(1 - image.pixels if image.inverted else image.pixels)
        sides, _ = assign_sides([knee.lateral_left for knee in found], "unknown")
        for knee, side in zip(found, sides, strict=True):
            knees.append(
                build_knee(film, knee.landmarks, side, landmark_confidence=knee.confidence,
                           roi_px=grader.detector.roi_px)
            )  # fmt: skip
            readers.append(reader)
    graded = []
    for first in range(0, len(knees), BATCH):
        batch = knees[first : first + BATCH]
        graded += grader._grade_knees(batch, None)  # at given landmarks
    return [None if knee.grades is None else knee.grades["kl"].grade for knee in graded], readers


def comparison(stored: list[int | None], grades: list[int | None], readers: list[int | None]) -> str:
    both = [i for i, (a, b) in enumerate(zip(stored, grades, strict=True)) if a is not None and b is not None]
    before, after = (np.array([some[i] for i in both], dtype=int) for some in (stored, grades))
    change = after - before
    text = f"{len(both)} knees, KL differs {np.mean(change != 0):.3f}, by > 1 {np.mean(abs(change) > 1):.3f}, "
    text += f"mean {change.mean():+.3f}"
    if all(readers[i] is not None for i in both):
        read = np.array([readers[i] for i in both], dtype=int)
        text += (
            f", kappa {cohen_kappa_score(read, after, weights='quadratic'):.3f}, accuracy {np.mean(read == after):.3f}"
        )
    return text


if __name__ == "__main__":
    main()
