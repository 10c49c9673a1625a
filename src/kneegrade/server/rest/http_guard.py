"""`HttpGuard`: what every request must pass before a route sees it, and the headers of every answer.

No route but those in `open_paths` is reached without a token, so that a new route cannot be left open by mistake. Which
scope a route needs, its own dependency `needs` checks.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kneegrade.server.rest.problem import Refusal, problem_answer
from kneegrade.server.rest.tokens import Caller, TokenFile

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
MAX_BODY_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 30.0
CALLER: Final = "kneegrade.caller"  # key of the ASGI scope
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_BEARER: Final = HTTPBearer(auto_error=False, description="A token of `kneegrade serve token`.")
_log = logging.getLogger(__name__)


class HttpGuard:
    """ASGI middleware: tokens, the number of requests, security headers, and a plain answer to errors of kneegrade.

    Args:
        app: the application.
        tokens: who may use it.
        open_paths: paths that need no token; one that ends with "/" stands for all paths below it.
        max_requests: at the same time; more are refused (503).
        stream_paths: paths whose routes stream and count their bodies themselves; one that ends with "/" stands for all
            below it. Elsewhere a body has at most 1 MiB and states its length.
        body_seconds: in which other bodies arrive.
    """

    def __init__(
        self, app: ASGIApp, tokens: TokenFile, open_paths: Sequence[str], max_requests: int,
        stream_paths: Sequence[str], body_seconds: float = BODY_SECONDS,
    ) -> None:  # fmt: skip
        self._stream_paths, self._body_seconds = tuple(stream_paths), body_seconds
        self._app, self._tokens, self._max_requests = app, tokens, max_requests
        self._open_paths = tuple(open_paths)
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._requests += 1
        try:
            if self._requests > self._max_requests:
                await problem_answer(503, headers={"Retry-After": "1"})(scope, receive, send_guarded)
            elif not self._may_pass(scope):
                await _unauthorized(scope)(scope, receive, send_guarded)
            elif (status := self._refused_body(scope)) is not None:
                await problem_answer(status)(scope, receive, send_guarded)
            else:
                timed = receive if self._is_streamed(scope) else in_time(receive, self._body_seconds)
                await self._app(scope, timed, send_guarded)
        except Exception as error:  # its text may name a patient
            _log.error("A request failed with %s.", type(error).__name__)
            if not has_begun:
                await problem_answer(500)(scope, receive, send_guarded)
        finally:
            self._requests -= 1

    def _may_pass(self, scope: Scope) -> bool:
        caller = self._caller(scope)
        scope[CALLER] = caller
        path = scope["path"]
        is_open = any(path == one or (one.endswith("/") and path.startswith(one)) for one in self._open_paths)
        return caller is not None or (is_open and scope["method"] in _SAFE_METHODS)

    def _refused_body(self, scope: Scope) -> int | None:
        """413 for a body that is too large for a route that reads it as a whole, 411 if its length is not stated."""
        if self._is_streamed(scope):
            return None
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:
            return 411
        return 413 if int(headers.get("content-length", 0)) > MAX_BODY_BYTES else None

    def _is_streamed(self, scope: Scope) -> bool:
        path = scope["path"]
        return any(path == one or (one.endswith("/") and path.startswith(one)) for one in self._stream_paths)

    def _caller(self, scope: Scope) -> Caller | None:
        """Who has the token of the request: a bearer token or, to read with a browser, a password with any name."""
        stated = Headers(scope=scope).getlist("authorization")
        if len(stated) != 1:
            return None
        scheme, _, value = stated[0].partition(" ")
        if scheme.lower() == "bearer":
            return self._tokens.caller(value.strip())
        if scheme.lower() == "basic" and scope["method"] in _SAFE_METHODS:
            try:
                _, _, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return self._tokens.caller(password)
        return None


def in_time(receive: Receive, seconds: float) -> Receive:
    """`receive` that raises a `Refusal` (408) if the body is not complete after so many seconds."""
    end = asyncio.get_running_loop().time() + seconds
    is_complete = False

    async def receive_in_time() -> Message:
        nonlocal is_complete
        if is_complete:  # what follows is the end of the connection
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise Refusal(408, headers={"Connection": "close"}) from None
        is_complete = not message.get("more_body", False)
        return message

    return receive_in_time


def _unauthorized(scope: Scope) -> ASGIApp:
    """The answer without a valid token; a browser that opens a page asks its user for the token."""
    is_page = "text/html" in Headers(scope=scope).get("accept", "") and scope["method"] in _SAFE_METHODS
    challenge = 'Basic realm="kneegrade: any name, and a token as password", charset="UTF-8"' if is_page else "Bearer"
    return problem_answer(401, headers={"WWW-Authenticate": challenge})


def needs(scope: str) -> Callable[..., Caller]:
    """A dependency of a route: who sent the request, if the token has this scope (`tokens.SCOPES`)."""

    def caller(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None) -> Caller:
        found: Any = request.scope.get(CALLER)
        if not isinstance(found, Caller):
            raise Refusal(401, headers={"WWW-Authenticate": "Bearer"})
        if scope not in found.scopes:
            raise Refusal(403, f"The token has no scope `{scope}`; use another one, or add the scope to its line.")
        return found

    return caller
