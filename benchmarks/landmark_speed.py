"""Speed of the shipped landmark detector on films, on single-knee images and on batches of level crops.

    python benchmarks/landmark_speed.py [--threads 2] [--device cpu]

Prints JSON. From pixels in memory to landmarks (knee localizer, both landmark networks, laterality): seconds per
bilateral film of 2500 × 2000 pixels (median of ten coarse phantoms, resized), and seconds per image of one knee of 320
px (median of sixty). Level crops of 320 px per second through the fine landmark network alone, in batches of 20.
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
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = LandmarkDetector(device=arguments.device)
    films = [render_film(31, i, FilmOptions("bilateral", longest_px=600)).pixels for i in range(10)]
    films = [np.array(Image.fromarray(film).resize((2500, 2000))) for film in films]
    rois = [np.ascontiguousarray(roi.numpy()) for roi in render_rois([sample_knee(31, i) for i in range(60)], 320)[0]]
    result = {"threads": arguments.threads}
    for name, images in (("film_seconds", films), ("roi_seconds", rois)):
        seconds, knees = [], 0
        for pixels in (images[0], *images):
            start = time.perf_counter()
            found, _ = detector.find(Radiograph(pixels))
            seconds.append(time.perf_counter() - start)
            knees += len(found)
        result[name] = round(float(np.median(seconds[1:])), 3)
        result[name.replace("seconds", "knees_found")] = knees
    batches = torch.from_numpy(np.stack(rois)).unsqueeze(1).split(20)
    start = time.perf_counter()
    for batch in (batches[0], *batches):
        points = fine_points(detector, batch)
    result["crops_per_second_fine_network"] = round(20 * (1 + len(batches)) / (time.perf_counter() - start), 1)
    assert points.shape == (20, 74, 2)
    print(json.dumps(result, indent=1))


@torch.inference_mode()
def fine_points(detector: LandmarkDetector, crops: torch.Tensor) -> torch.Tensor:
    """(B, 74, 2) landmarks in pixels of the fine network's input, from level crops (B, 1, 320, 320)."""
    squares = functional.interpolate(crops, FINE.size_px, mode="bilinear", antialias=True)
    maps, score = detector.fine(squares.to(detector.device, memory_format=torch.channels_last))
    return read_points(maps, score).points_px


if __name__ == "__main__":
    main()
