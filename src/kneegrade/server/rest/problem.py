"""`Problem`: the one form of every answer that is not a success (RFC 9457, application/problem+json).

An answer says what was wrong with the request, and never repeats a value from it.
"""

import http
import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Match

from kneegrade.server.spool.film_spool import SpoolError, SpoolFullError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 30
MEANINGS: Final = {
    401: "The request has no valid token.",
    403: "The token does not allow this.",
    404: "There is no such film, result or route.",
    405: "The route has no such method.",
    408: "The body took too long.",
    409: "The request conflicts with what the spool holds.",
    411: "The request has no body.",
    413: "The body is too large.",
    415: "The body is of another type, or encoded.",
    422: "The request is malformed.",
    500: "An error in kneegrade.",
    503: "Too many films or requests are waiting, or the spool cannot be used. Try again later.",
    507: "The disk of the spool is full. Try again later.",
}
_KNOWN_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Why a request was refused.

    Attributes:
        type: always "about:blank", as RFC 9457 names a problem that the status describes.
        title: name of the status.
        status: HTTP status.
        detail: what was found, what was expected and what to do.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str


class Refusal(HTTPException):
    """An answer that refuses a request.

    Args:
        status: HTTP status.
        detail: what was found, what was expected and what to do; by default the meaning of the status.
        headers: further headers.
    """

    def __init__(self, status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail or MEANINGS.get(status), headers)


def problem_answer(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for a status."""
    content = Problem(
        title=http.HTTPStatus(status).phrase, status=status, detail=detail or MEANINGS.get(status, "Refused.")
    )
    return JSONResponse(content.model_dump(), status, headers, MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The statuses of a route for its documentation (`responses`)."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, 401, 403, 422, 503})
    }


def spool_refusal(error: SpoolError) -> Refusal:
    """The refusal for an error of the spool."""
    if isinstance(error, SpoolFullError):
        return Refusal(507, headers={"Retry-After": str(RETRY_SECONDS)})
    return Refusal(503, headers={"Retry-After": str(RETRY_SECONDS)})


def _methods(app: FastAPI, request: Request) -> list[str]:
    """The methods of all routes with the path of a request; Starlette names only those of the first one."""

    def is_allowed(method: str) -> bool:
        return any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in app.routes)

    return [method for method in _KNOWN_METHODS if is_allowed(method)]


def answer_problems(app: FastAPI) -> None:
    """Let every error of an application become a `Problem`."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code == 405 and (methods := _methods(app, request)):
            return problem_answer(405, headers={"Allow": ", ".join(methods)})
        if error.status_code == 400:  # JSON that is not UTF-8; other malformed JSON is 422 already
            return problem_answer(422)
        is_default = error.detail == http.HTTPStatus(error.status_code).phrase
        return problem_answer(error.status_code, None if is_default else error.detail, error.headers)

    async def malformed(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        places = [".".join(map(str, one["loc"])) + f" ({one['type']})" for one in error.errors()]
        return problem_answer(
            422, f"Malformed: {', '.join(places[:5])}."
        )  # without the value, which may name a patient

    async def spool_failed(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, SpoolError):
            raise error
        _log.error("The spool failed: %s", error.message)
        refusal = spool_refusal(error)
        return problem_answer(refusal.status_code, refusal.detail, refusal.headers)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(SpoolError, spool_failed)
