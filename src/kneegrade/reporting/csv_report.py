"""`grades.csv`: one row per knee, for spreadsheets and statistics programs."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kneegrade.files import replacing
from kneegrade.measurements import JointSpace
from kneegrade.reporting.report_labels import knee_rows, reason_of
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult, Report
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES, TARGETS
from kneegrade.spreadsheet_cells import Cell, escape_formula

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
    *(f"{name}_study" for name in TARGET_NAMES),
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
    "sha256",
)
BYTE_ORDER_MARK: Final = "\ufeff"


def write_csv(report: Report, path: Path) -> None:
    """Writes one row per knee, and one per radiograph without knees, with the columns `COLUMNS`.

    The file begins with a byte order mark, without which Excel shows names that are not ASCII wrongly; pandas, DuckDB
    and R's readr skip it, Python's `csv` needs the encoding "utf-8-sig". Missing values are empty cells. Several codes
    in one cell are joined by ";". A text that a spreadsheet would interpret as a formula gets a leading apostrophe.

    Raises:
        UsageError: `path` cannot be written.
    """
    with replacing(path) as stream:
        stream.write(BYTE_ORDER_MARK)
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\r\n")  # line ends of RFC 4180
        writer.writeheader()
        for radiograph, knee in knee_rows(report):
            cells = _cells(radiograph, knee)
            writer.writerow({name: escape_formula(cell) for name, cell in cells.items()})


def write_rows(header: Sequence[str], lines: Iterable[Sequence[Cell]], path: Path) -> None:
    """Writes a table with a byte order mark, as `write_csv`; no cell is executed as a formula by a spreadsheet.

    Args:
        header: names of the columns.
        lines: cells of each row.
        path: file to write.

    Raises:
        UsageError: `path` cannot be written.
    """
    with replacing(path) as stream:
        stream.write(BYTE_ORDER_MARK)
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerows([escape_formula(cell) for cell in line] for line in (header, *lines))


def _cells(radiograph: GradedRadiograph, knee: GradedKnee | None) -> dict[str, Cell]:
    subject = radiograph if knee is None else knee
    cells: dict[str, Cell] = {
        "source": radiograph.source,
        "status": subject.status,
        "warnings": _codes(radiograph.warnings),
        "sha256": radiograph.sha256 or "",
    }
    reason = reason_of(subject)
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
    cells |= {f"{name}_study": result.study.grade for name, result in grades.items() if result.study is not None}
    for name, result in grades.items():
        if result.prediction_set is not None:
            low, high = min(result.prediction_set), max(result.prediction_set)
            cells[f"{name}_set"] = str(low) if low == high else f"{low} to {high}"  # "1-2" would become a date
    return cells


def _codes(findings: Iterable[Finding]) -> str:
    return ";".join(finding.code for finding in findings)
