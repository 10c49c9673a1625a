"""`WebSession`: an HTTP session with limits, for DICOMweb and FHIR services.

It follows no redirect, so that neither a token nor a patient's results reach another address, takes no password from
`.netrc`, and reads an answer up to limits of size and time. It takes the place of a `requests.Session`, for
dicomweb-client too.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

CONNECT_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 60.0  # without a byte
ANSWER_SECONDS: Final = 600.0  # for a whole answer
ANSWER_BYTES: Final = 32 << 20  # of an answer that is not a film
_CHUNK_BYTES: Final = 1 << 16
_LOGGERS: Final = ("dicomweb_client", "urllib3", "retrying")  # they log URLs, which hold UIDs and queries


@dataclass(frozen=True)
class WebAccess:
    """Secrets and certificates of a service, as places; nothing of them is kept in memory or pickled.

    Attributes:
        token_file: file with a bearer token, or with the whole value of the Authorization header.
        token_variable: environment variable with the same, where there is no file.
        ca: certificates that the service's certificate is checked with; None: those of the system.
        certificate: own certificate, for mutual TLS.
        key: private key of `certificate`; None: it is in the same file.
    """

    token_file: Path | None = None
    token_variable: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def authorization(self) -> str | None:
        """The value of the Authorization header, or None.

        Raises:
            UsageError: the file cannot be read, or the token is not printable ASCII.
        """
        text = os.environ.get(self.token_variable or "")
        if self.token_file is not None:
            try:
                text = self.token_file.read_text(encoding="ascii")
            except (OSError, UnicodeError) as error:
                raise UsageError(
                    f"The token file {self.token_file.name} cannot be read ({type(error).__name__}); check its path "
                    "and permissions.",
                    code="token",
                ) from None
        token = (text or "").strip()
        if not token:
            return None
        if not (token.isascii() and token.isprintable()):
            raise UsageError("The token has characters that a header cannot have; it must be one line.", code="token")
        return token if " " in token else f"Bearer {token}"


class AnswerTooLongError(Exception):
    """The service's answer has more bytes, or takes longer, than is allowed."""


class WebSession:
    """An HTTP session with limits.

    Args:
        access: secrets and certificates.
        silent_seconds: without a byte, after which an answer is given up.

    Attributes:
        headers: that each request has.

    Raises:
        UsageError: the token cannot be read, or a package is missing.
    """

    def __init__(self, access: WebAccess, *, silent_seconds: float = SILENT_SECONDS) -> None:
        self._session = _requests_session(access)
        self._timeout = (CONNECT_SECONDS, silent_seconds)
        self.headers: dict[str, str] = {"Accept": "application/dicom+json, application/json"}

    def __enter__(self) -> "WebSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str, **options: Any) -> "Response":
        """The answer to a GET request; see `request`."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> "Response":
        """The answer to a POST request; see `request`."""
        return self.request("POST", url, **options)

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: Any = None,
        stream: bool = False, timeout: object = None,
    ) -> "Response":  # fmt: skip
        """The answer, with its content unless `stream`; a status such as 404 is no error.

        Args:
            method: of HTTP.
            url: of a resource.
            headers: beside those of the session.
            data: bytes or an iterator of bytes.
            stream: leave the content to `limited_content`, and close the answer.
            timeout: not used; that of the session applies.

        Raises:
            AnswerTooLongError: the content is too long, or takes too long.
            requests.HTTPError: the answer is a redirect.
            requests.RequestException: there was no answer.
        """
        from requests import HTTPError

        sent = {**self.headers, **(headers or {})}
        answer = self._session.request(
            method, url, headers=sent, data=data, stream=True, timeout=self._timeout, allow_redirects=False
        )
        if 300 <= answer.status_code < 400:
            answer.close()
            raise HTTPError("The service answers with a redirect.", response=answer)
        if not stream:
            with answer:
                answer._content = b"".join(limited_content(answer, ANSWER_BYTES))
        media_type = answer.headers.get("Content-Type", "")
        if media_type.startswith("application/"):  # dicomweb-client compares it as a whole
            answer.headers["Content-Type"] = media_type.partition(";")[0].strip().lower()
        return answer


def limited_content(answer: "Response", max_bytes: int) -> Iterator[bytes]:
    """The content of an answer in pieces.

    Raises:
        AnswerTooLongError: it has more bytes than `max_bytes`, or takes more than `ANSWER_SECONDS`.
    """
    end, left = time.monotonic() + ANSWER_SECONDS, max_bytes
    for piece in answer.iter_content(_CHUNK_BYTES):
        left -= len(piece)
        if left < 0:
            raise AnswerTooLongError(f"more than {max_bytes} bytes")
        if time.monotonic() > end:
            raise AnswerTooLongError(f"more than {ANSWER_SECONDS:.0f} s")
        yield piece


def _requests_session(access: WebAccess) -> "Session":
    try:
        import dicomweb_client  # noqa: F401
        import requests
    except ImportError:
        raise UsageError(
            'DICOMweb and FHIR services need dicomweb-client; install it with: pip install "kneegrade[dicom]".',
            code="missing_package",
        ) from None
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    session, authorization = requests.Session(), access.authorization()
    session.trust_env = False  # neither .netrc nor proxies; and REQUESTS_CA_BUNDLE would replace `ca`
    session.headers["Accept-Encoding"] = "identity"
    session.verify = True if access.ca is None else str(access.ca)
    if access.certificate is not None:
        session.cert = str(access.certificate) if access.key is None else (str(access.certificate), str(access.key))

    def authorize(request: "PreparedRequest") -> "PreparedRequest":
        if authorization is not None:
            request.headers["Authorization"] = authorization
        return request

    session.auth = authorize
    return session
