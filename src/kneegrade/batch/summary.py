"""`write_summary`: the tables of a finished batch → summary.json and summary.html, for people."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from kneegrade.batch.parquet import SCHEMA_VERSION
from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.result_parts import part_tables, read_table
from kneegrade.batch.rows import Row
from kneegrade.batch.run_file import RUN_FILE
from kneegrade.batch.summary_page import write_page
from kneegrade.files import write_text
from kneegrade.results import MORE_KNEES, UNCERTAIN_GRADE
from kneegrade.schema import TARGETS

SUMMARY_JSON: Final = "summary.json"
SUMMARY_HTML: Final = "summary.html"
NOT_MOST_PROBABLE: Final = ("grade_moved", "grade_between")  # findings about the decoding, not about a broken rule
_FILM_COLUMNS: Final = ("source", "sha256", "reason_code", "knees")
_KNEE_COLUMNS: Final = (
    "source", "sha256", "knee", "side", "status", "reason_code", "abstain", "quality_score", "quality_findings",
    "coherence_findings", *(target.name for target in TARGETS),
)  # fmt: skip


@dataclass(frozen=True)
class ReviewedKnee:
    """A knee, or a film without knees, that a person should look at.

    Attributes:
        source: of the film.
        sha256: of the film's bytes; None if it could not be read.
        knee: number of the knee on the film; None for a film without knees.
        side: of the body; None for a film.
        codes: why: reason, findings of quality control, uncertain grades, broken rules.
        grades: the seven grades by name; None without grades.
        quality_score: None without quality control.
    """

    source: str
    sha256: str | None
    knee: int | None
    side: str | None
    codes: tuple[str, ...]
    grades: dict[str, int] | None
    quality_score: float | None


def write_summary(
    directory: Path, films: Sequence[PlannedFilm], *, pictures: int = 200, stop: StopCount = lambda: 0
) -> Path:
    """The path of summary.html, after it and summary.json were written from the tables in `directory`.

    The tables are read part by part: there may be millions of rows.

    Args:
        directory: of the batch.
        films: to read again for the pictures.
        pictures: greatest number of knees and films to show.
        stop: number of signals to stop so far; after the second one the other knees are shown without pictures.

    Raises:
        KneeGradeError: a file cannot be read or written.
    """
    facts = summarise(directory)
    shown, number = choose(candidates(directory), pictures)
    facts["review"] = {"number": number, "shown": [asdict(one) for one in shown]}
    write_text(directory / SUMMARY_JSON, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    write_page(facts, shown, directory, films, directory / SUMMARY_HTML, stop)
    return directory / SUMMARY_HTML


def summarise(directory: Path) -> dict[str, Any]:
    """Counts over all rows, times, and the settings of the run, as plain JSON values."""
    films = _counters(part_tables(directory, "films", ["status", "reason_code", "warnings"]))
    knees = _counters(part_tables(directory, "knees", [
        "status", "abstain", "reason_code", "quality_findings", "coherence_findings", *(t.name for t in TARGETS),
    ]))  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "films": {"all": films["status"].total(), **_counts(films["status"])},
        "knees": {"all": knees["status"].total(), **_counts(knees["status"]), "abstain": knees["abstain"][True]},
        "film_reasons": _counts(films["reason_code"]),
        "knee_reasons": _counts(knees["reason_code"]),
        "findings": _counts(knees["quality_findings"]),
        "coherence_findings": _counts(knees["coherence_findings"]),
        "warnings": _counts(films["warnings"]),
        "grades": {t.name: [knees[t.name][grade] for grade in range(t.classes)] for t in TARGETS},
        "time": _times(read_table(directory, "log", ["seconds", "cpu_seconds", "attempts", "host", "finished"])),
        "run": json.loads((directory / RUN_FILE).read_text(encoding="utf-8")),
    }


def ungraded_lines(directory: Path) -> list[str]:
    """One sentence per kind of item without grades in the tables, with the counts of the reasons."""
    films, knees, warnings = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[Any]()
    for table in part_tables(directory, "films", ["status", "reason_code", "warnings"]):
        films.update(zip(table["status"].to_pylist(), table["reason_code"].to_pylist(), strict=True))
        warnings += _value_counts(table["warnings"])
    for table in part_tables(directory, "knees", ["status", "reason_code"]):
        knees.update(zip(table["status"].to_pylist(), table["reason_code"].to_pylist(), strict=True))
    lines = []
    for found, status, what in (
        (films, "failed", "{} of {} films could not be read or graded"),
        (films, "not_gradable", "{} of {} films have no gradable knee"),
        (knees, "not_gradable", "{} of {} knees were not graded"),
    ):
        counts = Counter({code: number for (own, code), number in found.items() if own == status})
        if counts:
            reasons = ", ".join(f"{number:,} {code.replace('_', ' ')}" for code, number in _counts(counts).items())
            lines.append(f"{what.format(f'{counts.total():,}', f'{found.total():,}')}: {reasons}.")
    if more := warnings[MORE_KNEES]:
        lines.append(
            f"{more:,} of {films.total():,} pictures {'shows' if more == 1 else 'show'} more knees than were graded."
        )
    return lines


def _counters(tables: Iterable[pa.Table]) -> defaultdict[str, Counter[Any]]:
    """Column → number of each value; of lists, that of each element."""
    found: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for table in tables:
        for name in table.column_names:
            found[name].update(_value_counts(table[name]))
    return found


def _value_counts(column: pa.ChunkedArray) -> Counter[Any]:
    values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(values).to_pylist()})


def _counts(counter: Counter[Any]) -> dict[str, int]:
    """Number of each value, the most frequent first; without null."""
    found = {value: number for value, number in counter.items() if value is not None}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _times(log: pa.Table) -> dict[str, Any]:
    """Seconds of a film in a worker, and films per second of all workers between the first and the last film."""
    seconds, cpu = (pc.drop_null(log[name]) for name in ("seconds", "cpu_seconds"))
    first, last = pc.min(log["finished"]).as_py(), pc.max(log["finished"]).as_py()
    span = (last - first).total_seconds() if log.num_rows else 0.0
    middle, high = pc.quantile(seconds, q=[0.5, 0.95]).to_pylist() if len(seconds) else (None, None)
    return {
        "seconds_median": _rounded(middle),
        "seconds_95_percent": _rounded(high),
        "cpu_seconds_median": _rounded(pc.quantile(cpu, q=0.5)[0].as_py() if len(cpu) else None),
        "films_per_second": _rounded((log.num_rows - 1) / span) if span > 0 else None,
        "first": first and first.isoformat(),
        "last": last and last.isoformat(),
        "hosts": sorted(pc.unique(log["host"]).to_pylist()),
        "films_with_several_attempts": int(pc.sum(pc.greater(log["attempts"], 1)).as_py() or 0),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def candidates(directory: Path) -> Iterator[ReviewedKnee]:
    """The knees on which kneegrade abstains or whose grades break a rule, and the films without knees."""
    for knees in part_tables(directory, "knees", _KNEE_COLUMNS):
        found = pc.fill_null(pc.list_value_length(knees["coherence_findings"]), 0)
        for row in knees.filter(pc.or_(knees["abstain"], pc.greater(found, 0))).to_pylist():
            if row["abstain"] or set(row["coherence_findings"]) - set(NOT_MOST_PROBABLE):
                yield _knee(row)
    for films in part_tables(directory, "films", _FILM_COLUMNS):
        for row in films.filter(pc.equal(films["knees"], 0)).to_pylist():
            yield ReviewedKnee(row["source"], row["sha256"], None, None, (row["reason_code"] or "",), None, None)


def _knee(row: Row) -> ReviewedKnee:
    grades = {t.name: row[t.name] for t in TARGETS} if row["status"] == "graded" else None
    if grades is None:
        codes: tuple[str, ...] = (row["reason_code"] or "",)
    else:
        findings = row["quality_findings"] or []
        own = findings if findings or not row["abstain"] else [UNCERTAIN_GRADE.code]
        codes = tuple(dict.fromkeys((*own, *(row["coherence_findings"] or []))))
    return ReviewedKnee(row["source"], row["sha256"], row["knee"], row["side"], codes, grades, row["quality_score"])


def choose(found: Iterable[ReviewedKnee], number: int) -> tuple[list[ReviewedKnee], int]:
    """At most `number` of the knees, and how many there are.

    Every first code gets the same share, as long as it has knees, so that a frequent one does not hide rare ones.
    Within a code, those of the lowest quality come first. At most twice `number` knees of each code are kept in memory.
    """
    groups: dict[str, list[ReviewedKnee]] = defaultdict(list)
    sizes = Counter[str]()
    for one in found:
        group = groups[one.codes[0]]
        group.append(one)
        sizes[one.codes[0]] += 1
        if len(group) > 2 * number:
            group.sort(key=_order)
            del group[number:]
    left, chosen = number, dict[str, list[ReviewedKnee]]()
    for place, code in enumerate(sorted(groups, key=lambda code: (sizes[code], code))):
        share = left // (len(groups) - place)  # the smallest groups first, so that no share is lost
        chosen[code] = sorted(groups[code], key=_order)[:share]
        left -= len(chosen[code])
    return [one for code in sorted(chosen) for one in chosen[code]], sizes.total()


def _order(one: ReviewedKnee) -> tuple[float, str, int, str]:
    quality = one.quality_score if one.quality_score is not None else -1.0
    return quality, one.source, one.knee if one.knee is not None else -1, one.sha256 or ""
