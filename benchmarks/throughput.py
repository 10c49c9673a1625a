"""What `kneegrade batch` reaches on this computer: speed, time by stage, sharing, memory, kills, identical rows.

    python benchmarks/throughput.py FOLDER [--parts stages,speed,sharing,memory,kills,identity] [--number 826]
    python benchmarks/throughput.py FOLDER_OF_BILATERAL_FILMS --parts large

FOLDER has films, for example the validation crops of Chen 2018. Prints JSON lines, one per part. Speed is that between
the first and the last film of a run, without the start of the workers. `stages` and `large` run on one thread; their
CPU time is that of the worker and of its decoding process. `kills` ends a run 20 times with SIGKILL, at random moments
of its first half minute, and resumes it. Every part starts anew: give one part per call to run them at different times.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from stage_clock import stage_times

from kneegrade.batch import BatchOptions, RunSettings, read_table, run_batch
from kneegrade.batch.plan import plan_films
from kneegrade.imaging import read_radiograph

PARTS = ("stages", "large", "speed", "sharing", "memory", "kills", "identity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated; default: all")
    parser.add_argument("--number", type=int, default=826, help="number of films for stages, speed, sharing, identity")
    parser.add_argument("--large-films", type=int, default=10, help="number of films for large")
    parser.add_argument("--memory-films", type=int, default=5100, help="number of films for memory")
    parser.add_argument("--kill-films", type=int, default=2000, help="number of films for kills")
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--kill-before", type=float, default=30, help="latest moment of a kill, in seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--option", action="append", default=[], help="option of `kneegrade batch`; may be repeated")
    options = parser.parse_args()
    if options.option and {*options.parts.split(",")} & {"stages", "large", "memory"}:
        parser.error("stages, large and memory grade in this process and take no --option")
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts.split(","):
            work = Path(folder) / part
            work.mkdir()
            print(json.dumps({part: MEASURES[part](options, work)}), flush=True)


def choose(options: argparse.Namespace, number: int, target: Path) -> Path:
    """A folder of links to `number` films, chosen at random (seed 0); if there are fewer, they are repeated."""
    films = [film for film in plan_films([str(options.folder)]).films if film.source.path is not None]
    order = np.random.default_rng(0).permutation(len(films))
    target.mkdir()
    for i in range(number):
        path = films[order[i % len(films)]].source.path
        (target / f"{i:06d}{path.suffix}").symlink_to(path.resolve())
    return target


def command(options: argparse.Namespace, films: Path, output: Path, *extra: str) -> list[str]:
    call = [sys.executable, "-m", "kneegrade", "batch", str(films), "-o", str(output), "--log-format", "json", "-q"]
    return [*call, *options.option, *extra]


def run_completely(options: argparse.Namespace, films: Path, output: Path, *extra: str) -> None:
    """Run `kneegrade batch` to its end.

    Raises:
        RuntimeError: it ended otherwise than after all films (0, or 1: some have no grades).
    """
    code = subprocess.run(command(options, films, output, *extra), check=False).returncode
    if code not in (0, 1):
        raise RuntimeError(f"kneegrade batch ended with exit code {code}")


def films_per_second(output: Path) -> float:
    finished = np.sort(read_table(output, "log", ["finished"])["finished"].to_numpy())
    return (len(finished) - 1) / float((finished[-1] - finished[0]) / np.timedelta64(1, "s"))


def speed(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    films, start = choose(options, options.number, work / "in"), time.monotonic()
    run_completely(options, films, work / "out", "--workers", str(options.workers))
    seconds = time.monotonic() - start
    log = read_table(work / "out", "log").to_pandas()
    return {
        "films": len(log), "workers": options.workers, "films_per_second": round(films_per_second(work / "out"), 2),
        "seconds_of_the_whole_command": round(seconds, 1),
        "cpu_ms_per_film_median": round(1000 * float(log["cpu_seconds"].median()), 1),
        "load_before": os.getloadavg()[0],
    }  # fmt: skip


def sharing(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    films = choose(options, options.number, work / "in")
    run_completely(options, films, work / "one", "--workers", "2")
    runs = [subprocess.Popen(command(options, films, work / name, "--workers", "1")) for name in ("left", "right")]
    for run in runs:
        run.wait()
    alone = films_per_second(work / "one")
    shares = [round(films_per_second(work / name) / alone, 3) for name in ("left", "right")]
    return {"films": options.number, "films_per_second_two_workers": round(alone, 2), "shares_side_by_side": shares}


def stages(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    return stage_times(plan_films([str(choose(options, options.number, work / "in"))]).films, work / "out")


def large(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Time of the stages of films enlarged to 10 megapixels; two knees a film if FOLDER has bilateral films."""
    return stage_times(plan_films([str(enlarged_films(options, work / "in"))]).films, work / "out")


def enlarged_films(options: argparse.Namespace, target: Path) -> Path:
    """PNG files of 10 megapixels, with a little noise, as real films of this size have."""
    base, rng = choose(options, options.large_films, target.with_name("base")), np.random.default_rng(2)
    target.mkdir()
    for path in sorted(base.iterdir()):
        picture = picture_of(path)
        scale = float(np.sqrt(1e7 / (picture.width * picture.height)))
        grey = np.asarray(picture.resize((round(scale * picture.width), round(scale * picture.height))))
        noisy = np.clip(grey + rng.normal(0, 2, grey.shape), 0, 255).round().astype(np.uint8)
        Image.fromarray(noisy).save(target / f"{path.stem}.png", compress_level=1)
    return target


def picture_of(path: Path) -> Image.Image:
    """The film as an 8-bit picture."""
    return Image.fromarray((255 * read_radiograph(path).pixels).round().astype(np.uint8))


def memory(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Memory of parent and of a worker in MB, medians of films 450 to 550 and 4,950 to 5,050, or of the last hundred.

    The films have 0.3 to 10 megapixels.
    """
    films = sized_films(options, work / "in", options.memory_films)
    seen: list[tuple[float, float]] = []

    def look(progress: Any) -> None:
        if progress.done > len(seen):
            children = [pid for pid in descendants(os.getpid()) if is_worker(pid)]
            seen.append((resident_mb(os.getpid()), sum(map(resident_mb, children)) / options.workers))

    settings = BatchOptions(settings=RunSettings(device="cpu"), workers=options.workers, pictures=0)
    run_batch([str(films)], work / "out", settings, on_progress=look)
    values = np.array(seen)
    last = min(5000, len(values) - 50)
    early, late = (np.median(values[at - 50 : at + 50], axis=0).round(1) for at in (min(500, last // 2), last))
    return {
        "films": len(values), "parent_mb": [early[0], late[0]], "worker_mb": [early[1], late[1]],
        "growth_mb": round(float((late - early).max()), 1), "workers": options.workers,
    }  # fmt: skip


def sized_films(options: argparse.Namespace, target: Path, number: int) -> Path:
    """Links to films of 20 sizes."""
    base = choose(options, 20, target.with_name("base"))
    target.mkdir()
    paths = []
    for i, path in enumerate(sorted(base.iterdir())):
        megapixels = np.geomspace(0.3, 10, 20)[i]
        side = round(1000 * float(np.sqrt(megapixels)))
        paths.append(target.with_name(f"size{i}.jpg"))
        picture_of(path).resize((side, side)).save(paths[-1])
    order = np.random.default_rng(1).integers(0, 20, number)
    for i, which in enumerate(order):
        (target / f"{i:06d}.jpg").symlink_to(paths[which])
    return target


def descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    for child in map(int, children):
        found += [child, *descendants(child)]
    return found


def is_worker(pid: int) -> bool:
    try:
        return b"kneegrade.batch.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def kills(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    films, output, moments = choose(options, options.kill_films, work / "in"), work / "out", random.Random(0)
    workers = ("--workers", str(options.workers))
    call = command(options, films, output, *workers)
    finished, while_running = [], 0
    for _ in range(options.kills):
        run = subprocess.Popen(call)
        time.sleep(moments.uniform(5, options.kill_before))
        while_running += run.poll() is None
        everything = [run.pid, *descendants(run.pid)]
        for pid in everything:
            with_no_error(lambda pid=pid: os.kill(pid, signal.SIGKILL))
        run.wait()
        finished.append(read_table(output, "films", ["source"]).num_rows)
    run_completely(options, films, output, *workers)
    rows = {table: Counter(read_table(output, table, ["source"])["source"].to_pylist()) for table in ("films", "log")}
    knees = Counter(knee_keys(output))
    return {
        "films": options.kill_films, "kills": options.kills, "kills_while_running": while_running,
        "film_rows": sum(rows["films"].values()),
        "films_twice": sum(count > 1 for count in rows["films"].values()),
        "films_finished_after_each_kill": finished,
        "knees": len(knees), "knees_twice": sum(count > 1 for count in knees.values()),
        "knees_without_film": len({source for source, _ in knees} - set(rows["films"])),
    }  # fmt: skip


def knee_keys(output: Path) -> Iterator[tuple[str, int]]:
    """Film and number of each row in the files of `knees`, as a program that knows nothing of the films reads them."""
    for path in (output / "knees").glob("*.parquet"):
        columns = pq.read_table(path, columns=["source", "knee"])
        yield from zip(columns["source"].to_pylist(), columns["knee"].to_pylist(), strict=True)


def with_no_error(action: Callable[[], None]) -> None:
    try:
        action()
    except ProcessLookupError:
        return


def identity(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    films = choose(options, options.number, work / "in")
    runs: dict[str, list[list[str]]] = {f"{n} workers": [["--workers", str(n)]] for n in (1, 2, 4)}
    runs["3 shards"] = [["--workers", "1", "--shard", f"{i}/3"] for i in (1, 2, 3)]
    runs["ray"] = [["--workers", "2", "--engine", "ray"]]
    expected, same = None, {}
    for name, calls in runs.items():
        output = work / name.replace(" ", "-")
        for extra in calls:
            run_completely(options, films, output, *extra)
        tables = [sorted_table(output, table) for table in ("knees", "films")]
        expected = expected or tables
        same[name] = tables[1].num_rows == options.number and all(
            one.equals(other) for one, other in zip(tables, expected, strict=True)
        )
        shutil.rmtree(output)
    return {"films": options.number, "rows": [table.num_rows for table in expected or []], "identical_rows": same}


def sorted_table(output: Path, table: str) -> Any:
    rows = read_table(output, table)
    return rows.sort_by([(key, "ascending") for key in ("source", "sha256", "knee") if key in rows.column_names])


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "stages": stages, "large": large, "speed": speed, "sharing": sharing, "memory": memory, "kills": kills,
    "identity": identity,
}  # fmt: skip

if __name__ == "__main__":
    main()
