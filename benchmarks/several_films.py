"""How often films get a warning that the picture shows several films, and what the search for them costs.

    python benchmarks/several_films.py FOLDER

Prints JSON: number of films, films with each warning, and the share of the detector's CPU time that the search of the
whole picture in tiles takes. Films of one or two knees should have neither.
"""

import json
import sys
import time

import torch

from kneegrade.anatomy import LandmarkDetector
from kneegrade.errors import KneeGradeError
from kneegrade.imaging import find_sources, read_radiograph


def main(folder: str) -> None:
    torch.set_num_threads(1)
    detector = LandmarkDetector()
    read_candidates = detector._read_candidates
    counts = {"films": 0, "more_knees": 0, "knees_stacked": 0, "searched_in_tiles": 0}
    seconds = {"all": 0.0, "tiles": 0.0}

    def timed(pixels, limit, *, in_tiles=False):
        start = time.process_time()
        found = read_candidates(pixels, limit, in_tiles=in_tiles)
        if in_tiles:
            counts["searched_in_tiles"] += 1
            seconds["tiles"] += time.process_time() - start
        return found

    detector._read_candidates = timed  # type: ignore[method-assign]
    for source in find_sources([folder]):
        try:
            film = read_radiograph(source)
        except KneeGradeError:
            continue
        start = time.process_time()
        _, warnings = detector.find(film)
        seconds["all"] += time.process_time() - start
        counts["films"] += 1
        for warning in warnings:
            if warning.code in counts:
                counts[warning.code] += 1
    print(json.dumps(counts | {"share_of_time": round(seconds["tiles"] / seconds["all"], 4)}))


if __name__ == "__main__":
    main(sys.argv[1])
