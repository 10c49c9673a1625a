"""`ReportResults`: the films of a folder that `kneegrade grade` wrote, from its report.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kneegrade.errors import UsageError
from kneegrade.server.reading.reading_film import FilmResults, ListedFilm, ListedKnee, listed_knee, spacing_of
from kneegrade.server.reading.run_records import REPORT, film_keys, json_object


class ReportResults:
    """The results in report.json.

    Args:
        directory: with the report.

    Raises:
        UsageError: the report is damaged or of another version.
    """

    def __init__(self, directory: Path) -> None:
        report = json_object(directory / REPORT)
        try:
            self._weights = str(report["software"]["weights"]["sha256"])
            films = {(film["source"], film["sha256"]): film for film in report["radiographs"]}
            self._films = {key: films[identity] for identity, key in film_keys(films).items()}
        except (KeyError, TypeError) as error:
            raise UsageError(f"{REPORT} in {directory.name} is of another version; grade the films again.") from error

    def listed(self) -> Iterable[ListedFilm]:
        """All films, for the worklist."""
        for key, film in self._films.items():
            yield ListedFilm(key, film["source"], tuple(map(listed_entry, film["knees"])), film["status"])

    def sha256(self, listed: ListedFilm) -> str | None:
        """SHA-256 of the file of a film."""
        value: str | None = self._films[listed.key]["sha256"]
        return value

    def film(self, listed: ListedFilm) -> FilmResults:
        """The results of a film."""
        film = self._films[listed.key]
        return FilmResults(
            listed.key, film["source"], film["sha256"], film["status"], film["reason"], film["warnings"],
            film["knees"], self._weights, spacing_of(film["knees"]),
        )  # fmt: skip


def listed_entry(knee: Mapping[str, Any]) -> ListedKnee:
    """A knee of report.json for the worklist."""
    grades = knee["grades"] or {}
    kl = grades.get("kl")
    findings = (knee.get("quality") or {}).get("findings") or ()
    return listed_knee(
        knee["side"],
        {name: grade["grade"] for name, grade in grades.items()},
        kl["probabilities"][kl["grade"]] if kl else 0.0,
        [finding["code"] for finding in findings],
        max((len(grade["set"] or ()) for grade in grades.values()), default=0),
    )
