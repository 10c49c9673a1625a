"""`FilmSearch`: where the files of graded films are, by name and, if they were renamed, by content."""

import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from kneegrade.errors import KneeGradeError
from kneegrade.files import file_state
from kneegrade.imaging import Source, find_sources
from kneegrade.imaging.sources import sha256_of
from kneegrade.server.reading.reading_film import FilmContent


class FilmSearch:
    """Finds films in files, folders and archives. Safe to use from several threads.

    Args:
        inputs: where to look.
        names: of all films of the run; in a search by content, files with such names are read last.
        by_content: whether a film whose name is missing, or belongs to another content now, is searched by its SHA-256,
            also in the folders of inputs that are files.
    """

    def __init__(self, inputs: Sequence[Path], names: Collection[str], *, by_content: bool) -> None:
        self._inputs, self._names, self._by_content = inputs, names, by_content
        self._lock = threading.Lock()  # of the three below
        self._sources: dict[str, Source] | None = None
        self._unread: list[Source] | None = None  # candidates for renamed films whose content is not known yet
        self._contents: dict[str, Source] = {}  # SHA-256 → candidate
        self._digests: dict[tuple[Path, int, int], str | None] = {}  # state of a file → SHA-256

    def find(self, name: str, sha256: str | None) -> FilmContent | None:
        """The file of a film, or None if it is not found; a file with another content is never returned.

        Args:
            name: of the film in the run.
            sha256: of its file, or None if it is not known; then the name decides.
        """
        for base in self._inputs:
            path = base if base.is_file() and base.name == name else base / name
            if path.is_file() and self._fits(path, sha256):
                return FilmContent(path, path)
        with self._lock:
            source = self._named().get(name)
        if source is not None and self._fits(content := source.open(), sha256):
            return FilmContent(content, source.path)
        if sha256 is None or not self._by_content:
            return None
        with self._lock:
            source = self._with_content(sha256, PurePosixPath(name).name)
        if source is not None and self._fits(content := source.open(), sha256):  # it may have changed since
            return FilmContent(content, source.path)
        return None

    def _fits(self, content: Path | bytes, sha256: str | None) -> bool:
        return sha256 is None or self._sha256_of(content) == sha256

    def _sha256_of(self, content: Path | bytes) -> str | None:
        """SHA-256 of a content, or None if it cannot be read; a file is read again if it has changed."""
        if isinstance(content, bytes):
            return sha256_of(content)
        try:
            state = file_state(content)
        except OSError:
            return None
        if state not in self._digests:
            self._digests[state] = sha256_of(content)
        return self._digests[state]

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
            try:
                digest = self._sha256_of(source.open())
            except (OSError, KneeGradeError):
                continue
            if digest is not None:
                self._contents.setdefault(digest, source)
        return self._contents.get(sha256)

    def _candidates(self) -> Iterator[Source]:
        """All sources, those that are to be read last first."""
        yield from sorted(self._named().values(), key=lambda source: source.name not in self._names)
        given = {path.absolute() for path in self._inputs}
        folders = {path.parent for path in given if not path.is_dir() and path.parent not in given}
        for folder in sorted(path for path in folders if path.is_dir()):
            files = [path for path in sorted(folder.iterdir()) if path.is_file() and path not in given]
            yield from find_sources(files) if files else ()
