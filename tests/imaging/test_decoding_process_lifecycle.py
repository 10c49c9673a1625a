"""The decoding process prints nothing, imports no large package into its parent and ends with its parent."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from films import dataset, dicom_bytes

from kneegrade.errors import LimitExceededError, UnreadableFileError
from kneegrade.imaging import Limits
from kneegrade.imaging import decoding_process as child
from kneegrade.imaging.decoding_process import DecodingProcess

FILM = dicom_bytes(dataset())

SCRIPT = """
    import os, sys
    from kneegrade.imaging import read_radiograph
    from kneegrade.imaging.decoding_process import decoding_process
    shape = read_radiograph(sys.argv[1]).pixels.shape
    print([name for name in ("torch", "pydicom", "gdcm", "_gdcm", "PIL", "scipy") if name in sys.modules])
    {more}
    print(decoding_process().pid)
"""


def run_script(tmp_path: Path, more: str = "") -> list[str]:
    """Lines printed by a script that runs in a folder with a module that must not be imported."""
    (tmp_path / "film.dcm").write_bytes(FILM)
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT).format(more=more))
    (tmp_path / "struct.py").write_text("raise SystemExit('a file in the working directory was imported')")
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "script.py", "film.dcm"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(child.PACKAGE_ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_script_without_main_guard_prints_no_warning_and_leaves_no_process(tmp_path: Path) -> None:
    imported, pid = run_script(tmp_path)
    assert imported == "[]"
    assert is_gone(int(pid))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_prints_no_warning_and_leaves_no_process(tmp_path: Path) -> None:
    lines = run_script(
        tmp_path,
        "pid = os.fork()\nprint(read_radiograph(sys.argv[1]).pixels.shape == shape, flush=True)\n"
        "os.waitpid(pid, 0) if pid else None",
    )
    assert lines.count("True") == 2
    pids = {int(line) for line in lines if line.isdigit()}
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_a_detached_process_ends_when_its_pipes_close() -> None:
    process = DecodingProcess()
    process.decode(FILM, Limits())
    pid = process.pid
    process.detach()
    process.detach()
    assert process.pid is None
    os.waitpid(pid, 0)


def test_a_forked_child_uses_its_own_decoding_process(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = DecodingProcess()
    monkeypatch.setattr(child, "_shared", inherited)
    child._reset_after_fork()
    assert child.decoding_process() is not inherited
    child._close_at_exit()


CRASHES_AT_SECOND_FILE = (
    "import os, sys; sys.path.append(sys.argv[1])\n"
    "from kneegrade.imaging import decoding_worker as worker\n"
    "original, served = worker.decode, []\n"
    "def decode(data, limits):\n"
    "    served.append(data)\n"
    "    if len(served) > 1 or data == b'crash': os._exit(9)\n"
    "    return original(data, limits)\n"
    "worker.decode = decode\n"
    "worker.main(int(sys.argv[2]))\n"
)


def test_a_crash_is_attributed_to_the_file_only_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PROGRAM", CRASHES_AT_SECOND_FILE)
    process = DecodingProcess()
    try:
        for _ in range(3):  # each process crashes at its second file, which the next process decodes
            assert process.decode(FILM, Limits()).pixels.shape == (150, 160)
        with pytest.raises(UnreadableFileError) as caught:
            process.decode(b"crash", Limits())
        assert caught.value.code == "decoder_died"
    finally:
        process.close()


NEVER_ENDS = (
    "import sys; sys.path.append(sys.argv[1])\n"
    "from kneegrade.imaging import cpu_limit, decoding_worker as worker\n"
    "original, cpu_limit.SECONDS = worker.decode, 0.3\n"
    "def decode(data, limits):\n"
    "    while data == b'endless': pass\n"
    "    return original(data, limits)\n"
    "worker.decode = decode\n"
    "worker.main(int(sys.argv[2]))\n"
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no timer of processor time")
def test_a_codec_that_never_ends_is_ended_by_its_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PROGRAM", NEVER_ENDS)
    process = DecodingProcess()
    try:
        with pytest.raises(LimitExceededError, match="processor time") as caught:
            process.decode(b"endless", Limits())
        assert caught.value.code == "time"
        assert process.pid is None
    finally:
        process.close()


def test_a_process_that_hangs_while_it_starts_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs_once = (
        f"import pathlib, time\nseen = pathlib.Path({str(tmp_path / 'seen')!r})\n"
        "if not seen.exists():\n    seen.touch()\n    time.sleep(600)\n"
    )
    monkeypatch.setattr(child, "PROGRAM", hangs_once + child.PROGRAM.replace("; ", "\n"))
    monkeypatch.setattr(child, "START_SECONDS", 10.0)
    process = DecodingProcess()
    try:
        assert process.decode(FILM, Limits()).pixels.shape == (150, 160)
    finally:
        process.close()
