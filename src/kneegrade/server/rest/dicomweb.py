"""The STOW-RS subset: `POST /dicomweb/studies` takes CR, DX and SC images into the spool (PS3.18, 10.5)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import read_dicom_elements
from kneegrade.server.rest.film_body import SpoolFile, body_chunks, check_headers, too_large
from kneegrade.server.rest.http_guard import needs
from kneegrade.server.rest.multipart_related import (
    MultipartError,
    MultipartParts,
    PartData,
    PartEnd,
    PartStart,
    related_boundary,
)
from kneegrade.server.rest.problem import Refusal, problems
from kneegrade.server.rest.tokens import Caller
from kneegrade.server.spool.film_spool import SpoolFullError

if TYPE_CHECKING:
    from kneegrade.server.rest.film_gate import FilmGate

MAX_INSTANCES: Final = 100  # in one request
MAX_BODY_FILMS: Final = 4  # times the largest film: the size of the largest body
DICOM_JSON: Final = "application/dicom+json"
FILM_CLASSES: Final = frozenset({  # CR, DX for presentation and for processing, Secondary Capture
    "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
})  # fmt: skip
OUT_OF_RESOURCES: Final = 0xA700
NOT_OF_THE_STUDY: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
NO_SUCH_CLASS: Final = 0x0122
_STUDY, _INSTANCE, _CLASS = "0020000D", "00080018", "00080016"


@dataclass
class Stored:
    """What became of the instances of a request.

    Attributes:
        stored: (SOP Class UID, SOP Instance UID) of those in the spool.
        failed: the same, with the reason as a DICOM status; None where the file states none.
    """

    stored: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str | None, str | None, int]] = field(default_factory=list)

    @property
    def status(self) -> int:
        """200 if all are stored, 202 if some are, 409 if none is."""
        return 200 if not self.failed else 202 if self.stored else 409

    def dicom_json(self) -> dict[str, Any]:
        """The answer as DICOM JSON (PS3.18, table 10.5.1-1)."""
        answer: dict[str, Any] = {}
        if self.failed:
            answer["00081198"] = _sequence(
                [_item(*uids) | {"00081197": {"vr": "US", "Value": [reason]}} for *uids, reason in self.failed]
            )
        if self.stored:
            answer["00081199"] = _sequence([_item(*uids) for uids in self.stored])
        return answer


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}


def _item(sop_class: str | None, instance: str | None) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if sop_class is not None:
        item["00081150"] = {"vr": "UI", "Value": [sop_class]}
    if instance is not None:
        item["00081155"] = {"vr": "UI", "Value": [instance]}
    return item


def stow_router(gate: "FilmGate") -> APIRouter:
    """The routes."""
    router = APIRouter()
    content = {"multipart/related": {"schema": {"type": "string", "format": "binary"}}}
    answers = {
        status: {"description": meaning, "content": {DICOM_JSON: {"schema": {"type": "object"}}}}
        for status, meaning in (
            (200, "All instances are stored."), (202, "Some instances are stored."), (409, "No instance is stored."),
        )
    }  # fmt: skip
    options: dict[str, Any] = {
        "responses": problems(408, 411, 413, 415, 507) | answers, "response_class": JSONResponse,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }  # fmt: skip

    @router.post("/dicomweb/studies", **options)
    async def store(request: Request, caller: Annotated[Caller, Depends(needs("send"))]) -> JSONResponse:
        """Store films by STOW-RS: CR, DX and Secondary Capture images, as multipart/related."""
        return await _store(gate, request, caller, None)

    @router.post("/dicomweb/studies/{study}", **options)
    async def store_in_study(
        request: Request,
        caller: Annotated[Caller, Depends(needs("send"))],
        study: Annotated[
            str,
            PathParameter(pattern=r"^[0-9.]{1,64}$", description="Study Instance UID that all instances must have."),
        ],
    ) -> JSONResponse:
        """Store films of one study by STOW-RS."""
        return await _store(gate, request, caller, study)

    return router


async def _store(gate: "FilmGate", request: Request, caller: Caller, study: str | None) -> JSONResponse:
    max_body = MAX_BODY_FILMS * gate.max_bytes
    check_headers(request, max_body, ("multipart/related",))
    try:
        boundary, kind = related_boundary(request.headers["content-type"])
        if kind not in ("", "application/dicom"):
            raise Refusal(415, 'The parts are of another type; expected multipart/related; type="application/dicom".')
        await gate.check_room()
        done = Stored()
        async for file in _files(gate, request, MultipartParts(boundary), max_body):
            await _take(gate, file, caller, study, done)
    except MultipartError as error:
        raise Refusal(422, f"The body is not valid multipart/related: {error}.") from None
    if not done.stored and not done.failed:
        raise Refusal(422, "The body has no part; send at least one DICOM file.")
    for _ in done.failed:
        gate.metrics.refused()
    return JSONResponse(done.dicom_json(), done.status, media_type=DICOM_JSON)


async def _files(
    gate: "FilmGate", request: Request, parts: MultipartParts, max_body: int
) -> AsyncIterator[SpoolFile | None]:
    """A file for each part, complete; None for a part that is not DICOM."""
    number = 0
    async with contextlib.AsyncExitStack() as open_files:
        file: SpoolFile | None = None
        async for chunk in body_chunks(request, max_bytes=max_body, seconds=gate.seconds):
            for event in parts.feed(chunk):
                if isinstance(event, PartStart):
                    number += 1
                    if number > MAX_INSTANCES:
                        raise Refusal(413, f"The body has more than {MAX_INSTANCES} instances; send fewer at a time.")
                    is_dicom = event.media_type in ("", "application/dicom")
                    file = await open_files.enter_async_context(SpoolFile(gate.spool)) if is_dicom else None
                elif isinstance(event, PartData) and file is not None:
                    await file.write(event.content)
                    if file.size > gate.max_bytes:
                        raise too_large(gate.max_bytes)
                elif isinstance(event, PartEnd):
                    if file is not None:
                        await file.close()
                    yield file
                    await open_files.aclose()
    parts.close()


async def _take(gate: "FilmGate", file: SpoolFile | None, caller: Caller, study: str | None, done: Stored) -> None:
    """Take a file over, or note why not."""
    uids = None if file is None else await asyncio.to_thread(_uids, file.path)
    if file is None or uids is None:
        done.failed.append((None, None, CANNOT_UNDERSTAND))
        return
    sop_class, instance, own_study = uids
    if sop_class not in FILM_CLASSES:
        done.failed.append((sop_class, instance, NO_SUCH_CLASS))
    elif study is not None and study != own_study:
        done.failed.append((sop_class, instance, NOT_OF_THE_STUDY))
    else:
        size = file.size
        try:
            if done.stored:  # the request has room for its first film
                await gate.check_room()
            accepted = await file.accept("dicom", instance, caller.name)
        except (SpoolFullError, Refusal):
            done.failed.append((sop_class, instance, OUT_OF_RESOURCES))
            return
        await gate.enter(accepted, caller.name, size, "stow")
        done.stored.append((sop_class, instance))


def _uids(path: Path) -> tuple[str, str, str] | None:
    """SOP Class, SOP Instance and Study Instance UID of a file, by the decoding process; None if not DICOM."""
    try:
        elements = read_dicom_elements(path, "film")["elements"]
        return _uid(elements, _CLASS), _uid(elements, _INSTANCE), _uid(elements, _STUDY)
    except (KneeGradeError, KeyError, IndexError, TypeError, ValueError):
        return None


def _uid(elements: Any, tag: str) -> str:
    value = str(elements[tag]["Value"][0])
    if not value or len(value) > 64 or set(value) - set("0123456789."):
        raise ValueError
    return value
