"""Files that serve.toml names are missed before anything starts, with the line of their setting."""

import subprocess
import sys

import pytest

from kneegrade.errors import UsageError
from kneegrade.server.settings import load_settings
from kneegrade.server.settings_files import check_files

SETTINGS = """[spool]
directory = "spool"
[grading]

weights = "own.safetensors"
[node]
[node.tls]
certificate = "node.pem"
[[destination]]
name = "a"
kind = "stow"
url = "https://archive.example"
[[destination]]
name = "web"
kind = "stow"
url = "https://archive.example"
token = "secrets/stow"
"""


def test_missing_files_are_named_with_their_lines(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(SETTINGS)
    (tmp_path / "node.pem").touch()
    with pytest.raises(UsageError) as error:
        check_files(path, load_settings(path))
    first, second = error.value.message.splitlines()
    assert first.startswith("serve.toml, line 5: grading.weights: the file does not exist or cannot be read;")
    assert second.startswith("serve.toml, line 17: destination.2.token: the file does not exist")
    (tmp_path / "own.safetensors").touch()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "stow").touch()
    check_files(path, load_settings(path))


def test_the_command_refuses_them_before_anything_starts(tmp_path):
    (tmp_path / "serve.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(tmp_path / "serve.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 5: grading.weights" in done.stderr
    assert not (tmp_path / "spool").exists()
