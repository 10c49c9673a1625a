"""Limits of bodies: time, and free space of the disk."""

import asyncio

import pytest

pytest.importorskip("fastapi", reason='needs pip install "kneegrade[serve]"')

from kneegrade.server.rest.film_body import SpoolFile
from kneegrade.server.rest.http_guard import HttpGuard
from kneegrade.server.rest.problem import answer_problems
from kneegrade.server.rest.tokens import TokenFile, add_token
from kneegrade.server.spool.film_spool import Spool, SpoolFullError


def test_a_body_that_fills_the_disk_is_refused_before_its_end(tmp_path):
    spool = Spool(tmp_path / "spool", min_free_bytes=1 << 60)

    async def write():
        async with SpoolFile(spool) as file:
            for _ in range(20):
                await file.write(b"x" * (1 << 20))

    with pytest.raises(SpoolFullError):
        asyncio.run(write())
    spool.close()
    assert list((tmp_path / "spool" / "tmp").iterdir()) == []


def test_a_small_body_that_does_not_end_is_refused(tmp_path):
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Body(BaseModel):
        value: int

    app = FastAPI()
    answer_problems(app)

    @app.post("/small")
    async def small(body: Body) -> Body:
        return body

    token = add_token(tmp_path / "tokens", "all", ["read"])
    guard = HttpGuard(app, TokenFile(tmp_path / "tokens"), (), 8, (), body_seconds=0.2)
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/small", "raw_path": b"/small", "query_string": b"",
        "headers": [*headers, (b"content-length", b"1000")], "server": ("localhost", 80), "client": ("localhost", 1),
        "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    pieces, sent = [{"type": "http.request", "body": b"{", "more_body": True}], []

    async def receive():
        if pieces:
            return pieces.pop()
        return await asyncio.Future()

    async def send(message):
        sent.append(message)

    async def run():
        async with asyncio.timeout(5):
            await guard(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in [(name.lower(), value) for name, value in sent[0]["headers"]]
