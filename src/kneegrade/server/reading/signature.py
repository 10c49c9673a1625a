"""What a signature makes of a reading: a structured report that replaces the one before, and a final FHIR Bundle.

Only films whose results have a structured report or a Bundle get new ones. Chosen grades lose the probabilities of
kneegrade; a knee that is not gradable loses its grades. The revision states the time of the signature, so signing again
after a crash writes the same bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kneegrade.errors import KneeGradeError
from kneegrade.files import replacing
from kneegrade.measurements import JointSpace, Measurement
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult, WeightsIdentity
from kneegrade.server.reading.knee_measure import measured_outline
from kneegrade.server.reading.reading_film import FilmContent, FilmResults, pixel_aspect_of
from kneegrade.server.reading.review_log import SIGNED, Review

if TYPE_CHECKING:
    from pydicom import Dataset

    from kneegrade.clinical import Job

NO_ORGANIZATION: Final = "not stated"
REJECTED: Final = "rejected_by_reader"
WITHDRAWN: Final = "The signature is withdrawn. Reports that were sent stay as they are until the film is signed again."


def signed_radiograph(results: FilmResults, reading: Mapping[str, Any]) -> GradedRadiograph:
    """The film with the reader's decisions in place of those of kneegrade.

    Args:
        results: of kneegrade.
        reading: JSON of `review.Reading`.
    """
    warnings = tuple(Finding(one["code"], one["message"]) for one in results.warnings)
    machine = [*results.knees, *[None] * len(reading["knees"])]
    knees = tuple(_signed_knee(own, machine[i], results.mm_per_px) for i, own in enumerate(reading["knees"]))
    return GradedRadiograph(results.name, knees, warnings=warnings, sha256=results.sha256)


def _signed_knee(own: Mapping[str, Any], machine: Mapping[str, Any] | None, mm_per_px: float | None) -> GradedKnee:
    detected = None if machine is None else machine["landmarks_px"]
    given = own["landmarks_px"] or detected
    points = None if given is None else np.array([point or (np.nan, np.nan) for point in given], dtype=np.float64)
    fields: dict[str, Any] = {"landmarks_px": points}
    if machine is not None:
        fields["landmark_confidence"] = machine.get("landmark_confidence") or 0.0
        fields["landmarks_outside"] = () if own["landmarks_px"] else tuple(machine.get("landmarks_outside") or ())
    if not own["gradable"] or not own["grades"]:
        message = "A reader found that this knee is not gradable."
        return GradedKnee(own["side"], reason=Finding(REJECTED, message), **fields)
    grades = {name: _chosen(machine, name, grade) for name, grade in own["grades"].items()}
    space = _joint_space(own, machine, points, mm_per_px)
    return GradedKnee(own["side"], grades=grades, joint_space=space, **fields)


def _chosen(machine: Mapping[str, Any] | None, name: str, grade: int) -> GradeResult:
    """The grade, with the probabilities of kneegrade if the reader confirmed its grade."""
    entry = None if machine is None or machine["grades"] is None else machine["grades"].get(name)
    if entry is None or entry["grade"] != grade:
        return GradeResult(grade, ())
    members = None if entry["set"] is None else tuple(entry["set"])
    return GradeResult(grade, tuple(entry["probabilities"]), members)


def _joint_space(
    own: Mapping[str, Any], machine: Mapping[str, Any] | None, points: Any, mm_per_px: float | None
) -> JointSpace | None:
    """Measured anew at moved landmarks, else as reported."""
    space = None if machine is None else machine["joint_space"]
    if own["landmarks_px"] is not None:
        known = None if machine is None or machine["landmarks_px"] is None else machine["landmarks_px"]
        aspect = 1.0
        if known is not None and space is not None:
            array = np.array([point or (np.nan, np.nan) for point in known], dtype=np.float64)
            aspect = pixel_aspect_of(array, space["tibial_width_px"]["value"])
        return measured_outline(points, mm_per_px, aspect)[0]
    if space is None:
        return None
    medial, lateral = (
        Measurement(space[side]["fraction"], space[side]["fraction_error"]) for side in ("medial", "lateral")
    )
    angle = space.get("convergence_angle_deg") or {"value": 0.0, "error": 0.0}
    width = Measurement(space["tibial_width_px"]["value"], space["tibial_width_px"]["error"])
    return JointSpace(medial, lateral, {}, Measurement(**angle), width, mm_per_px)


@dataclass(frozen=True)
class ReportReference:
    """Names a structured report of the film that is no longer at hand.

    Attributes:
        sop_class_uid: of the report.
        series_instance_uid: of the report.
        sop_instance_uid: of the report.
    """

    sop_class_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    @classmethod
    def of(cls, report: bytes) -> "ReportReference":
        """What names a report that kneegrade has written."""
        from pydicom import dcmread

        stated = dcmread(BytesIO(report), specific_tags=["SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID"])
        return cls(str(stated.SOPClassUID), str(stated.SeriesInstanceUID), str(stated.SOPInstanceUID))

    def dataset(self, study_instance_uid: str) -> "Dataset":
        """The elements that Predecessor Documents Sequence is made of."""
        from pydicom import Dataset

        made = Dataset()
        made.StudyInstanceUID, made.SeriesInstanceUID = study_instance_uid, self.series_instance_uid
        made.SOPClassUID, made.SOPInstanceUID = self.sop_class_uid, self.sop_instance_uid
        return made


def signed_files(
    results: FilmResults, content: FilmContent, review: Review, predecessors: Mapping[str, Path],
    organization: str = "", replaced: ReportReference | None = None,
) -> dict[str, bytes]:  # fmt: skip
    """Format ("sr", "fhir") → bytes of the signed revision.

    Args:
        results: of kneegrade.
        content: the film.
        review: that was signed.
        predecessors: "sr" → the structured report to replace, which also states what graded the film; "fhir" → the
            Bundle to replace, if there is one.
        organization: for which the reader acts.
        replaced: the structured report to replace, where it is a later one than that in `predecessors`.

    Raises:
        KneeGradeError: the film cannot be read or has changed, or highdicom is missing.
    """
    from pydicom import dcmread

    from kneegrade.clinical.clinical_film import read_clinical_film
    from kneegrade.clinical.derived_object import file_bytes, require_highdicom
    from kneegrade.clinical.fhir import bundle_bytes, fhir_bundle

    require_highdicom()
    from kneegrade.clinical.sr import Verification, structured_report

    predecessor = dcmread(predecessors["sr"])  # written by kneegrade
    film = read_clinical_film(signed_radiograph(results, review.reading), content.content, _job(predecessor, review))
    if film.header.study_instance_uid != predecessor.StudyInstanceUID:
        raise KneeGradeError(
            "The structured report before is of another film; grade the films again.", code="other_film"
        )
    named = predecessor if replaced is None else replaced.dataset(predecessor.StudyInstanceUID)
    verification = Verification(review.reader, organization or NO_ORGANIZATION, named)
    files = {"sr": file_bytes(structured_report(film, verification=verification))}
    if "fhir" in predecessors:
        files["fhir"] = bundle_bytes(fhir_bundle(film, final=True))
    return files


def _job(predecessor: "Dataset", review: Review) -> "Job":
    """The job of the revision: what graded the film, as its structured report states, and the time of the signature."""
    from kneegrade.clinical import Job

    stated: dict[str, str] = {}
    for name, value in (text.split("=", 1) for text in _texts(predecessor) if "=" in text):
        stated.setdefault(name, value)  # the first group is that of a knee; later ones describe the detector
    versions = [str(value) for value in predecessor.SoftwareVersions]
    weights = WeightsIdentity(stated["weights"], stated["weights_sha256"])
    level = float(stated["set_level"]) if "set_level" in stated else None
    return Job(
        versions[0], weights, stated["detector_sha256"], datetime.fromisoformat(review.time), level,
        options=stated.get("options", ""), revision=review.revision, reader=review.reader,
    )  # fmt: skip


def _texts(item: "Dataset") -> Iterator[str]:
    """The parameters of the algorithms, in the order of the document."""
    for child in item.get("ContentSequence") or ():
        name = child.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in child else ""
        if name == "111002" and "TextValue" in child:  # Algorithm Parameters
            yield str(child.TextValue)
        yield from _texts(child)


class FolderSignatures:
    """Writes signed revisions beside the objects of a folder that `grade` or `batch` wrote.

    Args:
        directory: the folder.
        results: key → results of a film.
        content: key → its file.
    """

    def __init__(self, directory: Path, results: Any, content: Any) -> None:
        self._directory, self._results, self._content = directory, results, content

    def __call__(self, key: str, review: Review) -> list[str]:
        """Sentences for the reader: which files were written, or why not; also when a signature was withdrawn."""
        results: FilmResults = self._results(key)
        found = {name: self._newest(results.name, name, review.revision) for name in ("sr", "fhir")}
        predecessors = {name: path for name, path in found.items() if path is not None}
        if "sr" not in predecessors:
            return []
        if review.reading.get("status") != SIGNED:
            return [WITHDRAWN]
        try:
            files = signed_files(results, self._content(key), review, predecessors)
        except KneeGradeError as error:
            return [f"Signed, but no object was written. {error.message}"]
        except Exception as error:  # the text of the error may name the patient
            return [f"Signed, but no object was written: an error in kneegrade ({type(error).__name__}). Report it."]
        written = []
        for name, content in files.items():
            first = self._first(results.name, name)
            if first is not None:
                path = first.with_name(_revised(first.name, name, review.revision))
                with replacing(path, "wb") as stream:
                    stream.write(content)
                written.append(path.name)
        return [f"Signed. Wrote {', '.join(written)}."]

    def _first(self, film: str, name: str) -> Path | None:
        """The file that grading wrote: under the whole name of the film, or without its ending."""
        from kneegrade.clinical import OBJECT_FORMATS
        from kneegrade.imaging import stem_of

        kind = OBJECT_FORMATS[name]
        paths = (self._directory / kind.folder / f"{stem}.{kind.ending}" for stem in (film, stem_of(film)))
        return next((path for path in paths if path.is_file()), None)

    def _newest(self, film: str, name: str, before: int) -> Path | None:
        """The newest file of an earlier revision; that of this one may be there after an attempt that was cut off."""
        first = self._first(film, name)
        if first is None:
            return None
        prefix, ending = _parts(first.name, name)
        revisions = {
            int(number): path
            for path in first.parent.glob("*")
            if path.name.startswith(f"{prefix}-")
            and path.name.endswith(ending)
            and (number := path.name[len(prefix) + 1 : -len(ending)]).isdigit()
            and int(number) < before
        }
        return revisions[max(revisions)] if revisions else first


def _parts(file: str, name: str) -> tuple[str, str]:
    """What comes before and after the number of the revision in the name of a file."""
    ending = ".dcm" if name == "sr" else ".json"
    return file.removesuffix(ending), ending


def _revised(file: str, name: str, revision: int) -> str:
    prefix, ending = _parts(file, name)
    return f"{prefix}-{revision}{ending}"
