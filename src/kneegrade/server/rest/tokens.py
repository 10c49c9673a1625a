"""Who may use the REST service: a file of `name scopes sha256` lines, one for each token.

The file has the SHA-256 of each token, not the token. It is read again when it changes, so that a token that is removed
from it is refused at once. A token is 32 random bytes; never put the hash of a password into the file.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kneegrade.errors import UsageError
from kneegrade.files import not_writable

SCOPES: Final = ("send", "read", "review", "metrics")
_PREFIX: Final = "kg_"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEADER: Final = "# name scopes sha256: tokens of `kneegrade serve`, made by `kneegrade serve token`\n"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: of the token; it is shown in the audit log and signs reviews.
        scopes: what the token allows, of `SCOPES`.
    """

    name: str
    scopes: frozenset[str]


class TokenFile:
    """The tokens in a file.

    Args:
        path: of the file.

    Raises:
        UsageError: the file cannot be read, or a line is not of the form `name scopes sha256`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state = self._state_of_file()
        self._callers = read_tokens(path)

    def caller(self, token: str) -> Caller | None:
        """Who has this token, or None. The time that it takes does not depend on the token."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for known, caller in self._current():
            if hmac.compare_digest(digest, known):
                found = caller
        return found

    def _current(self) -> Sequence[tuple[str, Caller]]:
        """The tokens, read again if the file has changed; none if it is damaged or gone."""
        with self._lock:
            state = self._state_of_file()
            if state != self._state:
                try:
                    self._callers = read_tokens(self._path)
                except UsageError as error:
                    _log.error("No token is accepted: %s", error.message)
                    self._callers = ()
                self._state = state
            return self._callers

    def _state_of_file(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def read_tokens(path: Path) -> tuple[tuple[str, Caller], ...]:
    """SHA-256 and caller of each token in a file.

    Raises:
        UsageError: the file cannot be read, or a line is wrong; the message has its number, but not its content.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The file of tokens, {path.name}, cannot be read ({type(error).__name__}); make a token with "
            "`kneegrade serve token NAME --scopes send,read --config serve.toml`.",
            code="tokens",
        ) from error
    callers = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            callers.append(_parsed(line.split(), f"{path.name}, line {number}"))
    return tuple(callers)


def _parsed(parts: list[str], where: str) -> tuple[str, Caller]:
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or not _SHA256.fullmatch(parts[2]):
        raise UsageError(
            f"{where}: expected `name scopes sha256`, as `kneegrade serve token` writes it.", code="tokens"
        )
    return parts[2], Caller(parts[0], frozenset(checked_scopes(parts[1].split(","), where)))


def checked_scopes(scopes: Iterable[str], where: str = "--scopes") -> tuple[str, ...]:
    """The scopes.

    Raises:
        UsageError: one does not exist, or there is none.
    """
    wanted = tuple(dict.fromkeys(scopes))
    if not wanted or set(wanted) - {*SCOPES}:
        raise UsageError(f"{where}: expected scopes of {', '.join(SCOPES)}, separated by commas.", code="tokens")
    return wanted


def add_token(path: Path, name: str, scopes: Iterable[str]) -> str:
    """A new token, whose hash was added to the file. Nobody can find out the token from the file.

    Args:
        path: of the file; it is created, readable for its owner only, if it does not exist.
        name: of the token's owner; the file must not have it yet.
        scopes: what it allows, of `SCOPES`.

    Raises:
        UsageError: the name or a scope is wrong, the name exists, or the file cannot be written.
    """
    wanted = checked_scopes(scopes)
    if not _NAME.fullmatch(name):
        raise UsageError(
            "The name of a token has 1 to 64 letters, digits or ._@- and begins with a letter or digit.", code="tokens"
        )
    if path.exists() and any(caller.name == name for _, caller in read_tokens(path)):
        raise UsageError(f"{path.name} has a token with the name {name} already; remove its line first.", code="tokens")
    token = _PREFIX + secrets.token_urlsafe(32)
    line = f"{name} {','.join(wanted)} {hashlib.sha256(token.encode()).hexdigest()}\n"
    try:  # appended, so that the file keeps its owner
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as stream:
            stream.write(line if stream.tell() else _HEADER + line)
    except OSError as error:
        raise not_writable(path.name, error) from error
    return token
