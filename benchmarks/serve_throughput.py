"""Films per second of `kneegrade serve` and of `kneegrade batch`, with one worker each, on the same films.

    python benchmarks/serve_throughput.py FILMS [--number 100]

FILMS is a folder of DICOM films; each is used under other bytes as often as needed. The service gets all films before
the time counts, and the time ends when the last one is graded. `batch` is timed by its own log, without its start.
Results of the two are compared. Measure on an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from kneegrade.server.settings import load_settings
from kneegrade.server.spool.film_spool import Spool

SETTINGS = """
log_level = "warning"
[spool]
directory = "spool"
least_free_gib = 0
[node]
port = 0
[results]
objects = [{objects}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--objects", action="store_true", help="write SR, GSPS, SC and FHIR on both sides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies = copied(options.films, folder / "films", options.number)
        by_batch = batch_rate(folder, options.objects, options.number)
        by_serve = serve_rate(folder, copies, options.objects)
    print(json.dumps({
        "films": options.number, "objects": options.objects, "batch_films_per_second": round(by_batch, 3),
        "serve_films_per_second": round(by_serve, 3), "serve_over_batch": round(by_serve / by_batch, 3),
    }))  # fmt: skip


def copied(source: Path, folder: Path, number: int) -> list[Path]:
    folder.mkdir()
    films = sorted(source.rglob("*.dcm"))
    copies = []
    for index in range(number):
        copies.append(folder / f"{index:06}.dcm")
        copies[-1].write_bytes(films[index % len(films)].read_bytes() + b"\0" * (2 * (index // len(films))))
    return copies


def batch_rate(folder: Path, objects: bool, number: int) -> float:
    wanted = ["--format", "sr,gsps,sc,fhir"] if objects else []
    subprocess.run(
        [sys.executable, "-m", "kneegrade", "batch", str(folder / "films"), "-o", str(folder / "batch"), "--workers",
         "1", "--quiet", *wanted], check=False,
    )  # fmt: skip
    finished = pq.read_table(folder / "batch" / "log")["finished"].to_pylist()
    return (number - 1) / (max(finished) - min(finished)).total_seconds()


def serve_rate(folder: Path, films: list[Path], objects: bool) -> float:
    names = '"sr", "gsps", "sc", "fhir"' if objects else ""
    (folder / "serve.toml").write_text(SETTINGS.format(objects=names), encoding="utf-8")
    spool = Spool(load_settings(folder / "serve.toml").spool.directory, min_free_bytes=0)
    for film in films:
        stream, path = spool.temporary_file()
        with stream:
            stream.write(film.read_bytes())
        spool.accept(path, kind="dicom", sop_instance_uid=None, sender="benchmark")
    command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(folder / "serve.toml")]
    with subprocess.Popen(command, env=dict(os.environ)) as process:
        while (counts := spool.counts()["films"])["received"] + counts["working"]:
            time.sleep(0.2)
        process.terminate()
    assert spool.counts()["films"]["dead"] == 0
    finished = [film.finished or 0.0 for film in spool.films(limit=len(films))]
    return (len(finished) - 1) / (max(finished) - min(finished))


if __name__ == "__main__":
    main()
