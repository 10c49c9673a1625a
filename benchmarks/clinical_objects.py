"""CPU time and size of the DICOM and FHIR objects of a film, beside those of grading it.

    python benchmarks/clinical_objects.py examples/bilateral.dcm [FILM ...] [--rounds 5]

For each film: median CPU time over the rounds of grading, of all objects together (which includes reading the header
in the decoding process), and of each format; and the sizes. The first round, which imports highdicom, is printed apart.
"""

import argparse
import datetime
from pathlib import Path

import numpy as np
import torch
from cpu_clock import cpu_seconds

from kneegrade import Grader
from kneegrade.clinical import OBJECT_FORMATS, Job, film_objects, read_clinical_film
from kneegrade.imaging import Radiograph, Source
from kneegrade.results import GradedRadiograph

WHEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    grader = Grader(device="cpu")
    for path in options.films:
        rounds = [seconds_of(grader, path) for _ in range(options.rounds + 1)]
        sizes, first = sizes_of(grader, path), rounds[0]
        median = {name: float(np.median([one[name] for one in rounds[1:]])) for name in first}
        print(f"{path.name}: first round {first['objects']:.2f} s for all objects")
        for name, seconds in median.items():
            size = f"  {sizes[name] / 1e6:.2f} MB" if name in sizes else ""
            print(f"  {name:9s} {seconds:.3f} s{size}")


def seconds_of(grader: Grader, path: Path) -> dict[str, float]:
    """CPU seconds, with those of the decoding process, of grading, of all objects, and of each format alone."""
    start = cpu_seconds()
    film, radiograph = graded(grader, path)
    seconds = {"grading": cpu_seconds() - start}
    job = Job.of(grader, WHEN)
    start = cpu_seconds()
    film_objects(film, path, job, OBJECT_FORMATS, radiograph)
    seconds["objects"] = cpu_seconds() - start
    start = cpu_seconds()
    clinical_film = read_clinical_film(film, path, job, radiograph)
    seconds["header"] = cpu_seconds() - start
    for name, one in OBJECT_FORMATS.items():
        start = cpu_seconds()
        one.content(clinical_film)
        seconds[name] = cpu_seconds() - start
    return seconds


def graded(grader: Grader, path: Path) -> tuple[GradedRadiograph, Radiograph | None]:
    """The results of a film and its pixels."""
    films = list[tuple[GradedRadiograph, Radiograph | None]]()

    def keep(source: Source, film: GradedRadiograph, radiograph: Radiograph | None) -> GradedRadiograph:
        films.append((film, radiograph))
        return film

    grader.grade_sources([Source(path.name, path)], derive=keep)
    return films[0]


def sizes_of(grader: Grader, path: Path) -> dict[str, int]:
    """Bytes of each object and of all together."""
    film, radiograph = graded(grader, path)
    contents, reasons = film_objects(film, path, Job.of(grader, WHEN), OBJECT_FORMATS, radiograph)
    if reasons:
        raise SystemExit(f"{path.name}: {reasons[0].message}")
    sizes = {name: len(content) for name, content in contents.items()}
    return {**sizes, "objects": sum(sizes.values())}


if __name__ == "__main__":
    main()
