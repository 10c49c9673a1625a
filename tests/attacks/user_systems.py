"""Systems as users have them: each is a prefix of the command line, changed environment variables and a umask."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class UserSystem:
    """A system that differs from a developer's.

    Attributes:
        environment: variables that are set; None removes one.
        mounts: shell commands that change mounts; they run in a mount namespace of the command alone, and "$1" is its
            working directory.
        umask: of the process; None leaves it.
        closed: standard streams that are closed.
    """

    environment: Mapping[str, str | None] = field(default_factory=dict)
    mounts: Sequence[str] = ()
    umask: int | None = None
    closed: tuple[int, ...] = ()


PRIVATE: Final = "mount --make-rprivate /"
READ_ONLY: Final = ('mount --bind "$1" "$1"', "mount -o remount,ro,bind /")
NO_NAME: Final = (  # the user is in no list of users
    ': > "$1/empty"',
    'mount --bind "$1/empty" /etc/passwd',
    '{ ! test -e /etc/nsswitch.conf || mount --bind "$1/empty" /etc/nsswitch.conf; }',
)
NO_SHARED_MEMORY: Final = ("mount -t tmpfs -o ro,size=4k none /dev/shm",)
FULL: Final = ('mkdir -p "$1/full"', 'mount -t tmpfs -o size=12k none "$1/full"')  # takes a small file, no larger one
HOMELESS: Final = {"HOME": None, "USER": None, "LOGNAME": None, "XDG_CACHE_HOME": None}
ASCII: Final = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SYSTEMS: Final[dict[str, UserSystem]] = {
    "LANG=C": UserSystem({"LANG": "C", "LC_ALL": "C"}),
    "a locale without most letters": UserSystem(ASCII),
    "no HOME": UserSystem(HOMELESS, mounts=(PRIVATE, *NO_NAME)),
    "read-only disk": UserSystem(mounts=(PRIVATE, *READ_ONLY)),
    "no shared memory": UserSystem(mounts=(PRIVATE, *NO_SHARED_MEMORY)),
    "TMPDIR full": UserSystem({"TMPDIR": "full"}, mounts=(PRIVATE, *FULL)),
    "TMPDIR missing": UserSystem({"TMPDIR": "/nonexistent"}),
    "umask 077": UserSystem(umask=0o077),
    "no standard streams": UserSystem(closed=(0, 1, 2)),
}
ALL_AT_ONCE: Final = UserSystem(
    {**ASCII, **HOMELESS, "TMPDIR": "full"},
    mounts=(PRIVATE, *READ_ONLY, *NO_NAME, *NO_SHARED_MEMORY, *FULL),
    umask=0o077,
    closed=(0,),
)  # fmt: skip


@cache
def can_mount() -> bool:
    """Whether this user can change mounts in a namespace of their own."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return False
    trial = ["unshare", "--mount", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def run_on(
    system: UserSystem, arguments: Sequence[str], folder: Path, *, program: Sequence[str] = ("-m", "kneegrade")
) -> subprocess.CompletedProcess[str]:
    """Runs `kneegrade`, or another Python program, with these arguments; `folder` is the working directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    for name, value in system.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = str(folder / value) if value == "full" else value
    command = [sys.executable, *program, *arguments]
    closing = " ".join(f"{stream}>&-" for stream in system.closed)
    script = " && ".join([*system.mounts, f'cd "$1" && shift && exec "$@" {closing}'])
    command = ["sh", "-c", script, "sh", str(folder), *command]
    if system.mounts:
        command = ["unshare", "--mount", *command]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=600,
        check=False, umask=-1 if system.umask is None else system.umask,
    )  # fmt: skip
