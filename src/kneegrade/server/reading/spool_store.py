"""`SpoolStore`: the graded films of a spool, as the reader's page of `kneegrade serve` shows them."""

import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kneegrade.errors import KneeGradeError
from kneegrade.files import replacing
from kneegrade.server.audit_log import AUDIT_FILE, AuditLog, read_audit_log
from kneegrade.server.reading.reading_film import FilmContent, FilmResults, ListedFilm, spacing_of
from kneegrade.server.reading.report_results import listed_entry
from kneegrade.server.reading.review_log import LOG_FILE, SIGNED, Review, ReviewLog
from kneegrade.server.reading.run_records import REPORT
from kneegrade.server.reading.signature import WITHDRAWN, ReportReference, signed_files
from kneegrade.server.spool.film_spool import Spool

PAGE: Final = 1000  # films that are read from the index at a time
_FIRST: Final = {"sr": "sr.dcm", "fhir": "fhir.json"}  # files of results that signatures revise
_NOT_WRITTEN: Final = "Signed, but no object was written; this is tried again when the service starts."
_log = logging.getLogger(__name__)

Deliveries = Callable[[tuple[str, ...]], Mapping[str, Sequence[str]]]


class SpoolStore:
    """Films, results and readings of a spool; see `reading_desk.ReadingStore`. Films appear when they are graded.

    Args:
        spool: of the service.

    Attributes:
        log: of the readings, in the folder of the spool.
    """

    title = "Spool"

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._known: dict[str, tuple[int, ListedFilm]] = {}
        self.log = ReviewLog(spool.directory / LOG_FILE)

    def worklist(self) -> list[ListedFilm]:
        """The graded films, the last received first."""
        return [film for row in self._rows() if (film := self._listed(row.key, row.received)) is not None]

    def listed(self, key: str) -> ListedFilm:
        """The entry of a film; raises KeyError if there is none."""
        row = None if not _is_key(key) else self._spool.film(key)
        film = None if row is None else self._listed(key, row.received)
        if film is None:
            raise KeyError(key)
        return film

    def film(self, key: str) -> FilmResults:
        """The results of a film; raises KeyError if there is none."""
        listed = self.listed(key)
        report = self._report(key)
        film = report["radiographs"][0]
        return FilmResults(
            key, listed.name, film["sha256"], film["status"], film["reason"], film["warnings"], film["knees"],
            report["software"]["weights"]["sha256"], spacing_of(film["knees"]),
        )  # fmt: skip

    def content(self, key: str) -> FilmContent:
        """The file of a film; raises KeyError if there is none."""
        row = None if not _is_key(key) else self._spool.film(key)
        if row is None:
            raise KeyError(key)
        return FilmContent(row.path, row.path)

    def _rows(self) -> Iterator[Any]:
        before = None
        while rows := self._spool.films(state="graded", limit=PAGE, before=before):
            yield from rows
            before = rows[-1].key

    def _listed(self, key: str, received: float) -> ListedFilm | None:
        path = self._spool.results(key) / REPORT
        try:
            changed = path.stat().st_mtime_ns
            if key not in self._known or self._known[key][0] != changed:
                film = self._report(key)["radiographs"][0]
                name = datetime.fromtimestamp(received, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
                entry = ListedFilm(key, f"{name} · {key[:6]}", tuple(map(listed_entry, film["knees"])), film["status"])
                self._known[key] = changed, entry
            return self._known[key][1]
        except (OSError, ValueError, KeyError, IndexError):
            return None  # it is being replaced, or was purged

    def _report(self, key: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self._spool.results(key) / REPORT).read_text(encoding="utf-8"))
        return report


class SpoolSignatures:
    """Writes signed revisions to the results of a spool and enters their deliveries.

    Args:
        store: with the films.
        spool: of the service.
        deliveries: names of result files → destination → those of them that it gets; the revision of a file goes where
            the file went.
        organization: for which the readers act.
    """

    def __init__(self, store: SpoolStore, spool: Spool, deliveries: Deliveries, organization: str = "") -> None:
        self._store, self._spool, self._deliveries = store, spool, deliveries
        self._organization = organization
        self._audit = AuditLog(spool.directory / AUDIT_FILE)

    def __call__(self, key: str, review: Review) -> list[str]:
        """Sentences for the reader: which files were written, or why not; also when a signature was withdrawn.

        Raises:
            SpoolError: the audit log or the index cannot be written; signing again is safe.
        """
        is_signed = review.reading.get("status") == SIGNED
        event = "film_signed" if is_signed else "signature_withdrawn"
        self._audit.write(event, film=key, reader=review.reader, revision=review.revision)
        return self._write(key, review) if is_signed else [WITHDRAWN]

    def redo(self) -> int:
        """The number of films whose signature was written now; called at the start of the service.

        Those are signatures that nobody has withdrawn, whose object could not be written, or after which the process
        ended before it was entered for delivery. They are entered in the audit log if they are not there yet.
        """
        signed = dict(self._newest_signatures())
        audited = self._audited("film_signed") if signed else {}
        written = self._audited("report_signed") if signed else {}
        due = {key: review for key, review in signed.items() if self._is_due(key, review, written)}
        tried: dict[str, Review] = {}
        for key, review in due.items():
            if (key, review.revision) in written and not self._has_revision(key, review):
                continue  # it was purged with its film, which was sent again
            again = self._write if (key, review.revision) in audited else self
            try:
                sentences = again(key, review)
            except KneeGradeError as error:
                sentences = [f"{_NOT_WRITTEN} {error.message}"]
            for sentence in sentences:
                _log.warning("Film %s, revision %d: %s", key, review.revision, sentence)
            tried[key] = review
        written = self._audited("report_signed") if tried else {}
        return sum(not self._is_due(key, review, written) for key, review in tried.items())

    def _newest_signatures(self) -> Iterator[tuple[str, Review]]:
        self._store.log.refresh()
        for stream, review in self._store.log.streams().items():
            if review.reading.get("status") == SIGNED and not stream.study and _is_key(stream.film):
                yield stream.film, review

    def _is_due(self, key: str, review: Review, written: Container[tuple[Any, Any]]) -> bool:
        """Whether a graded film has a structured report, but no signed revision, or one that is not entered everywhere.

        Args:
            key: of the film.
            review: its newest signature.
            written: film and revision of the signed revisions in the audit log.
        """
        row = self._spool.film(key)
        if row is None or row.state != "graded":
            return False
        name = f"sr-{review.revision}.dcm"
        if newest_revision(self._spool.results(key), _FIRST["sr"], review.revision) is None:
            return False
        if not self._has_revision(key, review) or (key, review.revision) not in written:
            return True
        sent = {row.object for row in self._spool.deliveries(key)}
        return _FIRST["sr"] in sent and name not in sent and any(self._deliveries((_FIRST["sr"],)).values())

    def _has_revision(self, key: str, review: Review) -> bool:
        return (self._spool.results(key) / f"sr-{review.revision}.dcm").is_file()

    def _audited(self, event: str) -> dict[tuple[Any, Any], dict[str, Any]]:
        """Film and revision → entry in the audit log."""
        events = read_audit_log(self._spool.directory / AUDIT_FILE)
        return {(one.get("film"), one.get("revision")): one for one in events if one.get("event") == event}

    def _replaced(self, key: str, review: Review, known: Path) -> ReportReference | None:
        """The newest signed report that was purged with its film, which was then sent again; None if there is none.

        Args:
            key: of the film.
            review: that is signed now.
            known: newest report in the results.
        """
        oldest = int(known.stem.partition("-")[2] or 0)
        lost = [one.revision for one in self._store.log.history(review.stream)
                if oldest < one.revision < review.revision and one.reading.get("status") == "signed"]  # fmt: skip
        entries = self._audited("report_signed") if lost else {}
        for revision in reversed(lost):
            if entry := entries.get((key, revision)):
                return ReportReference(*(str(entry[name]) for name in ("sop_class", "series", "instance")))
        return None

    def _write(self, key: str, review: Review) -> list[str]:
        folder = self._spool.results(key)
        found = {name: newest_revision(folder, file, review.revision) for name, file in _FIRST.items()}
        predecessors = {name: path for name, path in found.items() if path is not None}
        if "sr" not in predecessors:
            return ["Signed. The results of this film have no structured report, so none was written."]
        try:
            content = self._store.content(key)
            replaced = self._replaced(key, review, predecessors["sr"])
            files = signed_files(self._store.film(key), content, review, predecessors, self._organization, replaced)
        except KneeGradeError as error:
            return [f"{_NOT_WRITTEN} {error.message}"]
        except Exception as error:  # the text of the error may name the patient
            return [f"{_NOT_WRITTEN} There was an error in kneegrade ({type(error).__name__}). Report it."]
        names = {"sr": f"sr-{review.revision}.dcm", "fhir": f"fhir-{review.revision}.json"}
        revised = {_FIRST[name]: names[name] for name in files}
        for name, content_bytes in files.items():
            with replacing(folder / names[name], "wb") as stream:
                stream.write(content_bytes)
        made = ReportReference.of(files["sr"])
        self._audit.write(
            "report_signed", film=key, revision=review.revision, sop_class=made.sop_class_uid,
            series=made.series_instance_uid, instance=made.sop_instance_uid,
        )  # fmt: skip
        due = self._deliveries(tuple(revised))
        self._spool.finish(key, deliveries={to: [revised[file] for file in own] for to, own in due.items()})
        return [f"Signed. Wrote {', '.join(names[name] for name in files)}."]


def newest_revision(folder: Path, file: str, before: int) -> Path | None:
    """The newest signed revision of a file of results, `sr-3.dcm` of `sr.dcm`, else the file itself, if it exists.

    Args:
        folder: of the results.
        file: name of the first one.
        before: number of the revision that replaces it, which may be there already, from an attempt that was cut off.
    """
    stem, _, ending = file.rpartition(".")
    paths = {int(n): path for path in folder.glob(f"{stem}-*.{ending}") if (n := path.stem[len(stem) + 1 :]).isdigit()}
    if earlier := [number for number in paths if number < before]:
        return paths[max(earlier)]
    return folder / file if (folder / file).is_file() else None


def _is_key(key: str) -> bool:
    return len(key) == 40 and set(key) <= set("0123456789abcdef")
