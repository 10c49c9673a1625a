"""`grades.csv`: one row per knee, for spreadsheets and statistics."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kneegrade.files import replacing
from kneegrade.reporting.report_labels import reason_of, rows
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult, JointSpace, Report
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES, TARGETS

Cell = str | int | float

_KL_PROBABILITIES = tuple(f"kl_p{grade}" for grade in range(TARGETS[0].classes))
COLUMNS: Final[tuple[str, ...]] = (
    "source",
    "side",
    "status",
    "reason_code",
    "reason",
    *TARGET_NAMES,
    *_KL_PROBABILITIES,
    *(f"{name}_probability" for name in OARSI_NAMES),
    *(f"{name}_set" for name in TARGET_NAMES),
    "joint_space_medial_mm",
    "joint_space_lateral_mm",
    "joint_space_medial_error_mm",
    "joint_space_lateral_error_mm",
    "joint_space_medial_fraction",
    "joint_space_lateral_fraction",
    "convergence_angle_deg",
    "landmark_confidence",
    "abstain",
    "quality_score",
    "quality_findings",
    "coherence_log_probability",
    "coherence_decoding_shift",
    "coherence_findings",
    "warnings",
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_csv(report: Report, path: Path) -> None:
    """Writes a row per knee, and a row per radiograph without knees, under the names in `COLUMNS`.

    What is missing is an empty cell. Several codes in one cell are joined by ";". A text that a spreadsheet would
    take for a formula gets a leading apostrophe.

    Raises:
        UsageError: `path` cannot be written.
    """
    with replacing(path) as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\r\n")  # RFC 4180; quotes either
        writer.writeheader()
        for radiograph, knee in rows(report):
            cells = _cells(radiograph, knee)
            writer.writerow({name: harmless(cell) for name, cell in cells.items()})


def write_rows(header: Sequence[str], lines: Iterable[Sequence[Cell]], path: Path) -> None:
    """Writes any table to `path`: whole or not at all, with nothing in it that a spreadsheet would run.

    Raises:
        UsageError: `path` cannot be written.
    """
    with replacing(path) as stream:
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows([harmless(cell) for cell in line] for line in lines)


def _cells(radiograph: GradedRadiograph, knee: GradedKnee | None) -> dict[str, Cell]:
    judged = radiograph if knee is None else knee
    cells: dict[str, Cell] = {
        "source": radiograph.source,
        "status": judged.status,
        "warnings": _codes(radiograph.warnings),
    }
    reason = reason_of(judged)
    if reason is not None:
        cells |= {"reason_code": reason.code, "reason": reason.message}
    return cells if knee is None else cells | _knee_cells(knee)


def _knee_cells(knee: GradedKnee) -> dict[str, Cell]:
    cells: dict[str, Cell] = {"side": knee.side, "landmark_confidence": round(knee.landmark_confidence, 4)}
    cells["abstain"] = int(knee.abstain)
    if knee.quality is not None:
        cells["quality_score"] = round(knee.quality.score, 4)
        cells["quality_findings"] = _codes(knee.quality.findings)
    if knee.grades is not None:
        cells |= _grade_cells(knee.grades)
    if knee.joint_space is not None:
        cells |= _joint_space_cells(knee.joint_space)
    if knee.coherence is not None:
        cells["coherence_log_probability"] = round(knee.coherence.log_probability, 4)
        cells["coherence_decoding_shift"] = knee.coherence.decoding_shift
        cells["coherence_findings"] = _codes(knee.coherence.findings)
    return cells


def _joint_space_cells(space: JointSpace) -> dict[str, Cell]:
    cells: dict[str, Cell] = {"convergence_angle_deg": round(space.convergence_deg.value, 4)}
    for name, width in (("medial", space.medial), ("lateral", space.lateral)):
        cells[f"joint_space_{name}_fraction"] = round(width.value, 6)
        mm = space.mm(width)
        if mm is not None:
            cells[f"joint_space_{name}_mm"] = round(mm.value, 4)
            cells[f"joint_space_{name}_error_mm"] = round(mm.error, 4)
    return cells


def _grade_cells(grades: Mapping[str, GradeResult]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {name: result.grade for name, result in grades.items()}
    kl = (round(probability, 6) for probability in grades["kl"].probabilities)
    cells |= dict(zip(_KL_PROBABILITIES, kl, strict=True))
    for name in OARSI_NAMES:
        result = grades[name]
        cells[f"{name}_probability"] = round(result.probabilities[result.grade], 6)
    for name, result in grades.items():
        if result.prediction_set is not None:
            low, high = min(result.prediction_set), max(result.prediction_set)
            cells[f"{name}_set"] = str(low) if low == high else f"{low} to {high}"  # "1-2" would become a date
    return cells


def _codes(findings: Iterable[Finding]) -> str:
    return ";".join(finding.code for finding in findings)


def harmless(cell: Cell) -> Cell:
    """`cell`, with an apostrophe in front of text that a spreadsheet would run (OWASP: CSV injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
