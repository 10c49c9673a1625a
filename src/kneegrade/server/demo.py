"""`Demo`: a service on this computer only, with a temporary spool, a token of its own and synthetic films."""

import http.client
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kneegrade.server.rest.tokens import SCOPES, add_token
from kneegrade.server.settings import NodeSettings, ServeSettings, load_settings

OnFilm = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
FILMS: Final = 2
LONGEST_PX: Final = 1200
WAIT_SECONDS: Final = 60
SETTINGS: Final = """log_level = "warning"
[spool]
directory = "spool"
least_free_gib = 0.2
[node]
port = {dicom_port}
[rest]
tokens = "tokens"
port = 0
"""


class Demo:
    """A temporary folder with the settings, the token and the films of a demonstration.

    Attributes:
        directory: the folder; `close` removes it.
        settings: of the service.
        token: with all scopes.
        dicom_port: of the DICOM node; it was free a moment ago.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kneegrade-demo-"))
        self.token = add_token(self.directory / "tokens", "demo", SCOPES)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.dicom_port: int = free.getsockname()[1]
        text = SETTINGS.format(dicom_port=self.dicom_port)
        (self.directory / "serve.toml").write_text(text, encoding="utf-8")
        self.settings: ServeSettings = load_settings(self.directory / "serve.toml")

    @property
    def title(self) -> str:
        """AE title of the DICOM node."""
        return NodeSettings().title if self.settings.node is None else self.settings.node.title

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def send_films(self, url: str, on_film: OnFilm) -> None:
        """Make synthetic films, send them and wait for their grades.

        Args:
            url: of the service.
            on_film: called with the state of each film and, if it was graded, its report.
        """
        from kneegrade.phantom import Cohort, write_cohort

        folder = self.directory / "films"
        write_cohort(folder, Cohort(FILMS, seed=12, longest_px=LONGEST_PX))
        for path in sorted(folder.rglob("*.dcm")):
            state = ask(url, self.token, "POST", "/v1/films", path.read_bytes())
            is_graded = state.get("state") == "graded"
            on_film(state, ask(url, self.token, "GET", f"/v1/films/{state['key']}/report.json") if is_graded else {})

    def send_in_background(self, url: str, on_film: OnFilm) -> None:
        """`send_films` in a thread that ends with the program."""
        threading.Thread(target=self.send_films, args=(url, on_film), daemon=True).start()


def ask(url: str, token: str, method: str, path: str, film: bytes | None = None) -> Mapping[str, Any]:
    """The JSON object that the service answers; to a film, once it is graded or a minute has passed.

    Args:
        url: of the service.
        token: for the request.
        method: of the request.
        path: of the route.
        film: DICOM film to send.

    Raises:
        OSError: the service does not answer.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT_SECONDS + 30)
    headers = {"Authorization": f"Bearer {token}"}
    if film is not None:
        headers |= {"Content-Type": "application/dicom", "Prefer": f"wait={WAIT_SECONDS}"}
    try:
        connection.request(method, path, film, headers)
        answer: Mapping[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer
