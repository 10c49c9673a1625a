r"""Train the networks that read side markers and write their weights.

    python recipes/train_markers.py --backgrounds CHEN2018/train --films FILMS --labels LABELS.csv \
        -o src/kneegrade/weights/markers.safetensors

The letters are drawn (`kneegrade.training.markers.marker_drawings`) onto crops, films and phantoms without markers.
Films are listed in a table of their markers, made by eye, with the columns of `benchmarks/markers.py`; only those
whose `split` is "choose" are used, with a grey box over each of their own markers. Ten minutes of one core of a CPU.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from kneegrade.anatomy.marker_networks import LOCATOR_LONGEST_PX
from kneegrade.anatomy.marker_reader import load_marker_weights, save_marker_weights
from kneegrade.imaging import read_radiograph
from kneegrade.training.markers.train_markers import CLASSIFIER_STEPS, LOCATOR_STEPS, fit_markers, phantom_backgrounds
from kneegrade.weights import read_description, weights_reference

COVERED_SHARE = 0.06  # half of the side of the box over a marker, relative to the longer side of the film
ATTRIBUTION = (
    "Chen, Pingjun (2018), Knee Osteoarthritis Severity Grading Dataset, Mendeley Data, doi 10.17632/56rmx5bjcr.1, "
    "CC BY 4.0: real crops as backgrounds",
    "Wani, Insha Majeed, and Arora, Sakshi (2021), Knee X-ray Osteoporosis Database, Mendeley Data, doi "
    "10.17632/fxjm8fb6mw.2, research use: real whole films as backgrounds",
    "Letters: drawn with the fonts of matplotlib (DejaVu, STIX, Computer Modern) and with strokes of kneegrade's own",
    "Phantoms: kneegrade's own, drawn from aggregates over the Osteoarthritis Initiative",
)

Picture = NDArray[np.uint8]


def crop_backgrounds(folders: list[Path], number: int, seed: int) -> list[Picture]:
    """A random choice of the pictures below folders."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    chosen = np.random.default_rng(seed).permutation(len(paths))[:number]
    return [_as_bytes(read_radiograph(paths[i]).pixels) for i in chosen]


def film_backgrounds(folder: Path, labels: pd.DataFrame) -> list[Picture]:
    """The films of split "choose", with a grey box over each of their markers."""
    films = []
    for name, rows in labels[labels["split"] == "choose"].groupby("film"):
        pixels = read_radiograph(folder / str(name)).pixels.copy()
        half = round(COVERED_SHARE * max(pixels.shape))
        for x, y in rows[["x_px", "y_px"]].dropna().to_numpy().round().astype(int):
            box = pixels[max(0, y - half) : y + half, max(0, x - half) : x + half]
            box[:] = np.median(box)
        films.append(_as_bytes(pixels))
    return films


def _as_bytes(pixels: NDArray[np.float32]) -> Picture:
    picture = Image.fromarray((pixels * 255).astype(np.uint8))
    picture.thumbnail((LOCATOR_LONGEST_PX, LOCATOR_LONGEST_PX), Image.Resampling.BOX)
    return np.asarray(picture)


def _print_progress(done: int, total: int, loss: float | None) -> None:
    if loss is not None:
        print(f"{done}/{total}  loss {loss:.3f}  {time.process_time():.0f} s", flush=True)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backgrounds", type=Path, nargs="*", default=[], help="Folders of crops without markers.")
    parser.add_argument("--number", type=int, default=1000, help="Crops that are used.")
    parser.add_argument("--films", type=Path, help="Folder of whole films.")
    parser.add_argument("--labels", type=Path, help="Table of the markers of these films (benchmarks/markers.py).")
    parser.add_argument("--phantoms", type=int, default=40, help="Phantom films that are rendered.")
    parser.add_argument("--locator-steps", type=int, default=LOCATOR_STEPS)
    parser.add_argument("--classifier-steps", type=int, default=CLASSIFIER_STEPS)
    parser.add_argument("--start", type=Path, help="Weights to continue, at a lower learning rate.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    films = film_backgrounds(options.films, pd.read_csv(options.labels)) if options.films else []
    crops = crop_backgrounds(options.backgrounds, options.number, options.seed)
    phantoms = phantom_backgrounds(options.phantoms, 700 + options.seed)
    print(f"{len(crops)} crops, {len(films)} films, {len(phantoms)} phantoms", flush=True)
    backgrounds = crops + 5 * films + 3 * phantoms  # whole films are few and have more places
    locator, classifier = fit_markers(
        backgrounds, locator_steps=options.locator_steps, classifier_steps=options.classifier_steps, seed=options.seed,
        start=load_marker_weights(options.start) if options.start else None, progress=_print_progress,
    )  # fmt: skip
    started = weights_reference(read_description(options.start)) if options.start else None
    recipe = {
        "crops": len(crops), "films": len(films), "phantoms": len(phantoms), "locator_steps": options.locator_steps,
        "classifier_steps": options.classifier_steps, "seed": options.seed, "start": started,
    }  # fmt: skip
    description = {"licence": "Apache-2.0", "attribution": list(ATTRIBUTION), "recipe": recipe}
    save_marker_weights(options.output, locator, classifier, description)


if __name__ == "__main__":
    main()
