"""Requests that Schemathesis invents from the OpenAPI description: no answer outside it, and no 5xx."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason='needs pip install "kneegrade[dev]"')

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth"
)


def invent(rest, folder: Path, cases: int) -> int:
    """The number of invented requests, all of which were answered as described."""
    with rest.client() as client:
        (folder / "openapi.json").write_text(json.dumps(client.get("/openapi.json").json()))
    program = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [program, "run", "openapi.json", "--url", rest.url, "--header", f"Authorization: Bearer {rest.tokens['all']}",
         "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", str(cases), "--seed", "1", "--mode",
         "all", "--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure",
         "--warnings", "off", "--no-color"],
        cwd=folder, capture_output=True, text=True, timeout=1200, check=False,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
             "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return int(re.search(r"([\d,]+) generated", done.stdout)[1].replace(",", ""))


def test_invented_requests_are_answered_as_described(rest, tmp_path):
    assert invent(rest, tmp_path, 20) >= 300


@pytest.mark.slow
def test_five_thousand_invented_requests_are_answered_as_described(rest, tmp_path):
    assert invent(rest, tmp_path, 900) >= 5000
