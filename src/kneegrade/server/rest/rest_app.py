"""The REST service: films in, results out; raw bodies, streamed and counted; a token for everything but /healthz.

`application` builds the routes, `rest_server.run_rest` serves them until SIGTERM.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.types import ASGIApp

from kneegrade.errors import UsageError
from kneegrade.server.reading.film_evidence import EvidenceService
from kneegrade.server.reading.reading_desk import ReadingDesk
from kneegrade.server.reading.reading_routes import ReadingServices, reader_router
from kneegrade.server.reading.spool_store import SpoolSignatures, SpoolStore
from kneegrade.server.rest import dicomweb
from kneegrade.server.rest.api_page import STYLE, api_page
from kneegrade.server.rest.film_body import MEDIA_TYPES, wait_seconds
from kneegrade.server.rest.film_gate import FilmGate
from kneegrade.server.rest.http_guard import HttpGuard, needs
from kneegrade.server.rest.problem import Problem, Refusal, answer_problems, problems
from kneegrade.server.rest.rest_models import RESULTS, FilmState, Key, ResultName, State
from kneegrade.server.rest.tokens import Caller, TokenFile
from kneegrade.server.service_metrics import MEDIA_TYPE as METRICS_TYPE
from kneegrade.server.service_metrics import Metrics
from kneegrade.server.settings import RestSettings, ServeSettings
from kneegrade.server.spool.film_spool import Spool
from kneegrade.version import __version__

POLL_SECONDS: Final = 0.15  # between two looks at a film that a client waits for
BODY_PATHS: Final = ("/v1/films", "/dicomweb/")  # whose bodies are streamed and counted
OPEN_PATHS: Final = ("/healthz", "/viewer/")  # /viewer/: a page without data, which asks for the token itself
REPORT_POLICY: Final = (  # of report.html, which has its script and style inside: without an origin, it reaches nothing
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_log = logging.getLogger(__name__)

Sender = Annotated[Caller, Depends(needs("send"))]
Reader = Depends(needs("read"))
FilmKey = Annotated[Key, Path(description="Key of the film.")]


class ResultConvertor(StringConvertor):
    """Names of results in paths, so that other paths below a film are no results."""

    regex = "|".join(map(re.escape, RESULTS))


class Health(BaseModel):
    """Whether the service answers."""

    status: Literal["ok"] = "ok"


def application(settings: ServeSettings, spool: Spool) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        settings: with a section `rest`.
        spool: with films and results.

    Raises:
        UsageError: the file of tokens cannot be read.
    """
    rest = rest_section(settings)
    return HttpGuard(rest_routes(settings, spool), TokenFile(rest.tokens), OPEN_PATHS, rest.connections, BODY_PATHS)


def rest_routes(settings: ServeSettings, spool: Spool) -> FastAPI:
    """The routes, without the guard that asks for tokens."""
    app = FastAPI(
        title="kneegrade", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
        summary="Kellgren-Lawrence and OARSI grades of knee radiographs. Research use, not a medical device.",
    )  # fmt: skip
    metrics = Metrics(spool)
    rest = rest_section(settings)
    gate = FilmGate(spool, rest, metrics)
    answer_problems(app)
    if rest.viewer:
        _add_viewer(app, settings, spool)  # first: its routes are more special than those of results
    _add_film_routes(app, gate)
    _add_result_routes(app, spool)
    app.include_router(dicomweb.stow_router(gate))
    _add_service_routes(app, spool, metrics)
    app.middleware("http")(_measured(metrics))
    return app


def _add_film_routes(app: FastAPI, gate: FilmGate) -> None:
    spool = gate.spool
    body = {"requestBody": {"required": True, "content": dict.fromkeys(MEDIA_TYPES, _BINARY)}}
    prefer = Header(description="`wait=N`: answer when the film is graded, at most N ≤ 60 seconds later.")

    @app.post(
        "/v1/films", status_code=202, openapi_extra=body, response_description="The film waits for a worker.",
        responses=problems(408, 411, 413, 415, 507) | {200: {"model": FilmState, "description": "The film is done."}},
    )  # fmt: skip
    async def send_film(
        request: Request, response: Response, caller: Sender, prefer: Annotated[list[str] | None, prefer] = None
    ) -> FilmState:
        """Send a film as the raw bytes of a DICOM, PNG, JPEG or TIFF file.

        The film is on disk when this answers. The same bytes again are the same film. Location names the film.
        """
        try:
            key = await gate.receive(request, caller.name)
        except Exception:
            gate.metrics.refused()
            raise
        state = await _wait_for(spool, key, wait_seconds(prefer or []))
        response.headers["Location"] = f"/v1/films/{key}"
        response.status_code = 200 if state.state in ("graded", "dead") else 202
        return state

    @app.get("/v1/films", dependencies=[Reader], responses=problems())
    def list_films(
        state: Annotated[State | None, Query(description="Only films in this state.")] = None,
        limit: Annotated[int, Query(ge=1, le=500, description="Highest number of films.")] = 100,
        before: Annotated[Key | None, Query(description="Key of the last film of the page before.")] = None,
    ) -> list[FilmState]:
        """List the films, the last received first."""
        return [FilmState.of(film, spool) for film in spool.films(state=state, limit=limit, before=before)]

    @app.get("/v1/films/{key}", dependencies=[Reader], responses=problems(404))
    def get_film(key: FilmKey) -> FilmState:
        """Get the state of a film, its results and their deliveries."""
        return film_state(spool, key)


def rest_section(settings: ServeSettings) -> RestSettings:
    """The section `[rest]`.

    Raises:
        UsageError: there is none.
    """
    if settings.rest is None:
        raise UsageError("serve.toml has no section [rest]; add one to serve films over REST.")
    return settings.rest


def _add_viewer(app: FastAPI, settings: ServeSettings, spool: Spool) -> None:
    """The reader's page and what it asks for; its files need no token, everything else the scope `review`."""
    store = SpoolStore(spool)
    signed = spool_signatures(settings, spool, store)
    evidence = EvidenceService(settings.grading.weights, settings.grading.detector)
    services = ReadingServices(ReadingDesk(store), evidence, settings.spool.directory, signed)

    def reader_name(caller: Annotated[Caller, Depends(needs("review"))]) -> str:
        return caller.name

    app.include_router(reader_router(services, reader_name), include_in_schema=False)


def spool_signatures(settings: ServeSettings, spool: Spool, store: SpoolStore) -> SpoolSignatures:
    """What writes the signed revisions of the films in a spool."""
    return SpoolSignatures(store, spool, settings.deliveries, settings.results.institution)


def _add_result_routes(app: FastAPI, spool: Spool) -> None:
    register_url_convertor("result", ResultConvertor())
    types = {media_type.partition(";")[0]: _BINARY for media_type in RESULTS.values()} | {"application/json": {}}

    @app.get(
        "/v1/films/{key}/{name:result}", dependencies=[Reader], response_class=Response,
        responses=problems(404) | {200: {"content": types, "description": "The result."}},
    )  # fmt: skip
    def get_result(key: FilmKey, name: ResultName) -> Response:
        """Get a result of a film."""
        path = spool.results(key) / name
        if not path.is_file():
            raise Refusal(404)
        headers = {"Content-Security-Policy": REPORT_POLICY} if name.endswith(".html") else {}
        is_page = name.endswith((".html", ".json"))
        return FileResponse(
            path, media_type=RESULTS[name], headers=headers, filename=None if is_page else f"{key[:12]}-{name}"
        )


def _add_service_routes(app: FastAPI, spool: Spool, metrics: Metrics) -> None:
    @app.get("/healthz", responses={503: problems()[503]})
    def health() -> Health:
        """Tell whether the service answers and its spool can be used; needs no token."""
        spool.film("0" * 40)
        return Health()

    @app.get(
        "/metrics", dependencies=[Depends(needs("metrics"))], response_class=Response,
        responses=problems() | {200: {"content": {METRICS_TYPE.partition(";")[0]: {}}, "description": "Metrics."}},
    )  # fmt: skip
    def get_metrics() -> Response:
        """Get the metrics for Prometheus."""
        return Response(metrics.text(), media_type=METRICS_TYPE)

    @app.get("/openapi.json", dependencies=[Reader], responses=problems())
    def description() -> JSONResponse:
        """Get the description of this interface (OpenAPI)."""
        return JSONResponse(api_description(app))

    @app.get("/docs", dependencies=[Reader], include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(api_page(api_description(app), str(request.base_url).rstrip("/")))

    @app.get("/docs.css", dependencies=[Reader], include_in_schema=False)
    def style() -> Response:
        return Response(STYLE, media_type="text/css")


def api_description(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the schema of problems."""
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema


def film_state(spool: Spool, key: str) -> FilmState:
    """The state of a film with its deliveries.

    Raises:
        Refusal: 404, there is no such film.
    """
    film = spool.film(key)
    if film is None:
        raise Refusal(404)
    return FilmState.of(film, spool, spool.deliveries(key))


async def _wait_for(spool: Spool, key: str, seconds: float) -> FilmState:
    """The state of a film once it is graded or dead, or after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        state = await asyncio.to_thread(film_state, spool, key)
        left = end - time.monotonic()
        if state.state in ("graded", "dead") or left <= 0:
            return state
        await asyncio.sleep(min(POLL_SECONDS, left))


def _measured(metrics: Metrics) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Middleware that counts the requests to known routes."""

    async def measure(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.monotonic()
        response = await call(request)
        route = request.scope.get("route")
        if isinstance(route, APIRoute):
            metrics.answered(request.method, route.path, response.status_code, time.monotonic() - start)
        return response

    return measure
