"""`read_sr`: the results in a structured report that kneegrade wrote, as they stand in `report.json`."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydicom.datadict import tag_for_keyword
from pydicom.sr.coding import Code

from kneegrade.clinical import codes as c
from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import Source, read_dicom_elements

if TYPE_CHECKING:
    from pydicom import Dataset

Result = dict[str, Any]
Item = Mapping[str, Any]  # of a sequence, as DICOM JSON

_STATUSES: Final = {code.value: name for name, code in c.STATUS_VALUES.items()}
_SIDES: Final = {c.RIGHT.value: "R", c.LEFT.value: "L"}
_SOFTWARE: Final = "kneegrade"


def read_sr(source: "str | Path | bytes | Source | Dataset") -> Result:
    """The results of a film in a structured report of kneegrade.

    Keys and values are those of an entry of `radiographs` in `report.json`: `status`, `reason`, `warnings` and `knees`,
    each with `side`, `status`, `reason`, `abstain`, `quality`, `grades`, `coherence` (its findings),
    `joint_space_width_mm` and `joint_space` (without `fixed` and `tibial_width_px`). `software` is that of the report,
    with the name of the `site`. Texts are in ASCII. No attribute of the patient is read.

    Args:
        source: path of the DICOM file, its bytes, or a `pydicom.Dataset`. It is parsed in the decoding process.

    Raises:
        UnsupportedFileError: the file is no structured report of kneegrade.
        KneeGradeError: the file cannot be read.
    """
    elements = read_dicom_elements(source, "document")["elements"]
    try:
        return _film(elements)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise _foreign() from None


def _foreign() -> UnsupportedFileError:
    return UnsupportedFileError(
        "The DICOM file is no structured report of kneegrade, or was changed by another program; give the file that "
        "kneegrade wrote.",
        code="foreign_report",
    )


def _film(document: Item) -> Result:
    groups = [
        group
        for container in _children(document, c.MEASUREMENTS)
        for group in _children(container, c.MEASUREMENT_GROUP)
        if _code_in(group, c.FINDING_TYPE) in (c.ASSESSMENT.value, c.FILM_ASSESSMENT.value)
    ]
    if not groups:
        raise _foreign()
    knees = [_knee(group) for group in groups if _code_in(group, c.FINDING_TYPE) == c.ASSESSMENT.value]
    is_graded = any(knee["status"] == "graded" for knee in knees)
    return {
        "software": _software(groups[0]),
        "status": "graded" if is_graded else "not_gradable",
        "reason": None if is_graded else _first(_findings(groups[0], c.REASON)),
        "warnings": _findings(groups[0], c.FILM_FINDING),
        "knees": knees,
    }


def _knee(group: Item) -> Result:
    (state,) = _children(group, c.STATUS)
    status = _STATUSES[_value_of(state)]
    is_graded = status != "not_gradable"
    return {
        "side": _side(group),
        "status": "graded" if is_graded else status,
        "reason": None if is_graded else _first(_findings(group, c.REASON)),
        "abstain": status != "graded",
        "quality": _quality(state, group),
        "grades": _grades(group) if is_graded else None,
        "coherence": {"findings": _findings(group, c.COHERENCE)},
        "joint_space_width_mm": _width_mm(group),
        "joint_space": _joint_space(group),
    }


def _software(group: Item) -> Result:
    texts = (str(_value(item, "TextValue")) for item in _children(group, c.ALGORITHM_PARAMETERS))
    parameters = dict(text.partition("=")[::2] for text in texts)
    (version,) = _children(group, c.ALGORITHM_VERSION)
    level = parameters.get("set_level")
    return {
        "name": _SOFTWARE,
        "version": str(_value(version, "TextValue")),
        "weights": {"name": parameters["weights"], "sha256": parameters["weights_sha256"]},
        "set_level": None if level is None else float(level),
        "site": parameters.get("site"),
    }


def _side(group: Item) -> str:
    for site in _children(group, c.FINDING_SITE):
        for laterality in _children(site, c.LATERALITY):
            return _SIDES[_value_of(laterality)]
    return "unknown"


def _quality(state: Item, group: Item) -> Result | None:
    for score in _children(state, c.QUALITY_SCORE):
        return {"score": _number(score), "findings": _findings(group, c.QUALITY_FINDING)}
    return None


def _grades(group: Item) -> Result:
    grades = {}
    for name, code in c.GRADES.items():
        (item,) = _children(group, code)
        (*_, study) = (None, *_children(item, c.STUDY_GRADE))
        grades[name] = {**_scale(name, item), "study": None if study is None else _scale(name, study)}
    return grades


def _scale(name: str, item: Item) -> Result:
    """A grade with its probabilities and prediction set."""
    values = {code.value: grade for grade, code in enumerate(c.GRADE_VALUES[name])}
    probabilities = {
        values[str(_code_in(probability, c.GRADES[name]))]: _number(probability)
        for probability in _children(item, c.PROBABILITY)
    }
    members = [values[_value_of(member)] for member in _children(item, c.SET_MEMBER)]
    return {
        "grade": values[_value_of(item)],
        "probabilities": [probabilities[grade] for grade in sorted(probabilities)],
        "set": members or None,
    }


def _width_mm(group: Item) -> Result | None:
    medial, lateral = _measured(group, c.JSW_MEDIAL), _measured(group, c.JSW_LATERAL)
    if medial is None or lateral is None:
        return None
    return {
        "medial": medial["value"],
        "lateral": lateral["value"],
        "medial_error": medial["error"],
        "lateral_error": lateral["error"],
    }


def _joint_space(group: Item) -> Result | None:
    angle = _measured(group, c.CONVERGENCE)
    if angle is None:
        return None
    return {
        "medial": _both(_measured(group, c.JSW_MEDIAL_REL), _measured(group, c.JSW_MEDIAL)),
        "lateral": _both(_measured(group, c.JSW_LATERAL_REL), _measured(group, c.JSW_LATERAL)),
        "convergence_angle_deg": angle,
        "tibial_width_mm": _measured(group, c.TIBIAL_WIDTH),
    }


def _both(share: Mapping[str, float] | None, mm: Mapping[str, float] | None) -> Result:
    share, mm = share or {}, mm or {}
    return {
        "fraction": share.get("value"),
        "fraction_error": share.get("error"),
        "mm": mm.get("value"),
        "mm_error": mm.get("error"),
    }


def _measured(group: Item, name: Code) -> Result | None:
    for item in _children(group, name):
        (error,) = _children(item, c.STANDARD_ERROR)
        return {"value": _number(item), "error": _number(error)}
    return None


def _findings(item: Item, name: Code) -> list[Result]:
    """The findings under a concept, as `code` and `message`."""
    findings = []
    for finding in _children(item, name):
        concept = _value(finding, "ConceptCodeSequence")
        code = c.finding_name(_value(concept, "CodeValue"), _value(concept, "CodingSchemeDesignator"))
        message = "".join(str(_value(comment, "TextValue")) for comment in _children(finding, c.COMMENT))
        if code is None:
            code, _, message = message.partition(": ")
        findings.append({"code": code, "message": message})
    return findings


def _first(findings: list[Result]) -> Result | None:
    return findings[0] if findings else None


def _children(item: Item, name: Code) -> Iterator[Item]:
    """The content items directly below `item` that have this concept as their name."""
    for child in _values(item, "ContentSequence"):
        for concept in _values(child, "ConceptNameCodeSequence"):
            if (_value(concept, "CodeValue"), _value(concept, "CodingSchemeDesignator")) == (
                name.value,
                name.scheme_designator,
            ):
                yield child


def _code_in(item: Item, name: Code) -> str | None:
    """The value of the coded item below `item` that has this name, or None."""
    for child in _children(item, name):
        return _value_of(child)
    return None


def _value_of(item: Item) -> str:
    return str(_value(_value(item, "ConceptCodeSequence"), "CodeValue"))


def _number(item: Item) -> float:
    """The value of a NUM item; its floating-point value is exact."""
    measured = _value(item, "MeasuredValueSequence")
    exact = _values(measured, "FloatingPointValue")
    return float(exact[0] if exact else _value(measured, "NumericValue"))


def _value(item: Item, keyword: str) -> Any:
    """The first value of an element, or None."""
    values = _values(item, keyword)
    return values[0] if values else None


def _values(item: Item, keyword: str) -> list[Any]:
    """All values of an element; empty if it is absent."""
    element = item.get(_tag(keyword))
    return [] if element is None else element.get("Value", [])


@cache
def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"
