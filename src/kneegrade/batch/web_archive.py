"""`WebArchive`: an archive that speaks DICOMweb: QIDO-RS finds films, WADO-RS reads them, STOW-RS stores results.

A STOW-RS service may take some objects and refuse others with one and the same status, and says which in its answer.
`store` reads this answer: an object is stored if the answer lists it as stored, and not otherwise.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urlencode

from kneegrade.batch.web_session import AnswerTooLongError, WebSession, limited_content
from kneegrade.clinical.film_header import UID_PATTERN
from kneegrade.clinical.job import MODEL
from kneegrade.errors import LimitExceededError, UnreadableFileError, UsageError

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient
    from pydicom import Dataset
    from requests import HTTPError

DAMAGED: Final = "The file of the result is damaged."
PAGE: Final = 200  # instances of one answer
DUPLICATE: Final = 0x0111  # the service has the object already
_FINAL_CODES: Final = (*range(0xA900, 0xAA00), *range(0xC000, 0xD000), 0x0122, 0x0124)
_RETRIED_HTTP: Final = (401, 403, 408, 409, 429)
_BUSY_HTTP: Final = (429, 502, 503, 504)
Query = Sequence[tuple[str, str]]
_UNESCAPED: Final = "*,:/-"  # of a query; Orthanc's plugin does not know an escaped asterisk
_SOP_INSTANCE, _MODEL = "00080018", "00081090"
_ENVELOPE_BYTES: Final = 1 << 16  # of a multipart answer around a film
_FILM_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.1",  # CR
    "1.2.840.10008.5.1.4.1.1.1.1",  # DX for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # DX for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
)


def is_final_code(code: int) -> bool:
    """Whether another attempt is useless after this C-STORE status or STOW-RS failure reason."""
    return code in _FINAL_CODES


@dataclass(frozen=True)
class NotStored:
    """Why an object was not stored.

    Attributes:
        reason: a short text without patient data.
        is_final: whether another attempt is useless.
        is_unavailable: whether the service as a whole takes nothing at the moment.
    """

    reason: str
    is_final: bool = False
    is_unavailable: bool = False


@dataclass(frozen=True)
class InstanceUids:
    """Where a film is in its archive."""

    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)

    @property
    def path(self) -> str:
        """The resource below the URL of the service."""
        return f"studies/{self.study}/series/{self.series}/instances/{self.instance}"


class WebArchive:
    """An archive that speaks DICOMweb.

    Args:
        url: of the service, such as "https://archive.example/dicom-web".
        session: for the requests.
    """

    def __init__(self, url: str, session: WebSession) -> None:
        self._url, self._session = url.rstrip("/"), session

    def _client(self) -> "DICOMwebClient":
        from dicomweb_client.api import DICOMwebClient

        client = DICOMwebClient(self._url, session=cast(Any, self._session))
        client.set_http_retry_params(retry=False)
        return client

    def find(self, query: Query, limit: int | None = None) -> Iterator[InstanceUids]:
        """The films that a query finds, each once, in the order of the archive.

        Args:
            query: attributes and values, as in a QIDO-RS query; an attribute may occur several times.
            limit: the highest number of films.

        Raises:
            UsageError: the service cannot be reached, refuses the query, or its answer is not one of QIDO-RS.
        """
        listed, found = set[str | None](), 0
        while new := self._new_items(query, listed):
            for uids in filter(None, map(_film_uids, new)):
                if limit is not None and found >= limit:
                    return
                found += 1
                yield uids

    def _new_items(self, query: Query, listed: set[str | None]) -> list[Mapping[str, Any]]:
        """The next instances of the answer; none at the end, or if the service ignores `offset` and repeats itself."""
        new = list[Mapping[str, Any]]()
        for item in self._page(query, len(listed)):
            uid = _uid(item, _SOP_INSTANCE)
            if uid not in listed:
                listed.add(uid)
                new.append(item)
        return new

    def _page(self, query: Query, offset: int) -> list[Mapping[str, Any]]:
        import requests

        parameters = [*query, ("includefield", _MODEL), ("limit", str(PAGE)), ("offset", str(offset))]
        try:
            answer = self._session.get(f"{self._url}/instances?{urlencode(parameters, safe=_UNESCAPED)}")
            answer.raise_for_status()
            found = answer.json() if answer.content else []
        except requests.HTTPError as error:
            status = _status(error)
            raise UsageError(f"The archive answers HTTP {status} to the query; {_advice(status)}", "query") from None
        except (requests.RequestException, AnswerTooLongError) as error:
            message = f"The archive cannot be queried ({type(error).__name__}); check the URL and your access."
            raise UsageError(message, code="cannot_open") from None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise UsageError("The answer to the query is not a list of DICOM JSON objects; check the URL.", "query")
        return found

    def read(self, film: InstanceUids, max_bytes: int) -> bytes:
        """The file of a film, as it is stored.

        Raises:
            LimitExceededError: it is longer than `max_bytes`.
            UnreadableFileError: it cannot be read.
        """
        import requests

        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        try:
            with self._session.get(f"{self._url}/{film.path}", headers={"Accept": accept}, stream=True) as answer:
                answer.raise_for_status()
                content = b"".join(limited_content(answer, max_bytes + _ENVELOPE_BYTES))
        except AnswerTooLongError as error:
            raise LimitExceededError(
                f"The film in the archive has {error}, which is not allowed.", "file_size"
            ) from None
        except requests.HTTPError as error:
            message = f"The archive answers HTTP {_status(error)}; {_advice(_status(error))}"
            raise UnreadableFileError(message, code="cannot_open") from None
        except requests.RequestException as error:
            message = f"The film cannot be read from its archive ({type(error).__name__}); run again to try it again."
            raise UnreadableFileError(message, code="cannot_open") from None
        film_bytes = single_part(content, answer.headers.get("Content-Type", ""))
        if len(film_bytes) > max_bytes:
            raise LimitExceededError(f"The film in the archive has more than {max_bytes} bytes.", code="file_size")
        return film_bytes

    def store(self, content: bytes) -> NotStored | None:
        """None if a DICOM object is in the archive now, else why not."""
        import requests

        dataset = read_object(io.BytesIO(content))
        if dataset is None:
            return NotStored(DAMAGED, is_final=True)
        try:
            answer = self._client().store_instances([dataset])
        except requests.HTTPError as error:
            return _refused(error, str(dataset.SOPInstanceUID))
        except requests.ConnectionError as error:
            return NotStored(f"No connection ({type(error).__name__}).", is_unavailable=True)
        except (requests.RequestException, AnswerTooLongError) as error:
            return NotStored(f"No answer ({type(error).__name__}).")
        except Exception as error:  # the answer is not one of STOW-RS
            return NotStored(f"The answer is not one of STOW-RS ({type(error).__name__}).")
        return _outcome(answer, str(dataset.SOPInstanceUID))


def read_object(file: "BinaryIO | Path") -> "Dataset | None":
    """An object that kneegrade made, or None if its file is damaged."""
    from pydicom import dcmread

    try:
        dataset = dcmread(file)
        return dataset if "SOPClassUID" in dataset and "SOPInstanceUID" in dataset else None
    except Exception:  # pydicom raises many kinds
        return None


def http_failure(status: int) -> NotStored:
    """What an HTTP status means for an object that was sent."""
    is_final = 400 <= status < 500 and status not in _RETRIED_HTTP
    return NotStored(f"HTTP {status}.", is_final, is_unavailable=status in _BUSY_HTTP)


def _status(error: "HTTPError") -> int:
    return 0 if error.response is None else error.response.status_code


def _refused(error: "HTTPError", uid: str) -> NotStored | None:
    """The outcome from an answer with an error status, which may say why."""
    from pydicom import Dataset

    failure = http_failure(_status(error))
    if error.response is None or error.response.status_code != 409:
        return failure
    try:
        answer = Dataset.from_json(error.response.json())
    except Exception:  # it does not say why
        return failure
    return _outcome(answer, uid) if answer.get("FailedSOPSequence") else failure


def _outcome(answer: "Dataset", uid: str) -> NotStored | None:
    """None if the answer of STOW-RS says that the object is stored, else why not."""
    failed = answer.get("FailedSOPSequence") or ()  # some services always send it, mostly empty
    if failed:
        code = failed[0].get("FailureReason")
        if code == DUPLICATE:
            return None
        return NotStored(
            "Refused." if code is None else f"Refused with code {code:04X}.", code is not None and is_final_code(code)
        )
    stored = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or ()]
    return None if uid in stored else NotStored("The answer does not say that the object is stored.")


def _uid(item: Mapping[str, Any], tag: str) -> str | None:
    """A UID of an answer, or None if it is none: it becomes part of a path."""
    uid = _value(item, tag)
    return uid if isinstance(uid, str) and UID_PATTERN.fullmatch(uid) else None


def _value(item: Mapping[str, Any], tag: str) -> Any:
    """The first value of an element in DICOM JSON, or None."""
    try:
        return item[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return None


def _film_uids(item: Mapping[str, Any]) -> InstanceUids | None:
    """The UIDs of a film in an answer; None for other objects and for pictures that kneegrade made."""
    study, series, instance = (_uid(item, tag) for tag in ("0020000D", "0020000E", _SOP_INSTANCE))
    if study is None or series is None or instance is None:
        return None
    sop_class = _uid(item, "00080016")
    is_own = sop_class == _FILM_CLASSES[-1] and str(_value(item, _MODEL)).lower() == MODEL
    is_film = sop_class in (None, *_FILM_CLASSES) and not is_own
    return InstanceUids(study, series, instance) if is_film else None


def _advice(status: int) -> str:
    if status in (401, 403):
        return "check the token."
    if status in (400, 404):
        return "check the URL."
    return "run again to try it again."


def single_part(content: bytes, content_type: str) -> bytes:
    """The one part of a multipart answer, or the answer itself if it has no parts.

    Raises:
        UnreadableFileError: the answer has no or several parts.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return content
    limit = b"--" + str(header.get_param("boundary", "")).encode()
    _, separator, part = content[content.find(limit) :].partition(b"\r\n\r\n")
    part, _, rest = part.partition(b"\r\n" + limit)
    if limit == b"--" or not separator or not rest.startswith(b"--"):
        message = "The archive's answer is not a complete multipart message of one part; run again to try it again."
        raise UnreadableFileError(message, code="cannot_open")
    return part
