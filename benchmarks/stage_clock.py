"""CPU time of each stage from film to rows on one thread, for `throughput.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cpu_clock import Clock, cpu_seconds

from kneegrade import grader as stage_module
from kneegrade.batch.film_task import log_row, rows_of
from kneegrade.batch.plan import PlannedFilm
from kneegrade.batch.result_parts import PartWriter
from kneegrade.batch.rows import FilmRows
from kneegrade.batch.shard import Shard
from kneegrade.imaging import file_reader
from kneegrade.imaging.decoding_process import decoding_process

OUTSIDE = ("normalise", "measure", "write", "other")  # neither decoding nor networks
WARM_UP = 5  # films that start the decoding process and what libraries set up at their first call


def stage_times(films: Sequence[PlannedFilm], output: Path) -> dict[str, Any]:
    """Mean CPU milliseconds a film of each stage, and sums: medians and means over the films.

    Args:
        films: to grade.
        output: folder for the tables.
    """
    clock = Clock(cpu_seconds)
    grade = clock.timed("other", timed_grader(clock).grade_film)
    writer, one_film = PartWriter(output, Shard()), []

    def write(film: PlannedFilm, graded: Any) -> int:
        rows = rows_of(film, graded)
        writer.add(FilmRows(rows.film, rows.knees, log_row(rows.film, 0.0, None)))
        return len(rows.knees)

    for film in films[:WARM_UP]:
        grade(film.source)
    clock.spent.clear()
    knees = 0
    for film in films:
        before = sum(clock.spent.values()) - clock.spent["decode"]
        knees += clock.timed("write", write)(film, grade(film.source))
        one_film.append(1000 * (sum(clock.spent.values()) - clock.spent["decode"] - before))
    clock.timed("write", writer.flush)()
    times = {name: round(1000 * value / len(films), 2) for name, value in sorted(clock.spent.items())}
    return {
        "films": len(films), "knees": knees, "cpu_ms_per_film": times,
        "outside_decoding_and_networks": round(sum(times[name] for name in OUTSIDE), 2),
        "all_but_decoding_median": round(float(np.median(one_film)), 1),
        "all_but_decoding_longest": round(max(one_film), 1),
    }  # fmt: skip


def timed_grader(clock: Clock) -> stage_module.Grader:
    """A grader on one thread, whose stages are timed.

    "decode" is the decoding process and the transfer of its pixels, "normalise" what is done to their grey levels.
    """
    grader = stage_module.Grader("cpu")
    clock.watch(decoding_process(), "decode", "decode")
    clock.watch(file_reader, "normalised_image", "normalise")
    clock.watch(stage_module, "measure", "measure")
    for stage, networks in (
        ("find", [grader.detector.knee_localizer]),
        ("locate", [grader.detector.coarse, grader.detector.fine]),
        ("markers", [grader.detector.marker_reader.locator, grader.detector.marker_reader.classifier]),
        ("grade", [grader.network]),
        ("control", [grader.quality_control.implant_network]),
    ):
        for network in networks:
            for name in ("forward", "encode", "decode", "attribute"):
                if hasattr(network, name):
                    clock.watch(network, name, stage)
    return grader
