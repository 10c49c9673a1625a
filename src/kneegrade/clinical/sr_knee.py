"""Groups of measurements of a structured report: one per knee (TID 1501), one per bone outline (TID 1410)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    FindingSite,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.sr.coding import Code

from kneegrade.clinical import codes as c
from kneegrade.clinical.clinical_film import ClinicalFilm
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.film_points import BONES, Points, calipers, dicom_points, outline_runs
from kneegrade.clinical.job import MANUFACTURER, MODEL, Job
from kneegrade.clinical.uids import tracking_uid
from kneegrade.reporting.json_report import knee_dict
from kneegrade.reporting.report_labels import reason_of
from kneegrade.results import UNCERTAIN_GRADE, Finding, GradedKnee, Side

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations

PROPERTY: Final = RelationshipTypeValues.HAS_PROPERTIES
MODIFIER: Final = RelationshipTypeValues.HAS_CONCEPT_MOD
NAMES: Final[dict[Side, str]] = {"R": "Right knee", "L": "Left knee"}
BONE_SITES: Final = {"femur": c.FEMUR, "tibia": c.TIBIA}
MEASURED: Final[Mapping[Code, tuple[str, Code, Code | None]]] = {  # line of `calipers`, bone or joint, compartment
    c.JSW_MEDIAL: ("medial", c.KNEE_JOINT, c.MEDIAL),
    c.JSW_MEDIAL_REL: ("medial", c.KNEE_JOINT, c.MEDIAL),
    c.JSW_LATERAL: ("lateral", c.KNEE_JOINT, c.LATERAL),
    c.JSW_LATERAL_REL: ("lateral", c.KNEE_JOINT, c.LATERAL),
    c.TIBIAL_WIDTH: ("plateau", c.TIBIAL_PLATEAU, None),
    c.CONVERGENCE: ("plateau", c.KNEE_JOINT, None),
}
LANDMARK_ALGORITHM: Final = f"{MODEL} landmarks"


def film_groups(film: ClinicalFilm, *, outlines: bool) -> list[Group]:
    """The groups of all knees of a film.

    A film without knees has one group with its reason, so that an archive shows that the film was processed.
    """
    groups: list[Group] = []
    for number, knee in enumerate(film.film.knees):
        groups.append(_knee_group(film, number, knee))
        if outlines and knee.grades is not None and knee.landmarks_px is not None:
            groups += _outline_groups(film, number, knee, knee.landmarks_px)
    return groups or [_film_group(film)]


def _knee_group(film: ClinicalFilm, number: int, knee: GradedKnee) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501: status, findings and grades as qualitative evaluations, joint space as measurements."""
    values = knee_dict(knee)
    evaluations = [_status(values), *_reasons(knee, reason_of(knee))]
    if knee.quality is not None:
        evaluations += [_finding(c.QUALITY_FINDING, finding) for finding in knee.quality.findings]
    evaluations += [_finding(c.FILM_FINDING, finding) for finding in film.film.warnings]
    evaluations += [_grade(name, grade) for name, grade in (values["grades"] or {}).items()]
    if knee.coherence is not None:
        evaluations += [_finding(c.COHERENCE, finding) for finding in knee.coherence.findings]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(film.header, knee.side, number),
        finding_type=c.ASSESSMENT,
        finding_sites=[_site(knee.side)],
        algorithm_id=_algorithm(film.job),
        qualitative_evaluations=evaluations,
        measurements=_measurements(values, knee, film.header),
        source_images=[SourceImageForMeasurementGroup.from_source_image(film.header.image)],
    )


def _film_group(film: ClinicalFilm) -> MeasurementsAndQualitativeEvaluations:
    """The group of a film without knees."""
    reason = reason_of(film.film)
    evaluations = [
        QualitativeEvaluation(c.STATUS, c.STATUS_VALUES["not_gradable"]),
        QualitativeEvaluation(c.IMAGE_QUALITY, c.NON_DIAGNOSTIC),
        *([] if reason is None else [_finding(c.REASON, reason)]),
        *(_finding(c.FILM_FINDING, finding) for finding in film.film.warnings),
    ]
    uid = tracking_uid(film.header.sop_instance_uid, "unknown", 0, "film")
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid, "Film"),
        finding_type=c.FILM_ASSESSMENT,
        finding_sites=[_site("unknown")],
        algorithm_id=_algorithm(film.job),
        qualitative_evaluations=evaluations,
        source_images=[SourceImageForMeasurementGroup.from_source_image(film.header.image)],
    )


def _status(values: Mapping[str, Any]) -> QualitativeEvaluation:
    """The status of a knee, with the score of quality control as a property."""
    code = c.status_code(is_graded=values["status"] == "graded", abstain=values["abstain"])
    status = QualitativeEvaluation(c.STATUS, code)
    if values["quality"] is not None:
        _add_properties(status, [_number(c.QUALITY_SCORE, values["quality"]["score"], c.UNITY)])
    return status


def _reasons(knee: GradedKnee, reason: Finding | None) -> Iterator[QualitativeEvaluation]:
    if reason is not None:
        yield QualitativeEvaluation(c.IMAGE_QUALITY, c.NON_DIAGNOSTIC)
        yield _finding(c.REASON, reason)
    elif UNCERTAIN_GRADE in knee.doubts:
        yield _finding(c.REASON, UNCERTAIN_GRADE)


def _finding(name: Code, finding: Finding) -> QualitativeEvaluation:
    """A finding as a code, with its text as a comment."""
    code = c.finding_code(finding)
    text = c.ascii_text(finding.message if code != c.OTHER_FINDING else f"{finding.code}: {finding.message}")
    evaluation = QualitativeEvaluation(name, code)
    if text:
        _add_properties(evaluation, [TextContentItem(c.COMMENT, text, PROPERTY)])
    return evaluation


def _grade(name: str, grade: Mapping[str, Any]) -> QualitativeEvaluation:
    """A grade with its site as modifiers, and its probabilities and prediction set as properties."""
    evaluation = QualitativeEvaluation(c.GRADES[name], c.GRADE_VALUES[name][grade["grade"]])
    items: list[ContentItem] = []
    if name in c.GRADE_SITES:
        place, compartment = c.GRADE_SITES[name]
        items += [
            CodeContentItem(c.FINDING_SITE, place, MODIFIER),
            CodeContentItem(c.TOPOGRAPHY, compartment, MODIFIER),
        ]
    items += _distribution(name, grade)
    if grade["study"] is not None:
        study = CodeContentItem(c.STUDY_GRADE, c.GRADE_VALUES[name][grade["study"]["grade"]], PROPERTY)
        study.ContentSequence = ContentSequence(list(_distribution(name, grade["study"])))
        items.append(study)
    _add_properties(evaluation, items)
    return evaluation


def _distribution(name: str, grade: Mapping[str, Any]) -> Iterator[ContentItem]:
    """The probability of each class, with the class as its modifier, and the members of the prediction set.

    A grade that a reader chose has neither; it is marked as chosen.
    """
    if not grade["probabilities"]:
        yield CodeContentItem(c.SELECTION_STATUS, c.USER_CHOSEN, PROPERTY)
        return
    for value, probability in zip(c.GRADE_VALUES[name], grade["probabilities"], strict=True):
        item = _number(c.PROBABILITY, probability, c.UNITY)
        item.ContentSequence = ContentSequence([CodeContentItem(c.GRADES[name], value, MODIFIER)])
        yield item
    for member in grade["set"] or ():
        yield CodeContentItem(c.SET_MEMBER, c.GRADE_VALUES[name][member], PROPERTY)


def _measurements(values: Mapping[str, Any], knee: GradedKnee, header: FilmHeader) -> list[Measurement]:
    """Widths in mm (with a trusted spacing) and as shares of the plateau, its width, and the angle.

    Each has its line on the film, because viewers (OHIF 3.13) show nothing of a group without coordinates.
    """
    space = values["joint_space"]
    if space is None:
        return []
    medial, lateral, tibia = space["medial"], space["lateral"], space["tibial_width_mm"]
    angle = space["convergence_angle_deg"]
    rows = [
        (c.JSW_MEDIAL_REL, medial["fraction"], medial["fraction_error"], c.RATIO),
        (c.JSW_LATERAL_REL, lateral["fraction"], lateral["fraction_error"], c.RATIO),
        (c.CONVERGENCE, angle["value"], angle["error"], c.DEG),
    ]
    if tibia is not None:
        rows = [
            (c.JSW_MEDIAL, medial["mm"], medial["mm_error"], c.MM),
            (c.JSW_LATERAL, lateral["mm"], lateral["mm_error"], c.MM),
            (c.TIBIAL_WIDTH, tibia["value"], tibia["error"], c.MM),
            *rows,
        ]
    lines = {} if knee.landmarks_px is None else calipers(knee.landmarks_px)
    return [_measurement(*row, knee.side, lines, header) for row in rows]


def _measurement(
    name: Code, value: float, error: float, unit: Code, side: Side, lines: Mapping[str, Points], header: FilmHeader
) -> Measurement:
    """A number with its site, its line on the film and its standard error."""
    line, place, compartment = MEASURED[name]
    measurement = Measurement(
        name,
        value,
        unit,
        derivation=c.MINIMUM if line == "medial" else None,
        finding_sites=[_site(side, place, compartment)],
        referenced_coordinates=_coordinates(lines.get(line), header),
    )
    measurement[0].ContentSequence.append(_number(c.STANDARD_ERROR, error, unit))
    return measurement


def _coordinates(line: Points | None, header: FilmHeader) -> list[CoordinatesForMeasurement] | None:
    """The line along which a value was measured."""
    if line is None or not np.isfinite(line).all():
        return None
    source = SourceImageForRegion.from_source_image(header.image)
    return [CoordinatesForMeasurement("POLYLINE", dicom_points(line, header.size), source)]


def _outline_groups(
    film: ClinicalFilm, number: int, knee: GradedKnee, landmarks_px: Points
) -> Iterator[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """TID 1410: the outline of each bone as far as it is on the film."""
    points = dicom_points(landmarks_px, film.header.size)
    for bone, rows in BONES.items():
        runs = outline_runs(points, knee.landmarks_outside, rows)
        if not runs:
            continue
        longest = max(runs, key=len)  # a group has one region
        source = SourceImageForRegion.from_source_image(film.header.image)
        yield PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(film.header, knee.side, number, bone),
            referenced_region=ImageRegion("POLYLINE", longest, source),
            finding_type=c.OUTLINES[bone],
            finding_sites=[_site(knee.side, BONE_SITES[bone])],
            algorithm_id=AlgorithmIdentification(
                LANDMARK_ALGORITHM,
                film.job.version,
                parameters=[f"weights_sha256={film.job.detector_sha256}"],
                family=c.ARTIFICIAL_INTELLIGENCE,
                manufacturer=MANUFACTURER,
            ),
        )


def _tracking(header: FilmHeader, side: Side, number: int, part: str = "") -> TrackingIdentifier:
    name = NAMES.get(side, f"Knee {number + 1}")
    uid = tracking_uid(header.sop_instance_uid, side, number, part)
    return TrackingIdentifier(uid, f"{name} {part}" if part else name)


def _site(side: Side, place: Code = c.KNEE_JOINT, compartment: Code | None = None) -> FindingSite:
    return FindingSite(place, laterality=c.SIDES.get(side), topographical_modifier=compartment)


def _algorithm(job: Job) -> AlgorithmIdentification:
    """TID 4019, with the weights, the level of the prediction sets and the site as parameters."""
    parameters = [
        f"weights={c.ascii_text(job.weights.name)}",
        f"weights_sha256={job.weights.sha256}",
        f"detector_sha256={job.detector_sha256}",
    ]
    if job.set_level is not None:
        parameters.append(f"set_level={job.set_level:g}")
    if job.site is not None:
        parameters.append(f"site={c.ascii_text(job.site.name)}")
    if job.options:
        parameters.append(f"options={c.ascii_text(job.options)}")
    return AlgorithmIdentification(
        MODEL, job.version, parameters=parameters, family=c.ARTIFICIAL_INTELLIGENCE, manufacturer=MANUFACTURER
    )


def _number(name: Code, value: float, unit: Code) -> NumContentItem:
    return NumContentItem(name, value, unit, relationship_type=PROPERTY)


def _add_properties(evaluation: QualitativeEvaluation, items: Iterable[ContentItem]) -> None:
    evaluation[0].ContentSequence = ContentSequence(list(items))
