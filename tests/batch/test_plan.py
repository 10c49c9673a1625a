"""INPUT → films: folders, archives, tables and URLs."""

import functools
import os
import pickle
import re
import socket
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pytest
from worker_faults import rows_of

from kneegrade.batch import remote_files
from kneegrade.batch.film_task import content_version
from kneegrade.batch.plan import PlannedFilm, _with_unique_names, plan_films
from kneegrade.batch.remote_files import RemoteFile, lasting_url, without_secrets
from kneegrade.batch.result_parts import PartWriter
from kneegrade.batch.rows import FilmRows
from kneegrade.batch.run import BatchProgress, _lasting_name, _left
from kneegrade.batch.run_file import OutputLock
from kneegrade.batch.shard import Shard, position
from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UsageError
from kneegrade.imaging import Source
from kneegrade.imaging.sources import sha256_of

NAMES = [f"s{i}/film{i}.png" for i in range(12)]


@pytest.fixture
def folder(tmp_path):
    for name in [*NAMES, "s1/.hidden.png", "notes.txt"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\x89PNG " + name.encode())
    return tmp_path / "in"


def names(plan):
    return [film.source.name for film in plan.films]


def test_shards_are_disjoint_complete_and_independent_of_the_other_films(folder):
    shards = [plan_films([str(folder)], shard=Shard(i, 3)) for i in (1, 2, 3)]
    assert sorted(name for plan in shards for name in names(plan)) == sorted(NAMES)
    assert {plan.total for plan in shards} == {12}
    (folder / "s0/film0.png").unlink()
    for i, before in enumerate(shards, start=1):
        after = plan_films([str(folder)], shard=Shard(i, 3))
        assert names(after) == [name for name in names(before) if name != "s0/film0.png"]


def test_a_shard_is_an_interval_of_positions():
    assert Shard.parse("3/64").interval == (2 * 2**32 // 64, 3 * 2**32 // 64)
    assert Shard(1, 2).overlaps(Shard(2, 4))
    assert Shard(1, 2).overlaps(Shard(2, 3))
    assert not Shard(1, 2).overlaps(Shard(3, 4))
    assert Shard(3, 4).overlaps(Shard())
    assert 0 <= position("a/b.dcm") < 2**32
    assert [i for i in range(1, 8) if "a/b.dcm" in Shard(i, 7)] == [position("a/b.dcm") * 7 // 2**32 + 1]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", ""])
def test_a_text_that_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="shard"):
        Shard.parse(text)


def test_members_of_an_archive_can_be_read_in_another_process(tmp_path):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.writestr("a.png", b"\x89PNG one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"\x89PNG two")
    plan = plan_films([str(tmp_path / "films.zip")])
    assert names(plan) == ["a.png", "a.png (2)"]
    films = [pickle.loads(pickle.dumps(film)) for film in plan.films]
    assert [film.source.open() for film in films] == [b"\x89PNG one", b"\x89PNG two"]
    (tmp_path / "films.zip").unlink()
    with pytest.raises(KneeGradeError, match="still there"):
        films[0].source.open()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_columns_of_a_table_travel_with_its_films(kind, folder, tmp_path):
    table = pd.DataFrame(
        {"subject": ["007", "8"], "film": ["in/s0/film0.png", str(folder / NAMES[1])], "visit": [0, 12]}
    )
    path = tmp_path / f"films.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    plan = plan_films([str(path)])
    assert names(plan) == ["in/s0/film0.png", "in/s1/film1.png"]
    visits = ("0", "12") if kind == "csv" else (0, 12)
    assert [film.columns for film in plan.films] == [
        (("subject", "007"), ("visit", visits[0])),
        (("subject", "8"), ("visit", visits[1])),
    ]
    assert plan.fields[1].type == (pa.string() if kind == "csv" else pa.int64())
    assert sha256_of(plan.films[1].source.open()) == sha256_of((folder / NAMES[1]).read_bytes())


def test_rows_of_one_film_that_differ_are_refused_unless_the_column_is_left_out(folder, tmp_path):
    path = tmp_path / "knees.csv"
    path.write_text("path;side;subject\nin/s0/film0.png;R;1\nin/s0/film0.png;L;1\n")
    with pytest.raises(UsageError, match=r"Row 3 of knees\.csv has another value of side"):
        plan_films([str(path)])
    (film,) = plan_films([str(path)], columns=["subject"]).films
    assert film.columns == (("subject", "1"),)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "no column path or image_path or file"),
        ("a,path\n1,x.png\n", {"path_column": "where"}, "no column where. Its columns are a, path"),
        ("a,path\n1,x.png\n", {"columns": ["c"]}, "no column c"),
        ("a,path\n1,x.png\n2,\n", {}, "Row 3 of t.csv has no path"),
        ("", {}, "cannot be read as a table: it is empty"),
        ("path,a,a\nx.png,1,2\n", {}, "t.csv has the column a 2 times"),
        (
            'path,side\na.png,"left\nb.png,right\nc.png,right"\nd.png,left\n',
            {},
            "a quote in line 2 is closed in line 4",
        ),
        ('path,side\na.png,"left\nb.png,right\n', {}, "a quote in line 2 is closed in line 3 or never"),
        ("path,subject\nb,c.png,2\n", {}, "line 2 has 3 cells, the header has 2"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(text, options, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan_films([str(tmp_path / "t.csv")], **options)


def test_columns_without_a_name_are_left_out_and_a_note_may_have_several_lines(tmp_path):
    (tmp_path / "t.csv").write_text(',path,Note,\n0,x.png,"knee, left;\n again",\n')
    plan = plan_films([str(tmp_path / "t.csv")])
    assert [film.columns for film in plan.films] == [(("Note", "knee, left;\n again"),)]


def test_films_of_two_containers_of_azure_are_two(tmp_path):
    films = [f"abfs://{container}@account.dfs.core.windows.net/1.dcm" for container in ("raw", "two")]
    names = [film.source.name for film in table_plan(tmp_path, *films).films]
    assert len(set(names)) == 2
    assert without_secrets(films[0]) == films[0]
    assert without_secrets("s3://key:secret@bucket/1.dcm") == "s3://bucket/1.dcm"


def table_plan(folder, *paths):
    (folder / "films.csv").write_text("\n".join(["path", *paths, ""]))
    return plan_films([str(folder / "films.csv")])


def test_paths_of_one_file_are_one_film_and_names_that_several_have_are_told_apart_by_the_path(tmp_path):
    again = ["a.png", "./a.png", "b/../a.png", str(tmp_path / "a.png")]
    assert names(table_plan(tmp_path, *again)) == ["a.png"]
    first = names(table_plan(tmp_path, "x/a.png", "../x/a.png"))
    assert len(set(first)) == 2
    assert all(re.fullmatch(r"x/a\.png \([0-9a-f]{10}\)", name) for name in first)
    assert names(table_plan(tmp_path, "../x/a.png", "b.png", "x/a.png")) == [first[1], "b.png", first[0]]


def test_films_whose_urls_differ_in_the_query_have_names_that_do_not_depend_on_other_rows(tmp_path):
    one, two, three = (f"https://h.example/get?id={i}" for i in (1, 2, 3))
    before = table_plan(tmp_path, one, two)
    after = table_plan(tmp_path, three, two, one)
    by_url = {film.source.load.url: film.source.name for film in after.films}
    assert [by_url[one], by_url[two]] == names(before)
    assert len(set(by_url.values())) == 3
    assert all(re.fullmatch(r"h\.example/get \([0-9a-f]{10}\)", name) for name in by_url.values())
    assert names(table_plan(tmp_path, one)) == ["h.example/get"]


@pytest.mark.parametrize(
    "signature",
    ["X-Amz-Date={0}&X-Amz-Signature={0}", "Expires={0}&Signature={0}&Key-Pair-Id=k", "sv=1&se={0}&sr=b&sig={0}"],
)
def test_a_url_that_is_signed_again_is_the_same_film(signature, tmp_path):
    urls = [f"https://h.example/a.png?version={i}&{signature}" for i in (1, 2)]
    plan = table_plan(tmp_path, *(url.format("then") for url in urls))
    assert names(table_plan(tmp_path, *(url.format("now") for url in urls))) == names(plan)
    assert names(table_plan(tmp_path, urls[0].format("then"), urls[0].format("now"))) == ["h.example/a.png"]
    assert lasting_url("https://h.example/a.png?sr=1&st=2") != lasting_url("https://h.example/a.png?sr=1&st=3")


def test_names_of_several_urls_do_not_depend_on_their_order():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/one/films/a.png": b"one", "/two/films/a.png": b"two", "/three/b.png": b"three"})
    urls = ["memory://one/films", "memory://two/films", "memory://three/b.png"]
    contents = {film.source.name: film.source.open() for film in plan_films(urls).films}
    assert contents == {film.source.name: film.source.open() for film in plan_films(urls[::-1]).films}
    assert sorted(contents.values()) == [b"one", b"three", b"two"]
    assert contents["b.png"] == b"three"


def test_many_films_of_one_name_are_numbered_in_linear_time():
    films = [PlannedFilm(Source(name)) for name in ["a (2)", *["a"] * 20_000]]
    began = time.process_time()
    found = [film.source.name for film in _with_unique_names(films)]
    assert time.process_time() - began < 5
    assert found[:4] == ["a (2)", "a", "a (3)", "a (4)"]
    assert len(set(found)) == len(films)


@pytest.fixture
def pipe():
    """A function that returns the path of a pipe with these bytes, as `<(command)` of a shell."""
    if not os.path.exists("/dev/fd/0"):
        pytest.skip("the system has no /dev/fd")
    readers = []

    def filled(content):
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        readers.append(reader)
        return f"/dev/fd/{reader}"

    yield filled
    for reader in readers:
        os.close(reader)


def test_a_pipe_of_the_shell_is_a_table_whose_paths_begin_at_the_current_folder(pipe, folder, monkeypatch):
    monkeypatch.chdir(folder)
    first = sorted(path.name for path in folder.iterdir() if path.is_file())[0]
    (film,) = plan_films([pipe(f"path;visit\n{first};2\n".encode())]).films
    assert (film.source.name, film.source.open().read_bytes()) == (first, (folder / first).read_bytes())
    assert film.columns == (("visit", "2"),)
    with pytest.raises(UsageError, match=r"The table in the pipe /dev/fd/\d+ has no column path or image_path"):
        plan_films([pipe(b"a,b\n1,2\n")])
    with pytest.raises(UsageError, match=r"The table in the pipe .* give it as the only input"):
        plan_films([pipe(b""), str(folder)])


def test_two_runs_with_a_table_in_a_pipe_have_the_same_input(pipe):
    first, second = pipe(b"1"), pipe(b"2")
    assert first != second
    assert _lasting_name(first) == _lasting_name(second) == "a pipe"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_a_table_may_have_any_usual_encoding(encoding, tmp_path):
    table = tmp_path / "films.csv"
    table.write_bytes("path,clinic\nknee.dcm,Köln\n".encode(encoding))
    (film,) = plan_films([str(table)]).films
    assert (film.source.name, film.columns) == ("knee.dcm", (("clinic", "Köln"),))


def test_a_table_is_the_only_input(folder, tmp_path):
    (tmp_path / "t.csv").write_text("path\nin/s0/film0.png\n")
    with pytest.raises(UsageError, match="only input"):
        plan_films([str(tmp_path / "t.csv"), str(folder)])
    with pytest.raises(UsageError, match="no table"):
        plan_films([str(folder)], path_column="path")


def test_files_behind_urls_are_found_as_in_a_folder(folder):
    plan = plan_films([f"file://{folder}"])
    assert names(plan) == sorted(NAMES)
    assert plan.films[0].source.open() == (folder / names(plan)[0]).read_bytes()
    assert len({content_version(film) for film in plan.films}) == len(NAMES)  # the times of change differ


def test_a_bucket_is_listed_and_its_archives_are_not_opened():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/a/b.png": b"two", "/bucket/films.zip": b"PK", "/bucket/notes.txt": b"none"})
    film, archive = plan_films(["memory://bucket"]).films
    assert (film.source.name, film.source.open()) == ("a/b.png", b"two")
    with pytest.raises(KneeGradeError, match="download it"):
        archive.source.open()
    assert [one.source.name for one in plan_films(["memory://bucket/a", "memory://bucket/a/b.png"]).films] == [
        "a/b.png",
        "b.png",
    ]


@contextmanager
def running(handler):
    """URL of a web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *values):
        pass


@pytest.fixture
def web(folder):
    pytest.importorskip("aiohttp", reason="reads http")
    with running(functools.partial(Quiet, directory=str(folder))) as url:
        yield url


class Stream(BaseHTTPRequestHandler):
    """A server that states neither the size nor the state of a file, and sends it in pieces."""

    pieces = (b"path\n", *(f"film{i}.png\n".encode() for i in range(400)))

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        for piece in self.pieces:
            self.wfile.write(piece)

    def log_message(self, *values):
        pass


def test_a_stream_of_unknown_length_is_read_to_its_end():
    pytest.importorskip("aiohttp", reason="reads http")
    with running(Stream) as url:
        assert RemoteFile(url)() == b"".join(Stream.pieces)
        assert len(plan_films([f"{url}/films.csv"]).films) == 400
        with pytest.raises(LimitExceededError, match="allowed 1000 bytes"):
            RemoteFile(url, max_bytes=1000)()
        (film,) = plan_films([f"{url}/film.png"]).films
        assert content_version(film) is None


def test_links_of_a_web_folder_that_differ_in_the_query_have_names_that_do_not_depend_on_other_links():
    pytest.importorskip("aiohttp", reason="reads http")

    class Index(Stream):
        pieces = ()

    def listed(*links):
        Index.pieces = tuple(f'<a href="{link}">film</a>'.encode() for link in links)
        return {film.source.load.url: film.source.name for film in plan_films([f"{url}/films/"]).films}

    with running(Index) as url:
        before, after = listed("get?id=1", "get?id=2"), listed("get?id=0", "get?id=1", "get?id=2")
    assert [len(set(before.values())), len(set(after.values()))] == [2, 3]
    assert before.items() < after.items()


def test_a_film_that_was_replaced_behind_its_url_is_graded_again(web, folder, tmp_path):
    plan = table_plan(tmp_path, *(f"{web}/{name}" for name in NAMES[:3]))
    lock, writer = OutputLock(tmp_path / "out"), PartWriter(tmp_path / "out", Shard())
    for film in plan.films:
        rows = rows_of(film.source.name, sha256_of(film.source.open()))
        writer.add(FilmRows(rows.film, rows.knees, {**rows.log, "version": content_version(film)}))
    writer.flush()
    (folder / NAMES[0]).write_bytes(b"\x89PNG of another knee")
    os.utime(folder / NAMES[1], (0, 0))
    progress = BatchProgress(3)
    left = _left(plan.films, tmp_path / "out", lock, Shard(), progress, lambda: 0, lambda shown: None)
    lock.close()
    again = [film.source.name for film in left]
    assert again == [f"{web.removeprefix('http://')}/{NAMES[0]}"]
    assert (progress.skipped, progress.replaced) == (2, 1)


def test_a_host_that_is_silent_is_not_asked_again_for_the_state_of_a_film(monkeypatch):
    pytest.importorskip("aiohttp", reason="reads http")
    monkeypatch.setattr(remote_files, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(remote_files, "_silent", set())
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        load = RemoteFile(f"http://127.0.0.1:{silent.getsockname()[1]}/film.dcm")
        assert load.state() is None
        silent.setblocking(False)
        asked = [silent.accept()[0] for _ in range(2)]
        assert load.state() is None
        with pytest.raises(BlockingIOError):
            silent.accept()
        for one in asked:
            one.close()


def test_a_file_of_a_web_server_is_read_and_its_signature_is_not_shown(web, folder, tmp_path):
    url = f"{web}/s3/film3.png?signature=secret"
    (film,) = plan_films([url]).films
    assert film.source.name == "film3.png"
    assert film.source.open() == (folder / "s3/film3.png").read_bytes()
    assert without_secrets("https://me:pw@host/a?b=c") == "https://host/a"
    (tmp_path / "urls.csv").write_text(f"url\n{url}\n{web}/missing.png\n")
    first, missing = plan_films([str(tmp_path / "urls.csv")]).films
    assert "secret" not in first.source.name
    with pytest.raises(KneeGradeError, match="does not exist") as caught:
        missing.source.open()
    assert caught.value.code == "no_such_file"


def test_a_user_in_a_url_is_in_no_name(tmp_path):
    (film,) = table_plan(tmp_path, "https://me:s3cret@h.example/a/b.png?sig=x").films
    assert film.source.name == "h.example/a/b.png"
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    both = names(plan_films(["https://me:s3cret@h.example", str(tmp_path / "c.png")]))
    assert both == ["h.example", "c.png"]


def test_a_chain_of_urls_is_refused(tmp_path):
    chain = "zip://*::https://me:s3cret@h.example/films.zip"
    for url in (chain, "simplecache::https://me:s3cret@h.example/films.csv"):
        with pytest.raises(UsageError, match="A URL with :: in it") as caught:
            plan_films([url])
        assert "s3cret" not in caught.value.message
    assert "s3cret" not in without_secrets(chain)
    (film,) = table_plan(tmp_path, "simplecache::https://me:s3cret@h.example/a.png").films
    assert film.source.name == "h.example/a.png"
    with pytest.raises(UsageError, match="A URL with :: in it"):
        film.source.open()


def test_a_table_behind_a_url_that_cannot_be_read_is_refused_without_its_secrets(web):
    port = web.rpartition(":")[2]
    with pytest.raises(UsageError, match=r"^films\.csv cannot be read\. The file does not exist") as missing:
        plan_films([f"http://me:s3cret@127.0.0.1:{port}/films.csv?signature=s3cret"])
    assert missing.value.code == "no_such_file"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UsageError, match=r"^films\.csv cannot be read\. The file cannot be read from its store"):
        plan_films([f"http://me:s3cret@127.0.0.1:{port}/films.csv?signature=s3cret"])


def test_films_of_a_table_behind_a_url_are_beside_it_and_their_query_is_in_no_name(web, folder):
    (folder / "films.csv").write_text("path\n./s0/film0.png\ns0/film0.png\ns1/film1.png?signature=s3cret\n")
    plan = plan_films([f"{web}/films.csv?signature=s3cret"])
    assert names(plan) == NAMES[:2]
    assert [film.source.open() for film in plan.films] == [(folder / name).read_bytes() for name in NAMES[:2]]


@pytest.mark.parametrize(
    ("url", "message"),
    [("memory://nothing/here", "does not exist or is empty"), ("nonsense://a/b", "URLs of the kind nonsense://")],
)
def test_a_url_that_cannot_be_used_is_refused(url, message):
    with pytest.raises(UsageError, match=message):
        plan_films([url])


def test_no_film_is_an_error(tmp_path):
    Path(tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UsageError, match="No radiograph was found"):
        plan_films([str(tmp_path)])


def test_a_signal_ends_the_listing(folder):
    with pytest.raises(KeyboardInterrupt):
        plan_films([str(folder)], stop=lambda: 1)


def test_a_web_server_that_falls_silent_gives_an_error(monkeypatch):
    pytest.importorskip("aiohttp", reason="reads http")
    monkeypatch.setattr(remote_files, "SILENT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        load = RemoteFile(f"http://127.0.0.1:{silent.getsockname()[1]}/film.dcm")
        began = time.monotonic()
        with pytest.raises(UnreadableFileError, match="cannot be read from its store"):
            load()
    assert time.monotonic() - began < 30
