"""What all DICOM objects derived from a film have in common: equipment, identity, times, and the bytes of the file."""

import copy
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from kneegrade.clinical.codes import PROCESSING_EQUIPMENT, SCHEME, SCHEME_NAME, SCHEME_VERSION, ascii_text
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.job import MANUFACTURER, MODEL, Job
from kneegrade.clinical.uids import IMPLEMENTATION_UID, SCHEME_UID
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from highdicom import ContributingEquipment

SERIES: Final = {  # kind -> (Series Number, Series Description)
    "SR": (9901, "kneegrade results (research use only)"),
    "GSPS": (9902, "kneegrade drawing (research use only)"),
    "SC": (9903, "kneegrade picture (research use only)"),
}
IMPLEMENTATION_VERSION: Final = "KNEEGRADE"
INSTANCES_PER_REVISION: Final = 1000

_TIMES: Final = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("PresentationCreationDate", "PresentationCreationTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)


def require_highdicom() -> None:
    """Check that highdicom is installed.

    Raises:
        UsageError: it is not; the message names the extra.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise UsageError(
            'DICOM objects need highdicom; install it with: pip install "kneegrade[dicom]".', code="missing_package"
        ) from None


def highdicom_arguments(kind: str, header: FilmHeader, job: Job) -> dict[str, Any]:
    """Arguments that the constructors of highdicom's objects share: series, instance and equipment.

    Args:
        kind: key of `SERIES`.
        header: of the film.
        job: that made the object.
    """
    number, description = SERIES[kind]
    return {
        "series_instance_uid": job.series_uid(kind, header),
        "series_number": number,
        "series_description": description,
        "sop_instance_uid": job.instance_uid(kind, header),
        "instance_number": header.instance_number + INSTANCES_PER_REVISION * job.revision,
        "institution_name": job.institution,
        "contributing_equipment": [contributing_equipment(header, job)],
        **equipment(job),
    }


def equipment(job: Job) -> dict[str, Any]:
    """Manufacturer, model, software versions and serial number, by highdicom's argument names."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL,
        "software_versions": [job.version, _weights_name(job)],
        "device_serial_number": job.serial_number,
    }


def _weights_name(job: Job) -> str:
    """The name of the weights in ASCII, short enough for LO with its padding (pydicom counts it)."""
    return ascii_text(job.weights.name)[:62]


def contributing_equipment(header: FilmHeader, job: Job) -> "ContributingEquipment":
    """The item of Contributing Equipment Sequence for kneegrade, with the Device UID that IHE AIR asks for."""
    from highdicom import ContributingEquipment

    item = ContributingEquipment(
        purpose_of_reference=PROCESSING_EQUIPMENT,
        contribution_datetime=DT(job.local_time(header)),
        contribution_description="Grades, landmarks and joint space of plain knee radiographs",
        **equipment(job) | {"software_versions": [job.version, job.weights.sha256, _weights_name(job)]},
    )
    item.DeviceUID = job.device_uid  # highdicom has no argument for it
    return item


def finish(made: Dataset, header: FilmHeader, job: Job) -> Dataset:
    """The object `made` with the film's identity, the job's times and our codes and implementation; the last step.

    The object was built for `header.image`, whose identity is empty: highdicom refuses many real headers (absent Type 2
    attributes, several character sets, other sexes).
    """
    for element in header.identity:
        made[element.tag] = copy.deepcopy(element)
    if "SpecificCharacterSet" not in header.identity and "SpecificCharacterSet" in made:
        del made.SpecificCharacterSet
    _set_times(made, header, job)
    made.DeviceUID = UID(job.device_uid)
    made.InstanceCreatorUID = UID(job.device_uid)
    made.CodingSchemeIdentificationSequence = [_coding_scheme()]
    made.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    made.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return made


def _set_times(made: Dataset, header: FilmHeader, job: Job) -> None:
    """Replace every time that highdicom took from the clock by the job's."""
    moment = job.local_time(header)
    made.InstanceCreationDate = ""
    for date, time in _TIMES:
        if date in made:
            setattr(made, date, DA(moment.date()))
            setattr(made, time, TM(moment.time()))
    for item in made.get("ContributingEquipmentSequence") or ():
        if item.get("ManufacturerModelName") == "highdicom":  # it adds itself, at the time of the clock
            item.ContributionDateTime = DT(moment)


def _coding_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = SCHEME_NAME
    item.CodingSchemeUID = SCHEME_UID
    item.CodingSchemeVersion = SCHEME_VERSION
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


def coded_item(code: Code) -> Dataset:
    """The code as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def file_bytes(made: Dataset) -> bytes:
    """The object as a DICOM file (PS3.10)."""
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
