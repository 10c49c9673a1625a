"""REST over TLS and mutual TLS, with certificates made by openssl; clients without a valid one, or that stall."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from served import DICOM, Rest, folder_with_settings

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing: apt-get install openssl")
HANDSHAKE_FAILURES = (ssl.SSLError, httpx.TransportError, OSError)
other_loopback_address = pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """ca.pem signs server.pem, client.pem and expired.pem; stranger.pem is signed by other.pem."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name in ("ca", "other"):
        openssl("req", "-x509", *key, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj",
                f"/CN={name}")  # fmt: skip
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name, authority, days in (("server", "ca", "2"), ("client", "ca", "2"), ("expired", "ca", "0"),
                                  ("stranger", "other", "2")):  # fmt: skip
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
                "-CAcreateserial", "-days", days, "-extfile", "san", "-out", f"{name}.pem")  # fmt: skip
    openssl("pkey", "-in", "server.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
    return folder


def settings_of(certificates: Path, clients: bool, key: str = "server.key") -> str:
    mutual = f"clients = '{certificates}/ca.pem'\n" if clients else ""
    return f"[rest.tls]\ncertificate = '{certificates}/server.pem'\nkey = '{certificates}/{key}'\n{mutual}"


def client_tls(certificates: Path, own: str | None = None, authority: str = "ca") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / f"{authority}.pem"))
    if own is not None:
        context.load_cert_chain(certificates / f"{own}.pem", certificates / f"{own}.key")
    return context


@pytest.fixture(scope="module")
def secured(tmp_path_factory, certificates):
    """The service with mutual TLS."""
    folder = tmp_path_factory.mktemp("secured")
    service = Rest(folder, settings_of(certificates, clients=True), tls=client_tls(certificates, "client"))
    yield service
    service.close()


def test_a_client_with_a_certificate_sends_a_film_but_needs_a_token_too(secured, film):
    with secured.client() as client:
        assert secured.url.startswith("https://")
        assert client.post("/v1/films", content=film, headers=DICOM).status_code == 202
        assert len(client.get("/v1/films").json()) == 1
    with secured.client(None) as client:
        assert client.get("/v1/films").status_code == 401


@pytest.mark.parametrize("own", [None, "stranger", "expired"])
def test_without_a_valid_certificate_nothing_is_answered(own, secured, certificates):
    while own == "expired" and not_after(certificates / "expired.pem") >= datetime.now(UTC):
        time.sleep(0.1)
    with pytest.raises(HANDSHAKE_FAILURES):
        httpx.get(f"{secured.url}/healthz", verify=client_tls(certificates, own), timeout=30)
    with secured.client(None) as client:
        assert client.get("/healthz").json() == {"status": "ok"}


def not_after(path: Path) -> datetime:
    done = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", path], capture_output=True, text=True, check=True
    )
    moment = datetime.strptime(done.stdout.strip().partition("=")[2], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    return moment + timedelta(seconds=1)


def test_a_client_does_not_trust_a_service_of_another_authority(secured, certificates):
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{secured.url}/healthz", verify=client_tls(certificates, "client", "other"), timeout=30)


@pytest.mark.skipif(sys.platform != "linux", reason="needs OpenSSL's security levels")
def test_plain_requests_and_old_versions_are_not_answered(secured, certificates):
    with pytest.raises(HANDSHAKE_FAILURES):
        httpx.get(secured.url.replace("https", "http") + "/healthz", timeout=30)
    ours = ["-cert", certificates / "client.pem", "-key", certificates / "client.key", "-cipher", "ALL:@SECLEVEL=0"]
    for version, answers in (("-tls1_1", False), ("-tls1_2", True)):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{secured.port}", version, *ours]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert (b"BEGIN CERTIFICATE" in done.stdout) is answers


@other_loopback_address
def test_a_hundred_stalled_handshakes_stop_nobody(secured, certificates):
    """From the same address up to its limit, and from another one."""
    with contextlib.ExitStack() as stack:
        for number in range(100):
            source = ("127.0.0.1" if number < 50 else "127.0.0.2", 0)
            stalled = stack.enter_context(socket.create_connection(("127.0.0.1", secured.port), 30, source))
            stalled.sendall(b"\x16\x03\x01\x02\x00"[: number % 6])
        with secured.client(None) as client:
            assert client.get("/healthz").status_code == 200


@pytest.mark.slow
@other_loopback_address
def test_more_stalled_handshakes_than_connections_stop_no_other_address(tmp_path, certificates):
    """A service with few connections: those of the other address are closed, also after they were replaced."""
    more = "connections = 8\nconnections_per_address = 6\n" + settings_of(certificates, clients=False)
    service = Rest(tmp_path, more, tls=client_tls(certificates))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 30, ("127.0.0.2", 0)))
            with service.client(None) as client:
                assert client.get("/healthz").status_code == 200
    finally:
        service.close()


@pytest.mark.parametrize("change", ["no such file", "another key", "encrypted key", "no certificate"])
def test_certificates_that_cannot_be_used_are_an_error_before_anything_starts(change, tmp_path, certificates):
    keys = {"another key": "ca.key", "encrypted key": "encrypted.key"}
    more = settings_of(certificates, clients=True, key=keys.get(change, "server.key"))
    if change == "no such file":
        more = more.replace("server.pem", "none.pem")
    if change == "no certificate":
        more = more.replace("ca.pem'", "server.key'")
    folder_with_settings(tmp_path, more)
    command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(tmp_path / "serve.toml")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "rest.tls" in done.stderr
    assert not (tmp_path / "spool").exists()
