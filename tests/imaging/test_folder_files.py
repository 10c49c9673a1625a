import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kneegrade.errors import UnreadableFileError
from kneegrade.imaging import find_sources

NOBODY = 65534


def names(*inputs: Path) -> list[str]:
    return [source.name for source in find_sources(inputs)]


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    """A folder whose parents every user may read; root may read all, so the test continues as another user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)


def names_as_user(*inputs: Path) -> tuple[list[str], list[str]]:
    """The names of all sources, and of those that cannot be opened."""
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(NOBODY)
        found = list(find_sources(inputs))
    finally:
        if is_root:
            os.seteuid(0)
    bad = [s.name for s in found if isinstance(s.error, UnreadableFileError) and s.error.code == "cannot_open"]
    return [source.name for source in found], bad


def test_linked_folders_are_followed_after_the_real_ones(tmp_path: Path) -> None:
    film(tmp_path / "elsewhere" / "sub" / "b.dcm")
    film(tmp_path / "in" / "z" / "c.dcm")
    (tmp_path / "in" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in") == ["z/c.dcm", "a/sub/b.dcm"]
    assert names(tmp_path / "linked") == ["z/c.dcm", "a/sub/b.dcm"]


def test_each_folder_is_read_once_under_its_own_name(tmp_path: Path) -> None:
    film(tmp_path / "z" / "c.dcm")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b").symlink_to(tmp_path / "z")
    assert names(tmp_path) == ["z/c.dcm"]


def test_loops_are_not_followed(tmp_path: Path) -> None:
    film(tmp_path / "secret.dcm")
    film(tmp_path / "in" / "x" / "c.dcm")
    film(tmp_path / "other" / "d.dcm")
    (tmp_path / "in" / "x" / "up").symlink_to("..")
    (tmp_path / "in" / "x" / "self").symlink_to(".")
    (tmp_path / "in" / "above").symlink_to(tmp_path)
    (tmp_path / "in" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "other" / "above").symlink_to(tmp_path)
    assert names(tmp_path / "in") == ["x/c.dcm", "other/d.dcm"]


def test_links_that_point_to_nothing_or_to_themselves_are_rows_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "gone.dcm").symlink_to("nowhere.dcm")
    (tmp_path / "loop").symlink_to("loop")
    found = list(find_sources([tmp_path]))
    assert [(source.name, getattr(source.error, "code", None)) for source in found] == [
        ("gone.dcm", "cannot_open"), ("loop", "cannot_open"),
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no permissions of this kind")
def test_folders_that_cannot_be_read_are_rows_with_a_reason(readable_by_all: Path) -> None:
    for name in ("in/a/1.dcm", "in/locked/2.dcm", "in/no_entry/3.dcm"):
        film(readable_by_all / name)
    (readable_by_all / "in" / "locked").chmod(0o000)
    (readable_by_all / "in" / "no_entry").chmod(0o444)  # its list may be read, its files may not
    found, bad = names_as_user(readable_by_all / "in")
    assert found == ["a/1.dcm", "locked", "no_entry/3.dcm"]
    assert bad == ["locked", "no_entry/3.dcm"]
    assert names_as_user(readable_by_all / "in" / "locked") == (["locked"], ["locked"])
    assert names_as_user(readable_by_all / "in" / "a", readable_by_all / "in" / "locked")[1] == ["locked"]
