"""The REST service in a process of its own, asked by httpx and by plain sockets."""

import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from served import DICOM, Rest, raw_connection, request_head, until

from kneegrade.server.rest.tokens import add_token

KEY = "0" * 40
VIEWER = [
    ("GET", "/v1/worklist", "review"),
    ("GET", f"/v1/films/{KEY}/reading", "review"),
    ("GET", f"/v1/films/{KEY}/pixels", "review"),
    ("GET", f"/v1/films/{KEY}/evidence", "review"),
    ("POST", f"/v1/films/{KEY}/measure", "review"),
    ("GET", f"/v1/films/{KEY}/reviews", "review"),
    ("POST", f"/v1/films/{KEY}/reviews", "review"),
    ("POST", "/v1/coherence", "review"),
    ("POST", "/v1/labels", "review"),
]
ROUTES = [
    ("POST", "/v1/films", "send"),
    ("GET", "/v1/films", "read"),
    ("GET", f"/v1/films/{KEY}", "read"),
    ("GET", f"/v1/films/{KEY}/report.json", "read"),
    ("POST", "/dicomweb/studies", "send"),
    ("POST", "/dicomweb/studies/1.2.3", "send"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/openapi.json", "read"),
    ("GET", "/docs", "read"),
    ("GET", "/docs.css", "read"),
]
GROWTH_MIB = 32


def unlike(film, number):
    """A film with other bytes, which need not be gradable."""
    return film + b"\0" * number


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES + VIEWER)
def test_every_route_needs_a_token_with_its_scope(method, path, scope, rest):
    with rest.client(None) as client:
        answers = [
            client.request(method, path, headers=headers)
            for headers in (
                {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"},
                {"Authorization": rest.tokens["all"]}, {"Authorization": f"Bearer {rest.tokens['all']}x"},
            )
        ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [401] * 6
    assert {answer.json()["title"] for answer in answers} == {"Unauthorized"}
    assert answers[0].headers["WWW-Authenticate"] == "Bearer"
    for other in {"send", "read", "review", "metrics"} - {scope}:
        with rest.client(other) as client:
            assert client.request(method, path).status_code == 403
    with rest.client(scope) as client:
        assert client.request(method, path).status_code not in (401, 403)


def test_the_routes_above_are_all_routes_but_health(rest):
    with rest.client() as client:
        described = client.get("/openapi.json").json()["paths"]
    known = {(method, path.replace(KEY, "{key}").replace("report.json", "{name}")) for method, path, _ in ROUTES}
    for path, methods in described.items():
        for method in methods:
            assert path == "/healthz" or (method.upper(), path.replace("{study}", "1.2.3")) in known


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1", "/healthz/x", "/v1/films/", "//healthz", "/healthz%2f.."])
def test_what_does_not_exist_needs_a_token_too(path, rest):
    with rest.client(None) as client:
        assert client.get(path).status_code == 401
    with rest.client() as client:
        assert client.get(path).status_code in (307, 404)


def test_the_files_of_the_readers_page_need_no_token_and_hold_no_data(rest):
    with rest.client(None) as client:
        page = client.get("/viewer/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert client.get("/viewer/..%2fserve.toml").status_code == 404
        assert client.post("/viewer/").status_code == 401


def test_a_body_that_a_route_reads_as_a_whole_is_small(rest):
    with rest.client("review") as client:
        json_type = {"Content-Type": "application/json"}
        large = client.post(f"/v1/films/{KEY}/measure", content=b" " * (2 << 20), headers=json_type)
        endless = client.post(f"/v1/films/{KEY}/measure", content=iter([b" "]), headers=json_type)
    assert (large.status_code, endless.status_code) == (413, 411)


def test_health_says_nothing_but_ok(rest):
    with rest.client(None) as client:
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert client.post("/healthz").status_code == 401
    assert "server" not in answer.headers


def test_two_authorization_headers_are_none(rest):
    with rest.client(None) as client:
        both = [("Authorization", f"Bearer {rest.tokens['all']}")] * 2
        assert client.get("/v1/films", headers=both).status_code == 401


def test_a_browser_may_read_with_the_token_as_password_but_not_send(rest):
    with httpx.Client(base_url=rest.url, auth=("anyone", rest.tokens["all"])) as client:
        assert client.get("/docs").status_code == 200
        assert client.post("/v1/films", content=b"x", headers=DICOM).status_code == 401
        page = client.get("/docs", headers={"Accept": "text/html"}, auth=("anyone", "wrong"))
    assert page.status_code == 401
    assert page.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_token_works_as_soon_as_it_is_in_the_file(rest):
    token = add_token(rest.settings.rest.tokens, "late", ["read"])
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{rest.url}/v1/films", headers=headers).status_code == 200
    path = rest.settings.rest.tokens
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("late ")))
    assert httpx.get(f"{rest.url}/v1/films", headers=headers).status_code == 401


def test_a_film_is_accepted_once_and_found(rest, film):
    with rest.client() as client:
        answer = client.post("/v1/films", content=film, headers=DICOM)
        state = answer.json()
        assert (answer.status_code, state["state"], state["kind"]) == (202, "received", "dicom")
        assert answer.headers["Location"] == f"/v1/films/{state['key']}"
        again = client.post("/v1/films", content=iter([film[:7], film[7:]]), headers=DICOM)
        assert again.json() == state
        assert client.get(answer.headers["Location"]).json() == state
        assert state["key"] in [one["key"] for one in client.get("/v1/films").json()]
        assert client.get(f"/v1/films/{state['key']}/sr.dcm").status_code == 404
    stored = rest.settings.spool.directory / "films" / f"{state['key']}.dcm"
    assert stored.read_bytes() == film
    assert stored.stat().st_mode & 0o777 == 0o600
    assert [name for name in rest.spool_files if name.startswith("tmp/")] == []


def test_pages_of_films_follow_each_other(rest, film):
    with rest.client() as client:
        keys = [client.post("/v1/films", content=unlike(film, n), headers=DICOM).json()["key"] for n in range(2, 7)]
        first = client.get("/v1/films", params={"limit": 2}).json()
        second = client.get("/v1/films", params={"limit": 3, "before": first[-1]["key"]}).json()
        assert [one["key"] for one in first + second] == keys[::-1]
        assert client.get("/v1/films", params={"state": "graded"}).json() == []
        assert [client.get("/v1/films", params={"limit": n}).status_code for n in (0, 501, "x")] == [422] * 3


@pytest.mark.parametrize(
    ("start", "media_type", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png", "png"), (b"\xff\xd8\xff", "image/jpeg", "jpeg"),
        (b"MM\0*", "IMAGE/TIFF; x=y", "tiff"), (b"\x89PNG\r\n\x1a\n", "application/octet-stream", "png"),
        (b"no preamble", "application/dicom", "dicom"), (b"\xff\xd8\xff", "image/png", None),
        (b"\x89PNG\r\n\x1a\n", "application/dicom", None), (b"PK\x03\x04", "application/octet-stream", None),
    ],
)  # fmt: skip
def test_the_kind_follows_from_the_type_and_the_bytes(start, media_type, kind, rest):
    with rest.client() as client:
        answer = client.post("/v1/films", content=start + kind_salt(media_type), headers={"Content-Type": media_type})
    assert answer.status_code == (415 if kind is None else 202)
    if kind is not None:
        assert answer.json()["kind"] == kind


def kind_salt(media_type):
    return hashlib.sha256(media_type.encode()).digest() * 10


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain"}, {"Content-Type": "application/zip"}, {}, {"Content-Type": "application/dicomx"},
        DICOM | {"Content-Encoding": "gzip"}, DICOM | {"Content-Encoding": "br"},
    ],
    ids=str,
)  # fmt: skip
def test_forms_and_encoded_bodies_are_refused(headers, rest):
    with rest.client() as client:
        answer = client.post("/v1/films", content=gzip.compress(b"\0" * 100_000), headers=headers)
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("content", [b"", iter([])], ids=["length 0", "chunked"])
def test_an_empty_body_is_refused(content, rest):
    with rest.client() as client:
        assert client.post("/v1/films", content=content, headers=DICOM).status_code == 411


@pytest.mark.parametrize(
    "prefer",
    ["wait", "wait=", "wait=-1", "wait=1e3", "wait=x", "return=minimal", ";;,=,wait=+5", "wait=00000000000009"],
)
def test_a_malformed_preference_is_ignored(prefer, rest, film):
    start = time.monotonic()
    with rest.client() as client:
        assert client.post("/v1/films", content=film, headers=DICOM | {"Prefer": prefer}).status_code == 202
    assert time.monotonic() - start < 5


def test_a_preference_waits_and_says_then_that_the_film_is_not_done(rest, film):
    start = time.monotonic()
    with rest.client() as client:
        answer = client.post("/v1/films", content=film, headers=DICOM | {"Prefer": "respond-async, wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "received")
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", f"{KEY}/..%2f..%2ftokens", f"{KEY}/../../tokens",
        f"{KEY}/%2e%2e/serve.toml", f"{KEY}%00/report.json", f"{KEY[:-1]}/report.json", "A" * 40, "%c3%a4" * 20,
        f"{KEY}/report.json/x", f"{KEY}/serve.toml", f"{KEY}/REPORT.JSON", f"{KEY}\n", "x" * 5000,
    ],
)  # fmt: skip
def test_a_key_is_never_a_path(path, rest):
    with raw_connection(rest.port) as connection:
        target = "/v1/films/" + path.replace("\n", "%0a")
        connection.sendall(request_head(rest.tokens["all"], target, "GET", "Connection: close"))
        status = int(read_answer(connection).split(b" ", 2)[1])
    assert status in (404, 422)


def read_answer(connection):
    answer = b""
    while chunk := connection.recv(1 << 16):
        answer += chunk
    return answer


def test_a_refusal_repeats_nothing_of_the_request(rest):
    with rest.client() as client:
        answer = client.get("/v1/films", params={"state": "ZQ99XK", "before": "ZQ98XK"})
        assert answer.status_code == 422
        assert "ZQ9" not in answer.text
        assert "ZQ9" not in client.get("/ZQ99XK").text + client.get("/v1/films/ZQ99XK").text
    assert b"ZQ9" not in rest.log_path.read_bytes()


def test_answers_forbid_what_a_browser_could_do_with_them(rest):
    with rest.client() as client:
        answers = [client.get(path) for path in ("/v1/films", "/docs", "/nothing", "/healthz", "/v1/films/x")]
        answers.append(client.get("/v1/films", headers={"Origin": "https://evil.example"}))
        answers.append(client.options("/v1/films", headers={"Origin": "https://evil.example"}))
    for answer in answers:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "set-cookie" not in answer.headers


def test_the_metrics_count_films_and_requests(rest, film):
    with rest.client() as client:
        before, _ = client.get("/metrics").text, client.post("/v1/films", content=unlike(film, 77), headers=DICOM)
        client.post("/v1/films", content=b"x", headers={"Content-Type": "text/plain"})
        after = client.get("/metrics").text

    def value(text, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return 0.0 if found is None else float(found[1])

    for name in ('kneegrade_rest_films_total{outcome="accepted"}', 'kneegrade_rest_films_total{outcome="refused"}',
                 'kneegrade_films{state="received"}', "kneegrade_rest_film_bytes_count"):  # fmt: skip
        assert value(after, name) == value(before, name) + 1, name
    assert 'route="/v1/films",status="202"' in after
    assert not re.search(r"[0-9a-f]{40}", after)


def test_the_description_page_needs_no_script(rest):
    with rest.client() as client:
        page, style = client.get("/docs"), client.get("/docs.css")
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert style.headers["content-type"].startswith("text/css")
    for path in ("/v1/films/{key}/{name}", "/dicomweb/studies", "FilmState", "Problem"):
        assert path in page.text


def test_the_audit_log_says_who_sent_a_film(rest, film):
    for token in ("send", "all"):
        with rest.client(token) as client:
            key = client.post("/v1/films", content=unlike(film, 88), headers=DICOM).json()["key"]
    lines = (rest.settings.spool.directory / "audit.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines if key in line]
    assert {(one["event"], one["via"]) for one in entries} == {("film_received", "rest")}
    assert [(one["sender"], one["is_new"]) for one in entries] == [("send", True), ("all", False)]


def gibibyte():
    for _ in range(1024):
        yield b"\0" * (1 << 20)


@pytest.mark.parametrize("media_type", ["application/dicom", "multipart/related; boundary=abc"])
def test_a_gibibyte_is_cut_off_without_memory_or_files(media_type, rest):
    path = "/v1/films" if media_type == "application/dicom" else "/dicomweb/studies"
    before, files = rest.memory_mib(), rest.spool_files
    with rest.client() as client:
        answer = client.post(path, content=gibibyte(), headers={"Content-Type": media_type})
    assert answer.status_code in (413, 422)
    assert rest.memory_mib() - before <= GROWTH_MIB
    assert rest.spool_files == files


def test_a_declared_gibibyte_is_refused_before_it_is_sent(rest):
    with raw_connection(rest.port) as connection:
        connection.sendall(
            request_head(rest.tokens["all"], "/v1/films", "POST", "Content-Type: application/dicom",
                         f"Content-Length: {1 << 30}", "Expect: 100-continue")
        )  # fmt: skip
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.slow
def test_bodies_and_headers_that_never_end_are_cut_off(tmp_path, film):
    """A body of a byte a second, a head of a byte a second, silent connections: each ends, and others are served."""
    slow = Rest(tmp_path, "body_seconds = 2\nconnections = 16\n")
    try:
        head = request_head(slow.tokens["all"], "/v1/films", "POST", "Content-Type: application/dicom",
                            "Content-Length: 1000")  # fmt: skip
        ends: dict[str, float] = {}

        def drip(name, first, rest_of_it):
            start = time.monotonic()
            with raw_connection(slow.port) as connection:
                connection.sendall(first)
                connection.settimeout(0.3)
                for byte in rest_of_it:
                    try:
                        connection.sendall(bytes([byte]))
                        if connection.recv(4096) in (b"",) or name == "body":
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break
            ends[name] = time.monotonic() - start

        threads = [
            threading.Thread(target=drip, args=("body", head, b"x" * 900)),
            threading.Thread(target=drip, args=("head", b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 100)),
        ]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        with slow.client() as client:
            assert client.post("/v1/films", content=film, headers=DICOM).status_code == 202
        assert time.monotonic() - start < 2
        for thread in threads:
            thread.join(25)
        assert ends["body"] < 5
        assert ends["head"] < 15
        assert [name for name in slow.spool_files if name.startswith("tmp/")] == []
    finally:
        slow.close()


@pytest.mark.slow
def test_more_connections_than_allowed_are_closed_and_room_comes_back(tmp_path):
    service = Rest(tmp_path, "connections = 8\n")
    idle = []
    try:
        for _ in range(30):
            idle.append(socket.create_connection(("127.0.0.1", service.port)))
        closed = 0
        for connection in idle:
            connection.settimeout(0.3)
            try:
                closed += connection.recv(1) == b""
            except ConnectionResetError:
                closed += 1
            except TimeoutError:
                pass
        assert closed >= 22
    finally:
        for connection in idle:
            connection.close()
        until(lambda: httpx.get(f"{service.url}/healthz").status_code == 200, 10)
        service.close()


def test_with_too_many_waiting_films_new_ones_are_refused(tmp_path, film):
    service = Rest(tmp_path, "waiting_films = 2\n")
    try:
        with service.client() as client:
            codes = [client.post("/v1/films", content=unlike(film, n), headers=DICOM) for n in range(4)]
    finally:
        service.close()
    assert [answer.status_code for answer in codes] == [202, 202, 503, 503]
    assert codes[-1].headers["Retry-After"] == "30"


def test_a_disk_without_the_reserve_takes_no_film(tmp_path, film):
    service = Rest(tmp_path, reserve=999_999)
    try:
        with service.client() as client:
            answer = client.post("/v1/films", content=film, headers=DICOM)
    finally:
        service.close()
    assert (answer.status_code, answer.headers["Retry-After"]) == (507, "30")
    assert service.spool_files == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 4 MB."""
    (tmp_path / "spool").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path / "spool")]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path / "spool")], check=True)


def test_a_full_disk_leaves_nothing_half_written_and_takes_films_again_by_itself(small_disk):
    service = Rest(small_disk)
    try:
        with service.client() as client:
            answers = [client.post("/v1/films", content=bytes([n]) * 1_500_000, headers=DICOM) for n in range(4)]
            kept = {answer.json()["key"] for answer in answers if answer.status_code == 202}
            assert [answer.status_code for answer in answers][-2:] == [507, 507]
            assert service.spool_files == sorted(f"films/{key}.dcm" for key in kept)
            assert client.get("/healthz").status_code == 200
            (service.settings.spool.directory / "films" / f"{kept.pop()}.dcm").unlink()
            assert client.post("/v1/films", content=b"x" * 1_000_000, headers=DICOM).status_code == 202
    finally:
        service.close()


def test_the_service_ends_with_its_supervisor(tmp_path):
    service = Rest(tmp_path)
    start = time.monotonic()
    service.close()
    assert time.monotonic() - start < 5
