"""The reader's page on this computer: an application for loopback, with one-time links instead of accounts."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, Field

from kneegrade.errors import UsageError
from kneegrade.server.reading.page_files import PAGE_HEADERS, require_fastapi
from kneegrade.server.reading.reading_routes import ReadingServices, reader_router
from kneegrade.server.reading.sessions import Sessions

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

HOST: Final = "127.0.0.1"
MAX_BODY_BYTES: Final = 1 << 20
OLD_LINK: Final = "This link was used before or is too old; open the newest one in the terminal."


class Invitation(BaseModel):
    """The token of a link."""

    token: Annotated[str, Field(max_length=200)]


def local_application(services: ReadingServices, sessions: Sessions) -> "FastAPI":
    """The application: the routes of the page, and the exchange of a link's token for a session.

    Only requests whose Host is this computer are answered, so that a foreign name that resolves to it cannot reach the
    page.

    Raises:
        UsageError: FastAPI is missing.
    """
    require_fastapi()
    from fastapi import FastAPI, Header, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, RedirectResponse, Response

    app = FastAPI(title="kneegrade reader", docs_url=None, redoc_url=None, openapi_url=None)

    def reader_of(authorization: Annotated[str, Header()] = "") -> str:
        kind, _, token = authorization.partition(" ")
        reader = sessions.reader(token) if kind == "Bearer" and token else None
        if reader is None:
            raise HTTPException(401, "Open the newest link that the terminal shows.")
        return reader

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if host not in (HOST, "localhost"):
            return JSONResponse({"detail": "This page answers on this computer only."}, 421)
        if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES or "transfer-encoding" in request.headers:
            return JSONResponse({"detail": "The request is too large."}, 413)
        response: Response = await call_next(request)
        for name, value in PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        # Without the value, which may be no Unicode text or name a patient. What is no text is no token either.
        if request.url.path == "/v1/session":
            return JSONResponse({"detail": OLD_LINK}, 401)
        places = [".".join(map(str, one["loc"])) + f" ({one['type']})" for one in error.errors()]
        return JSONResponse({"detail": f"The request is malformed: {', '.join(places[:5])}."}, 422)

    @app.get("/", include_in_schema=False)
    def root() -> Response:
        return RedirectResponse("/viewer/")

    @app.post("/v1/session")
    def post_session(invitation: Invitation) -> dict[str, str]:
        found = sessions.exchange(invitation.token)
        if found is None:
            raise HTTPException(401, OLD_LINK)
        return {"token": found[0], "reader": found[1]}

    app.include_router(reader_router(services, reader_of))
    return app


class LocalServer:
    """The page on a port of this computer while a `with` block lasts; the server runs in a thread of its own.

    Args:
        services: what answers.
        on_link: called with a reader and an address to open: for `invite`, and after a link was used.
        port: 0: the system chooses a free one.

    Raises:
        UsageError: FastAPI is missing, or the port is in use.
    """

    def __init__(self, services: ReadingServices, on_link: Callable[[str, str], None], port: int = 0) -> None:
        require_fastapi()
        import uvicorn

        self._port, self._address = port, ""
        self.sessions = Sessions(lambda reader, token: on_link(reader, f"{self._address}#token={token}"))
        config = uvicorn.Config(
            local_application(services, self.sessions), host=HOST, port=port, log_level="critical", access_log=False,
            server_header=False, lifespan="off", timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=_run, args=[self._server])  # the command keeps the signals

    def __enter__(self) -> "LocalServer":
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.01)
        if not self._server.started:
            raise UsageError(f"Port {self._port} cannot be used; choose another one, or 0 for a free one.", code="port")
        self._address = f"http://{HOST}:{self._server.servers[0].sockets[0].getsockname()[1]}/viewer/"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def wait(self) -> None:
        """Return when the server has ended."""
        while self._thread.is_alive():
            self._thread.join(0.5)


def serve_locally(
    services: ReadingServices, readers: Sequence[str], on_link: Callable[[str, str], None], port: int = 0
) -> None:
    """Serve the page until a KeyboardInterrupt; requests that are being answered are finished.

    Args:
        services: what answers.
        readers: names; each gets links of its own.
        on_link: called with a reader and an address to open.
        port: 0: the system chooses a free one.

    Raises:
        UsageError: FastAPI is missing, or the port is in use.
    """
    with suppress(KeyboardInterrupt), LocalServer(services, on_link, port) as server:
        services.warm_up()
        for reader in readers:
            server.sessions.invite(reader)
        loading = threading.Thread(target=services.evidence.warm_up)
        loading.start()
        try:
            server.wait()
        finally:
            loading.join()


def _run(server: "Server") -> None:
    with suppress(SystemExit):  # the port is in use
        server.run()
