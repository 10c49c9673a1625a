"""dciodvfy on DICOM objects: the lines that the allow-list `dciodvfy_allowed.txt` does not name."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ALLOWED_FILE = Path(__file__).with_name("dciodvfy_allowed.txt")
needs_dciodvfy = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is missing: apt-get install dicom3tools"
)


def allowed_warnings() -> list[re.Pattern[str]]:
    lines = ALLOWED_FILE.read_text(encoding="utf-8").splitlines()
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def iod_problems(content: bytes, folder: Path) -> list[str]:
    """Errors and warnings of dciodvfy about an object, without the allowed warnings."""
    path = folder / "object.dcm"
    path.write_bytes(content)
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    allowed = allowed_warnings()
    return [
        line
        for line in lines
        if line.startswith("Error") or (line.startswith("Warning") and not any(p.search(line) for p in allowed))
    ]
