"""DICOM structured report of a graded film: Comprehensive 3D SR by template TID 1500, "Measurement Report".

    126000 Imaging Measurement Report
      language, device observer, procedure reported
      111028 Image Library                     the film                                   `sr_library`
      126010 Imaging Measurements
        125007 group per knee (TID 1501)       status, findings, grades, measurements     `sr_knee`
        125007 group per bone (TID 1410)       outline as POLYLINE                        `sr_knee`

`sr_reader` reads the results back. Numbers are those of `report.json`.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    LanguageOfContentItemAndDescendants,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DT

from kneegrade.clinical.clinical_film import ClinicalFilm
from kneegrade.clinical.derived_object import finish, highdicom_arguments
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.job import MANUFACTURER, MODEL, Job
from kneegrade.clinical.sr_knee import film_groups
from kneegrade.clinical.sr_library import insert_image_library, procedure_reported

Document = Literal["3d", "comprehensive", "enhanced"]

_CLASSES: Final[dict[str, Any]] = {"3d": Comprehensive3DSR, "comprehensive": ComprehensiveSR, "enhanced": EnhancedSR}


@dataclass(frozen=True)
class Verification:
    """A reader's signature.

    Attributes:
        observer: name of the person who signed, as a DICOM person name or one word.
        organization: for which the person acted.
        predecessor: structured report that this one replaces.
    """

    observer: str
    organization: str
    predecessor: Dataset


def structured_report(
    film: ClinicalFilm, *, document: Document = "3d", outlines: bool = True, verification: Verification | None = None
) -> Dataset:
    """The structured report of a film, complete; preliminary and unverified, or final and verified by a reader.

    Args:
        film: graded film with its header and job; of a signed report, `job.revision` is at least 1.
        document: SOP class; all three have the same content. "3d" is what IHE AIR asks for.
        outlines: whether to write the outlines of the bones of graded knees.
        verification: of a signed report.
    """
    header, job = film.header, film.job
    content = MeasurementReport(
        observation_context=_observers(job, verification),
        procedure_reported=procedure_reported(header),
        imaging_measurements=film_groups(film, outlines=outlines),
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(
            CodedConcept("en", "RFC5646", "English")
        ),
    )
    insert_image_library(content, header)
    kind = "SR" if document == "3d" and outlines else f"SR-{document}-{'outlines' if outlines else 'plain'}"
    arguments = highdicom_arguments("SR", header, job) | {"sop_instance_uid": job.instance_uid(kind, header)}
    measurements = next(item for item in content[0].ContentSequence if item.name == codes.DCM.ImagingMeasurements)
    groups, measurements.ContentSequence = measurements.ContentSequence, ContentSequence([])
    made = _CLASSES[document](
        evidence=[header.image],
        content=content,
        is_complete=True,
        requested_procedures=_requested_procedures(header),
        **_verified(verification),
        **arguments,
    )
    measurements.ContentSequence = groups  # only now: highdicom copies its content twice, which takes half of the time
    made = finish(made, header, job)
    for item in made.get("VerifyingObserverSequence") or ():
        item.VerificationDateTime = DT(job.local_time(header))  # highdicom takes the time of the clock
    return made


def _verified(verification: Verification | None) -> dict[str, Any]:
    if verification is None:
        return {"is_final": False, "is_verified": False}
    return {
        "is_final": True, "is_verified": True, "verifying_observer_name": _person_name(verification),
        "verifying_organization": verification.organization, "previous_versions": [verification.predecessor],
    }  # fmt: skip


def _person_name(verification: Verification) -> str:
    """A DICOM person name; a name of one part is a family name."""
    name = verification.observer
    return name if "^" in name else f"{name}^"


def _observers(job: Job, verification: Verification | None) -> ObservationContext:
    person = None
    if verification is not None:
        attributes = PersonObserverIdentifyingAttributes(
            name=_person_name(verification), organization_name=verification.organization
        )
        person = ObserverContext(codes.DCM.Person, attributes)
    return ObservationContext(observer_person_context=person, observer_device_context=_device_observer(job))


def _device_observer(job: Job) -> ObserverContext:
    attributes = DeviceObserverIdentifyingAttributes(
        uid=job.device_uid,
        name=MODEL,
        manufacturer_name=MANUFACTURER,
        model_name=MODEL,
        serial_number=job.serial_number,
    )
    return ObserverContext(codes.DCM.Device, attributes)


def _requested_procedures(header: FilmHeader) -> list[Dataset] | None:
    """Items of Referenced Request Sequence for the requests that the film names; None if it names none."""
    requests = []
    for item in header.image.get("RequestAttributesSequence") or ():
        if not item.get("RequestedProcedureID"):
            continue
        request = Dataset()
        request.StudyInstanceUID = header.image.StudyInstanceUID
        request.ReferencedStudySequence = []
        request.AccessionNumber = item.get("AccessionNumber") or header.identity.AccessionNumber
        request.RequestedProcedureID = item.RequestedProcedureID
        request.RequestedProcedureCodeSequence = item.get("RequestedProcedureCodeSequence") or []
        for keyword in (
            "PlacerOrderNumberImagingServiceRequest",
            "FillerOrderNumberImagingServiceRequest",
            "RequestedProcedureDescription",
        ):
            setattr(request, keyword, item.get(keyword) or "")
        requests.append(request)
    return requests or None
