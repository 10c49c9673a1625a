"""Decisions about the polarity of real films: as they are, inverted, with right and wrong tags, and in surrounds.

    python benchmarks/polarity.py FOLDER [--number 60] [--surrounds] [--confidences]

FOLDER has films of any number of knees (PNG or JPEG, in subfolders too). Prints JSON for every kind of input: number of
films; how many get another polarity than the untouched film, by their pixels alone (`wrong_by_pixels`) and by
`LandmarkDetector.detect` (`wrong`); and on how many the second polarity was looked at. `--surrounds` also draws each
film into a light box, a white window of a viewer, a white page, soft white collimation and a dark viewer.
`--confidences` prints percentiles of the best confidence of a knee in the polarity of the decision and in the other
one. Untouched films that are negatives, and films with the warning "polarity_undecided", are listed, to be looked at.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from kneegrade.anatomy import LandmarkDetector
from kneegrade.imaging import Radiograph, read_radiograph

Pixels = NDArray[np.float32]
SUFFIXES = (".png", ".jpg", ".jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, help="folder of films")
    parser.add_argument("--number", type=int, help="number of films, evenly spaced; default: all")
    parser.add_argument("--surrounds", action="store_true", help="also draw the films into surrounds")
    parser.add_argument("--confidences", action="store_true", help="also print confidences in both polarities")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.films.rglob("*") if path.suffix.lower() in SUFFIXES)
    if arguments.number and arguments.number < len(paths):
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, arguments.number).astype(int)]
    detector = CountingDetector()
    counts: dict[str, dict[str, int]] = {}
    negatives, undecided, confidences = [], [], list[tuple[float, float]]()
    for path in paths:
        stored = np.asarray(Image.open(path).convert("L")).astype(np.float32)
        film = detector.detect(read_radiograph(stored))[0]
        is_negative = film.polarity is not None and film.polarity.inverted
        if is_negative:
            negatives.append(path.name)
        if arguments.confidences:
            confidences.append(best_confidences(detector, film))
        positive = 255 - stored if is_negative else stored
        for kind, pixels, truth, tag in inputs(stored, is_negative, positive, surrounds=arguments.surrounds):
            radiograph = with_tag(read_radiograph(pixels), tag)
            detector.searches = 0
            decided = detector.detect(radiograph)[0]
            row = counts.setdefault(kind, dict.fromkeys(("films", "wrong_by_pixels", "wrong", "looked_twice"), 0))
            row["films"] += 1
            row["wrong_by_pixels"] += radiograph.polarity is not None and radiograph.polarity.inverted != truth
            row["wrong"] += decided.polarity is not None and decided.polarity.inverted != truth
            row["looked_twice"] += detector.looked_at_other
            if any(w.code == "polarity_undecided" for w in decided.warnings):
                undecided.append(f"{path.name} ({kind})")
    result: dict[str, object] = {"kinds": counts, "negatives": negatives, "undecided": undecided}
    if arguments.confidences:
        shown, other = np.array(confidences).T
        result["confidence_percentiles_0_1_50"] = np.percentile(shown, [0, 1, 50]).round(3).tolist()
        result["other_polarity_50_99_100"] = np.percentile(other, [50, 99, 100]).round(3).tolist()
    print(json.dumps(result, indent=1))


class CountingDetector(LandmarkDetector):
    """The shipped detector, which notes whether it searched an image and its negative.

    Attributes:
        searches: number of searches.
        looked_at_other: whether the last film was searched in both polarities.
    """

    searches = 0
    looked_at_other = False

    def detect(self, radiograph: Radiograph):  # type: ignore[no-untyped-def]  # noqa: D102
        self._seen: list[Pixels] = []
        result = super().detect(radiograph)
        first = self._seen[0]
        self.looked_at_other = any(
            pixels.shape == first.shape and np.abs(pixels + first - 1).max() < 1e-3 for pixels in self._seen[1:]
        )
        return result

    def search(self, pixels: Pixels):  # type: ignore[no-untyped-def]  # noqa: D102
        self.searches += 1
        if hasattr(self, "_seen"):
            self._seen.append(pixels)
        return super().search(pixels)


def best_confidences(detector: LandmarkDetector, film: Radiograph) -> tuple[float, float]:
    """Highest confidence of a knee on a film, and on its negative."""
    pair = [detector.search(some.pixels) for some in (film, film.in_other_polarity())]
    return tuple(max((knee.confidence for knee in knees), default=0.0) for knees in pair)  # type: ignore[return-value]


def with_tag(radiograph: Radiograph, tag: str | None) -> Radiograph:
    """The radiograph as if its DICOM file declared the stored polarity by `tag`."""
    if radiograph.polarity is None or tag is None:
        return radiograph
    return replace(radiograph, polarity=replace(radiograph.polarity, declared_by=tag))


def inputs(
    stored: Pixels, is_negative: bool, positive: Pixels, *, surrounds: bool
) -> Iterator[tuple[str, Pixels, bool, str | None]]:
    """Kind, pixels, whether they are a negative, and tag of the inputs made of one film."""
    yield "as it is", stored, is_negative, None
    yield "inverted", 255 - stored, not is_negative, None
    yield "tag right", positive, False, "MONOCHROME2"
    yield "tag wrong", 255 - positive, True, "MONOCHROME2"
    for name, draw in (SURROUNDS if surrounds else {}).items():
        drawn = draw(positive)
        yield name, drawn, False, None
        yield f"{name}, tag right", drawn, False, "MONOCHROME2"
        yield f"negative in {name}", draw(255 - positive), True, None


def light_box(film: Pixels) -> Pixels:
    """The film as a photograph on a light box shows it: darker, tilted, in an uneven bright surround."""
    height, width = film.shape
    margin = int(0.3 * max(film.shape))
    canvas = np.full((height + 2 * margin, width + 2 * margin), np.nan, dtype=np.float32)
    canvas[margin : margin + height, margin : margin + width] = 20 + film * 0.55
    turned = ndimage.rotate(canvas, 3, reshape=False, order=1, cval=np.nan)
    y, x = np.mgrid[-1 : 1 : turned.shape[0] * 1j, -1 : 1 : turned.shape[1] * 1j]  # type: ignore[misc]
    box = 200 - 60 * (x**2 + y**2) / 2
    return np.where(np.isnan(turned), box, turned).astype(np.float32)


def viewer(film: Pixels, level: float) -> Pixels:
    """A screenshot: the film in the middle of a window of grey level `level`, with a tool bar and a list."""
    height, width = film.shape
    canvas = np.full((int(1.15 * height) + 40, int(2.4 * width) + 40), level, dtype=np.float32)
    canvas[: height // 20] = 255 - level + (70 if level > 128 else -70)
    canvas[height // 8 :: height // 12, 10 : width // 4] = 255 - level
    top, left = int(0.1 * height), int(0.8 * width)
    canvas[top : top + height, left : left + width] = film
    return canvas


def page(film: Pixels) -> Pixels:
    """The film printed at half of the width of a white page, with lines of text below."""
    height, width = film.shape
    canvas = np.full((int(2.4 * height), 2 * width), 250, dtype=np.float32)
    canvas[height // 5 : height // 5 + height, width // 2 : width // 2 + width] = film
    for line in range(int(1.4 * height), int(2.2 * height), max(8, height // 16)):
        canvas[line : line + max(2, height // 60), width // 6 : -width // 6 : 3] = 40
    return canvas


def soft_collimation(film: Pixels) -> Pixels:
    """The film in a wide border that fades from its edge to white."""
    margin = max(film.shape) // 5
    padded = np.pad(film, margin, mode="constant", constant_values=float(np.percentile(film, 2)))
    inside = np.zeros(padded.shape, dtype=np.float32)
    inside[margin // 2 : -(margin // 2), margin // 2 : -(margin // 2)] = 1
    weight = ndimage.gaussian_filter(inside, margin / 8)
    return np.asarray(weight * padded + (1 - weight) * 252, dtype=np.float32)


SURROUNDS: dict[str, Callable[[Pixels], Pixels]] = {
    "light box": light_box,
    "white window": lambda film: viewer(film, 245),
    "dark window": lambda film: viewer(film, 15),
    "white page": page,
    "soft white collimation": soft_collimation,
}


if __name__ == "__main__":
    main()
