"""The command line as a user calls it, in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kneegrade() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `kneegrade` with these arguments; warnings are errors there too."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "kneegrade", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=500, check=False)

    return run
