"""`archive_films`: the films of an archive that a DICOMweb URL finds, and `StoringWriter`, which stores their results.

The URL is that of the service with a query: "dicomweb+https://archive.example/dicom-web?Modality=DX&StudyDate=20260131".
A film's name in the tables is a part of the SHA-256 of its SOP Instance UID, so that the tables have no UIDs. Token and
certificates come from the environment (`access`), never from the URL.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from pydicom.datadict import tag_for_keyword

from kneegrade.batch.web_archive import InstanceUids, NotStored, WebArchive
from kneegrade.batch.web_session import WebAccess, WebSession
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.imaging import Limits, Radiograph, Source
from kneegrade.results import GradedRadiograph

if TYPE_CHECKING:
    from kneegrade.clinical import ObjectWriter

PREFIX: Final = "dicomweb+"
TOKEN_VARIABLE: Final = "KNEEGRADE_DICOMWEB_TOKEN"
_PATHS: Final[Mapping[str, str]] = MappingProxyType({
    "token_file": "KNEEGRADE_DICOMWEB_TOKEN_FILE", "ca": "KNEEGRADE_DICOMWEB_CA",
    "certificate": "KNEEGRADE_DICOMWEB_CERTIFICATE", "key": "KNEEGRADE_DICOMWEB_KEY",
})  # fmt: skip
_NAME_DIGITS: Final = 40
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_STORE_WAITS: Final = (2.0, 10.0)  # seconds before the second and third attempt
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class NotStoredError(KneeGradeError):
    """Results could not be stored in the archive. Remedy: run again, or what the archive's answer says."""

    default_code = "not_stored"


def is_archive(url: str) -> bool:
    """Whether a URL is a query to an archive."""
    return url.startswith(PREFIX)


def access() -> WebAccess:
    """Token and certificates, as the environment states them."""
    paths = {name: Path(value) for name, variable in _PATHS.items() if (value := os.environ.get(variable))}
    return WebAccess(token_variable=TOKEN_VARIABLE, **paths)


@dataclass(frozen=True)
class ArchiveFilm:
    """The bytes of a film in an archive, as `Source.load`. The token is read at each call and not kept.

    Attributes:
        service: URL of the archive's DICOMweb service.
        uids: of the film.
        max_bytes: a longer film is refused.
    """

    service: str
    uids: InstanceUids = field(repr=False)
    max_bytes: int = Limits().file_bytes

    def __call__(self) -> bytes:
        """The bytes.

        Raises:
            KneeGradeError: the film cannot be read or is too long.
        """
        with WebSession(access()) as session:
            return WebArchive(self.service, session).read(self.uids, self.max_bytes)


def archive_films(url: str) -> Iterator[Source]:
    """The films that a DICOMweb URL finds, in the order of their names.

    Args:
        url: "dicomweb+https://HOST/PATH?ATTRIBUTE=VALUE&…"; `limit` is the highest number of films. Unencrypted
            (dicomweb+http) only for this computer.

    Raises:
        UsageError: the URL is wrong, the archive cannot be reached, or nothing was found.
    """
    service, query, limit = _parse(url)
    with WebSession(access()) as session:
        found = list(WebArchive(service, session).find(query, limit))
    if not found:
        raise UsageError("The query finds no radiographs in the archive; check its attributes.", code="no_such_file")
    films = sorted((f"{_name_of(uids.instance)}.dcm", uids) for uids in found)
    yield from (Source(name, load=ArchiveFilm(service, uids)) for name, uids in films)


def _name_of(uid: str) -> str:
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:_NAME_DIGITS]


def _is_attribute(name: str) -> bool:
    """Whether all parts of a name are attributes (PS3.18, 8.3.4: keywords or tags, of sequences joined by ".")."""
    parts = name.split(".")
    return name == "fuzzymatching" or all(tag_for_keyword(p) is not None or _TAG.fullmatch(p) for p in parts)


def _parse(url: str) -> tuple[str, list[tuple[str, str]], int | None]:
    """Service, query and limit of a URL; messages do not repeat the query, which may name a patient."""
    parts = urlsplit(url.removeprefix(PREFIX))
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"The URL of an archive must have no user or password; set {TOKEN_VARIABLE} or {_PATHS['token_file']}.",
            code="url",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("The URL of an archive is not of the form dicomweb+https://HOST/PATH?Modality=DX.", code="url")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        message = "dicomweb+http is not encrypted and only allowed for this computer; use dicomweb+https."
        raise UsageError(message, code="url")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = [(name, value) for name, value in pairs if name not in ("limit", "offset")]
    for number, (name, _) in enumerate(query, 1):
        if not _is_attribute(name):  # an archive ignores it, and would give films of other patients
            raise UsageError(
                f"Attribute {number} in the query of an archive is not one of DICOM; use keywords such as PatientID, "
                "or tags of eight hexadecimal digits.",
                code="url",
            )
    limit = dict(pairs).get("limit")
    if "offset" in dict(pairs) or not (limit is None or (limit.isascii() and limit.isdigit() and int(limit) > 0)):
        raise UsageError(
            "In the URL of an archive, limit must be a positive number and offset must be left out.", code="url"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}", query, None if limit is None else int(limit)


def read_once(source: Source) -> Source:
    """The source with the content of a film from an archive, so that it is downloaded once; others as they are."""
    if not isinstance(source.load, ArchiveFilm):
        return source
    try:
        content = source.load()
    except KneeGradeError as error:
        return replace(source, error=error)
    return replace(source, load=lambda: content)


@dataclass(frozen=True)
class StoringWriter:
    """Writes the objects of films (`ObjectWriter`) and stores them in an archive.

    Attributes:
        write: writes the files.
        service: URL of the archive's DICOMweb service.
        waits: seconds before further attempts.
    """

    write: "ObjectWriter"
    service: str
    waits: tuple[float, ...] = _STORE_WAITS

    def __call__(
        self, source: Source, film: GradedRadiograph, radiograph: Radiograph | None = None
    ) -> GradedRadiograph:
        """The film as `write` returns it, after its DICOM objects are in the archive.

        Raises:
            NotStoredError: the archive did not take one of them; the next run tries the film again.
        """
        before = len(self.write.paths)
        written = self.write(source, film, radiograph)
        paths = [path for path in self.write.paths[before:] if path.suffix == ".dcm"]
        if paths:
            self.store(paths)
        return written

    def store(self, paths: Sequence[Path]) -> None:
        """Store DICOM objects in the archive.

        Raises:
            NotStoredError: the archive did not take one of them, or its file cannot be read.
        """
        with WebSession(access()) as session:
            archive = WebArchive(self.service, session)
            for path in paths:
                self._store(archive, path)

    def _store(self, archive: WebArchive, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NotStoredError(
                f"The results were not stored: {path.name} cannot be read ({error.strerror or type(error).__name__}). "
                "Run again to grade the film and store its results again."
            ) from None
        failure: NotStored | None = None
        for wait in (0.0, *self.waits):
            time.sleep(wait)
            failure = archive.store(content)
            if failure is None or failure.is_final:
                break
        if failure is not None:
            raise NotStoredError(
                f"The archive did not take the results ({failure.reason.rstrip('.')}); they are in the folder dicom. "
                "Run again to grade the film and store its results again."
            )


def store_service(inputs: Sequence[str]) -> str:
    """URL of the one archive that all inputs come from.

    Raises:
        UsageError: an input is no query to an archive, or there are several archives.
    """
    if not all(is_archive(one) for one in inputs):
        raise UsageError("Results can only be stored if each input is the URL of an archive (dicomweb+https://…).")
    services = {_parse(one)[0] for one in inputs}
    if len(services) > 1:
        raise UsageError("Results can only be stored if all films come from one archive; run once for each archive.")
    return services.pop()
