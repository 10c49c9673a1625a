"""Speed of the shipped landmark detector on films, on single-knee images and on batches of level crops.

    python benchmarks/landmark_speed.py [--threads 2] [--device cpu] [--precision bf16] [--runtime openvino]
        [--images FOLDER ...] [--against SRC]

Prints JSON. From pixels in memory to knees (knee localizer, both landmark networks, laterality, crop): milliseconds per
bilateral film of 2500 × 2000 pixels (median of ten coarse phantoms, resized), and per image of one knee of 320 px
(median of sixty). Level crops of 320 px per second through the fine landmark network alone, in batches of 20.

With `--images`, real images are timed instead: up to `--number` of each folder, subfolders included. `--against` takes
the `src` folder of another checkout and times its detector on the same images in turn; "ratio" is the median over
images of the time here divided by the time there. With one thread the CPU time is measured, which other processes
disturb less.
"""

import argparse
import importlib
import json
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.landmark_networks import FINE, read_points
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.phantom import FilmOptions, render_film, render_rois, sample_knee
from kneegrade.weights.compute import Compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", help="float32 or bf16")
    parser.add_argument("--runtime", default="torch", help="torch or openvino")
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="folders of real images to time instead")
    parser.add_argument("--number", type=int, default=60, help="images of each folder, chosen at random (seed 0)")
    parser.add_argument("--against", type=Path, help="src folder of another checkout")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.threads == 1 and arguments.device == "cpu" else time.perf_counter
    compute = Compute.choose(arguments.device, arguments.runtime, arguments.precision, arguments.threads)
    finders = {"here": Finder(LandmarkDetector(compute=compute), Radiograph)}
    if arguments.against:
        anatomy, imaging = modules_of(arguments.against, "kneegrade.anatomy", "kneegrade.imaging")
        finders["there"] = Finder(anatomy.LandmarkDetector(), imaging.Radiograph)
    result = {"threads": arguments.threads, "runtime": arguments.runtime, "precision": arguments.precision}
    if arguments.images:
        sets = {str(folder): real_images(folder, arguments.number) for folder in arguments.images}
    else:
        sets = phantom_images()
    for name, images in sets.items():
        result[name] = timed(finders, images, clock)
    if not arguments.images:
        result["crops_per_second_fine_network"] = crops_per_second(finders["here"].detector, sets["one_knee"])
    print(json.dumps(result, indent=1))


class Finder:
    """A detector and the `Radiograph` class of the same package."""

    def __init__(self, detector: LandmarkDetector, radiograph: type[Radiograph]) -> None:
        self.detector, self.radiograph = detector, radiograph

    def knees(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Landmarks (74, 2) of each knee, in pixels of the image."""
        return [knee.landmarks_px for knee in self.detector.find(self.radiograph(pixels))[0]]


def modules_of(source: Path, *names: str) -> list[ModuleType]:
    """Modules of another checkout, beside those of the same names that are already imported."""
    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "kneegrade"}
    for name in own:
        del sys.modules[name]
    sys.path.insert(0, str(source.resolve()))
    modules = [importlib.import_module(name) for name in names]
    sys.path.pop(0)
    if not Path(modules[0].__file__ or "").is_relative_to(source.resolve()):
        raise SystemExit(f"{source} has no package kneegrade; --against takes the src folder of a checkout.")
    for name in [name for name in sys.modules if name.split(".")[0] == "kneegrade"]:
        del sys.modules[name]
    sys.modules.update(own)
    return modules


def timed(finders: dict[str, Finder], images: list[np.ndarray], clock) -> dict[str, float]:
    """Median milliseconds of each detector, the detectors taking turns, and what they found."""
    spent, number, distances = {name: [] for name in finders}, dict.fromkeys(finders, 0), []
    for count, pixels in enumerate((images[0], *images)):
        knees = {}
        for name in list(finders)[:: 1 if count % 2 else -1]:
            start = clock()
            knees[name] = finders[name].knees(pixels)
            spent[name].append(1000 * (clock() - start))
        if count:
            number = {name: number[name] + len(found) for name, found in knees.items()}
            if len(knees) == 2 and len(knees["here"]) == len(knees["there"]):
                pairs = zip(knees["here"], knees["there"], strict=True)
                distances += [np.linalg.norm(a - b, axis=1).max() / np.linalg.norm(b[63] - b[47]) for a, b in pairs]
    result = {"images": len(images)}
    for name, values in spent.items():
        result |= {f"ms_{name}": round(float(np.median(values[1:])), 1), f"knees_{name}": number[name]}
    if len(finders) == 2:
        ratios = np.array(spent["here"][1:]) / np.array(spent["there"][1:])
        result["ratio"] = round(float(np.median(ratios)), 3)
        result["largest_change_of_a_landmark_percent_p95"] = round(100 * float(np.quantile(distances, 0.95)), 3)
    return result


def real_images(folder: Path, number: int) -> list[np.ndarray]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".dcm"))
    return [read_radiograph(path).pixels for path in random.Random(0).sample(paths, min(number, len(paths)))]


def phantom_images() -> dict[str, list[np.ndarray]]:
    films = [render_film(31, i, FilmOptions("bilateral", longest_px=600)).pixels for i in range(10)]
    rois = render_rois([sample_knee(31, i) for i in range(60)], 320)[0]
    return {
        "film": [np.array(Image.fromarray(film).resize((2500, 2000))) for film in films],
        "one_knee": [np.ascontiguousarray(roi.numpy()) for roi in rois],
    }


def crops_per_second(detector: LandmarkDetector, rois: list[np.ndarray]) -> float:
    batches = torch.from_numpy(np.stack(rois)).unsqueeze(1).split(20)
    start = time.perf_counter()
    for batch in (batches[0], *batches):
        points = fine_points(detector, batch)
    assert points.shape == (20, 74, 2)
    return round(20 * (1 + len(batches)) / (time.perf_counter() - start), 1)


@torch.inference_mode()
def fine_points(detector: LandmarkDetector, crops: torch.Tensor) -> torch.Tensor:
    """(B, 74, 2) landmarks in pixels of the fine network's input, from level crops (B, 1, 320, 320)."""
    squares = functional.interpolate(crops, FINE.size_px, mode="bilinear", antialias=True)
    maps, score = detector.fine(squares.to(detector.device, memory_format=torch.channels_last))
    return read_points(maps, score).points_px


if __name__ == "__main__":
    main()
