"""Requests that Schemathesis invents from the OpenAPI description: no answer outside it, and no 5xx."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from served import DICOM

pytest.importorskip("schemathesis", reason='needs pip install "kneegrade[dev]"')

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth"
)
GUARD = (401, 403, 408, 411, 413, 422)  # answers of the guard, and of the validation, to every request
VIEWER_ANSWERS = {  # of the routes of the reader's page, which /openapi.json does not describe
    ("get", "/v1/worklist"): (200,), ("get", "/v1/films/{key}/reading"): (200, 404),
    ("get", "/v1/films/{key}/pixels"): (200, 404), ("get", "/v1/films/{key}/evidence"): (200, 404),
    ("post", "/v1/films/{key}/measure"): (200, 404), ("get", "/v1/films/{key}/reviews"): (200, 404),
    ("post", "/v1/films/{key}/reviews"): (201, 404, 409), ("post", "/v1/coherence"): (200,),
    ("get", "/v1/shape"): (200,), ("post", "/v1/labels"): (200,),
}  # fmt: skip


def invent(service, description, folder: Path, cases: int, film_key: str = "") -> int:
    """The number of invented requests, all of which were answered as described."""
    folder.mkdir(exist_ok=True)
    (folder / "openapi.json").write_text(json.dumps(description))
    program = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [program, "run", "openapi.json", "--url", service.url, "--header",
         f"Authorization: Bearer {service.tokens['all']}", "--checks", CHECKS, "--phases", "coverage,fuzzing",
         "--max-examples", str(cases), "--seed", "1", "--mode", "all", "--generation-database", "none",
         "--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off", "--no-color"],
        cwd=folder, capture_output=True, text=True, timeout=3600, check=False,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "SCHEMATHESIS_FILM_KEY": film_key,
             "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    generated = int(re.search(r"([\d,]+) generated", done.stdout)[1].replace(",", ""))
    print(f"{generated} requests to {service.url}")
    return generated


def invent_for_service(rest, folder: Path, cases: int) -> int:
    """Requests to the routes of /openapi.json."""
    with rest.client() as client:
        return invent(rest, client.get("/openapi.json").json(), folder / "service", cases)


def invent_for_viewer(serving, film: bytes, folder: Path, cases: int) -> int:
    """Requests to the routes of the reader's page, most of them about a graded film."""
    with serving.client() as client:
        state = client.post("/v1/films", content=film, headers=DICOM | {"Prefer": "wait=60"}).json()
    assert state["state"] == "graded"
    return invent(serving, viewer_description(folder), folder / "viewer", cases, state["key"])


def viewer_description(folder: Path) -> dict:
    """OpenAPI description of the reader's page, with the answers of `VIEWER_ANSWERS`."""
    from typing import Annotated

    from fastapi import Depends, FastAPI

    from kneegrade.server.reading.reading_desk import ReadingDesk
    from kneegrade.server.reading.reading_routes import ReadingServices, reader_router
    from kneegrade.server.reading.spool_store import SpoolStore
    from kneegrade.server.rest.http_guard import needs
    from kneegrade.server.rest.tokens import Caller
    from kneegrade.server.spool.film_spool import Spool

    def reader_name(caller: Annotated[Caller, Depends(needs("review"))]) -> str:
        return caller.name

    app = FastAPI()
    spool = Spool(folder / "no films")
    app.include_router(reader_router(ReadingServices(ReadingDesk(SpoolStore(spool))), reader_name))
    description = app.openapi()
    spool.close()
    found = {(method, path): one for path, methods in description["paths"].items() for method, one in methods.items()}
    assert set(found) == set(VIEWER_ANSWERS)
    for operation, statuses in VIEWER_ANSWERS.items():
        found[operation]["responses"] = {str(status): {"description": "."} for status in (*statuses, *GUARD)}
    return description


def test_invented_requests_are_answered_as_described(rest, tmp_path):
    assert invent_for_service(rest, tmp_path, 20) >= 300


def test_invented_requests_of_the_readers_page_are_answered_as_described(serving, film, tmp_path):
    assert invent_for_viewer(serving, film, tmp_path, 4) >= 150


@pytest.mark.slow
def test_five_thousand_invented_requests_are_answered_as_described(rest, serving, film, tmp_path):
    service = invent_for_service(rest, tmp_path, 600)
    viewer = invent_for_viewer(serving, film, tmp_path, 300)
    assert service + viewer >= 5000
    assert viewer >= 1500
