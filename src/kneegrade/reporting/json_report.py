"""`report.json`: everything a run found, for programs.

The layout is published as a JSON Schema beside this module. Keys may be added, which raises the minor version;
a change that breaks readers raises the major one.
"""

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.reporting.files import replacing
from kneegrade.reporting.wording import reason_of
from kneegrade.results import Coherence, Finding, GradedKnee, GradedRadiograph, GradeResult, JointSpaceWidth, Report

SCHEMA_VERSION: Final = "1.0"

_PROBABILITY_DIGITS = 6  # five of them still sum to 1 within 3e-6
_PIXEL_DIGITS = 2
_DIGITS = 4


def write_json(report: Report, path: Path) -> None:
    """Writes `to_dict(report)` to `path`, indented, with each row of numbers on one line.

    Raises:
        UsageError: `path` cannot be written.
        ValueError: a number of the report is not finite.
    """
    with replacing(path) as stream:
        stream.write(_layout(to_dict(report)))
        stream.write("\n")


def to_dict(report: Report) -> dict[str, Any]:
    """The report as plain JSON values, in the layout of `json_schema`.

    Raises:
        ValueError: a number that must be finite is not. A landmark without a finite place becomes None.
    """
    weights = {"name": report.weights.name, "sha256": report.weights.sha256}
    return {
        "schema_version": SCHEMA_VERSION,
        "software": {"name": "kneegrade", "version": report.version, "weights": weights},
        "radiographs": [_radiograph(radiograph) for radiograph in report.radiographs],
    }


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every `report.json` fulfils."""
    text = files("kneegrade.reporting").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _radiograph(radiograph: GradedRadiograph) -> dict[str, Any]:
    return {
        "source": radiograph.source,
        "status": radiograph.status,
        "reason": _finding(reason_of(radiograph)),
        "warnings": [_finding(warning) for warning in radiograph.warnings],
        "knees": [_knee(knee) for knee in radiograph.knees],
    }


def _knee(knee: GradedKnee) -> dict[str, Any]:
    return {
        "side": knee.side,
        "status": knee.status,
        "reason": _finding(reason_of(knee)),
        "grades": _grades(knee.grades),
        "coherence": _coherence(knee.coherence),
        "joint_space_width_mm": _joint_space(knee.joint_space_width_mm),
        "landmarks_px": _landmarks(knee.landmarks_px),
        "landmark_confidence": _number(knee.landmark_confidence, _DIGITS),
    }


def _grades(grades: Mapping[str, GradeResult] | None) -> dict[str, Any] | None:
    if grades is None:
        return None
    return {
        name: {
            "grade": int(result.grade),
            "probabilities": [_number(probability, _PROBABILITY_DIGITS) for probability in result.probabilities],
        }
        for name, result in grades.items()
    }


def _coherence(coherence: Coherence | None) -> dict[str, Any] | None:
    if coherence is None:
        return None
    return {
        "log_probability": _number(coherence.log_probability, _DIGITS),
        "findings": [_finding(finding) for finding in coherence.findings],
    }


def _joint_space(width: JointSpaceWidth | None) -> dict[str, float] | None:
    if width is None:
        return None
    return {"medial": _number(width.medial, _DIGITS), "lateral": _number(width.lateral, _DIGITS)}


def _landmarks(landmarks: NDArray[np.float64] | None) -> list[list[float] | None] | None:
    if landmarks is None:
        return None
    return [
        [_number(x, _PIXEL_DIGITS), _number(y, _PIXEL_DIGITS)] if np.isfinite([x, y]).all() else None
        for x, y in landmarks.tolist()
    ]


def _finding(finding: Finding | None) -> dict[str, str] | None:
    return None if finding is None else {"code": finding.code, "message": finding.message}


def _number(value: float, digits: int) -> float:
    if not math.isfinite(value):
        raise ValueError(f"A report holds finite numbers only, not {value}.")
    return round(float(value), digits) + 0.0  # turns -0.0 into 0.0


def _layout(value: Any, indent: str = "") -> str:
    """JSON text of `value`: objects and lists of them over several lines, everything else on one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_layout(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _layout(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
