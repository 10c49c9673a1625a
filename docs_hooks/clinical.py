"""mkdocs hook: the pages on DICOM objects, generated from the tables of `kneegrade.clinical` and from an example."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from markers import filled
from pydicom import uid
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from kneegrade.anatomy import Landmarks, measure
from kneegrade.clinical import ClinicalFilm, Job, read_clinical_film
from kneegrade.clinical.codes import SCHEME, SCHEME_NAME, SCHEME_VERSION, TABLE
from kneegrade.clinical.derived_object import IMPLEMENTATION_VERSION, SERIES
from kneegrade.clinical.gsps import presentation_state
from kneegrade.clinical.job import MANUFACTURER, MODEL
from kneegrade.clinical.secondary_capture import secondary_capture
from kneegrade.clinical.uids import IMPLEMENTATION_UID, SCHEME_UID
from kneegrade.imaging.dicom.dicom_header import MODALITIES, UNUSUAL_MODALITIES
from kneegrade.imaging.dicom.header_keywords import IDENTITY, IMAGE, INSTANCE, REQUIRED
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult, Quality, WeightsIdentity
from kneegrade.schema import TARGETS
from kneegrade.version import __version__

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN_IN_FULL = {"KL", "JSW-M-MIN"}  # of the grades and measurements of the tree


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts in place of the markers."""
    return filled(markdown, GENERATED)


def tree() -> str:
    """Content tree of the structured report of an example, shortened."""
    return "\n".join(["```text", *_tree(_example_report().ContentSequence, 0), "```"])


def _tree(items: Any, depth: int) -> Iterator[str]:
    groups = 0
    for item in items:
        line = "  " * depth + _content_item(item)
        groups += "Measurement Group" in line
        if groups == 4:  # the other knee
            yield "  " * depth + "… the groups of the left knee and its bones likewise"
            return
        name = item.ConceptNameCodeSequence[0] if "ConceptNameCodeSequence" in item else None
        is_short = (
            name is not None
            and name.get("CodingSchemeDesignator") == SCHEME
            and item.ValueType in ("CODE", "NUM")
            and depth == 2
            and name.CodeValue not in SHOWN_IN_FULL
        )
        children = item.get("ContentSequence") or ()
        yield f"{line} …" if is_short and children else line
        if not is_short:
            yield from _tree(children, depth + 1)


def _content_item(item: Dataset) -> str:
    relationship = str(item.RelationshipType).lower()
    name = item.ConceptNameCodeSequence[0]
    value = {
        "CODE": lambda: _code(item.ConceptCodeSequence[0]),
        "TEXT": lambda: f'"{_short(item.TextValue)}"',
        "UIDREF": lambda: _short(item.UID),
        "NUM": lambda: f"{_number(item)}",
        "SCOORD": lambda: f"{item.GraphicType}, {len(item.GraphicData) // 2} points",
        "IMAGE": lambda: "the film",
    }.get(item.ValueType, lambda: "")()
    return f"{relationship} {item.ValueType}: {_code(name)}" + (f" = {value}" if value else "")


def _code(item: Dataset) -> str:
    return f"{item.CodeMeaning} ({item.CodeValue}, {item.CodingSchemeDesignator})"


def _number(item: Dataset) -> str:
    measured = item.MeasuredValueSequence[0]
    return f"{float(measured.NumericValue):g} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}…"


def _example_report() -> Dataset:
    """The structured report of the bilateral example, with made-up probabilities around the true grades."""
    from kneegrade.clinical.sr import structured_report

    return structured_report(_example_film())


@cache
def _example_film() -> ClinicalFilm:
    truth = json.loads((EXAMPLES / "truth.json").read_text(encoding="utf-8"))["bilateral.dcm"]
    knees = tuple(_example_knee(knee, truth["pixel_spacing_mm"]) for knee in truth["knees"])
    weights = WeightsIdentity("kneegrade-lite0", "0" * 64)
    job = Job(__version__, weights, "0" * 64, datetime(2026, 1, 1, 12, tzinfo=UTC), set_level=0.9)
    return read_clinical_film(GradedRadiograph("bilateral.dcm", knees), EXAMPLES / "bilateral.dcm", job)


def _example_knee(knee: dict[str, Any], spacing_mm: float) -> GradedKnee:
    points = np.array(knee["landmarks_px"], np.float64)
    landmarks = Landmarks(points, np.broadcast_to(np.eye(2) * 0.5, (74, 2, 2)), np.ones(74, bool))
    grades = {}
    for target in TARGETS:
        chances = 0.4 ** np.abs(np.arange(target.classes) - knee["grades"][target.name])
        shares = tuple((chances / chances.sum()).round(3).tolist())
        grades[target.name] = GradeResult(knee["grades"][target.name], shares, (knee["grades"][target.name],))
    finding = Finding("unusual_exposure", "Brightness, contrast or sharpness are unusual.")
    return GradedKnee(
        knee["side"], grades=grades, joint_space=measure(landmarks, spacing_mm), landmarks_px=points,
        quality=Quality(0.41, (finding,)),
    )  # fmt: skip


def codes() -> str:
    """All codes with their sources."""
    parts = []
    for title, private in (("### Standard codes", False), (f"### Private codes ({SCHEME})", True)):
        rows = [row for row in TABLE if (row.code.scheme_designator == SCHEME) == private]
        parts += [title, "", "| code | scheme | meaning | source |", "|---|---|---|---|"]
        parts += [
            f"| `{row.code.value}` | {row.code.scheme_designator} | {row.code.meaning} | {row.source} |" for row in rows
        ]
        parts.append("")
    return "\n".join(parts)


def classes() -> str:
    """SOP classes of the objects that are created."""
    rows = [
        (uid.Comprehensive3DSRStorage, "SR", "`sr`"),
        (uid.ComprehensiveSRStorage, "SR", 'Python: `document="comprehensive"`'),
        (uid.EnhancedSRStorage, "SR", 'Python: `document="enhanced"`'),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "GSPS", "`gsps`"),
        (uid.SecondaryCaptureImageStorage, "SC", "`sc`"),
    ]
    lines = ["| SOP class | UID | `--format` | Series Number | Series Description |", "|---|---|---|---|---|"]
    for sop_class, kind, how in rows:
        number, description = SERIES[kind]
        lines.append(f"| {UID(sop_class).name} | {sop_class} | {how} | {number} | {description} |")
    return "\n".join(lines)


def modalities() -> str:
    """Modalities that are read."""
    return ", ".join(f"`{name}`" for name in sorted((MODALITIES | UNUSUAL_MODALITIES) - {""}))


def copied() -> str:
    """Attributes that are copied from the film into derived objects."""
    lines = ["| attribute | tag | VR | if absent in the film |", "|---|---|---|---|"]
    for keyword in ("StudyInstanceUID", *IDENTITY):
        tag = tag_for_keyword(keyword) or 0
        absent = "no object is made" if keyword in INSTANCE else "empty" if keyword in REQUIRED else "absent"
        lines.append(f"| {_described(keyword)} | {_tag(tag)} | {dictionary_VR(tag)} | {absent} |")
    return "\n".join(lines)


def read_only() -> str:
    """Other attributes of the film that are read for derived objects."""
    return ", ".join(_described(keyword) for keyword in (*INSTANCE, *IMAGE))


def written(made: Dataset) -> str:
    """Attributes of an object that kneegrade writes itself, in the order of their tags."""
    lines = ["| attribute | tag | VR | value |", "|---|---|---|---|"]
    for element in (*made.file_meta, *made):
        if element.keyword in (*IDENTITY, "StudyInstanceUID", "FileMetaInformationGroupLength"):
            continue
        lines.append(f"| {element.name} | {_tag(element.tag)} | {element.VR} | {_value(element)} |")
    return "\n".join(lines)


GENERATED_VALUES = {
    "SeriesInstanceUID": "function of the inputs", "SOPInstanceUID": "function of the inputs",
    "MediaStorageSOPInstanceUID": "as SOP Instance UID", "DeviceUID": "function of version and weights",
    "InstanceCreatorUID": "as Device UID", "DeviceSerialNumber": "first 16 digits of the SHA-256 of the weights",
    "SoftwareVersions": "version of kneegrade, name of the weights", "InstanceNumber": "that of the film",
}  # fmt: skip


def _value(element: Any) -> str:
    if element.keyword in GENERATED_VALUES:
        return GENERATED_VALUES[element.keyword]
    if element.VR in ("OB", "OW") and element.keyword == "PixelData":
        return "the picture"
    if element.VR in ("DA", "TM"):
        return "moment of the job"
    if element.VR == "SQ":
        return "empty" if not element.value else f"{len(element.value)} item(s)"
    if element.VR == "UI":
        return (
            f"{element.value} ({UID(element.value).name})"
            if UID(element.value).name != element.value
            else element.value
        )
    return f"`{element.value}`" if element.value not in ("", None) else "empty"


def identifiers() -> str:
    """Constants that identify the implementation and its code scheme."""
    rows = (
        ("Implementation Class UID", IMPLEMENTATION_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION),
        ("Manufacturer; Manufacturer's Model Name", f"{MANUFACTURER}; {MODEL}"),
        ("Coding Scheme Designator; version", f"{SCHEME}; {SCHEME_VERSION} ({SCHEME_NAME})"),
        ("Coding Scheme UID", SCHEME_UID),
    )
    return "\n".join(["| identifier | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _described(keyword: str) -> str:
    return dictionary_description(tag_for_keyword(keyword) or 0)


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


GENERATED = {
    "sr-tree": tree, "sr-codes": codes, "sop-classes": classes,
    "modalities": modalities, "copied-attributes": copied, "read-attributes": read_only, "identifiers": identifiers,
    "sr-attributes": lambda: written(_example_report()),
    "gsps-attributes": lambda: written(presentation_state(_example_film())),
    "sc-attributes": lambda: written(secondary_capture(_example_film())),
}  # fmt: skip
