"""Files of the spool: their names, and writing them so that they survive a loss of power."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from kneegrade.server.spool.spool_schema import ENDINGS, FilmKind

FOLDERS: Final = ("tmp", "films", "results", "dead")
KEY_DIGITS: Final = 40
MAX_TEXT: Final = 300  # characters of a reason or of a sender


def film_key(sop_instance_uid: str | None, sha256: str) -> str:
    """The key of a film: the first 40 hexadecimal digits of the SHA-256 of its UID and of the SHA-256 of its bytes.

    Names from the network are never parts of a path.
    """
    identity = f"{sop_instance_uid or ''}\0{sha256}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(identity).hexdigest()[:KEY_DIGITS]


def printable(text: str, length: int = MAX_TEXT) -> str:
    """The text without control characters and undecodable bytes, of at most `length` characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:length]).strip()


def is_key(text: str) -> bool:
    """True for 40 hexadecimal digits in lower case."""
    return len(text) == KEY_DIGITS and set(text) <= set("0123456789abcdef")


def film_name(key: str, kind: FilmKind) -> str:
    """File name of a film."""
    return key + ENDINGS[kind]


def make_folders(directory: Path) -> None:
    """Create the folders of a spool, readable for their owner only."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in FOLDERS:
        (directory / name).mkdir(exist_ok=True, mode=0o700)


def seal(path: Path, moment: float) -> str:
    """The SHA-256 of a file, whose content and time are on disk afterwards.

    Args:
        path: of the file; its permissions become 0600.
        moment: that becomes its time of modification, so that the index can be rebuilt.
    """
    with path.open("rb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        os.utime(stream.fileno(), ns=(int(moment * 1e9), int(moment * 1e9)))
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    return digest


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until all files of a folder are on disk, with permissions for their owner only."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.chmod(path, 0o600)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def empty_folder(folder: Path) -> int:
    """The number of files and folders that were removed."""
    return remove_all(list(folder.iterdir()))


def remove_all(paths: list[Path]) -> int:
    """The number of these files and folders, which are removed."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(paths)


def new_folder(parent: Path) -> Path:
    """A new empty folder that only its owner can read."""
    return Path(tempfile.mkdtemp(dir=parent))


def move_results(folder: Path, target: Path, temporary: Path) -> None:
    """Make `folder`, with its files on disk, the results of a film, instead of those that it has.

    Args:
        folder: new results, on the same disk.
        target: folder of the film's results.
        temporary: folder for the old results until they are removed.
    """
    sync_tree(folder)
    old = temporary / f"{folder.name}.old"
    if target.exists():
        os.replace(target, old)
    os.replace(folder, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def move_film(directory: Path, name: str, source: str, target: str) -> None:
    """Rename a film from one folder of the spool to another, if it is there."""
    if (directory / source / name).exists():
        os.replace(directory / source / name, directory / target / name)
        sync_folder(directory / target)
        sync_folder(directory / source)
