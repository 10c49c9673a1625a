"""`reader_router`: the requests of the reader's page, on any `ReadingStore`.

    GET  /v1/worklist                          films as the reader sees them
    GET  /v1/films/{key}/reading               results of kneegrade, newest reading
    GET  /v1/films/{key}/pixels                16-bit grey, bone bright; X-Rows, X-Columns
    GET  /v1/films/{key}/evidence              contribution of each landmark to each grade
    POST /v1/films/{key}/measure               landmarks → joint space and its lines
    GET  /v1/films/{key}/reviews               revisions
    POST /v1/films/{key}/reviews               a new revision; 409 with a merge if there is a newer one,
                                               422 if a knee, a KL grade or a reason is missing
    POST /v1/coherence                         how often the grades occur together
    GET  /v1/shape                             how an outline follows a point: 74 · 74 · 2 · 2 float32
    POST /v1/labels                            writes labels.csv, labels.parquet and readings.csv
    GET  /viewer/                              the page

Every request but those of /viewer/ needs a reader, whom the caller's dependency names.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from kneegrade.anatomy.shape_following import following_covariance_mm2
from kneegrade.coherence.combinations import combination_counts
from kneegrade.errors import KneeGradeError
from kneegrade.server.reading.film_evidence import EvidenceService
from kneegrade.server.reading.film_pixels import PixelCache
from kneegrade.server.reading.knee_measure import measure_answer
from kneegrade.server.reading.labels import label_notes, write_labels
from kneegrade.server.reading.page_files import add_page, require_fastapi
from kneegrade.server.reading.reading_desk import FinishedError, HiddenError, ReadingDesk, SignedError, revision_of
from kneegrade.server.reading.reading_film import FilmResults, pixel_aspect_of
from kneegrade.server.reading.review import CLASSES, MAX_KNEES, IncompleteError, Points, Reading
from kneegrade.server.reading.review_log import SIGNED, ConflictError, Review

if TYPE_CHECKING:
    from fastapi import APIRouter, Response

MAX_REPEAT: Final = 9
SLICE_BYTES: Final = 1 << 20  # of the pixels, sent at a time: a client that reads slowly holds no copy of them


class Marked(BaseModel):
    """Landmarks of a knee to measure."""

    model_config = ConfigDict(extra="forbid")

    knee: Annotated[int, Field(ge=0, lt=MAX_KNEES)]
    landmarks_px: Points


class NewReview(BaseModel):
    """A reading to save, and the revision that it is based on."""

    model_config = ConfigDict(extra="forbid")

    based_on: Annotated[int, Field(ge=0)]
    repeat: Annotated[int, Field(ge=0, le=MAX_REPEAT)] = 0
    reading: Reading


class Grades(BaseModel):
    """Grades of one knee."""

    model_config = ConfigDict(extra="forbid")

    grades: dict[str, Annotated[int, Field(ge=0, le=4)]]


@dataclass(frozen=True)
class ReadingServices:
    """What answers the requests.

    Attributes:
        desk: worklist and readings.
        evidence: the network.
        labels_folder: where labels are written; None: nowhere.
        on_signature: called with the key and the review after a reading was signed or its signature was withdrawn;
            returns sentences for the reader.
        pixels: of the films that were opened last.
    """

    desk: ReadingDesk
    evidence: EvidenceService = field(default_factory=EvidenceService)
    labels_folder: Path | None = None
    on_signature: Callable[[str, Review], list[str]] | None = None
    pixels: PixelCache = field(default_factory=PixelCache)

    def notes(self, key: str, review: Review) -> list[str]:
        """What a new revision did beside the log, as sentences for the reader."""
        concerns = review.reading["status"] == SIGNED or self.desk.withdraws(review)
        return self.on_signature(key, review) if self.on_signature is not None and concerns else []

    def warm_up(self) -> None:
        """Start the decoding process and compute what every page asks for, before the first reader waits for it."""
        following_covariance_mm2()
        for film in self.desk.store.worklist()[:1]:
            with suppress(KneeGradeError):
                self.pixels.of(self.desk.store.film(film.key), self.desk.store.content(film.key))


def reader_router(services: ReadingServices, reader_of: Callable[..., str]) -> "APIRouter":
    """The routes of the page.

    Args:
        services: what answers.
        reader_of: FastAPI dependency that returns the name of the reader, or raises an HTTPException.

    Raises:
        UsageError: FastAPI is missing.
    """
    require_fastapi()
    from fastapi import APIRouter, Depends, Query, Response
    from fastapi.responses import JSONResponse, StreamingResponse

    router, desk = APIRouter(), services.desk
    Reader = Annotated[str, Depends(reader_of)]
    Repeat = Annotated[int, Query(ge=0, le=MAX_REPEAT)]

    @router.get("/v1/worklist")
    def get_worklist(reader: Reader) -> Response:
        return _json_response(desk.worklist(reader))

    @router.get("/v1/films/{key}/reading")
    def get_reading(key: str, reader: Reader, repeat: Repeat = 0) -> Response:
        return _json_response(_found(lambda: desk.film(key, reader, repeat)))

    @router.get("/v1/films/{key}/pixels")
    def get_pixels(key: str, reader: Reader) -> Response:
        film = _found(lambda: desk.store.film(key))
        pixels = _readable(lambda: services.pixels.of(film, desk.store.content(key)))
        headers = {"X-Rows": str(pixels.rows), "X-Columns": str(pixels.columns), "Cache-Control": "no-store"}
        headers["Content-Length"] = str(len(pixels.grey))
        return StreamingResponse(slices(pixels.grey), media_type="application/octet-stream", headers=headers)

    @router.get("/v1/films/{key}/evidence")
    def get_evidence(key: str, reader: Reader, repeat: Repeat = 0) -> Response:
        film = _found(lambda: desk.store.film(key))
        _check_visible(desk, key, reader)
        newest = desk.store.log.newest(desk.stream(key, reader, repeat))
        return _json_response(_readable(lambda: film_evidence(services, film, newest)))

    @router.post("/v1/films/{key}/measure")
    def post_measure(key: str, marked: Marked, reader: Reader) -> Response:
        film = _found(lambda: desk.store.film(key))
        _check_visible(desk, key, reader)
        points, aspect = np.array(marked.landmarks_px, dtype=np.float64), knee_aspect(film, marked.knee)
        return _json_response(_readable(lambda: measure_answer(points, film.mm_per_px, aspect)))

    @router.get("/v1/films/{key}/reviews")
    def get_reviews(key: str, reader: Reader, repeat: Repeat = 0) -> Response:
        _found(lambda: desk.store.listed(key))
        history = desk.store.log.history(desk.stream(key, reader, repeat))
        return _json_response([revision_of(review) | {"reading": review.reading} for review in history])

    @router.post("/v1/films/{key}/reviews", status_code=201)
    def post_review(key: str, new: NewReview, reader: Reader) -> Response:
        try:
            review = _found(lambda: desk.save(key, reader, new.reading, based_on=new.based_on, repeat=new.repeat))
        except ConflictError as conflict:
            return JSONResponse(desk.merged(conflict, new.reading, new.based_on), 409)
        except (FinishedError, SignedError) as error:
            return JSONResponse({"detail": error.message}, 403)
        except IncompleteError as error:
            return JSONResponse({"detail": error.message}, 422)
        except KneeGradeError as error:
            return JSONResponse({"detail": error.message}, 507)
        return _json_response(revision_of(review) | {"notes": services.notes(key, review)}, 201)

    @router.post("/v1/coherence")
    def post_coherence(said: Grades, reader: Reader) -> Response:
        known = {name: grade for name, grade in said.grades.items() if grade < CLASSES.get(name, 0)}
        counts = combination_counts(known)
        return _json_response([
            {"code": one.code, "sentence": one.sentence, "knees": one.knees, "hard": one.hard} for one in counts
        ])  # fmt: skip

    @router.get("/v1/shape")
    def get_shape(reader: Reader) -> Response:
        return Response(following_covariance_mm2().astype("<f4").tobytes(), media_type="application/octet-stream")

    @router.post("/v1/labels")
    def post_labels(reader: Reader) -> Response:
        if services.labels_folder is None:
            return JSONResponse({"detail": "This page writes no labels."}, 404)
        folder = services.labels_folder
        written = _readable(lambda: write_labels(desk.store, folder))
        files, notes = [path.name for path in written], label_notes(desk.store, folder)
        return _json_response({"folder": folder.resolve().name, "files": files, "notes": notes})

    add_page(router)
    return router


async def slices(content: bytes) -> AsyncIterator[bytes]:
    """The content in pieces of `SLICE_BYTES`."""
    for start in range(0, len(content), SLICE_BYTES):
        yield content[start : start + SLICE_BYTES]


def knee_aspect(film: FilmResults, number: int) -> float:
    """Factor by which the film is stretched horizontally, as it was when this knee was measured."""
    knee = film.knees[number] if number < len(film.knees) else None
    if knee is None or knee["landmarks_px"] is None or knee["joint_space"] is None:
        return 1.0
    points = np.array([point or (np.nan, np.nan) for point in knee["landmarks_px"]], dtype=np.float64)
    return pixel_aspect_of(points, knee["joint_space"]["tibial_width_px"]["value"])


def film_evidence(services: ReadingServices, film: FilmResults, newest: Review | None) -> list[Any]:
    """The evidence on each knee of a film at the newest landmarks; None for a knee without landmarks.

    Raises:
        KneeGradeError: the film cannot be read, or the weights are others.
    """
    pixels = services.pixels.of(film, services.desk.store.content(film.key))
    grey = np.frombuffer(pixels.grey, dtype="<u2").reshape(pixels.rows, pixels.columns).astype(np.float32) / np.float32(
        65535
    )
    outlines: dict[int, tuple[NDArray[np.float64], float]] = {}
    for number, knee in enumerate(film.knees):
        read = newest.reading["knees"][number] if newest and number < len(newest.reading["knees"]) else {}
        points = read.get("landmarks_px") or knee["landmarks_px"]
        if points is not None and all(points):
            outlines[number] = np.array(points, dtype=np.float64), knee_aspect(film, number)
    found = services.evidence.of(grey, list(outlines.values()), film.weights_sha256)
    by_number = dict(zip(outlines, found, strict=True))
    return [by_number.get(number) for number in range(len(film.knees))]


def _json_response(values: Any, status: int = 200) -> "Response":
    """JSON without FastAPI's encoder, which takes seconds for 10,000 films."""
    from fastapi import Response

    content = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(content, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _found(ask: Callable[[], Any]) -> Any:
    from fastapi import HTTPException

    try:
        return ask()
    except KeyError:
        raise HTTPException(404, "There is no such film.") from None


def _readable(ask: Callable[[], Any]) -> Any:
    from fastapi import HTTPException

    try:
        return ask()
    except KneeGradeError as error:
        raise HTTPException(422, error.message) from None


def _check_visible(desk: ReadingDesk, key: str, reader: str) -> None:
    from fastapi import HTTPException

    if desk.is_hidden(key, reader):
        raise HTTPException(403, HiddenError("Results are hidden until the reading is finished.").message)
