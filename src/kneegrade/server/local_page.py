"""The reader's page on this computer: an application for loopback, with one-time links instead of accounts."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, Field

from kneegrade.server.reading import PAGE_HEADERS, ReadingServices, reader_router, require_fastapi
from kneegrade.server.sessions import Sessions

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

HOST: Final = "127.0.0.1"
MAX_BODY_BYTES: Final = 1 << 20


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

    @app.get("/", include_in_schema=False)
    def root() -> Response:
        return RedirectResponse("/viewer/")

    @app.post("/v1/session")
    def post_session(invitation: Invitation) -> dict[str, str]:
        found = sessions.exchange(invitation.token)
        if found is None:
            raise HTTPException(401, "This link was used before or is too old; open the newest one in the terminal.")
        return {"token": found[0], "reader": found[1]}

    app.include_router(reader_router(services, reader_of))
    return app


def serve_locally(
    services: ReadingServices, readers: Sequence[str], on_link: Callable[[str, str], None], port: int = 0
) -> None:
    """Serve the page until the process is asked to stop.

    Args:
        services: what answers.
        readers: names; each gets links of its own.
        on_link: called with a reader and an address to open.
        port: 0: the system chooses a free one.

    Raises:
        UsageError: FastAPI is missing.
    """
    require_fastapi()
    import socket

    import uvicorn

    with socket.create_server((HOST, port)) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}/viewer/"
        sessions = Sessions(lambda reader, token: on_link(reader, f"{address}#token={token}"))
        app = local_application(services, sessions)
        config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False, lifespan="off")
        server: Server = uvicorn.Server(config)
        for reader in readers:
            sessions.invite(reader)
        threading.Thread(target=services.evidence.warm_up, daemon=True).start()
        server.run(sockets=[listening])
