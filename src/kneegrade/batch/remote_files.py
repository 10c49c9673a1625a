"""`remote_sources`: the films behind a URL of an object store or web server, through fsspec.

Credentials come from where fsspec's file systems look for them (environment, configuration files); kneegrade neither
asks for them nor stores them. Each worker downloads one film at a time into memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError, UsageError
from kneegrade.imaging import Limits, Source
from kneegrade.imaging.other_files import is_passed_over, kind_of_other_file
from kneegrade.imaging.sources import shown_name

SILENT_SECONDS = 60.0  # without a byte from a web server
_WEB = ("http", "https")


def is_url(text: str) -> bool:
    """Whether the text is a URL, such as "s3://bucket/films", and not a path."""
    return "://" in text


def without_secrets(url: str) -> str:
    """The URL without query and user, which may hold a signature or a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if is_url(url) else url


@dataclass(frozen=True)
class RemoteFile:
    """The bytes behind a URL, as `Source.load`.

    Attributes:
        url: of one file.
        version: what the store's listing states about the state of the file; empty if it states nothing.
        max_bytes: a longer file is refused.
    """

    url: str
    version: str = ""
    max_bytes: int = Limits().file_bytes

    def __call__(self) -> bytes:
        """The bytes.

        Raises:
            KneeGradeError: the file does not exist, cannot be read or is too long.
        """
        try:
            with open_url(self.url) as stream:
                data = stream.read(self.max_bytes + 1)
        except FileNotFoundError as error:
            cause = error.__cause__  # fsspec says the same of a server that does not answer or refuses
            if not (cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in (404, 410)):
                raise _unreadable(cause) from None
            raise UsageError("The file does not exist; check the URL.", code="no_such_file") from None
        except KneeGradeError:
            raise
        except Exception as error:  # each store raises its own exceptions
            raise _unreadable(error) from None
        if len(data) > self.max_bytes:
            raise LimitExceededError(f"The file is larger than the allowed {self.max_bytes} bytes.", code="file_size")
        return data


def _unreadable(error: BaseException) -> UnreadableFileError:
    message = f"The file cannot be read from its store ({type(error).__name__}); run again to try it again."
    return UnreadableFileError(message, code="cannot_open")


def open_url(url: str) -> BinaryIO:
    """A stream of the bytes behind a URL; the caller closes it."""
    store, path = _store_of(url)
    return cast(BinaryIO, store.open(path, "rb"))


def remote_sources(url: str) -> Iterator[Source]:
    """The films behind a URL: one file, or all files below a folder, sorted by path.

    As in local folders, hidden files and files of other types are skipped. A URL of a web server is one file, unless it
    ends with a slash. Zip archives are not opened.

    Args:
        url: of a file or a folder.

    Raises:
        UsageError: nothing is there, or the store cannot be reached.
    """
    store, path = _store_of(url)
    try:
        if (_is_web(url) and not url.endswith("/")) or store.isfile(path):
            yield remote_source(shown_name(PurePosixPath(urlsplit(url).path).name), url)
            return
        found = sorted(store.find(path, detail=True).items())
    except Exception as error:  # each store raises its own exceptions
        message = f"{without_secrets(url)} cannot be listed ({type(error).__name__}); check the URL and your access."
        raise UsageError(message, code="cannot_open") from None
    if not found:
        raise UsageError(f"{without_secrets(url)} does not exist or is empty; check the URL.", code="no_such_file")
    base = store._strip_protocol(path.rstrip("/")).rstrip("/")
    for file, about in found:
        below = str(store._strip_protocol(file)).removeprefix(base).strip("/")
        parts = PurePosixPath(urlsplit(below).path if _is_web(url) else below).parts
        is_skipped = not parts or any(is_passed_over(part) for part in parts)
        if not is_skipped and kind_of_other_file(parts[-1], b"") is None:
            yield remote_source(shown_name("/".join(parts)), store.unstrip_protocol(file), _version(about))


def _version(about: Mapping[str, Any]) -> str:
    """Size and state of a file, from its entry in a listing, whose keys depend on the store."""
    state = next((about[key] for key in ("ETag", "etag", "LastModified", "mtime", "created") if about.get(key)), "")
    return f"{about.get('size')}:{state}" if state else ""


def remote_source(name: str, url: str, version: str = "") -> Source:
    """The film behind the URL of a file, by a name."""
    if PurePosixPath(name).suffix.lower() == ".zip":
        message = "A zip archive behind a URL is not opened; download it, and give its path."
        return Source(name, error=UnsupportedFileError(message, code="format"))
    return Source(name, load=RemoteFile(url, version))


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in _WEB


def _web_options() -> dict[str, Any]:
    """Options of fsspec with which a server that falls silent gives an error; a slow one may take its time."""
    try:
        from aiohttp import ClientTimeout
    except ImportError:  # fsspec names the missing package
        return {}
    return {
        "client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)}
    }


def _store_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        UsageError: the kind of URL is unknown, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        store, path = url_to_fs(url, **(_web_options() if _is_web(url) else {}))
    except (ImportError, ValueError) as error:
        scheme = urlsplit(url).scheme
        hint = str(error) if isinstance(error, ImportError) else "known kinds are file, s3, gs, abfs, http and https"
        raise UsageError(f"URLs of the kind {scheme}:// cannot be read: {hint}.", code="url") from None
    return store, path
