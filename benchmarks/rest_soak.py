"""Growth of the memory of the REST service and of its whole process group under mixed requests.

    python benchmarks/rest_soak.py --minutes 10

Runs `kneegrade serve` with a worker in a temporary folder and grades the film of `examples/`. Then four clients send
films (small ones, which cannot be graded), wrong and refused requests, read results, and use the routes of the reader's
page, at most 25 requests a second. Needs Linux (/proc) and httpx.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from kneegrade.server.rest.tokens import SCOPES, add_token
from kneegrade.server.settings import load_settings
from kneegrade.server.spool.film_spool import Spool

FILM = Path(__file__).resolve().parents[1] / "examples" / "single_right.dcm"
DICOM = {"Content-Type": "application/dicom"}
CLIENTS, PAUSE_SECONDS, SAMPLE_SECONDS = 4, 0.15, 2.0
SETTINGS = """
log_level = "info"
[spool]
directory = "spool"
least_free_gib = 0
[rest]
tokens = "tokens"
port = 0
"""


class Service:
    """`kneegrade serve`, with a graded film.

    Attributes:
        url: of the service.
        token: with all scopes.
        spool: of the service.
        process: the supervisor.
        key: of the graded film.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "serve.toml").write_text(SETTINGS, encoding="utf-8")
        self.token = add_token(folder / "tokens", "soak", SCOPES)
        self.spool = Spool(load_settings(folder / "serve.toml").spool.directory, min_free_bytes=0)
        command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(folder / "serve.toml")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.url = next(found[1] for line in self.process.stderr if (found := re.search(r"listens on (\S+)\.", line)))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        with self.client() as client:
            state = client.post("/v1/films", content=FILM.read_bytes(), headers=DICOM | {"Prefer": "wait=60"}).json()
        if state["state"] != "graded":
            raise RuntimeError("the film of the examples was not graded within a minute")
        self.key: str = state["key"]

    def client(self) -> httpx.Client:
        """A client with the token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=90)

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of the services by name, and of the decoding processes and workers below them."""
        parents, sizes, names = {}, {}, {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                status, words = (path / "status").read_text(), (path / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            pid, memory = int(path.name), re.search(r"VmRSS:\s+(\d+)", status)
            parents[pid] = int(re.search(r"PPid:\s+(\d+)", status)[1])  # type: ignore[index]
            sizes[pid] = int(memory[1]) / 1024 if memory else 0.0
            names[pid] = words[-3] if len(words) > 3 and words[-3] in ("rest", "worker") else ""
        found = {"supervisor": sizes.get(self.process.pid, 0.0)}
        for pid, parent in parents.items():
            if parent == self.process.pid and names[pid]:
                found[names[pid]] = sizes[pid]
                found[f"children of {names[pid]}"] = sum(sizes[one] for one in _below(pid, parents))
        return found


def _below(pid: int, parents: dict[int, int]) -> list[int]:
    own = [one for one, parent in parents.items() if parent == pid]
    return own + [below for one in own for below in _below(one, parents)]


def use(client: httpx.Client, key: str, chance: random.Random) -> int:
    """The status of one request of a random kind."""
    film, marked = f"/v1/films/{key}", {"knee": 0, "landmarks_px": [[1.5 * i, 3.0 * (i % 9)] for i in range(74)]}
    junk = b"\0" * 128 + b"DICM" + chance.randbytes(3000)
    part = b"--a\r\nContent-Type: application/dicom\r\n\r\n" + junk + b"\r\n--a--\r\n"
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/films", {"content": junk, "headers": DICOM}),
        ("POST", "/v1/films", {"content": junk, "headers": {"Content-Type": "text/plain"}}),
        ("POST", "/dicomweb/studies", {"content": part, "headers": {"Content-Type": "multipart/related; boundary=a"}}),
        ("GET", "/v1/films?limit=50", {}), ("GET", film, {}), ("GET", f"{film}/{'0' * 40}", {}),
        ("GET", f"{film}/report.json", {}), ("GET", f"{film}/report.html", {}), ("GET", f"{film}/sr.dcm", {}),
        ("GET", f"{film}/pixels", {}), ("GET", f"{film}/reading", {}), ("POST", f"{film}/measure", {"json": marked}),
        ("POST", "/v1/coherence", {"json": {"grades": {"kl": chance.randrange(5)}}}),
        ("POST", f"{film}/reviews", {"json": {"based_on": 0, "reading": {"knees": []}}}),
        ("GET", "/v1/worklist", {}), ("GET", "/metrics", {}), ("GET", "/openapi.json", {}), ("GET", "/docs", {}),
        ("GET", "/healthz", {}), ("GET", f"/{chance.randbytes(20).hex()}", {}),
        ("GET", "/v1/films", {"headers": {"Authorization": f"Bearer {chance.randbytes(20).hex()}"}}),
    ]  # fmt: skip
    method, path, options = chance.choice(requests)
    return client.request(method, path, **options).status_code


def keep_using(service: Service, seed: int, end: float, statuses: Counter[int]) -> None:
    """Send requests until a moment; a new connection every hundred requests."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        with service.client() as client:
            for _ in range(100):
                if time.monotonic() >= end:
                    return
                statuses[use(client, service.key, chance)] += 1
                time.sleep(PAUSE_SECONDS)


def soak(service: Service, minutes: float) -> dict[str, list[tuple[float, float]]]:
    """Name of the process → (minute, MiB)."""
    points: dict[str, list[tuple[float, float]]] = {}
    statuses, start = Counter[int](), time.monotonic()
    end = start + 60 * minutes
    threads = [threading.Thread(target=keep_using, args=(service, seed, end, statuses)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        minute = (time.monotonic() - start) / 60
        for name, size in service.memory_mib().items():
            points.setdefault(name, []).append((minute, size))
        time.sleep(SAMPLE_SECONDS)
    for thread in threads:
        thread.join()
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}", flush=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="kneegrade-soak-") as folder:
        service = Service(Path(folder))
        try:
            points = soak(service, minutes)
        finally:
            service.process.terminate()
            service.process.wait(30)
    first = min(2.0, minutes / 4)
    for name, both in points.items():
        warm = np.array([point for point in both if point[0] > first])
        slope = float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0])
        print(f"{name}: {both[0][1]:.0f} MiB at first, {warm[0, 1]:.0f} after {first:g} min, {warm[-1, 1]:.0f} at the "
              f"end: {slope:+.3f} MiB a minute")  # fmt: skip


if __name__ == "__main__":
    main()
