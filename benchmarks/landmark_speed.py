"""How fast the shipped detector is: films of 2500 × 2000 pixels, pictures of single knees, batches of level regions.

    python benchmarks/landmark_speed.py [--threads 2] [--device cpu]

Pixels in memory to landmarks: seconds per bilateral film (median of ten, coarse phantoms brought to size) and per
picture of one knee of 320 px (median of sixty), all of finding, both locators and sides; and level regions of 320 px a
second through the fine locator alone, in batches of 20. Prints JSON.
"""

import argparse
import json
import time

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.landmark_networks import FINE, read_points
from kneegrade.imaging import Radiograph
from kneegrade.phantom import FilmOptions, render_film, render_rois, sample_knee


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = LandmarkDetector(device=arguments.device)
    films = [render_film(31, i, FilmOptions("bilateral", longest_px=600)).pixels for i in range(10)]
    films = [np.array(Image.fromarray(film).resize((2500, 2000))) for film in films]
    rois = [np.ascontiguousarray(roi.numpy()) for roi in render_rois([sample_knee(31, i) for i in range(60)], 320)[0]]
    result = {"threads": arguments.threads}
    for name, pictures in (("film_seconds", films), ("roi_seconds", rois)):
        seconds, knees = [], 0
        for pixels in (pictures[0], *pictures):
            start = time.perf_counter()
            found, _ = detector.find(Radiograph(pixels))
            seconds.append(time.perf_counter() - start)
            knees += len(found)
        result[name] = round(float(np.median(seconds[1:])), 3)
        result[name.replace("seconds", "knees_found")] = knees
    batches = torch.from_numpy(np.stack(rois)).unsqueeze(1).split(20)
    start = time.perf_counter()
    for batch in (batches[0], *batches):
        located = fine_points(detector, batch)
    result["regions_per_second_fine_locator"] = round(20 * (1 + len(batches)) / (time.perf_counter() - start), 1)
    assert located.shape == (20, 74, 2)
    print(json.dumps(result, indent=1))


@torch.inference_mode()
def fine_points(detector: LandmarkDetector, regions: torch.Tensor) -> torch.Tensor:
    """(B, 74, 2) in pixels of what the locator saw, from level regions (B, 1, 320, 320)."""
    squares = functional.interpolate(regions, FINE.size_px, mode="bilinear", antialias=True)
    maps, score = detector.fine(squares.to(detector.device, memory_format=torch.channels_last))
    return read_points(maps, score).points_px


if __name__ == "__main__":
    main()
