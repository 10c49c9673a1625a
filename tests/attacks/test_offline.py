"""Promise 8: kneegrade opens no connection unless a user gives it a URL. Every command, its children included."""

from importlib.util import find_spec

import pytest
from every_command import LONG, QUICK, SERVERS, all_verbs, prepare, verb, write_knees
from network_watch import namespace, watched_run

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')


def test_every_command_is_tried():
    assert {verb(line) for line in (*QUICK, *LONG)} == all_verbs() - SERVERS


def test_commands_that_grade_work_without_a_network(tmp_path):
    prepare(tmp_path)
    lines = QUICK[:4]
    done = watched_run(lines, tmp_path)
    assert done.codes == dict.fromkeys(lines, 0), done.errors
    assert done.network == []
    assert any("decoding_worker" in start for start in done.starts)
    assert any("kneegrade.batch.worker" in start for start in done.starts)


@pytest.mark.slow
def test_every_command_works_without_a_network(tmp_path):
    prepare(tmp_path)
    write_knees(tmp_path)
    missing = [name for name in ("ray", "openvino") if find_spec(name) is None]
    if not namespace():
        missing.append("ray")  # its processes talk through the address of this computer, which the hook cannot know
    lines = [line for line in (*QUICK, *LONG) if not any(name in line.split() for name in missing)]
    done = watched_run(lines, tmp_path)
    assert done.codes == dict.fromkeys(lines, 0), done.errors
    assert done.network == []


GRANDCHILD = """
import subprocess, sys
from kneegrade.errors import KneeGradeError
inner = "import socket\\ntry: socket.create_connection(('example.org', 80))\\nexcept OSError: pass"
subprocess.run([sys.executable, "-P", "-c", inner], check=True)
"""
CONNECTION = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    assert error.errno == 101
"""


@pytest.mark.parametrize(
    ("program", "seen"), [(GRANDCHILD, "socket.getaddrinfo example.org"), (CONNECTION, "socket.getaddrinfo 192.0.2.1")]
)
def test_a_planted_look_up_is_seen(program, seen, tmp_path):
    assert watched_run([], tmp_path, program=program).network == [seen]


COMPILED = """
import ctypes, socket, struct, sys
library = ctypes.CDLL(None, use_errno=True)
address = struct.pack("<H", socket.AF_INET) + struct.pack(">H4s8s", 80, socket.inet_aton("192.0.2.1"), bytes(8))
code = library.connect(library.socket(socket.AF_INET, socket.SOCK_DGRAM, 0), address, len(address))
print('["connect", %d]' % (ctypes.get_errno() if code else 0), file=sys.stderr)
"""


@pytest.mark.skipif(not namespace(), reason="needs the right to make a network namespace (unshare --net, ip)")
def test_a_planted_connection_of_compiled_code_is_blocked(tmp_path):
    done = watched_run([], tmp_path, program=COMPILED)
    assert done.network == []  # the hook does not see it
    assert done.codes == {"connect": 101}  # network is unreachable


TELEMETRY = """
import time
{importing}
openvino.convert_model
time.sleep(0.5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("importing", "reaches_out"),
    [("import openvino", True), ("from kneegrade.weights import openvino_runtime as runtime", False)],
    ids=["openvino alone", "kneegrade"],
)
def test_openvino_does_not_report_its_use(importing, reaches_out, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason='openvino is missing: pip install "kneegrade[openvino]"')
    pytest.importorskip("openvino_telemetry", reason="openvino has no telemetry here")
    monkeypatch.setenv("HOME", str(tmp_path))
    text = importing if reaches_out else f"{importing}; openvino = runtime._import_openvino()"
    found = watched_run([], tmp_path, program=TELEMETRY.format(importing=text)).network
    assert bool(found) is reaches_out
    assert all("google-analytics" in event for event in found)
