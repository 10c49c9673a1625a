"""The systemd unit is valid, and as closed as the documentation says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ANALYZE = shutil.which("systemd-analyze")
pytestmark = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing: apt-get install systemd")
ROOT = Path(__file__).parents[2]
HIGHEST_EXPOSURE = 15  # tenths; docs/how-to/deploy.md states it


@pytest.fixture
def unit(tmp_path):
    """The unit, with a program that exists here."""
    text = (ROOT / "deploy" / "kneegrade.service").read_text(encoding="utf-8")
    program = "/opt/kneegrade/bin/kneegrade"
    assert program in text
    path = tmp_path / "kneegrade.service"
    path.write_text(text.replace(program, sys.executable), encoding="utf-8")
    return path


def analyze(*arguments):
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_the_unit_is_valid(unit):
    done = analyze("verify", str(unit))
    ours = [line for line in done.stderr.splitlines() if "kneegrade.service" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("mistake", ["NoNewPrivilege=yes", "RestartSec=soon", "SystemCallFilter=@no-such-group"])
def test_a_mistake_would_be_seen(mistake, unit):
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{mistake}\n"), encoding="utf-8")
    assert "kneegrade.service" in analyze("verify", str(unit)).stderr


def test_the_exposure_is_that_of_the_documentation(unit):
    security = ("security", "--offline=true", "--no-pager")
    assert analyze(*security, f"--threshold={HIGHEST_EXPOSURE}", str(unit)).returncode == 0
    assert analyze(*security, f"--threshold={HIGHEST_EXPOSURE - 1}", str(unit)).returncode != 0
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    assert f"exposure level is {HIGHEST_EXPOSURE / 10}" in page
