"""A film's results as a FHIR R4 transaction Bundle, in plain dictionaries.

One `Device`, an `Observation` per grade and per joint space width, one per knee that groups them, and a
`DiagnosticReport`. Every entry is a conditional update by an identifier that is a function of the inputs, so sending a
Bundle twice changes nothing. Patient, order and study are named by their identifiers, not by resources: kneegrade does
not create any. FHIR R4 and R4B agree on these resources.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydicom.sr.coding import Code

from kneegrade.clinical import codes
from kneegrade.clinical.clinical_film import ClinicalFilm
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.job import MANUFACTURER, MODEL, RESEARCH_USE
from kneegrade.clinical.uids import SCHEME_UID, uid_of, uuid_of
from kneegrade.reporting.json_report import knee_dict
from kneegrade.reporting.report_labels import SIDE_LABELS, reason_of
from kneegrade.results import Finding, GradedKnee, GradedRadiograph

Json = dict[str, Any]

UID_SYSTEM: Final = "urn:dicom:uid"
SYSTEMS: Final[Mapping[str, str]] = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    codes.SCHEME: f"urn:oid:{SCHEME_UID}",
}
TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
ORDINAL: Final = "http://hl7.org/fhir/StructureDefinition/ordinalValue"
IMAGING: Final = {"coding": [{"system": f"{TERMINOLOGY}/observation-category", "code": "imaging"}]}
RADIOLOGY: Final = {"coding": [{"system": f"{TERMINOLOGY}/v2-0074", "code": "RAD"}]}
ACCESSION: Final = {"coding": [{"system": f"{TERMINOLOGY}/v2-0203", "code": "ACSN"}]}
NOT_PERFORMED: Final = {"system": f"{TERMINOLOGY}/data-absent-reason", "code": "not-performed"}
WIDTHS: Final = {  # compartment → names of the width in mm and as a fraction
    "medial": (codes.JSW_MEDIAL, codes.JSW_MEDIAL_REL),
    "lateral": (codes.JSW_LATERAL, codes.JSW_LATERAL_REL),
}


def fhir_bundle(graded: ClinicalFilm, *, patient_system: str | None = None, final: bool = False) -> Json:
    """The transaction Bundle of a film.

    Args:
        graded: the film with its results, header and job.
        patient_system: system of the patient's identifier as a URI; default: the OID of the issuer, where the film
            states one.
        final: whether a reader has signed the results; otherwise they are preliminary.
    """
    made = _Bundle(graded, patient_system, "final" if final else "preliminary")
    made.add_device()
    knees = [made.add_knee(number, knee) for number, knee in enumerate(graded.film.knees)]
    made.add_report(knees)
    return {"resourceType": "Bundle", "type": "transaction", "entry": made.entries}


def bundle_bytes(bundle: Json) -> bytes:
    """The Bundle as a file: UTF-8, indented."""
    return (json.dumps(bundle, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


class _Bundle:
    """The entries of a Bundle while they are built."""

    def __init__(self, graded: ClinicalFilm, patient_system: str | None, status: str) -> None:
        self.film, self.header, self.job, self.status = graded.film, graded.header, graded.job, status
        self.entries: list[Json] = []
        self.subject = _patient(graded.header, patient_system)
        self.study = {"system": UID_SYSTEM, "value": f"urn:oid:{graded.header.study_instance_uid}"}
        self.issued = graded.job.when.isoformat(timespec="seconds")
        self.device: Json = {}

    def add_device(self) -> None:
        """The software with its weights."""
        weights = self.job.weights
        body = {
            "status": "active",
            "manufacturer": MANUFACTURER,
            "deviceName": [{"name": MODEL, "type": "model-name"}],
            "version": [{"value": self.job.version}, {"value": f"{weights.name} {weights.sha256}"}],
            "note": [{"text": RESEARCH_USE}],
        }
        self.device = {"reference": self._add("Device", self.job.device_uid, body)}

    def add_knee(self, number: int, knee: GradedKnee) -> str:
        """The Observation of a knee and those of its grades and widths; returns its URL."""
        values = knee_dict(knee)  # the numbers of report.json
        members = [self._add_grade(number, knee, name, grade) for name, grade in (values["grades"] or {}).items()]
        members += [
            self._add_observation(number, knee, f"joint_space_{where}", body)
            for where, body in _width_bodies(values["joint_space"]).items()
        ]
        reason = reason_of(knee)
        status = codes.status_code(is_graded=knee.grades is not None, abstain=knee.abstain)
        components = [_component(codes.STATUS, status), *_findings(self.film, knee, reason)]
        body: Json = {"code": concept(codes.ASSESSMENT), "component": components}
        if members:
            body["hasMember"] = [{"reference": member} for member in members]
        else:
            body["dataAbsentReason"] = {
                "coding": [NOT_PERFORMED],
                "text": "Not graded" if reason is None else reason.message,
            }
        return self._add_observation(number, knee, "knee", body)

    def _add_grade(self, number: int, knee: GradedKnee, name: str, result: Json) -> str:
        """The Observation of a grade, from its entry in report.json; returns its URL."""
        classes = codes.GRADE_VALUES[name]
        shares = result["probabilities"]  # none of a grade that a reader chose
        components = [_probability(*pair) for pair in zip(classes, shares, strict=True)] if shares else []
        for grade in result["set"] or ():
            components.append(_component(codes.SET_MEMBER, classes[grade], grade))
        value = concept(classes[result["grade"]], result["grade"])
        body = {"code": concept(codes.GRADES[name]), "valueCodeableConcept": value, "component": components}
        return self._add_observation(number, knee, name, body)

    def _add_observation(self, number: int, knee: GradedKnee, what: str, body: Json) -> str:
        body = {
            "status": self.status, "category": [IMAGING], "subject": self.subject, "issued": self.issued,
            "device": self.device, "derivedFrom": [{"type": "ImagingStudy", "identifier": self.study}],
            "bodySite": {"coding": [coding(codes.KNEE_JOINT)], "text": SIDE_LABELS[knee.side]}, **body,
        }  # fmt: skip
        if knee.side != "unknown":
            body["component"] = [*body.get("component", ()), _component(codes.LATERALITY, codes.SIDES[knee.side])]
        date = str(self.header.identity.get("StudyDate") or "")
        if len(date) == 8:
            body["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
        return self._add("Observation", self._uid("Observation", f"{number}.{knee.side}.{what}"), body)

    def add_report(self, knees: list[str]) -> None:
        """The DiagnosticReport, which names the film and the Observations of the knees."""
        body: Json = {
            "status": self.status, "category": [RADIOLOGY], "code": concept(codes.DIAGNOSTIC_STUDY),
            "subject": self.subject, "issued": self.issued, "contained": [self._imaging_study()],
            "imagingStudy": [{"reference": "#study"}], "conclusion": _conclusion(self.film),
        }  # fmt: skip
        if knees:
            body["result"] = [{"reference": knee} for knee in knees]
        accession = str(self.header.identity.get("AccessionNumber") or "")
        if accession:
            order = {"type": "ServiceRequest", "identifier": {"type": ACCESSION, "value": accession}}
            body["basedOn"] = [order]
        self._add("DiagnosticReport", self._uid("DiagnosticReport", "film"), body)

    def _imaging_study(self) -> Json:
        """The study with the series and instance of the film, contained in the report."""
        image = self.header.image
        sop_class = {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{image.SOPClassUID}"}
        series = {
            "uid": str(image.SeriesInstanceUID),
            "modality": {"system": SYSTEMS["DCM"], "code": str(image.Modality)},
            "instance": [{"uid": self.header.sop_instance_uid, "sopClass": sop_class}],
        }
        return {
            "resourceType": "ImagingStudy", "id": "study", "status": "available", "subject": self.subject,
            "identifier": [self.study], "series": [series],
        }  # fmt: skip

    def _uid(self, kind: str, what: str) -> str:
        """The UID of a resource: a function of film, software, weights, options and what it describes."""
        return uid_of(f"fhir {kind}", self.header.sop_instance_uid, *self.job.made_by, what)

    def _add(self, kind: str, uid: str, body: Json) -> str:
        """Adds an entry, a conditional update by identifier; returns its URL."""
        url = f"urn:uuid:{uuid_of('fhir', uid)}"
        identifier = {"system": UID_SYSTEM, "value": f"urn:oid:{uid}"}
        request = {"method": "PUT", "url": f"{kind}?identifier={UID_SYSTEM}|urn:oid:{uid}"}
        resource = {"resourceType": kind, "identifier": [identifier], **body}
        self.entries.append({"fullUrl": url, "resource": resource, "request": request})
        return url


def coding(code: Code, ordinal: int | None = None) -> Json:
    """A Coding; `ordinal` is the place of a grade on its scale."""
    made: Json = {"system": SYSTEMS[code.scheme_designator], "code": code.value, "display": code.meaning}
    if ordinal is not None:
        made["extension"] = [{"url": ORDINAL, "valueDecimal": ordinal}]
    return made


def concept(code: Code, ordinal: int | None = None) -> Json:
    """A CodeableConcept of one code."""
    return {"coding": [coding(code, ordinal)], "text": code.meaning}


def _component(name: Code, value: Code, ordinal: int | None = None) -> Json:
    return {"code": concept(name), "valueCodeableConcept": concept(value, ordinal)}


def _probability(value: Code, probability: float) -> Json:
    """The component of a class: its code, with its probability as the value."""
    name = {"coding": [coding(value)], "text": f"Probability of {value.meaning}"}
    return {"code": name, "valueQuantity": _quantity(probability, "1")}


def _quantity(value: float, unit: str) -> Json:
    return {"value": value, "unit": unit, "system": SYSTEMS["UCUM"], "code": unit}


def _width_bodies(space: Json | None) -> dict[str, Json]:
    """Compartment → value and standard error of its width, in mm if the spacing is trusted, else as a fraction.

    Args:
        space: `joint_space` of a knee in report.json.
    """
    bodies = dict[str, Json]()
    if space is None:
        return bodies
    for where, (in_mm, as_fraction) in WIDTHS.items():
        width = space[where]
        name, key, unit = (as_fraction, "fraction", "1") if width["mm"] is None else (in_mm, "mm", "mm")
        error = {"code": concept(codes.STANDARD_ERROR), "valueQuantity": _quantity(width[f"{key}_error"], unit)}
        bodies[where] = {
            "code": concept(name), "valueQuantity": _quantity(width[key], unit), "component": [error]
        }  # fmt: skip
    return bodies


def _findings(film: GradedRadiograph, knee: GradedKnee, reason: Finding | None) -> list[Json]:
    """Components for the findings of quality control with the reason, among the grades, and about the film."""
    quality = [*(knee.quality.findings if knee.quality else ()), *([] if reason is None else [reason])]
    kinds = {
        codes.QUALITY_FINDING: quality,
        codes.COHERENCE: knee.coherence.findings if knee.coherence else (),
        codes.FILM_FINDING: film.warnings,
    }
    return [_finding(name, finding) for name, findings in kinds.items() for finding in dict.fromkeys(findings)]


def _finding(name: Code, finding: Finding) -> Json:
    value = {"coding": [coding(codes.finding_code(finding))], "text": finding.message or finding.code}
    return {"code": concept(name), "valueCodeableConcept": value}


def _conclusion(film: GradedRadiograph) -> str:
    """The grades in one line."""
    if film.knees:
        words = [_words(knee) for knee in film.knees]
    else:
        reason = reason_of(film)
        words = ["No knee graded" + ("" if reason is None else f" ({reason.code})")]
    return "; ".join([*words, RESEARCH_USE])


def _words(knee: GradedKnee) -> str:
    if knee.grades is None:
        return f"{SIDE_LABELS[knee.side]}: not graded"
    left = ", to be decided by a reader" if knee.abstain else ""
    return f"{SIDE_LABELS[knee.side]}: KL {knee.grades['kl'].grade}{left}"


def _patient(header: FilmHeader, system: str | None) -> Json:
    """The patient as a logical reference."""
    value = str(header.identity.get("PatientID") or "")
    if not value:
        return {"type": "Patient", "display": "Patient without an ID"}
    system = system or _issuer(header)
    return {"type": "Patient", "identifier": {"value": value} if system is None else {"system": system, "value": value}}


def _issuer(header: FilmHeader) -> str | None:
    """The OID of the issuer of the patient's ID as a URI, where the film states one."""
    for item in header.identity.get("IssuerOfPatientIDQualifiersSequence") or ():
        if item.get("UniversalEntityIDType") == "ISO" and item.get("UniversalEntityID"):
            return f"urn:oid:{item.UniversalEntityID}"
    return None
