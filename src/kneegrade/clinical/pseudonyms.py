"""Pseudonyms by HMAC-SHA-256 with a site's secret.

Under one secret, a patient, a study and a film have the same pseudonyms in every run, so that films of a patient stay
together. Without the secret nobody can compute which patient a pseudonym belongs to, not even from a list of all IDs.
"""

import hashlib
import hmac
import os
import secrets
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from kneegrade.errors import UsageError

SECRET_BYTES: Final = 32
OTHERS_MAY_READ: Final = stat.S_IRWXG | stat.S_IRWXO
WRITE_SECONDS: Final = 1.0  # for another process that has just created the file
_DIGITS = 16  # of a pseudonym: 64 bits


class Pseudonyms:
    """Pseudonyms under one secret.

    Args:
        secret: at least `SECRET_BYTES` random bytes.

    Raises:
        UsageError: the secret is too short.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise UsageError(f"The secret has {len(secret)} bytes; expected at least {SECRET_BYTES} random bytes.")
        self._secret = secret

    def name(self, kind: str, value: str) -> str:
        """The pseudonym of a patient or a film: "KG-" and 16 hexadecimal digits."""
        return f"KG-{self._digest(kind, value).hex()[:_DIGITS].upper()}"

    def uid(self, value: str) -> str:
        """The UID that replaces a UID: a UUID of version 8 (RFC 9562) below the root 2.25."""
        digest = bytearray(self._digest("uid", value)[:16])
        digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
        return f"2.25.{uuid.UUID(bytes=bytes(digest)).int}"

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self._secret, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def read_secret(path: Path) -> bytes:
    """The secret in a file, which is created with a random one and mode 0600 if it does not exist.

    Raises:
        UsageError: the file cannot be read or created, is too short, or may be read by other users.
    """
    try:
        _create(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would never end
            raise UsageError(f"The secret, {path.name or path}, is not a regular file; give the path of a file.")
        content = _content(path)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"The file of the secret, {path.name}, cannot be read or created ({reason}).") from None
    if os.name == "posix" and status.st_mode & OTHERS_MAY_READ:
        raise UsageError(
            f"Other users may read the file of the secret, {path.name}: who has it can recognise patients. Make it "
            f"private with: chmod 600 {path.name}."
        )
    with suppress(ValueError):
        secret = bytes.fromhex(content)
        if len(secret) >= SECRET_BYTES:
            return secret
    raise UsageError(
        f"The file of the secret, {path.name}, does not contain {2 * SECRET_BYTES} or more hexadecimal digits; restore "
        "it, or give a path that does not exist to begin with a new secret."
    )


def _content(path: Path) -> str:
    """The text of the file; another process that has just created it is given a moment to write it."""
    end = time.monotonic() + WRITE_SECONDS
    while not (content := path.read_text(encoding="ascii").strip()) and time.monotonic() < end:
        time.sleep(0.05)
    return content


def _create(path: Path) -> None:
    """Create the file with a new secret, unless it exists; an existing secret is never replaced."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(SECRET_BYTES) + "\n")
