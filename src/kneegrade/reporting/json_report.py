"""`report.json`: all results of a run, for programs.

The layout is published as a JSON Schema (`report.schema.json`). Additional keys raise the minor version of the schema;
a change that breaks readers raises the major version.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.files import replacing
from kneegrade.measurements import JointSpace, Measurement
from kneegrade.reporting.report_labels import reason_of
from kneegrade.results import Coherence, Evidence, Finding, GradedKnee, GradedRadiograph, GradeResult, Quality, Report

SCHEMA_VERSION: Final = "2.2"

_PROBABILITY_DIGITS = 6  # the rounded values of five classes sum to 1 within 3e-6
_PIXEL_DIGITS = 2
_DIGITS = 4
_FRACTION_DIGITS = 6


def write_json(report: Report, path: Path) -> None:
    """Writes `to_dict(report)` to `path` as indented JSON, with each list of numbers on one line.

    Raises:
        UsageError: `path` cannot be written.
        ValueError: a number in the report is not finite.
    """
    with replacing(path) as stream:
        stream.write(_layout(to_dict(report)))
        stream.write("\n")


def to_dict(report: Report) -> dict[str, Any]:
    """The report as plain JSON values, in the layout of `json_schema`; a landmark without finite coordinates is None.

    Raises:
        ValueError: another number is not finite.
    """
    weights = {"name": report.weights.name, "sha256": report.weights.sha256}
    return {
        "schema_version": SCHEMA_VERSION,
        "software": {
            "name": "kneegrade",
            "version": report.version,
            "weights": weights,
            "set_level": report.set_level,
            "learnt_from": report.weights.learnt_from,
            "site": None if report.site is None else asdict(report.site),
        },
        "radiographs": [radiograph_dict(radiograph) for radiograph in report.radiographs],
    }


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `report.json`."""
    text = files("kneegrade.reporting").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def radiograph_dict(radiograph: GradedRadiograph) -> dict[str, Any]:
    """One entry of `radiographs` as plain JSON values.

    Raises:
        ValueError: a number is not finite.
    """
    return {
        "source": radiograph.source,
        "sha256": radiograph.sha256,
        "status": radiograph.status,
        "reason": _finding(reason_of(radiograph)),
        "warnings": [_finding(warning) for warning in radiograph.warnings],
        "knees": [knee_dict(knee) for knee in radiograph.knees],
    }


def knee_dict(knee: GradedKnee) -> dict[str, Any]:
    """The entry of a knee in `report.json`, with rounded numbers. Derived objects state the same numbers.

    Raises:
        ValueError: a number other than a coordinate is not finite.
    """
    return {
        "side": knee.side,
        "status": knee.status,
        "reason": _finding(reason_of(knee)),
        "abstain": knee.abstain,
        "quality": _quality(knee.quality),
        "grades": _grades(knee.grades, knee.evidence),
        "coherence": _coherence(knee.coherence),
        "joint_space_width_mm": _joint_space_width(knee.joint_space),
        "joint_space": _joint_space(knee.joint_space),
        "landmarks_px": _landmarks(knee.landmarks_px),
        "landmark_confidence": _number(knee.landmark_confidence, _DIGITS),
        "point_confidence": _confidences(knee.point_confidence),
        "landmarks_outside": list(knee.landmarks_outside),
        "side_confidence": None if knee.side_confidence is None else _number(knee.side_confidence, _DIGITS),
    }


def _grades(grades: Mapping[str, GradeResult] | None, evidence: Evidence | None) -> dict[str, Any] | None:
    if grades is None:
        return None
    return {
        name: {
            **_scale(result),
            "study": None if result.study is None else _scale(result.study),
            "evidence": _evidence(evidence, name, result.study_grade),
        }
        for name, result in grades.items()
    }


def _scale(result: GradeResult) -> dict[str, Any]:
    """A grade on one scale."""
    return {
        "grade": int(result.grade),
        "probabilities": [_number(probability, _PROBABILITY_DIGITS) for probability in result.probabilities],
        "set": None if result.prediction_set is None else [int(grade) for grade in result.prediction_set],
    }


def _evidence(evidence: Evidence | None, name: str, grade: int) -> dict[str, float] | None:
    if evidence is None or name not in evidence.contributions:
        return None
    terms = evidence.terms(name, grade)
    return {term: _number(value, _DIGITS) for term, value in {**asdict(terms), "logit": terms.logit}.items()}


def _quality(quality: Quality | None) -> dict[str, Any] | None:
    if quality is None:
        return None
    return {"score": _number(quality.score, _DIGITS), "findings": [_finding(finding) for finding in quality.findings]}


def _coherence(coherence: Coherence | None) -> dict[str, Any] | None:
    if coherence is None:
        return None
    return {
        "log_probability": _number(coherence.log_probability, _DIGITS),
        "decoding_shift": int(coherence.decoding_shift),
        "findings": [_finding(finding) for finding in coherence.findings],
    }


def _joint_space_width(space: JointSpace | None) -> dict[str, float] | None:
    medial, lateral = (None, None) if space is None else (space.mm(space.medial), space.mm(space.lateral))
    if medial is None or lateral is None:
        return None
    return {
        "medial": _number(medial.value, _DIGITS),
        "lateral": _number(lateral.value, _DIGITS),
        "medial_error": _number(medial.error, _DIGITS),
        "lateral_error": _number(lateral.error, _DIGITS),
    }


def _joint_space(space: JointSpace | None) -> dict[str, Any] | None:
    if space is None:
        return None
    tibia = space.tibial_width_px
    scale = space.mm_per_px
    return {
        "medial": _width(space, space.medial),
        "lateral": _width(space, space.lateral),
        "fixed": [{"x": x, **_width(space, width)} for x, width in space.fixed.items()],
        "convergence_angle_deg": _measured(space.convergence_deg),
        "tibial_width_px": _measured(tibia),
        "tibial_width_mm": None if scale is None else _measured(Measurement(tibia.value * scale, tibia.error * scale)),
    }


def _width(space: JointSpace, width: Measurement) -> dict[str, Any]:
    mm = space.mm(width)
    return {
        "fraction": _number(width.value, _FRACTION_DIGITS),
        "fraction_error": _number(width.error, _FRACTION_DIGITS),
        "mm": None if mm is None else _number(mm.value, _DIGITS),
        "mm_error": None if mm is None else _number(mm.error, _DIGITS),
    }


def _measured(measured: Measurement) -> dict[str, float]:
    return {"value": _number(measured.value, _DIGITS), "error": _number(measured.error, _DIGITS)}


def _confidences(confidence: NDArray[np.float64] | None) -> list[float] | None:
    return None if confidence is None else [_number(value, _DIGITS) for value in confidence.tolist()]


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
        raise ValueError(f"A report can only contain finite numbers, but one is {value}.")
    return round(float(value), digits) + 0.0  # turns -0.0 into 0.0


def _layout(value: Any, indent: str = "") -> str:
    """JSON text of `value`: objects and lists of objects on several lines, everything else on one line."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_layout(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _layout(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
