"""Real services in processes of their own, for the tests of the server."""

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx

from kneegrade.server.rest.rest_listener import listening_socket, url_of
from kneegrade.server.rest.tokens import SCOPES, add_token
from kneegrade.server.service_process import PACKAGE_ROOT, PROGRAM
from kneegrade.server.settings import ServeSettings, load_settings

T = TypeVar("T")
EXAMPLES = Path(__file__).parents[2] / "examples"
DICOM = {"Content-Type": "application/dicom"}
SETTINGS = """
log_level = "debug"
[spool]
directory = "spool"
least_free_gib = {reserve}
[rest]
tokens = "tokens"
port = 0
"""


def folder_with_settings(folder: Path, more: str = "", reserve: float = 0) -> tuple[ServeSettings, dict[str, str]]:
    """The settings of a new service in a folder, and a token for each scope and for "all" of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serve.toml").write_text(SETTINGS.format(reserve=reserve) + more, encoding="utf-8")
    tokens = {scope: add_token(folder / "tokens", scope, [scope]) for scope in SCOPES}
    tokens["all"] = add_token(folder / "tokens", "all", SCOPES)
    return load_settings(folder / "serve.toml"), tokens


class Rest:
    """The REST service alone, in a process of its own; nobody grades.

    Attributes:
        url: of the service.
        settings: of the service.
        tokens: by scope, and "all".
        process: of the service.

    Args:
        folder: for settings, tokens and spool.
        more: settings to add, the first ones to the section `[rest]`.
        reserve: GiB of the disk to leave free.
        tls: of clients, where the settings have TLS.
    """

    def __init__(self, folder: Path, more: str = "", reserve: float = 0, tls: ssl.SSLContext | None = None) -> None:
        self.settings, self.tokens = folder_with_settings(folder, more, reserve)
        assert self.settings.rest is not None
        self.log_path = folder / "rest.log"
        self._tls: ssl.SSLContext | bool = tls or True
        with listening_socket(self.settings.rest) as listener, self.log_path.open("wb") as log:
            self.url = url_of(self.settings.rest, listener)
            self.port: int = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(PACKAGE_ROOT), "rest", str(listener.fileno())],
                stdin=subprocess.PIPE, stderr=log, pass_fds=[listener.fileno()],
            )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(self.settings.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()
        assert httpx.get(f"{self.url}/healthz", timeout=120, verify=self._tls).json() == {"status": "ok"}

    @property
    def spool_files(self) -> list[str]:
        """Names of all files of the spool but its index."""
        folder = self.settings.spool.directory
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return sorted(name for name in files if not name.startswith(("spool.sqlite", "serve.lock", "audit")))

    def client(self, token: str | None = "all", **options: object) -> httpx.Client:
        """A client with a token of `tokens`, or none."""
        headers = {} if token is None else {"Authorization": f"Bearer {self.tokens[token]}"}
        verify = options.pop("verify", self._tls)
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=verify, **options)  # type: ignore

    def memory_mib(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def close(self) -> None:
        """End the service by closing its lifeline."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(15)


class Serving:
    """`kneegrade serve --config` in a process of its own.

    Attributes:
        url: of the REST service.
        lines: of its log so far.
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        self.settings, self.tokens = folder_with_settings(folder, more)
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kneegrade", "serve", "--config", str(self.folder / "serve.toml")],
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.line(r"listens on (http://\S+)\.")[1]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def line(self, pattern: str, seconds: float = 240) -> re.Match[str]:
        """The first match in the log, once there is one."""
        return until(
            lambda: next((found for line in [*self.lines] if (found := re.search(pattern, line))), None), seconds
        )

    def pids(self, program: str = "kneegrade.server.service_process") -> dict[str, int]:
        """Process ids of the services by name, from /proc."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                if any(program in word for word in words) and _parent(int(path.parent.name)) == self.process.pid:
                    found[words[-3]] = int(path.parent.name)
        return found

    def client(self, token: str = "all") -> httpx.Client:
        """A client with a token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.tokens[token]}"}, timeout=90)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """The exit code after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def close(self) -> None:
        """End it, if it runs, and close its log."""
        self.stop()


def _parent(pid: int) -> int:
    found = re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return -1 if found is None else int(found[1])


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            child = int(path.parent.name)
            if _parent(child) == pid:
                found.append(child)
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(look: Callable[[], T], seconds: float = 30) -> T:
    """What `look` returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def raw_connection(port: int) -> Iterator[socket.socket]:
    """A plain TCP connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def request_head(token: str, path: str = "/v1/films", method: str = "POST", *headers: str) -> bytes:
    """The beginning of a request, up to the empty line."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *headers, "", ""]
    return "\r\n".join(lines).encode()
