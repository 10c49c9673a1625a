"""A web service that answers what a test wants, as an archive or FHIR server might."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pydicom


@dataclass
class Answer:
    """What `WebPeer` answers."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0


@dataclass
class WebPeer:
    """A web service that answers what a test wants.

    Attributes:
        answer: the answer to a request with this path and body.
        requests: method, path, headers and body of each request.
    """

    answer: Callable[[str, bytes], Answer]
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@contextmanager
def running_web_peer(answer: Callable[[str, bytes], Answer]) -> Iterator[WebPeer]:
    """A running `WebPeer`."""
    peer = WebPeer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            peer.requests.append((self.command, self.path, dict(self.headers), content))
            given = peer.answer(self.path, content)
            time.sleep(given.wait)
            body = given.body if isinstance(given.body, bytes) else json.dumps(given.body).encode()
            headers = {"Content-Type": "application/dicom+json", "Content-Length": str(len(body)), **given.headers}
            try:
                self.send_response(given.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the other side has gone
                self.close_connection = True

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    peer.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def uid_in(body: bytes) -> str:
    """The SOP Instance UID of the object in a STOW-RS request."""
    start = body.index(b"\r\n\r\n") + 4
    return str(pydicom.dcmread(io.BytesIO(body[start:]), stop_before_pixels=True).SOPInstanceUID)


def stow_answer(stored: list[str], failed: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The body of a STOW-RS answer; `failed` is UID → failure reason, None: the sequence is absent."""
    body: dict[str, Any] = {}
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]}
    if failed is not None:
        items = [
            {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
            for uid, reason in failed.items()
        ]
        body["00081198"] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return body
