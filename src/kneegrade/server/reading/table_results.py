"""`TableResults`: the films of a folder that `kneegrade batch` wrote, from its Parquet tables."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from kneegrade.batch.parquet import INPUT_PREFIX
from kneegrade.batch.result_parts import read_table
from kneegrade.batch.run_file import RUN_FILE
from kneegrade.schema import TARGET_NAMES
from kneegrade.server.reading.finding_texts import finding_text
from kneegrade.server.reading.reading_film import FilmResults, ListedFilm, ListedKnee, listed_knee
from kneegrade.server.reading.run_records import film_keys, json_object

_LISTED: Final = ("source", "sha256", "side", "status", "quality_findings", "kl_probabilities")


class TableResults:
    """The results in the Parquet tables of a batch; a row is converted when its film is opened.

    Args:
        directory: with run.json and the tables.
    """

    def __init__(self, directory: Path) -> None:
        self._weights = str(json_object(directory / RUN_FILE).get("weights", {}).get("grader", {}).get("sha256", ""))
        self._knees, self._films = read_table(directory, "knees"), read_table(directory, "films")
        self._rows: dict[str, list[int]] = {}
        films, knees = _identities(self._films), _identities(self._knees)
        keys = film_keys([*films, *knees])
        for row, identity in enumerate(knees):
            self._rows.setdefault(keys[identity], []).append(row)
        self._film_rows = {keys[identity]: row for row, identity in enumerate(films)}

    def listed(self) -> Iterable[ListedFilm]:
        """All films, for the worklist."""
        films = {name: self._films[name].to_pylist() for name in ("source", "status")}
        people, visits = (self._carried(name) for name in ("subject_id", "visit"))
        knees = self._listed_knees()
        for key, row in self._film_rows.items():
            own = tuple(knees[i] for i in self._rows.get(key, ()))
            yield ListedFilm(key, films["source"][row], own, films["status"][row], people[row], visits[row])

    def sha256(self, listed: ListedFilm) -> str | None:
        """SHA-256 of the file of a film."""
        value: str | None = self._films["sha256"][self._film_rows[listed.key]].as_py()
        return value

    def film(self, listed: ListedFilm) -> FilmResults:
        """The results of a film."""
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


def _identities(table: pa.Table) -> list[tuple[str, str | None]]:
    """Name and SHA-256 of the film of each row."""
    return list(zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True))


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
