"""INPUT → films: folders, archives, tables and URLs."""

import functools
import os
import pickle
import socket
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pytest

from kneegrade.batch import remote_files
from kneegrade.batch.film_task import content_version
from kneegrade.batch.plan import plan_films
from kneegrade.batch.remote_files import RemoteFile, without_secrets
from kneegrade.batch.run import _lasting_name
from kneegrade.batch.shard import Shard, position
from kneegrade.errors import KneeGradeError, UnreadableFileError, UsageError
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
        ("", {}, "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(text, options, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan_films([str(tmp_path / "t.csv")], **options)


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


@pytest.fixture
def web(folder):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *values: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
