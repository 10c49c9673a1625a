"""The tables that `kneegrade batch` writes: their columns, and a graded film as rows of them.

Three tables of Parquet files: `knees` (a row per knee), `films` (a row per film) and `log` (a row per graded film: what
differs between two runs on the same films). Additional columns raise the minor version of the schema; a change that
breaks readers raises the major version. The tables' page in docs/ is generated from `TABLES`.

Lists have no fixed size in the schema, though most have a known length: pyarrow before 26 cannot read files in which a
list of fixed size is null, as those of a knee without grades are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from kneegrade.anatomy.joint_space import FIXED_AT
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.batch.rows import Row
from kneegrade.measurements import JointSpace, Measurement
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult
from kneegrade.schema import TARGETS

SCHEMA_VERSION: Final = "2.0"
VERSION_KEY: Final = b"kneegrade.schema_version"
INPUT_PREFIX: Final = "input_"  # of columns that come from the user's table


@dataclass(frozen=True)
class Column:
    """A column: its name, its type, its meaning for the documentation, and the length of its lists if it is known."""

    name: str
    type: pa.DataType
    meaning: str
    length: int | None = None


def _vector(name: str, length: int, meaning: str) -> Column:
    """A column of lists of `length` float32 numbers."""
    return Column(name, pa.list_(pa.float32()), meaning, length)


_CODES: Final = pa.list_(pa.string())
_KEY: Final = (
    Column("source", pa.string(), "path of the film relative to INPUT; with `sha256` the key of a film"),
    Column("sha256", pa.string(), "SHA-256 of the film's bytes; null if it could not be read"),
)
_REASON: Final = (
    Column("reason_code", pa.string(), "why there are no grades; null if there are"),
    Column("reason", pa.string(), "the same as a sentence"),
)


def _grade_columns() -> Iterable[Column]:
    for target in TARGETS:
        name, label, top = target.name, target.label, target.classes - 1
        yield Column(name, pa.int8(), f"{label}, 0 to {top}; null if the knee is not graded")
        yield _vector(f"{name}_probabilities", target.classes, f"calibrated probabilities of 0 to {top}")
        yield Column(f"{name}_set_low", pa.int8(), "lowest grade of the prediction set; null without sets")
        yield Column(f"{name}_set_high", pa.int8(), "highest grade of the prediction set")
        yield Column(f"{name}_study", pa.int8(), "the grade on the study's scale, if the above is on that of a site")


def _measured(name: str, unit: str, meaning: str) -> tuple[Column, Column]:
    return (
        Column(f"{name}_{unit}", pa.float32(), meaning),
        Column(f"{name}_error_{unit}", pa.float32(), "its standard error"),
    )


_AT: Final = ", ".join(f"{x:g}" for x in np.round(FIXED_AT, 3))
KNEES: Final[tuple[Column, ...]] = (
    *_KEY,
    Column("knee", pa.int8(), "number of the knee on the film, from 0, from left to right for a viewer"),
    Column("side", pa.string(), "side of the patient's body: `R`, `L` or `unknown`"),
    Column("status", pa.string(), "`graded` or `not_gradable`"),
    *_REASON,
    Column("abstain", pa.bool_(), "true if a reader should decide"),
    *_grade_columns(),
    *_measured("joint_space_medial", "fraction", "minimum medial width, as a fraction of the tibial width"),
    *_measured("joint_space_lateral", "fraction", "lateral width at 0.825 of the tibial width"),
    *_measured("joint_space_medial", "mm", "minimum medial width in mm; null without a trusted pixel spacing"),
    *_measured("joint_space_lateral", "mm", "lateral width in mm"),
    _vector("joint_space_fixed_fraction", len(FIXED_AT), f"widths at x = {_AT}, as fractions"),
    _vector("joint_space_fixed_error_fraction", len(FIXED_AT), "their standard errors"),
    *_measured("convergence_angle", "deg", "joint-line convergence angle, positive if the joint opens laterally"),
    *_measured("tibial_width", "px", "width of the tibial plateau in pixels"),
    Column("mm_per_px", pa.float32(), "pixel spacing; null without one that is trusted"),
    _vector("landmarks_px", 2 * NUM_LANDMARKS, "x and y of the 74 landmarks: x0, y0, x1, y1, …"),
    _vector("point_confidence", NUM_LANDMARKS, "probability that a landmark is within 2 % of the tibial width"),
    Column("landmarks_outside", pa.list_(pa.int8()), "indices of the landmarks outside the film"),
    Column("landmark_confidence", pa.float32(), "0 to 1"),
    Column("side_confidence", pa.float32(), "0.5 to 1, of the side that the anatomy indicates"),
    Column("quality_score", pa.float32(), "quality control, 0 to 1; null if the weights have none"),
    Column("quality_findings", _CODES, "codes of unusual properties of the knee"),
    Column("coherence_log_probability", pa.float32(), "log density of the network's own probabilities (Eq. 3)"),
    Column("coherence_decoding_shift", pa.int8(), "steps by which calibration and decoding moved the grades"),
    Column("coherence_findings", _CODES, "codes of broken rules"),
)
FILMS: Final[tuple[Column, ...]] = (
    *_KEY,
    Column("status", pa.string(), "`graded`, `not_gradable` or `failed`"),
    *_REASON,
    Column("warnings", _CODES, "codes of warnings about the film"),
    Column("knees", pa.int8(), "number of rows in `knees`"),
    Column("knees_graded", pa.int8(), "number of graded knees"),
)
LOG: Final[tuple[Column, ...]] = (
    *_KEY,
    Column("seconds", pa.float32(), "time from the start of reading to the rows"),
    Column("cpu_seconds", pa.float32(), "processor time of the worker in it, without its decoding process"),
    Column("attempts", pa.int16(), "how often the film was tried: more than once if workers died on it"),
    Column("host", pa.string(), "name of the computer"),
    Column("finished", pa.timestamp("ms", tz="UTC"), "when the film was done"),
    Column("version", pa.string(), "state of the file when it was read; a resumed run hashes changed files again"),
)
TABLES: Final[Mapping[str, tuple[Column, ...]]] = {"knees": KNEES, "films": FILMS, "log": LOG}


def table_schema(name: str, input_fields: Sequence[pa.Field] = ()) -> pa.Schema:
    """The Arrow schema of a table.

    Args:
        name: of `TABLES`.
        input_fields: columns of the user's table, which `knees` and `films` repeat after their own.
    """
    fields = [pa.field(column.name, column.type) for column in TABLES[name]]
    carried = [] if name == "log" else [_carried(field) for field in input_fields]
    return pa.schema([*fields, *carried], metadata={VERSION_KEY: SCHEMA_VERSION.encode()})


def _carried(field: pa.Field) -> pa.Field:
    """The column that repeats a column of the user's table; lists of fixed size become lists of any size."""
    kind = field.type
    return pa.field(INPUT_PREFIX + field.name, pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind)


def film_row(film: GradedRadiograph) -> Row:
    """The row of `films`."""
    return {
        "source": film.source,
        "sha256": film.sha256,
        "status": film.status,
        **_reason(None if film.status == "graded" else film.reason),
        "warnings": _codes(film.warnings),
        "knees": len(film.knees),
        "knees_graded": sum(knee.status == "graded" for knee in film.knees),
    }


def knee_rows(film: GradedRadiograph) -> list[Row]:
    """The rows of `knees`."""
    return [
        {"source": film.source, "sha256": film.sha256, "knee": number, **_knee(knee)}
        for number, knee in enumerate(film.knees)
    ]


def _knee(knee: GradedKnee) -> Row:
    row: Row = {
        "side": knee.side,
        "status": knee.status,
        **_reason(knee.reason),
        "abstain": knee.abstain,
        "landmarks_px": None if knee.landmarks_px is None else _floats(knee.landmarks_px),
        "point_confidence": None if knee.point_confidence is None else _floats(knee.point_confidence),
        "landmarks_outside": list(knee.landmarks_outside),
        "landmark_confidence": knee.landmark_confidence,
        "side_confidence": knee.side_confidence,
    }
    for name, grade in (knee.grades or {}).items():
        row |= _grade(name, grade)
    if knee.joint_space is not None:
        row |= _joint_space(knee.joint_space)
    if knee.quality is not None:
        row |= {"quality_score": knee.quality.score, "quality_findings": _codes(knee.quality.findings)}
    if knee.coherence is not None:
        row["coherence_log_probability"] = knee.coherence.log_probability
        row["coherence_decoding_shift"] = knee.coherence.decoding_shift
        row["coherence_findings"] = _codes(knee.coherence.findings)
    return row


def _grade(name: str, grade: GradeResult) -> Row:
    members = grade.prediction_set
    return {
        name: grade.grade,
        f"{name}_probabilities": _floats(grade.probabilities),
        f"{name}_set_low": min(members) if members else None,
        f"{name}_set_high": max(members) if members else None,
        f"{name}_study": None if grade.study is None else grade.study.grade,
    }


def _joint_space(space: JointSpace) -> Row:
    row = {
        **_values("joint_space_medial", "fraction", space.medial),
        **_values("joint_space_lateral", "fraction", space.lateral),
        **_values("convergence_angle", "deg", space.convergence_deg),
        **_values("tibial_width", "px", space.tibial_width_px),
        "joint_space_fixed_fraction": _floats([width.value for width in space.fixed.values()]),
        "joint_space_fixed_error_fraction": _floats([width.error for width in space.fixed.values()]),
        "mm_per_px": space.mm_per_px,
    }
    for name, width in (("medial", space.medial), ("lateral", space.lateral)):
        mm = space.mm(width)
        row |= {} if mm is None else _values(f"joint_space_{name}", "mm", mm)
    return row


def _values(name: str, unit: str, measured: Measurement) -> Row:
    return {f"{name}_{unit}": measured.value, f"{name}_error_{unit}": measured.error}


def _floats(values: Any) -> Any:
    """The values in one float32 vector; Arrow stores NaN as a number."""
    return np.asarray(values, dtype=np.float32).reshape(-1)


def _reason(reason: Finding | None) -> Row:
    return {"reason_code": reason and reason.code, "reason": reason and reason.message}


def _codes(findings: Iterable[Finding]) -> list[str]:
    return [finding.code for finding in findings]
