"""Promise 4: a killed training loses at most one checkpoint interval, and goes on bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import training_kills
from attack_tools import say, tries

pytestmark = pytest.mark.slow
if sys.platform == "win32":
    pytest.skip("needs POSIX signals", allow_module_level=True)


def run(folder: Path, kills: int, full_disks: int, *more: str) -> dict[str, object]:
    folder.mkdir()
    command = [sys.executable, training_kills.__file__, str(folder), str(kills), str(full_disks), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_killed_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    found = run(tmp_path / "kills", tries(40, 4), tries(10, 1))
    say(4, f"training: {found}")
    assert found["other"] == 0
    assert found["differing"] == 0
    assert found["left"] == []
    assert int(str(found["lost_steps"])) <= int(str(found["steps_per_epoch"]))
    assert int(str(found["killed"])) > 0
    assert int(str(found["with a checkpoint"])) > 0


@pytest.mark.parametrize(("part", "seen"), [("average", "differing"), ("optimizer", "other")])
def test_a_checkpoint_without_a_part_would_be_seen(part: str, seen: str, tmp_path: Path) -> None:
    found = run(tmp_path / "planted", 12, 0, part)
    assert found[seen]  # without the optimizer's rates, a run cannot go on


def test_a_checkpoint_that_is_written_in_place_would_be_seen(tmp_path: Path) -> None:
    found = run(tmp_path / "planted", 12, 0, "in place")
    assert found["other"]  # a damaged checkpoint is refused
