"""`files_below`: the files of a folder and its subfolders, through symbolic links but not around loops."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path


def files_below(folder: Path, is_skipped: Callable[[str], bool]) -> Iterator[tuple[Path, bool]]:
    """The files below a folder, each with True, and the folders that cannot be read, each with False.

    The order is reproducible: the files of a folder by name, then its subfolders by name, and at the end the folders
    to which symbolic links point. Each folder is read once, however many links point to it. A link to a folder that
    contains the link or `folder` is a loop and is not followed.

    Args:
        folder: the folder to read.
        is_skipped: True for the name of a file or folder to leave out.
    """
    root = os.path.realpath(folder)
    seen: set[str] = set()
    folders, links = [folder], deque[Path]()
    while folders or links:
        current = folders.pop() if folders else links.popleft()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(current) as found:
                entries = sorted((entry for entry in found if not is_skipped(entry.name)), key=lambda entry: entry.name)
        except OSError:
            yield current, False
            continue
        subfolders = [entry for entry in entries if _is_folder(entry)]
        yield from ((Path(current, entry.name), True) for entry in entries if not _is_folder(entry))
        folders += [Path(current, entry.name) for entry in reversed(subfolders) if not entry.is_symlink()]
        linked = [Path(current, entry.name) for entry in subfolders if entry.is_symlink()]
        links += [link for link in linked if not (_contains(link, root) or _contains(link, real))]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself or through a folder without permission
        return False


def _contains(link: Path, folder: str) -> bool:
    """True if `folder`, a real path, is the folder to which the link points, or lies in it."""
    return Path(folder).is_relative_to(os.path.realpath(link))
