"""Services that several tests of the server share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
for _folder in (_TESTS / "server", _TESTS / "clinical", _TESTS / "batch"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))  # `served`, `delivery_peers`; `archive`, `clinical_films`; `web_peer`

pytest.importorskip("fastapi", reason='needs pip install "kneegrade[serve]"')
pytest.importorskip("httpx", reason='needs pip install "kneegrade[dev]"')

from served import EXAMPLES, Rest, Serving  # noqa: E402


@pytest.fixture(scope="session")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    """The REST service with an empty spool; tests that share it look only at what they have sent."""
    service = Rest(tmp_path_factory.mktemp("rest"))
    yield service
    service.close()


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`kneegrade serve` with a worker, the DICOM node and the REST service."""
    service = Serving(tmp_path_factory.mktemp("serving"), "[node]\nport = 0\n")
    yield service
    service.close()


@pytest.fixture(scope="session")
def film() -> bytes:
    """The example of a right knee, a DICOM file."""
    return (EXAMPLES / "single_right.dcm").read_bytes()
