"""Films of archives: a query finds them, they are read within limits, and their results are stored beside them."""

import hashlib
import json
import logging
import re
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from archive import Archive, needs_orthanc, running_archive
from web_peer import Answer, running_web_peer, stow_answer, uid_in

pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')

from kneegrade.anatomy import UserHints
from kneegrade.batch import BatchOptions, read_table, run_batch, web_archive
from kneegrade.batch.film_task import film_rows
from kneegrade.batch.plan import plan_films
from kneegrade.batch.web_archive import InstanceUids, WebArchive, single_part
from kneegrade.batch.web_films import ArchiveFilm, NotStoredError, StoringWriter, archive_films, store_service
from kneegrade.batch.web_session import WebAccess, WebSession
from kneegrade.clinical import Job, ObjectWriter, read_sr
from kneegrade.errors import LimitExceededError, UnreadableFileError, UsageError
from kneegrade.grader import Grader

EXAMPLES = Path(__file__).parents[2] / "examples"
DX, SC, SR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.34"
UIDS = InstanceUids("1.2", "1.2.3", "1.2.3.4")


def item(uid: str, sop_class: str = DX, model: str = "") -> dict[str, dict[str, object]]:
    values = {"0020000D": "1.2", "0020000E": "1.2.3", "00080018": uid, "00080016": sop_class, "00081090": model}
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in values.items() if value}


def listing(items: list[dict[str, dict[str, object]]], page: int = 1000):
    """Answers of QIDO-RS that contain no more than `page` instances."""

    def answer(path: str, body: bytes) -> Answer:
        query = parse_qs(urlsplit(path).query)
        start = int(query["offset"][0])
        return Answer(200, items[start : start + min(page, int(query["limit"][0]))])

    return answer


def found(url: str, **query: str) -> list[str]:
    with WebSession(WebAccess()) as session:
        return [uids.instance for uids in WebArchive(url, session).find(list(query.items()))]


def test_all_pages_of_an_answer_are_read_and_each_film_is_found_once():
    items = [item(f"1.2.{i}") for i in [*range(1, 451), 3, 4]]
    with running_web_peer(listing(items, page=100)) as peer:
        assert found(peer.url, Modality="DX") == [f"1.2.{i}" for i in range(1, 451)]
        queries = [parse_qs(urlsplit(path).query) for _, path, *_ in peer.requests]
    assert {query["Modality"][0] for query in queries} == {"DX"}
    assert [query["offset"][0] for query in queries] == ["0", "100", "200", "300", "400", "450"]


def test_a_service_that_ignores_the_offset_ends_the_search():
    with running_web_peer(lambda path, body: Answer(200, [item("1.2.1"), item("1.2.2")])) as peer:
        assert found(peer.url) == ["1.2.1", "1.2.2"]


def test_only_films_are_found_and_no_uid_leaves_the_service():
    odd = [item("../../etc"), item("1.2/../9"), item("1.2?x"), {}, {"00080018": {"Value": [7]}}, item("9" * 65)]
    items = [
        item("1.1"),
        item("1.2", SC, "KNEEGRADE"),
        item("1.3", SC, "scanner"),
        item("1.4", SR),
        *odd,
        item("1.5", ""),
    ]
    with running_web_peer(listing(items)) as peer:
        assert found(peer.url) == ["1.1", "1.3", "1.5"]


def test_the_plan_has_names_without_uids_in_an_order_of_its_own():
    with running_web_peer(listing([item(f"1.2.{i}") for i in range(9, 0, -1)])) as peer:
        url = f"dicomweb+{peer.url}/dicom-web?Modality=DX"
        films = plan_films([url, url.replace("DX", "CR")]).films  # a film that both find is one film
        names = [film.source.name for film in films]
        assert names == sorted(hashlib.sha256(f"1.2.{i}".encode()).hexdigest()[:40] + ".dcm" for i in range(1, 10))
        assert len(plan_films([url + "&limit=4"]).films) == 4
    assert not re.search(r"\d+\.\d+\.\d+", repr(films).replace("127.0.0.1", ""))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("dicomweb+http://archive.example/dicom-web?Modality=DX", "not encrypted"),
        ("dicomweb+https://me:SECRET@archive.example/dicom-web", "no user or password"),
        ("dicomweb+ftp://archive.example/dicom-web", "not of the form"),
        ("dicomweb+https:///dicom-web", "not of the form"),
        ("dicomweb+https://archive.example/dicom-web?limit=many", "limit must be"),
        ("dicomweb+https://archive.example/dicom-web?PatientID=CANARY&offset=3", "offset must be"),
        ("dicomweb+https://archive.example/dicom-web?Modality=DX&PatientNme=CANARY", "Attribute 2 in the query"),
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_sent(url, message):
    with pytest.raises(UsageError, match=message) as error:
        list(archive_films(url))
    assert "SECRET" not in str(error.value)
    assert "CANARY" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(401), "HTTP 401 to the query; check the token"),
        (Answer(404), "HTTP 404 to the query; check the URL"),
        (Answer(302, b"", {"Location": "https://elsewhere.example/"}), "HTTP 302"),
        (Answer(200, b"<html>"), "cannot be queried .JSONDecodeError."),
        (Answer(200, ["text"]), "not a list of DICOM JSON objects"),
        (Answer(200, []), "finds no radiographs"),
        (Answer(204, b""), "finds no radiographs"),
    ],
)
def test_an_archive_that_gives_no_list_is_a_clear_error(answer, message):
    with running_web_peer(lambda path, body: answer) as peer, pytest.raises(UsageError, match=message) as error:
        list(archive_films(f"dicomweb+{peer.url}/dicom-web?PatientID=CANARY"))
    assert "CANARY" not in str(error.value)


MULTIPART = {"Content-Type": 'multipart/related; type="application/dicom"; boundary="b--1"'}


def parts(*contents: bytes) -> bytes:
    head = b"\r\n--b--1\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + content for content in contents) + b"\r\n--b--1--\r\n"


def test_a_film_is_read_as_it_is_stored():
    film = bytes(range(256)) * 50 + b"\r\n\r\n--b\r\n"
    with running_web_peer(lambda path, body: Answer(200, parts(film), MULTIPART)) as peer:
        assert ArchiveFilm(peer.url, UIDS)() == film
        assert peer.requests[0][1] == "/studies/1.2/series/1.2.3/instances/1.2.3.4"
        assert "transfer-syntax=*" in peer.requests[0][2]["Accept"]


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (b"DICM", "application/dicom", b"DICM"),
        (parts(b"a"), "multipart/related; boundary=b--1", b"a"),
        (parts(b"a", b"b"), "multipart/related; boundary=b--1", None),
        (parts(b"a")[:-10], "multipart/related; boundary=b--1", None),
        (parts(b"a"), "multipart/related", None),
        (b"", "multipart/related; boundary=b--1", None),
    ],
)
def test_the_part_of_a_multipart_answer(content, content_type, expected):
    if expected is None:
        with pytest.raises(UnreadableFileError, match="not a complete multipart message"):
            single_part(content, content_type)
    else:
        assert single_part(content, content_type) == expected


def test_a_film_over_the_limit_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(web_archive, "_ENVELOPE_BYTES", 1000)
    sent = []

    def endless(path: str, body: bytes) -> Answer:
        sent.append(path)
        return Answer(200, bytes(8 << 20), {"Content-Type": "application/dicom"})

    with running_web_peer(endless) as peer, pytest.raises(LimitExceededError, match="film in the archive has more"):
        ArchiveFilm(peer.url, UIDS, max_bytes=100_000)()


@pytest.mark.parametrize("status", [302, 401, 404, 503])
def test_a_film_that_the_archive_does_not_give_is_unreadable(status):
    with (
        running_web_peer(lambda path, body: Answer(status)) as peer,
        pytest.raises(UnreadableFileError, match=f"HTTP {status}"),
    ):
        ArchiveFilm(peer.url, UIDS)()


def test_the_token_comes_from_the_environment_and_is_nowhere_else(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with running_web_peer(listing([item("1.2.987654321")])) as peer:
        url = f"dicomweb+{peer.url}/dicom-web?PatientID=CANARY"
        monkeypatch.setenv("KNEEGRADE_DICOMWEB_TOKEN", "SECRET-1")
        films = plan_films([url]).films
        (tmp_path / "token").write_text("Basic SECRET-2\n")
        monkeypatch.setenv("KNEEGRADE_DICOMWEB_TOKEN_FILE", str(tmp_path / "token"))
        list(archive_films(url))
        sent = [headers.get("Authorization") for _, _, headers, _ in peer.requests]
    assert sent[0] == "Bearer SECRET-1"
    assert sent[-1] == "Basic SECRET-2"
    for secret in ("SECRET", "CANARY", "987654321"):
        assert secret not in caplog.text + repr(films)


def test_a_token_of_several_lines_is_refused(monkeypatch):
    monkeypatch.setenv("KNEEGRADE_DICOMWEB_TOKEN", "a\nX-Header: b")
    with pytest.raises(UsageError, match="must be one line"):
        list(archive_films("dicomweb+http://127.0.0.1:1/dicom-web"))


def test_netrc_and_proxies_of_the_environment_are_not_used(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password SECRET")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with running_web_peer(listing([item("1.2.3")])) as peer:
        assert found(peer.url) == ["1.2.3"]
        assert "Authorization" not in peer.requests[0][2]


def test_results_are_stored_only_where_all_films_come_from():
    archive = "dicomweb+https://archive.example/dicom-web"
    assert store_service([f"{archive}?Modality=DX", f"{archive}?Modality=CR"]) == archive.removeprefix("dicomweb+")
    for inputs in ([archive, "films"], [archive, "dicomweb+https://other.example/dicom-web"]):
        with pytest.raises(UsageError, match="Results can only be stored"):
            store_service(inputs)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory):
    with running_archive(tmp_path_factory.mktemp("orthanc")) as running:
        for name in ("bilateral.dcm", "single_right.dcm"):
            urllib.request.urlopen(f"{running.url}/instances", (EXAMPLES / name).read_bytes()).close()
        yield running


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader(device="cpu")


def writer(grader: Grader, folder: Path, service: str, *formats: str) -> StoringWriter:
    pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
    job = Job.of(grader, datetime.now(UTC))
    return StoringWriter(ObjectWriter(folder, formats, job, full_names=True), service, waits=(0.0,))


def modalities(archive: Archive) -> list[str]:
    series = [json.loads(archive.get(f"/series/{one}")) for one in json.loads(archive.get("/series"))]
    return sorted(one["MainDicomTags"]["Modality"] for one in series)


@needs_orthanc
def test_a_film_of_an_archive_is_graded_and_its_results_are_stored_beside_it(archive, grader, tmp_path):
    before = modalities(archive)
    (film,) = plan_films([f"dicomweb+{archive.url}/dicom-web?StudyDescription=*&Modality=DX&limit=1"]).films
    write = writer(grader, tmp_path, f"{archive.url}/dicom-web", "sr", "gsps", "sc")
    rows = film_rows(grader, film, UserHints(), write)
    assert rows.film["status"] == "graded"
    assert len(modalities(archive)) == len(before) + 3
    (sr,) = tmp_path.glob("dicom/*.sr.dcm")
    assert [knee["grades"]["kl"]["grade"] for knee in read_sr(sr)["knees"]] == [row["kl"] for row in rows.knees]
    again = plan_films([f"dicomweb+{archive.url}/dicom-web"]).films  # without a modality: no result is taken for a film
    assert len(again) == 2
    write.store([sr])
    assert len(modalities(archive)) == len(before) + 3  # stored again, the same instances


def test_a_film_whose_results_are_not_stored_is_tried_again_by_the_next_run(grader, tmp_path):
    """Its row has no checksum, which is how `batch` knows it."""
    content = (EXAMPLES / "single_right.dcm").read_bytes()
    refusal = [0xC000]

    def answer(path: str, body: bytes) -> Answer:
        if body:
            uid = uid_in(body)
            return Answer(202, stow_answer([], {uid: refusal[0]})) if refusal else Answer(200, stow_answer([uid]))
        return listing([item("1.2.3")])(path, body) if "instances?" in path else Answer(200, parts(content), MULTIPART)

    with running_web_peer(answer) as peer:
        service = f"{peer.url}/dicom-web"
        (film,) = plan_films([f"dicomweb+{service}"]).films
        write = writer(grader, tmp_path, service, "sr")
        row = film_rows(grader, film, UserHints(), write).film
        assert (row["status"], row["reason_code"], row["sha256"]) == ("failed", "not_stored", None)
        assert "Refused with code C000" in row["reason"]
        assert len([path for _, path, *_ in peer.requests if "/series/" in path]) == 1  # it is read once
        (path,) = tmp_path.glob("dicom/*.sr.dcm")
        refusal.clear()
        write.store([path])
        refusal.append(0xA700)
        with pytest.raises(NotStoredError, match="code A700"):
            write.store([path])
        assert len([path for _, path, _, body in peer.requests if body]) == 1 + 1 + 2  # a final refusal is not repeated
        path.unlink()
        with pytest.raises(NotStoredError, match="cannot be read"):
            write.store([path])


@pytest.mark.slow
@needs_orthanc
def test_a_run_goes_on_and_its_folder_names_no_patient_and_no_token(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("KNEEGRADE_DICOMWEB_TOKEN", "SECRET-TOKEN")
    inputs = [f"dicomweb+{archive.url}/dicom-web?PatientID=PHANTOM*&limit=1"]
    first = run_batch(inputs, tmp_path / "out", BatchOptions(formats=("sr",), store=True))
    assert (first.graded, first.skipped) == (1, 0)
    second = run_batch([inputs[0].replace("&limit=1", "")], tmp_path / "out", BatchOptions(formats=("sr",), store=True))
    assert (second.graded, second.skipped) == (1, 1)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["inputs"] == [f"dicomweb+{archive.url}/dicom-web"]
    assert run["store_at"] == f"{archive.url}/dicom-web"
    assert all(
        re.fullmatch(r"[0-9a-f]{40}\.dcm", one) for one in read_table(tmp_path / "out", "films")["source"].to_pylist()
    )
    with pytest.raises(UsageError, match="store_at"):
        run_batch(inputs, tmp_path / "out", BatchOptions(formats=("sr",)))
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            content = path.read_bytes()
            assert b"SECRET-TOKEN" not in content
            assert b"PHANTOM" not in content
