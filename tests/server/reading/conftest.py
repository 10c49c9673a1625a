"""Folders of results, and readers of the page by requests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `reading_folders`

from reading_folders import write_reading_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of results of four films."""
    return write_reading_folder(tmp_path)


@pytest.fixture
def client_of() -> Iterator[Callable[..., Any]]:
    """From services and a reader to a client whose requests are those of the reader."""
    pytest.importorskip("fastapi", reason="FastAPI is missing; pip install 'kneegrade[serve]'")
    pytest.importorskip("httpx", reason="httpx is missing; pip install 'kneegrade[dev]'")
    from starlette.testclient import TestClient

    from kneegrade.server.reading.local_page import local_application
    from kneegrade.server.reading.sessions import Sessions

    clients = []

    def make(services: Any, reader: str = "anna") -> Any:
        tokens: list[str] = []
        sessions = Sessions(lambda _, token: tokens.append(token))
        client = TestClient(local_application(services, sessions), base_url="http://127.0.0.1:80")
        clients.append(client)
        sessions.invite(reader)
        session = client.post("/v1/session", json={"token": tokens[0]}).json()["token"]
        client.headers["Authorization"] = f"Bearer {session}"
        return client

    yield make
    for client in clients:
        client.close()
