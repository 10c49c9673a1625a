"""Promise 2: no bomb. A small file that expands to gigabytes is refused, at the cost of seconds and little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bombs
import pytest
from attack_tools import is_full, say
from films import dataset, dicom_bytes

from kneegrade.imaging import Limits, find_sources, read_radiograph, zip_members

if not sys.platform.startswith("linux"):
    pytest.skip("needs /proc and limits on memory", allow_module_level=True)

MAX_PARENT_MIB = 256
MAX_CPU_SECONDS = 6.0  # 5, and the start of the next decoding process
REFUSALS = {
    "deflated_size", "damaged", "time", "nesting", "not_an_image", "pixels", "zip_ratio", "nested_zip", "zip_members",
    "memory",
}  # fmt: skip


def test_bombs_are_refused_within_seconds_and_256_mib(tmp_path: Path) -> None:
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "imaging")]
    known = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*here, *([known] if known else [])])}
    command = [sys.executable, bombs.__file__, str(tmp_path), "all" if is_full() else "share"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    refused = [name for name, (outcomes, *_) in found.items() if set(outcomes) <= REFUSALS]
    seconds, mib = max(row[1] for row in found.values()), max(row[3] for row in found.values())
    say(2, f"{len(found)} bombs: {len(refused)} refused, each after at most {seconds:.1f} s of processor time, with at "
        f"most {mib} MiB more in the parent")  # fmt: skip
    assert sorted(refused) == sorted(found)
    assert mib <= MAX_PARENT_MIB
    assert seconds <= MAX_CPU_SECONDS


def test_memory_and_time_that_a_bomb_takes_would_be_seen() -> None:
    bombs.reset_peak()
    before, cpu = bombs.peak_kib(), bombs.cpu_seconds()
    block = b"x" * (300 * bombs.MEBIBYTE)
    assert bombs.peak_kib() - before > 200 * 1024
    del block
    sum(range(3_000_000))
    assert bombs.cpu_seconds() > cpu


def test_the_directory_of_an_archive_is_limited_before_it_is_read(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "many.zip"
    path.write_bytes(bombs._many_members(60_000))
    monkeypatch.setattr(zip_members, "DIRECTORY_BYTES_PER_MEMBER", 1)
    (source,) = find_sources([path])
    assert source.error is not None
    assert source.error.code == "zip_members"
    assert "directory" in source.error.message


@pytest.mark.slow
def test_a_film_of_the_largest_allowed_size_is_read_within_its_time() -> None:
    made = dataset()
    rows, columns = 9_000, 11_000  # 99 megapixels
    made.Rows, made.Columns, made.PixelData = rows, columns, bytes(2 * rows * columns)
    assert read_radiograph(dicom_bytes(made), limits=Limits()).pixels.shape == (rows, columns)
