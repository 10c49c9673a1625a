"""`remote_sources`: the films behind a URL of an object store or web server, through fsspec.

Credentials come from where fsspec's file systems look for them (environment, configuration files); kneegrade neither
asks for them nor stores them. Each worker downloads one film at a time into memory.
"""

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError, UsageError
from kneegrade.imaging import Limits, Source
from kneegrade.imaging.other_files import is_passed_over, kind_of_other_file
from kneegrade.imaging.sources import shown_name

SILENT_SECONDS = 60.0  # without a byte from a web server
_WEB = ("http", "https")
_USER: Final = re.compile(r"://[^/]*@")
_CONTAINER_FIRST: Final = ("abfs", "abfss", "az", "adl", "wasb", "wasbs")  # Azure: container@account, no user
_SIGNATURE: Final = re.compile(  # parameters of signed URLs of Amazon S3 and CloudFront, and of Google
    r"x-(amz|goog)-.+|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|expires", re.IGNORECASE
)
_AZURE: Final = frozenset({
    "se", "si", "sig", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "srt", "ss", "st", "sv",
})  # fmt: skip
_STATES: Final = (  # what file systems call the state of a file
    "ETag", "etag", "Content-MD5", "LastModified", "Last-Modified", "last_modified", "mtime", "modified", "modify",
    "updated", "created",
)  # fmt: skip
_NAME_DIGITS: Final = 10
_silent = set[str]()  # hosts that did not answer when they were asked for the state of a file


def is_url(text: str) -> bool:
    """Whether the text is a URL, such as "s3://bucket/films", and not a path."""
    return "://" in text


def without_secrets(url: str) -> str:
    """The URL without query and user, which may hold a signature or a password; a path as it is."""
    if not is_url(url):
        return url
    return re.split(r"[?#]" if _is_web(url) else r"\?", _without_user(url), maxsplit=1)[0]


def lasting_url(url: str) -> str:
    """The URL without user and signature: equal for two signed URLs of one file.

    The signatures of Amazon, Google and Azure are known; other parameters of the query may say which file it is.
    """
    address, _, query = url.partition("?")
    kept = [one for one in query.split("&") if not _SIGNATURE.fullmatch(one.partition("=")[0])]
    if any(one.startswith("sig=") for one in kept):
        kept = [one for one in kept if one.partition("=")[0] not in _AZURE]
    return f"{_without_user(address)}?{'&'.join(kept)}".rstrip("?")


def _without_user(url: str) -> str:
    return url if url.partition("://")[0].lower() in _CONTAINER_FIRST else _USER.sub("://", url)


def distinct_names(named: Sequence[tuple[str, str]]) -> list[str]:
    """The names of films or inputs; several of one name get ten digits of the SHA-256 of their keys, in any order.

    Args:
        named: name and key of each; the key of a film is the same in every run.

    Example:
        >>> distinct_names([("h/get", "https://h/get?id=1"), ("h/a", "https://h/a"), ("h/get", "https://h/get?id=2")])
        ['h/get (8420f4772d)', 'h/a', 'h/get (d8ff1f7e34)']
    """
    keys = defaultdict[str, set[str]](set)
    for name, key in named:
        keys[name].add(key)
    return [name if len(keys[name]) == 1 else f"{name} ({_digits(key)})" for name, key in named]


def _digits(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:_NAME_DIGITS]


@dataclass(frozen=True)
class RemoteFile:
    """The bytes behind a URL, as `Source.load`.

    Attributes:
        url: of one file.
        version: what the store's listing stated about the state of the file; empty if it stated nothing.
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
            data = self._read()
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

    def _read(self) -> bytes:
        """The bytes, but at most one more than allowed. Some streams return fewer bytes than they are asked for."""
        parts, left = [], self.max_bytes + 1
        with open_url(self.url) as stream:
            while left and (part := stream.read(left)):
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    def state(self) -> str | None:
        """Size and state of the file: what the listing stated, or else what the store states now; None if nothing.

        A web server is asked for the head of the file. A host that is long silent is not asked again by this process.
        """
        host = self.url.partition("://")[2].partition("/")[0]
        if self.version or host in _silent:
            return self.version or None
        began = time.monotonic()
        try:
            store, path = _store_of(self.url)
            return _version(store.info(path)) or None
        except Exception:  # each store raises its own exceptions
            if time.monotonic() - began > SILENT_SECONDS / 2:
                _silent.add(host)
            return None


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
    try:
        store, path = _store_of(url)
        is_file = not url.endswith("/") if _is_web(url) else store.isfile(path)
        if is_file:
            yield remote_source(shown_name(PurePosixPath(without_secrets(url)).name), url)
            return
        found = sorted(store.find(path, detail=True).items())
    except KneeGradeError:
        raise
    except Exception as error:  # each store raises its own exceptions
        message = f"{without_secrets(url)} cannot be listed ({type(error).__name__}); check the URL and your access."
        raise UsageError(message, code="cannot_open") from None
    if not found:
        raise UsageError(f"{without_secrets(url)} does not exist or is empty; check the URL.", code="no_such_file")
    base = store._strip_protocol(path.rstrip("/")).rstrip("/")
    films = []
    for file, about in found:
        below = str(store._strip_protocol(file)).removeprefix(base).strip("/")
        parts = PurePosixPath(urlsplit(below).path if _is_web(url) else below).parts
        is_skipped = not parts or any(is_passed_over(part) for part in parts)
        if not is_skipped and kind_of_other_file(parts[-1], b"") is None:
            films.append((shown_name("/".join(parts)), str(store.unstrip_protocol(file)), _version(about)))
    names = distinct_names([(name, lasting_url(place)) for name, place, _ in films])
    for name, (_, place, version) in zip(names, films, strict=True):
        yield remote_source(name, place, version)


def _version(about: Mapping[str, Any]) -> str:
    """Size and state of a file, whose keys in a listing depend on the store; the size alone if there is no state."""
    size, state = about.get("size"), next((about[key] for key in _STATES if about.get(key)), "")
    return "" if size is None and not state else f"{size}:{state}"


def remote_source(name: str, url: str, version: str = "") -> Source:
    """The film behind the URL of a file, by a name."""
    if PurePosixPath(without_secrets(url)).suffix.lower() == ".zip":
        message = "A zip archive behind a URL is not opened; download it, and give its path."
        return Source(name, error=UnsupportedFileError(message, code="format"))
    return Source(name, load=RemoteFile(url, version))


def _is_web(url: str) -> bool:
    return url.partition("://")[0].lower() in _WEB


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
        UsageError: the kind of URL is unknown, its package is not installed, or it is a chain of URLs.
    """
    from fsspec.core import url_to_fs

    if "::" in url:
        message = "A URL with :: in it, such as a chain of URLs, is not read; download its files, and give their paths."
        raise UsageError(message, code="url")
    try:
        store, path = url_to_fs(url, **(_web_options() if _is_web(url) else {}))
    except (ImportError, ValueError) as error:
        scheme = url.partition("://")[0]
        hint = str(error) if isinstance(error, ImportError) else "known kinds are file, s3, gs, abfs, http and https"
        raise UsageError(f"URLs of the kind {scheme}:// cannot be read: {hint}.", code="url") from None
    return store, path
