"""Seconds per film from file to report: reading, detection, grading and writing of all outputs.

    kneegrade phantom --number 10 -o /tmp/films && python benchmarks/film_speed.py /tmp/films [--threads 2]

The networks are loaded before. Each film is a call of its own. Prints, as JSON, the median and the longest time per
film, and the number of knees.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from kneegrade import Grader
from kneegrade.reporting import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of DICOM films")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    grader, films = Grader("cpu", threads=options.threads), sorted(options.folder.rglob("*.dcm"))
    if not films:
        parser.error(f"No DICOM film (*.dcm) was found in {options.folder}.")
    grader.grade(films[0])
    seconds, knees = [], 0
    for film in films:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            report = grader.grade(film)
            write_report(report, Path(folder))
        seconds.append(time.perf_counter() - start)
        knees += sum(len(r.knees) for r in report.radiographs)
    result = {"films": len(films), "knees": knees, "median_s": np.median(seconds), "longest_s": np.max(seconds)}
    print(json.dumps({key: round(float(value), 2) for key, value in result.items()}))


if __name__ == "__main__":
    main()
