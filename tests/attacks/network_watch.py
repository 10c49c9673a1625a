"""`watched_run`: commands in a process whose network is blocked, and what it and its children tried to reach.

Two blocks, because each sees what the other does not. An audit hook, put into every Python process by a
`sitecustomize.py` on PYTHONPATH, records each name look-up, connection and datagram and refuses those that leave this
computer. Where the system allows it, the process also runs in a network namespace that has only the loopback device;
this blocks compiled code, which no hook sees.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
HOOK: Final = """
import ipaddress, json, os, sys

LOG = os.environ["KNEEGRADE_NETWORK_LOG"]

def write(kind, text):
    descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (json.dumps([os.getpid(), kind, text]) + "\\n").encode())
    os.close(descriptor)

def is_here(host):
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

def hook(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if not isinstance(args[1], tuple):
            return  # a socket of the file system, or one that is connected already
        host = args[1][0]
    else:
        return
    if not is_here(host):
        write("network", f"{event} {host}")
        raise OSError(101, "Network is unreachable")

write("start", " ".join(sys.orig_argv[:4]))
sys.addaudithook(hook)
"""
RUNNER: Final = """
import json, shlex, sys
from kneegrade.commands import main

for line in sys.argv[1:]:
    sys.argv = ["kneegrade", *shlex.split(line)]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(json.dumps([line, code]), file=sys.__stderr__, flush=True)
"""


@dataclass(frozen=True)
class Watched:
    """What happened.

    Attributes:
        codes: exit code of each command line.
        starts: command lines of the Python processes that were watched.
        network: attempts to leave this computer, as "event host".
        errors: standard error.
    """

    codes: dict[str, int]
    starts: list[str]
    network: list[str]
    errors: str


@cache
def namespace() -> tuple[str, ...]:
    """What starts a program without a network but the loopback device; empty where the system does not allow it."""
    if sys.platform != "linux" or not shutil.which("unshare") or not shutil.which("ip"):
        return ()
    for rights in (("--net",), ("--net", "--map-root-user")):
        words = ("unshare", *rights, "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return ()


def watched_run(lines: Sequence[str], folder: Path, *, program: str = RUNNER, block: bool = True) -> Watched:
    """Runs command lines of kneegrade one after the other in one process, without a network.

    Args:
        lines: arguments of `kneegrade`.
        folder: working directory.
        program: Python program that runs `sys.argv[1:]`.
        block: also use a network namespace, if the system has it.
    """
    hooks = folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    log = folder / "network.log"
    log.unlink(missing_ok=True)
    paths = [str(hooks), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "KNEEGRADE_NETWORK_LOG": str(log)}
    environment = {name: value for name, value in environment.items() if name != "CI"}  # telemetry may respect it
    done = subprocess.run(
        [*(namespace() if block else ()), sys.executable, "-c", program, *lines],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    answers = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('["')]
    return Watched(
        codes=dict(answers),
        starts=[text for _, kind, text in events if kind == "start"],
        network=[text for _, kind, text in events if kind == "network"],
        errors=done.stderr,
    )
