"""Malicious archives: each is reported with a reason, and valid files next to it are read."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
from films import dataset, dicom_bytes

from kneegrade.errors import KneeGradeError, LimitExceededError
from kneegrade.imaging import Limits, Source, find_sources, read_radiograph
from kneegrade.imaging.limits import MEBIBYTE

FILM = dicom_bytes(dataset())


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def reasons(*inputs: Path, limits: Limits | None = None) -> dict[str, str]:
    """Name of each source, with the code of the error or "read"."""
    found = {}
    for source in find_sources(inputs, limits or Limits()):
        try:
            found[source.name] = "read" if read_radiograph(source).pixels.size else ""
        except KneeGradeError as error:
            found[source.name] = error.code
    return found


def test_a_bomb_is_rejected_by_its_ratio_without_being_expanded(tmp_path: Path, monkeypatch) -> None:
    path = zipped(tmp_path / "bomb.zip", {"bomb.dcm": bytes(64 * MEBIBYTE), "film.dcm": FILM})
    opened: list[str] = []
    original = zipfile.ZipFile.open

    def watched(self: zipfile.ZipFile, member: zipfile.ZipInfo, *args: object, **kwargs: object):
        opened.append(member.filename)
        return original(self, member, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", watched)
    assert reasons(path) == {"bomb.dcm": "zip_ratio", "film.dcm": "read"}
    assert set(opened) == {"film.dcm"}


def test_a_member_larger_than_allowed_is_rejected(tmp_path: Path) -> None:
    path = zipped(tmp_path / "study.zip", {"film.dcm": FILM, "large.dcm": FILM + bytes(100)})
    assert reasons(path, limits=Limits(zip_member_bytes=len(FILM))) == {
        "film.dcm": "read",
        "large.dcm": "zip_member_size",
    }


def with_declared_size(path: Path, size: int) -> Path:
    """The archive of one member, with another uncompressed size in its local and central headers."""
    data = bytearray(path.read_bytes())
    data[22:26] = struct.pack("<L", size)
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<L", size)
    path.write_bytes(data)
    return path


CONTENT = FILM + bytes(range(256)) * 4096


def test_a_member_longer_than_its_declared_size_is_rejected(tmp_path: Path) -> None:
    path = with_declared_size(zipped(tmp_path / "false_size.zip", {"film.dcm": CONTENT}), 100)
    (source,) = find_sources([path], Limits(zip_ratio=1e9))
    with pytest.raises(KneeGradeError) as caught:
        source.open()
    assert caught.value.code == "damaged"


def test_a_member_shorter_than_its_declared_size_is_read(tmp_path: Path) -> None:
    declared = 10 * MEBIBYTE
    path = with_declared_size(zipped(tmp_path / "false_size.zip", {"film.dcm": CONTENT}), declared)
    (source,) = find_sources([path], Limits(zip_ratio=1e9))
    data = source.open()
    assert isinstance(data, bytes)
    assert len(data) <= declared
    assert data == CONTENT


def test_an_archive_with_too_many_members_is_rejected_as_a_whole(tmp_path: Path) -> None:
    path = zipped(tmp_path / "many.zip", {f"{number}.dcm": FILM for number in range(5)})
    assert reasons(path, limits=Limits(zip_members=4)) == {"many.zip": "zip_members"}
    assert len(reasons(path, limits=Limits(zip_members=5))) == 5


def test_path_traversal_in_names_is_removed_and_nothing_is_written(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    malicious = ["../../climbed.dcm", "/etc/absolute.dcm", "..\\..\\back.dcm", "C:\\drive.dcm", "red\x1b[31m.dcm"]
    path = zipped(inside / "traversal.zip", dict.fromkeys(malicious, FILM))
    before = sorted(tmp_path.rglob("*"))
    assert reasons(path) == dict.fromkeys(
        ["climbed.dcm", "etc/absolute.dcm", "back.dcm", "C:/drive.dcm", "red?[31m.dcm"], "read"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_nested_archive_is_rejected_under_any_name(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"film.dcm": FILM}).read_bytes()
    path = zipped(tmp_path / "outer.zip", {"inner.zip": inner, "x.dcm": inner, "film.dcm": FILM})
    assert reasons(path) == {"film.dcm": "read", "inner.zip": "nested_zip", "x.dcm": "nested_zip"}


def test_an_encrypted_member_is_rejected(tmp_path: Path) -> None:
    path = zipped(tmp_path / "secret.zip", {"film.dcm": FILM})
    data = bytearray(path.read_bytes())
    for at in (6, data.index(b"PK\x01\x02") + 8):
        data[at] |= 1
    path.write_bytes(data)
    assert reasons(path) == {"film.dcm": "encrypted"}


def test_a_damaged_member_does_not_prevent_reading_the_others(tmp_path: Path) -> None:
    path = zipped(tmp_path / "study.zip", {"a.dcm": FILM, "b.dcm": FILM, "notes.txt": FILM[::-1]})
    with zipfile.ZipFile(path) as archive:
        starts = [archive.getinfo(name).header_offset + 60 for name in ("a.dcm", "notes.txt")]
    data = bytearray(path.read_bytes())
    for start in starts:
        data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    assert reasons(path) == {"a.dcm": "damaged", "b.dcm": "read"}


def test_a_member_with_an_unknown_compression_method_is_rejected(tmp_path: Path) -> None:
    path = zipped(tmp_path / "study.zip", {"film.dcm": FILM})
    data = bytearray(path.read_bytes())
    for at in (8, data.index(b"PK\x01\x02") + 10):
        data[at : at + 2] = struct.pack("<H", 77)
    path.write_bytes(data)
    assert reasons(path) == {"film.dcm": "damaged"}


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_archive_is_reported_once_and_the_others_are_read(keep: float, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"film.dcm": FILM})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    (tmp_path / "b.dcm").write_bytes(FILM)
    assert reasons(tmp_path) == {"a.zip": "damaged", "b.dcm": "read"}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_with_any_byte_flipped_is_read_or_rejected(method: int, tmp_path: Path) -> None:
    small = io.BytesIO()
    with zipfile.ZipFile(small, "w", method) as archive:
        archive.writestr("a", b"x" * 300)
        archive.writestr("b", b"y" * 300)
    path, data = tmp_path / "flipped.zip", small.getvalue()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        for source in find_sources([path]):
            try:
                assert len(_opened(source)) <= 600
            except KneeGradeError as error:
                assert error.message  # noqa: PT017


def _opened(source: Source) -> bytes:
    found = source.open()
    return found if isinstance(found, bytes) else found.read_bytes()


def test_default_limits() -> None:
    limits = Limits()
    assert (limits.file_bytes, limits.zip_member_bytes) == (256 * MEBIBYTE, 240 * MEBIBYTE)
    assert limits.pixels == 100_000_000
    with pytest.raises(LimitExceededError):
        read_radiograph(FILM, limits=Limits(file_bytes=len(FILM) - 1))
