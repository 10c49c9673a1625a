"""`FolderStore`: the films of a folder that `kneegrade grade` or `kneegrade batch` wrote."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from kneegrade.batch.parquet import INPUT_PREFIX
from kneegrade.batch.result_parts import read_table
from kneegrade.batch.run_file import RUN_FILE
from kneegrade.errors import UnreadableFileError, UsageError
from kneegrade.imaging import Source, find_sources, stem_of
from kneegrade.reporting import INPUTS_FILE
from kneegrade.schema import TARGET_NAMES
from kneegrade.server.finding_texts import finding_text
from kneegrade.server.reading_film import FilmContent, FilmResults, ListedFilm, ListedKnee, listed_knee, spacing_of
from kneegrade.server.review_log import LOG_FILE, ReviewLog

REPORT: Final = "report.json"
_LISTED: Final = ("source", "sha256", "side", "status", "quality_findings", "kl_probabilities")


class FolderStore:
    """Films, results and readings of a folder; see `reading.ReadingStore`.

    Args:
        directory: with report.json of `grade`, or run.json and the tables of `batch`.
        films: files or folders of the films; None: the inputs that the run recorded.
        subject: regular expression; its first group, searched in a film's name without ending, is the person. None: a
            column `subject_id` of the table of films that was graded, else every film is a person of its own.

    Attributes:
        directory: see above.
        log: of the readings.

    Raises:
        UsageError: the folder has no results.
    """

    def __init__(self, directory: Path, films: Sequence[Path] | None = None, subject: str | None = None) -> None:
        self.directory = directory
        self._subject = None if subject is None else _pattern(subject)
        self._results: _ReportResults | _TableResults
        if (directory / REPORT).is_file():
            self._results = _ReportResults(directory)
        elif (directory / RUN_FILE).is_file():
            self._results = _TableResults(directory)
        else:
            raise UsageError(
                f"{directory} has neither {REPORT} nor {RUN_FILE}; give the output folder of `kneegrade grade` or "
                "`kneegrade batch`."
            )
        self._inputs = list(films) if films is not None else _recorded_inputs(directory)
        self._sources: dict[str, Source] | None = None
        self._listed = [self._with_person(film) for film in self._results.listed()]
        self._by_key = {film.key: film for film in self._listed}
        self.log = ReviewLog(directory / LOG_FILE)

    @property
    def title(self) -> str:
        """Name of the folder."""
        return self.directory.resolve().name

    def worklist(self) -> list[ListedFilm]:
        """All films in the order of the run."""
        return self._listed

    def listed(self, key: str) -> ListedFilm:
        """The entry of a film; raises KeyError if there is none."""
        return self._by_key[key]

    def film(self, key: str) -> FilmResults:
        """The results of a film; raises KeyError if there is none."""
        return self._results.film(self._by_key[key])

    def content(self, key: str) -> FilmContent:
        """The file of a film.

        Raises:
            UnreadableFileError: it is not where it was.
        """
        name = self._by_key[key].name
        for base in self._inputs:
            path = base if base.is_file() and base.name == name else base / name
            if path.is_file():
                return FilmContent(path, path)
        source = self._source(name)
        if source is None:
            raise UnreadableFileError(
                "The film is not where it was when it was graded. Start the viewer with --films and its folder.",
                code="no_such_file",
            )
        return FilmContent(source.open(), source.path)

    def recorded_path(self, key: str) -> str:
        """The path of a film when it was graded, of a member the archive's path and its own; raises KeyError.

        Where the run recorded no inputs, it is the film's name.
        """
        name, inputs = self._by_key[key].name, _absolute_inputs(self.directory)
        if not inputs or "://" in name or Path(name).is_absolute():
            return name
        if len(inputs) == 1:
            return str(inputs[0] if inputs[0].name == name else inputs[0] / name)
        try:
            return str(Path(os.path.commonpath([path.parent for path in inputs])) / name)
        except ValueError:  # the inputs are on several drives
            return name

    def _source(self, name: str) -> Source | None:
        """The source that the run had under this name, also a member of an archive."""
        if self._sources is None:
            present = [path for path in self._inputs if path.exists()]
            self._sources = {source.name: source for source in find_sources(present)} if present else {}
        return self._sources.get(name)

    def _with_person(self, film: ListedFilm) -> ListedFilm:
        if self._subject is None:
            return film
        found = self._subject.search(stem_of(film.name))
        return film if found is None else ListedFilm(film.key, film.name, film.knees, film.status, found[1], film.visit)


def film_key(name: str, sha256: str | None) -> str:
    """The key of a film: 40 hexadecimal digits, a function of its name and content."""
    return hashlib.sha256(f"{sha256 or ''}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()[:40]


def _pattern(expression: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"{expression!r} is not a regular expression: {error}.") from error
    if not pattern.groups:
        raise UsageError(f"{expression!r} has no group: put the part that is the person in parentheses.")
    return pattern


def _recorded_inputs(directory: Path) -> list[Path]:
    """The inputs of the run; where it recorded none, the folders in which films usually are."""
    recorded = _run_inputs(directory)
    return [Path(), directory.parent, directory] if recorded is None else recorded


def _absolute_inputs(directory: Path) -> list[Path]:
    """The inputs of the run; none where it recorded none."""
    return [path.absolute() for path in _run_inputs(directory) or ()]


def _run_inputs(directory: Path) -> list[Path] | None:
    for name in (INPUTS_FILE, RUN_FILE):
        recorded = _json(directory / name).get("inputs") if (directory / name).is_file() else None
        if isinstance(recorded, list):
            return [Path(text) for text in recorded if isinstance(text, str) and "://" not in text]
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} in {path.parent.name} is damaged; grade the films again.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path.name} in {path.parent.name} is damaged; grade the films again.")
    return values


class _ReportResults:
    """The results in report.json."""

    def __init__(self, directory: Path) -> None:
        report = _json(directory / REPORT)
        try:
            self._weights = str(report["software"]["weights"]["sha256"])
            self._films = {film_key(film["source"], film["sha256"]): film for film in report["radiographs"]}
        except (KeyError, TypeError) as error:
            raise UsageError(f"{REPORT} in {directory.name} is of another version; grade the films again.") from error

    def listed(self) -> Iterable[ListedFilm]:
        for key, film in self._films.items():
            yield ListedFilm(key, film["source"], tuple(map(listed_entry, film["knees"])), film["status"])

    def film(self, listed: ListedFilm) -> FilmResults:
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


class _TableResults:
    """The results in the Parquet tables of a batch; a row is converted when its film is opened."""

    def __init__(self, directory: Path) -> None:
        self._weights = str(_json(directory / RUN_FILE).get("weights", {}).get("grader", {}).get("sha256", ""))
        self._knees, self._films = read_table(directory, "knees"), read_table(directory, "films")
        self._rows: dict[str, list[int]] = {}
        keys = _keys(self._knees)
        for row, key in enumerate(keys):
            self._rows.setdefault(key, []).append(row)
        self._film_rows = {key: row for row, key in enumerate(_keys(self._films))}

    def listed(self) -> Iterable[ListedFilm]:
        films = {name: self._films[name].to_pylist() for name in ("source", "status")}
        people, visits = (self._carried(name) for name in ("subject_id", "visit"))
        knees = self._listed_knees()
        for key, row in self._film_rows.items():
            own = tuple(knees[i] for i in self._rows.get(key, ()))
            yield ListedFilm(key, films["source"][row], own, films["status"][row], people[row], visits[row])

    def film(self, listed: ListedFilm) -> FilmResults:
        film = self._films.slice(self._film_rows[listed.key], 1).to_pylist()[0]
        rows = [self._knees.slice(row, 1).to_pylist()[0] for row in self._rows.get(listed.key, ())]
        reason = _finding(film["reason_code"], film["reason"])
        spacing = next((row["mm_per_px"] for row in rows if row["mm_per_px"]), None)
        warnings = [{"code": code, "message": finding_text(code)} for code in film["warnings"] or ()]
        return FilmResults(
            listed.key, film["source"], film["sha256"], film["status"], reason, warnings,
            [_knee_entry(row) for row in rows], self._weights, spacing,
        )  # fmt: skip

    def _carried(self, name: str) -> list[str]:
        """A column of the user's table as text."""
        column = INPUT_PREFIX + name
        if column not in self._films.column_names:
            return [""] * len(self._films)
        return ["" if value is None else str(value) for value in self._films[column].to_pylist()]

    def _listed_knees(self) -> list[ListedKnee]:
        columns = {name: self._knees[name].to_pylist() for name in _LISTED}
        grades = {name: self._knees[name].to_pylist() for name in TARGET_NAMES}
        widest = np.zeros(len(self._knees), dtype=np.int64)
        for name in TARGET_NAMES:
            low, high = (np.nan_to_num(self._knees[f"{name}_set_{end}"].to_numpy()) for end in ("low", "high"))
            widest = np.maximum(widest, (high - low + 1).astype(np.int64))
        found = []
        for row in range(len(self._knees)):
            own = {name: column[row] for name, column in grades.items() if column[row] is not None}
            kl = columns["kl_probabilities"][row][own["kl"]] if "kl" in own else 0.0
            codes = columns["quality_findings"][row] or ()
            found.append(listed_knee(columns["side"][row], own, kl, codes, int(widest[row])))
        return found


def _keys(table: pa.Table) -> list[str]:
    pairs = zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True)
    return [film_key(source, sha256) for source, sha256 in pairs]


def _finding(code: str | None, message: str | None = None) -> dict[str, str] | None:
    return None if code is None else {"code": code, "message": message or finding_text(code)}


def _knee_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `knees` in the layout of report.json."""
    points = row["landmarks_px"]
    graded = row["kl"] is not None
    return {
        "side": row["side"],
        "status": row["status"],
        "reason": _finding(row["reason_code"], row["reason"]),
        "abstain": row["abstain"],
        "quality": _quality(row),
        "grades": {name: _grade_entry(row, name) for name in TARGET_NAMES} if graded else None,
        "coherence": {"findings": [_finding(code) for code in row["coherence_findings"] or ()]} if graded else None,
        "joint_space": _space_entry(row),
        "landmarks_px": None
        if points is None
        else [_point(*pair) for pair in zip(points[::2], points[1::2], strict=True)],
        "landmark_confidence": row["landmark_confidence"],
        "point_confidence": row["point_confidence"],
        "landmarks_outside": row["landmarks_outside"] or [],
        "side_confidence": row["side_confidence"],
    }


def _point(x: float, y: float) -> list[float] | None:
    return [x, y] if np.isfinite([x, y]).all() else None


def _quality(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["quality_score"] is None:
        return None
    return {"score": row["quality_score"], "findings": [_finding(code) for code in row["quality_findings"] or ()]}


def _grade_entry(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    low, high = row[f"{name}_set_low"], row[f"{name}_set_high"]
    study = row[f"{name}_study"]
    return {
        "grade": row[name],
        "probabilities": row[f"{name}_probabilities"],
        "set": None if low is None else list(range(low, high + 1)),
        "study": None if study is None else {"grade": study},
    }


def _space_entry(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["tibial_width_px"] is None:
        return None
    px, scale = {"value": row["tibial_width_px"], "error": row["tibial_width_error_px"]}, row["mm_per_px"]
    widths = {
        side: {
            "fraction": row[f"joint_space_{side}_fraction"],
            "fraction_error": row[f"joint_space_{side}_error_fraction"],
            "mm": row[f"joint_space_{side}_mm"], "mm_error": row[f"joint_space_{side}_error_mm"],
        }
        for side in ("medial", "lateral")
    }  # fmt: skip
    mm = None if scale is None else {name: value * scale for name, value in px.items()}
    return {**widths, "tibial_width_px": px, "tibial_width_mm": mm}
