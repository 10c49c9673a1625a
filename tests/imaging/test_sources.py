import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from films import dataset, dicom_bytes

from kneegrade.errors import UnreadableFileError, UnsupportedFileError, UsageError
from kneegrade.imaging import Source, find_sources, read_radiograph
from kneegrade.imaging.sources import sha256_of, shown_name

FILM = dicom_bytes(dataset())


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def names(*inputs: Path | str) -> list[str]:
    return [source.name for source in find_sources(inputs)]


def test_a_folder_lists_its_files_by_name_and_skips_other_file_types(tmp_path: Path) -> None:
    kept = ["IM2", "a.dcm", "b/c.png", "b/truncated.dcm", "z.jpg"]
    passed_over = [".hidden", "DICOMDIR", "b/notes.TXT", "b/report.html", ".git/x.dcm", "__MACOSX/a.dcm", "Thumbs.db"]
    for name in kept + passed_over:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert sorted(names(tmp_path)) == kept
    assert names(tmp_path) == names(tmp_path)


def test_a_dicom_file_with_the_suffix_txt_is_listed(tmp_path: Path) -> None:
    (tmp_path / "film.txt").write_bytes(FILM)
    zipped(tmp_path / "more.zip", {"film.txt": FILM, "notes.txt": b"notes"})
    assert names(tmp_path) == ["film.txt", "more.zip/film.txt"]


def test_a_file_given_as_input_is_never_skipped(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("notes")
    assert names(notes) == ["notes.txt"]
    assert names(str(notes), tmp_path) == [f"{tmp_path.name}/notes.txt"]
    with pytest.raises(UnreadableFileError, match="not DICOM"):
        read_radiograph(next(find_sources([notes])))


def test_a_single_path_is_accepted_without_a_list(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(FILM)
    assert [source.path for source in find_sources(tmp_path / "film")] == [tmp_path / "film"]  # type: ignore[arg-type]
    assert [source.path for source in find_sources(str(tmp_path))] == [tmp_path / "film"]


def test_a_missing_path_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_sources([tmp_path, tmp_path / "none"])
    assert caught.value.code == "no_such_file"


def test_an_empty_path_is_refused_instead_of_reading_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film.dcm").write_bytes(FILM)
    monkeypatch.chdir(tmp_path)
    for call in (find_sources, read_radiograph):
        with pytest.raises(UsageError) as caught:
            call("")  # type: ignore[operator]
        assert caught.value.code == "empty_path"
    with pytest.raises(UsageError, match="empty"):
        find_sources([tmp_path, ""])
    assert names(".") == ["film.dcm"]


def test_films_of_one_name_from_several_inputs_have_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("patA", "patB/left"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "film.dcm").write_bytes(FILM)
    zipped(tmp_path / "patC.zip", {"film.dcm": FILM})
    zipped(tmp_path / "patD.zip", {"film.dcm": FILM})
    a, b, c, d = tmp_path / "patA", tmp_path / "patB" / "left", tmp_path / "patC.zip", tmp_path / "patD.zip"
    assert names(a, b) == ["patA/film.dcm", "patB/left/film.dcm"]
    assert names(a / "film.dcm", b / "film.dcm") == ["patA/film.dcm", "patB/left/film.dcm"]
    assert names(c, d, a) == ["patC.zip/film.dcm", "patD.zip/film.dcm", "patA/film.dcm"]
    monkeypatch.chdir(a)
    assert names(".", "../patB") == ["patA/film.dcm", "patB/left/film.dcm"]
    assert names(a) == ["film.dcm"]


def test_a_file_that_several_inputs_contain_is_one_source(tmp_path: Path) -> None:
    folder, link = tmp_path / "in" / "patA", tmp_path / "link"
    folder.mkdir(parents=True)
    link.symlink_to(folder)
    film = folder / "film.dcm"
    film.write_bytes(FILM)
    archive = zipped(folder / "study.zip", {"film.dcm": FILM})
    assert names(folder, film, film, archive, link, folder / "..") == ["in/patA/film.dcm", "in/patA/study.zip/film.dcm"]
    assert names(film, folder) == ["patA/film.dcm", "patA/study.zip/film.dcm"]


def test_the_checksum_of_a_source_is_that_of_its_content(tmp_path: Path) -> None:
    expected = hashlib.sha256(FILM).hexdigest()
    (tmp_path / "film.dcm").write_bytes(FILM)
    zipped(tmp_path / "study.zip", {"film.dcm": FILM})
    assert [sha256_of(source.open()) for source in find_sources([tmp_path])] == [expected, expected]
    assert sha256_of(tmp_path / "gone") is None
    assert sha256_of(tmp_path) is None


def test_archive_members_are_read_like_files(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "study.zip", {"b/2.dcm": FILM, "b/": b"", "a.dcm": FILM, ".hidden": FILM})
    assert names(archive) == ["a.dcm", "b/2.dcm"]
    assert names(tmp_path) == ["study.zip/a.dcm", "study.zip/b/2.dcm"]
    expected = read_radiograph(FILM).pixels
    for source in find_sources([archive]):
        np.testing.assert_array_equal(read_radiograph(source).pixels, expected)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_every_compression_method_are_read(method: int, tmp_path: Path) -> None:
    (source,) = find_sources([zipped(tmp_path / "study.zip", {"a.dcm": FILM}, method)])
    assert source.open() == FILM


def test_an_archive_is_recognised_by_its_content_and_may_be_empty(tmp_path: Path) -> None:
    assert names(zipped(tmp_path / "study.dcm", {"a": FILM})) == ["a"]
    assert names(zipped(tmp_path / "empty.zip", {})) == []


def test_sources_may_be_opened_later_and_in_any_order(tmp_path: Path) -> None:
    found = list(find_sources([zipped(tmp_path / "study.zip", {"a": FILM, "b": FILM + b"\0\0"})]))
    assert [len(source.open()) for source in reversed(found)] == [len(FILM) + 2, len(FILM)]  # type: ignore[arg-type]
    assert found[0].open() == FILM


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_rejected_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (source,) = find_sources([tmp_path])
    with pytest.raises(UnsupportedFileError) as caught:
        read_radiograph(source)
    assert caught.value.code == "not_a_file"


@pytest.mark.skipif(not os.path.exists("/dev/fd/0"), reason="the system has no /dev/fd")
def test_a_pipe_of_the_shell_is_refused_with_what_to_do() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(UsageError, match=r"is a pipe, not a film; .*`kneegrade batch` reads a table"):
            find_sources([f"/dev/fd/{reader}"])
    finally:
        os.close(reader)
        os.close(writer)


def test_files_that_cannot_be_opened_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.dcm").write_bytes(FILM)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    (source,) = find_sources([tmp_path])
    with pytest.raises(UnreadableFileError) as caught:
        source.open()
    assert caught.value.code == "cannot_open"


def test_a_source_without_path_and_bytes_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        Source("nothing").open()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a/b.dcm", "a/b.dcm"),
        ("/etc/passwd", "etc/passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a/../../b", "a/b"),
        ("\x1b[31mred\n", "?[31mred?"),
        ("../", "?"),
        ("", "?"),
        ("knie-größe.dcm", "knie-größe.dcm"),
        ("\u202egpj.exe", "?gpj.exe"),
    ],
)
def test_shown_name_removes_unsafe_parts(name: str, shown: str) -> None:
    assert shown_name(name) == shown
