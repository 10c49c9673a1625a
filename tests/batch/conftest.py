"""Settings for the tests of batches."""

import os
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)  # for `worker_faults`, which the worker processes import too
CLINICAL = str(Path(__file__).parents[1] / "clinical")
if CLINICAL not in sys.path:
    sys.path.append(CLINICAL)  # for `archive`


@pytest.fixture(autouse=True)
def _workers_find_the_tasks_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{known}" if known else HERE)
