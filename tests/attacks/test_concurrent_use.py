"""Promise 10: concurrent use gives right results or is refused with a sentence; results are never mixed."""

import csv
import json
import random
import re
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attack_tools import SEED, say, tries
from typer.testing import CliRunner

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.commands import app
from kneegrade.files import locked_output
from kneegrade.grader import Grader
from kneegrade.reporting import to_dict

if sys.platform == "win32":
    pytest.skip("needs fork and POSIX locks", allow_module_level=True)

EXAMPLES = Path(__file__).parents[2] / "examples"
FILMS = [EXAMPLES / "bilateral.dcm", EXAMPLES / "single_right.dcm"]
KNEES = {"bilateral.dcm": 2, "single_right.dcm": 1}
REFUSED = re.compile(
    r"kneegrade: (Another run is writing |out\d+ was begun with )"
)  # `batch` takes no other films later
THREADS = 8


def report_of(grader: Grader, film: Path) -> str:
    """The report as text, without its time."""
    return json.dumps(list(to_dict(grader.grade(film))["radiographs"]), sort_keys=True)


def mixed(reports: list[tuple[Path, str]], expected: dict[Path, str]) -> int:
    """Number of reports that are not those of their film."""
    return sum(report != expected[film] for film, report in reports)


def test_one_grader_from_many_threads_gives_each_film_its_report() -> None:
    grader = Grader("cpu")
    expected = {film: report_of(grader, film) for film in FILMS}
    films = [FILMS[number % 2] for number in range(tries(200, 8))]
    with ThreadPoolExecutor(THREADS) as pool:
        reports = list(zip(films, pool.map(lambda film: report_of(grader, film), films), strict=True))
    say(10, f"{len(films)} films from {THREADS} threads: {mixed(reports, expected)} other reports than one by one")
    assert mixed(reports, expected) == 0
    first, second = reports[:2]
    assert mixed([(first[0], second[1]), (second[0], first[1])], expected) == 2  # exchanged reports would be seen


FORK = """
    import json, os, sys
    from kneegrade.grader import Grader
    from kneegrade.reporting import to_dict
    grader = Grader("cpu")
    def graded():
        return json.dumps(to_dict(grader.grade(sys.argv[1]))["radiographs"])
    before = graded()
    same = 0
    for _ in range(int(sys.argv[2])):
        pid = os.fork()
        now = graded()  # parent and child at the same time
        if not pid:
            os._exit(0 if now == before else 1)
        same += os.waitpid(pid, 0)[1] == 0 and now == before
    print(same)
"""


@pytest.mark.slow
def test_a_fork_after_use_grades_in_both_processes(tmp_path: Path) -> None:
    forks = tries(20, 1)
    command = [sys.executable, "-c", textwrap.dedent(FORK), str(FILMS[1]), str(forks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    say(10, f"{forks} forks of a process that has graded: {done.stdout.strip()} with equal reports in both")
    assert done.stdout.strip() == str(forks)


def started(command: str, film: Path, output: Path) -> "subprocess.Popen[str]":
    more = {"batch": ["--workers", "1"], "share": ["--secret", str(output.parent / "secret")]}.get(command, [])
    return subprocess.Popen(
        [sys.executable, "-m", "kneegrade", command, str(film), "-o", str(output), "-q", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def knees_of(command: str, output: Path) -> list[int]:
    """Number of knees that each result in the folder tells; they must agree."""
    if command == "landmarks":
        points = [re.search(r"n_points: *(\d+)", path.read_text()) for path in output.glob("*.pts")]
        return [sum(int(found[1]) for found in points if found) // NUM_LANDMARKS]
    if command == "batch":
        import pyarrow.parquet as pq

        films = pq.read_table(output / "films").to_pylist()
        return [pq.read_table(output / "knees").num_rows, sum(KNEES[row["source"]] for row in films)]
    report = [len(film["knees"]) for film in json.loads((output / "report.json").read_text())["radiographs"]]
    rows = csv.DictReader((output / "grades.csv").read_text("utf-8-sig").splitlines())
    found = [sum(report), len(list(rows))]
    if command == "grade":
        page = (output / "report.html").read_text()
        return [*found, sum(knees for name, knees in KNEES.items() if name in page)]
    films = len(list((output / "films").iterdir()))
    return [*found, found[0] if films == len(list((output / "fhir").iterdir())) == 1 else -films]


def test_mixed_results_would_be_seen(tmp_path: Path) -> None:
    for film, name in zip(FILMS, ("one", "other"), strict=True):
        done = CliRunner().invoke(app, ["grade", str(film), "-o", str(tmp_path / name), "-q"])
        assert done.exit_code == 0
        assert {*knees_of("grade", tmp_path / name)} == {KNEES[film.name]}
    (tmp_path / "other" / "grades.csv").replace(tmp_path / "one" / "grades.csv")
    assert {*knees_of("grade", tmp_path / "one")} == {1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["grade", "batch", "landmarks", "share"])
def test_two_processes_do_not_mix_their_files_in_one_folder(command: str, tmp_path: Path) -> None:
    dice, refused, one_after_other, seconds, runs = random.Random(SEED), 0, 0, 0.0, tries(20, 1)
    for number in range(runs):
        output, begin = tmp_path / f"out{number}", time.monotonic()
        films = FILMS if number % 2 else FILMS[::-1]
        first = started(command, films[0], output)
        time.sleep(dice.random() * seconds)  # nothing before the first pair has shown how long a run takes
        second = started(command, films[1], output)
        done = {}
        for process, film in ((first, films[0]), (second, films[1])):
            _, said = process.communicate(timeout=600)
            assert process.returncode in (0, 2), said
            assert process.returncode == 0 or REFUSED.match(said), said
            done[film.name] = process.returncode == 0
        seconds = (time.monotonic() - begin) / 2
        refused += 2 - sum(done.values())
        one_after_other += all(done.values())
        if not all(done.values()):
            (winner,) = (name for name, wrote in done.items() if wrote)
            assert {*knees_of(command, output)} == {KNEES[winner]}
        assert not [path for path in output.rglob(".*") if path.name != ".lock"]
    say(10, f"{runs} pairs of `kneegrade {command}` into one folder: {refused} runs refused, {one_after_other} pairs "
        "one after the other, none mixed")  # fmt: skip
    assert refused


def test_a_locked_folder_is_refused_and_usable_after_a_kill(tmp_path: Path) -> None:
    hold = "import sys, time, pathlib; from kneegrade.files import locked_output\n" \
           "with locked_output(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        for command in ("grade", "landmarks"):
            refused = CliRunner().invoke(app, [command, str(FILMS[1]), "-o", str(tmp_path)])
            assert (refused.exit_code, "Another run is writing to" in refused.stderr) == (2, True)
        holder.kill()
    assert list(tmp_path.iterdir()) == []
    with locked_output(tmp_path):
        pass
