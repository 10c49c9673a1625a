"""How fast the shipped detector is: seconds per bilateral film of 2500 × 2000 pixels, single knees of 320 px a second.

    python benchmarks/landmark_speed.py [--threads 2] [--device cpu]

Pixels in memory to landmarks, medians of ten films and of sixty knees; prints JSON. The films are coarse phantoms
brought to size.
"""

import argparse
import json
import time

import numpy as np
import torch
from PIL import Image

from kneegrade.anatomy import LandmarkDetector
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
    films = [np.asarray(Image.fromarray(film).resize((2500, 2000))) for film in films]
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
    result["rois_per_second"] = round(1 / result["roi_seconds"], 1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
