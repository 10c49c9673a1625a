"""Promise 10: concurrent use gives right results or is refused with a sentence; results are never mixed."""

import csv
import json
import random
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attack_tools import SEED, say, tries
from typer.testing import CliRunner

from kneegrade.commands import app
from kneegrade.files import locked_output
from kneegrade.grader import Grader
from kneegrade.reporting import to_dict

if sys.platform == "win32":
    pytest.skip("needs fork and POSIX locks", allow_module_level=True)

EXAMPLES = Path(__file__).parents[2] / "examples"
FILMS = [EXAMPLES / "bilateral.dcm", EXAMPLES / "single_right.dcm"]
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
    films = [FILMS[number % 2] for number in range(tries(80, 8))]
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
    forks = tries(10, 1)
    command = [sys.executable, "-c", textwrap.dedent(FORK), str(FILMS[1]), str(forks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    say(10, f"{forks} forks of a process that has graded: {done.stdout.strip()} with equal reports in both")
    assert done.stdout.strip() == str(forks)


def started(command: str, film: Path, output: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kneegrade", command, str(film), "-o", str(output), "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def sources_of(output: Path) -> list[set[str]]:
    """The films of report.json, of grades.csv and of report.html."""
    report = {film["source"] for film in json.loads((output / "report.json").read_text())["radiographs"]}
    rows = csv.DictReader((output / "grades.csv").read_text("utf-8-sig").splitlines())
    page = (output / "report.html").read_text()
    return [report, {row["source"] for row in rows}, {film.name for film in FILMS if film.name in page}]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["grade", "landmarks"])
def test_two_processes_do_not_mix_their_files_in_one_folder(command: str, tmp_path: Path) -> None:
    dice, refused, runs = random.Random(SEED), 0, tries(10, 1)
    for number in range(runs):
        output = tmp_path / f"out{number}"
        first = started(command, FILMS[0], output)
        time.sleep(dice.random() * 3 * (number > 0))
        second = started(command, FILMS[1], output)
        for process, film in ((first, FILMS[0]), (second, FILMS[1])):
            _, said = process.communicate(timeout=300)
            assert process.returncode in (0, 2), said
            if process.returncode == 2:
                refused += 1
                assert said.startswith("kneegrade: Another run is writing to out")
            else:
                last = film
        if command == "grade":
            assert sources_of(output) == 3 * [{last.name}] or process.returncode == 0
            assert len(set(map(frozenset, sources_of(output)))) == 1
        assert not list(output.glob(".*"))
    say(10, f"{runs} pairs of `kneegrade {command}` into one folder: {refused} of {2 * runs} runs refused, none mixed")
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
