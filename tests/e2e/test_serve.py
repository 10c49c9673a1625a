"""`kneegrade serve`, `serve token` and `spool` as a user types them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx", reason='needs pip install "kneegrade[dev]"')
pytest.importorskip("fastapi", reason='needs pip install "kneegrade[serve]"')

EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"


def test_the_demonstration_grades_films_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "kneegrade", "serve", "--demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if len(re.findall(r"[0-9a-f]{40}  .*KL \d", "".join(lines))) == 2:
                    break
            text = "".join(lines)
            url, token = re.search(r"http://127\.0\.0\.1:\d+", text)[0], re.search(r"kg_\S+", text)[0]
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/dicom", "Prefer": "wait=60"}
            answer = httpx.post(f"{url}/v1/films", content=EXAMPLE.read_bytes(), headers=headers, timeout=90)
            assert (answer.status_code, answer.json()["state"]) == (200, "graded")
            for name in answer.json()["results"]:
                result = httpx.get(f"{url}/v1/films/{answer.json()['key']}/{name}", headers=headers)
                assert result.status_code == 200, name
            assert is_echoed(*re.search(r"DICOM +(\S+) at 127\.0\.0\.1:(\d+) ", text).groups())
            settings = re.search(r"settings (\S+)", text)[1]
            listed = subprocess.run(
                [sys.executable, "-m", "kneegrade", "spool", "ls", "--config", settings],
                capture_output=True, text=True, timeout=60, check=True,
            ).stdout  # fmt: skip
            assert "Films: 0 received, 0 working, 3 graded, 0 dead" in listed
        finally:
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(20)
        assert (process.returncode, process.stderr.read()) == (0, "")
    assert time.monotonic() - start < 10
    assert list(tmp_path.glob("kneegrade-demo-*")) == []


def is_echoed(title, port):
    """Whether the DICOM node answers a C-ECHO."""
    pynetdicom = pytest.importorskip("pynetdicom", reason='needs pip install "kneegrade[dicom]"')
    entity = pynetdicom.AE(ae_title="HERE")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", int(port), ae_title=title)
    status = association.send_c_echo().Status
    association.release()
    return status == 0


def test_the_example_settings_and_a_token_are_a_service(kneegrade, tmp_path):
    path = tmp_path / "serve.toml"
    assert kneegrade("serve", "--write-config", path).returncode == 0
    again = kneegrade("serve", "--write-config", path)
    assert (again.returncode, "exists" in again.stderr) == (2, True)
    made = kneegrade("serve", "token", "ward", "--scopes", "send,read", "--config", path)
    assert re.fullmatch(r"kg_\S{40,}\n", made.stdout)
    assert "is not shown again" in made.stderr
    assert (tmp_path / "tokens").read_text().splitlines()[-1].startswith("ward send,read ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "Give one of --config FILE, --demo and --write-config FILE."),
        (["serve", "--demo", "--config", "serve.toml"], "Give one of"),
        (["serve", "--config", "no-such.toml"], "no-such.toml cannot be read (No such file or directory)"),
        (["serve", "--config", "wrong.toml"], "wrong.toml, line 2: spool.keep_dys: this setting does not exist"),
        (["serve", "--config", "tokenless.toml"], "kneegrade serve token NAME"),
        (["serve", "token", "ward"], "Give one of --config FILE and --file FILE."),
        (["serve", "token", "ward", "--file", "tokens", "--scopes", "write"], "send, read, review, metrics"),
        (["spool", "ls", "--spool", "."], "is no spool"),
        (["spool", "retry", "--spool", "."], "Give the keys of films, or --all."),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_a_sentence(arguments, message, kneegrade_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wrong.toml").write_text("[spool]\nkeep_dys = 1\ndirectory = 's'\n[rest]\ntokens = 't'\n")
    Path("tokenless.toml").write_text("[spool]\ndirectory = 's'\n[rest]\ntokens = 't'\nport = 0\n")
    done = kneegrade_here(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
