"""`FilmFinder`: where the files of graded films are, by name and, if they were renamed, by content."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Source, find_sources
from kneegrade.server.reading.reading_film import FilmContent

CHUNK_BYTES: Final = 1 << 20


class FilmFinder:
    """Finds films in files, folders and archives.

    Args:
        inputs: where to look.
        names: of all films of the run; a file with such a name is not taken for a renamed film.
        by_content: whether a film that is missing is searched by its SHA-256, also in the folders of inputs that are
            files.
    """

    def __init__(self, inputs: Sequence[Path], names: Collection[str], *, by_content: bool) -> None:
        self._inputs, self._names, self._by_content = inputs, names, by_content
        self._sources: dict[str, Source] | None = None
        self._unread: list[Source] | None = None  # candidates for renamed films whose content is not known yet
        self._contents: dict[str, Source] = {}  # SHA-256 → candidate

    def find(self, name: str, sha256: str | None) -> FilmContent | None:
        """The file of a film, or None if it is not found.

        Args:
            name: of the film in the run.
            sha256: of its file, or None if it is not known.
        """
        for base in self._inputs:
            path = base if base.is_file() and base.name == name else base / name
            if path.is_file():
                return FilmContent(path, path)
        source = self._named().get(name)
        if source is None and sha256 is not None and self._by_content:
            source = self._with_content(sha256, PurePosixPath(name).name)
        return None if source is None else FilmContent(source.open(), source.path)

    def _named(self) -> dict[str, Source]:
        """Name in the run → source, also of members of archives."""
        if self._sources is None:
            present = [path for path in self._inputs if path.exists()]
            self._sources = {source.name: source for source in find_sources(present)} if present else {}
        return self._sources

    def _with_content(self, sha256: str, name: str) -> Source | None:
        """The candidate with this content; those of the same name in other folders are read first."""
        if self._unread is None:
            self._unread = list(self._candidates())
        self._unread.sort(key=lambda source: PurePosixPath(source.name).name == name)
        while self._unread and sha256 not in self._contents:
            source = self._unread.pop()
            digest = _sha256_of(source)
            if digest is not None:
                self._contents.setdefault(digest, source)
        return self._contents.get(sha256)

    def _candidates(self) -> Iterator[Source]:
        yield from (source for name, source in self._named().items() if name not in self._names)
        given = {path.absolute() for path in self._inputs}
        folders = {path.parent for path in given if not path.is_dir() and path.parent not in given}
        for folder in sorted(path for path in folders if path.is_dir()):
            files = [path for path in sorted(folder.iterdir()) if path.is_file() and path not in given]
            yield from find_sources(files) if files else ()


def _sha256_of(source: Source) -> str | None:
    """SHA-256 of a source, or None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        content = source.open()
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest()
        with content.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except (OSError, KneeGradeError):
        return None
    return digest.hexdigest()
