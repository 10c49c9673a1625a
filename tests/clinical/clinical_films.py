"""Graded phantom films of many kinds, without running a network: the inputs of all tests of `clinical`."""

import copy
import datetime
import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneegrade.anatomy import Landmarks, measure
from kneegrade.anatomy.pixel_aspect import NOT_SQUARE
from kneegrade.clinical import ClinicalFilm, Job, read_clinical_film
from kneegrade.phantom.film import FilmOptions, render_film
from kneegrade.phantom.film_dicom import DicomOptions, film_dataset
from kneegrade.results import (
    Coherence,
    Finding,
    GradedKnee,
    GradedRadiograph,
    GradeResult,
    Quality,
    Report,
    Side,
    SiteReader,
    WeightsIdentity,
)
from kneegrade.schema import TARGETS

WHEN = datetime.datetime(2026, 11, 25, 12, 34, 56, 789000, tzinfo=datetime.UTC)
WEIGHTS = WeightsIdentity("phantom-test", "0123456789abcdef" * 4)
JOB = Job("0.1.0", WEIGHTS, "fedcba9876543210" * 4, WHEN, set_level=0.9)
UNSURE = Finding("unlike_training", "The features of the knee differ from those of the training knees.")
METAL = Finding("implant", "The knee contains a metal implant; grades would be meaningless.")
COHERENCE = Finding("kl2_with_oarsi_zero", "KL 2 or more with all OARSI grades zero.")
MAGNIFIED = Finding("magnification_uncorrected", "Lengths are not corrected for magnification.")
FILM_WARNINGS = (
    NOT_SQUARE,
    Finding("more_knees", "The picture shows 4 knees."),
    Finding("mirrored_marker", "A side marker is mirrored."),
    Finding("marker_contradicts_side", "A side marker names the other side."),
    Finding("polarity_undecided", "Neither polarity shows a knee for certain."),
)
NO_KNEE = Finding("no_knee", "No knee in a frontal view was detected on this film.")


@dataclass(frozen=True)
class PhantomPair:
    """A DICOM film of two knees, and its results."""

    dataset: Dataset
    film: GradedRadiograph
    spacing_mm: float


def grade_result(rng: np.random.Generator, classes: int) -> GradeResult:
    probabilities = rng.dirichlet(np.full(classes, 0.7))
    grade = int(probabilities.argmax())
    return GradeResult(grade, tuple(probabilities.tolist()), tuple(range(max(grade - 1, 0), grade + 1)))


def graded_knee(
    side: Side, landmarks_px: NDArray[np.float64], seed: int, spacing_mm: float | None
) -> GradedKnee:  # fmt: skip
    """A graded knee with random grades and the joint space of its landmarks."""
    rng = np.random.default_rng(seed)
    covariance = np.broadcast_to(np.eye(2) * 0.25, (74, 2, 2))
    seen = np.ones(74, bool)
    seen[[0, 73]] = False
    landmarks = Landmarks(landmarks_px, covariance, seen)
    return GradedKnee(
        side,
        grades={target.name: grade_result(rng, target.classes) for target in TARGETS},
        coherence=Coherence(-1.5, 2, (COHERENCE,)),
        joint_space=measure(landmarks, spacing_mm),
        landmarks_px=landmarks_px,
        landmark_confidence=0.9,
        point_confidence=landmarks.point_confidence,
        landmarks_outside=(0, 73),
        side_confidence=0.98,
        quality=Quality(0.4321, (UNSURE,)),
    )


def phantom_pair() -> PhantomPair:
    film = render_film(2021, 1127, FilmOptions("bilateral", "uniform", longest_px=640))
    spacing = film.pixel_spacing_mm
    knees = tuple(graded_knee(k.side, np.array(k.landmarks_px), i, spacing) for i, k in enumerate(film.knees))
    graded = GradedRadiograph("bilateral.dcm", knees, warnings=(MAGNIFIED,))
    return PhantomPair(film_dataset(film, DicomOptions(photometric="MONOCHROME1")), graded, spacing)


def file_of(dataset: Dataset) -> bytes:
    """The dataset as a DICOM file, even if its values do not conform."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


Change = Callable[[Dataset], object]
FilmChange = Callable[[GradedRadiograph], GradedRadiograph]


def first_knee(film: GradedRadiograph) -> GradedRadiograph:
    return replace(film, knees=film.knees[:1])


@dataclass(frozen=True)
class ClinicalVariant:
    """A kind of source film.

    Attributes:
        name: of the variant.
        header: changes the dataset of the film.
        results: changes its results; by default, only the first knee is kept, which makes the objects small.
        job: what graded it.
    """

    name: str
    header: Change = lambda dataset: None
    results: FilmChange = first_knee
    job: Job = JOB

    def file(self, pair: PhantomPair) -> bytes:
        dataset = copy.deepcopy(pair.dataset)
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            self.header(dataset)
        return file_of(dataset)

    def graded(self, pair: PhantomPair, content: bytes) -> GradedRadiograph:
        return replace(self.results(pair.film), sha256=hashlib.sha256(content).hexdigest())

    def film(self, pair: PhantomPair) -> ClinicalFilm:
        content = self.file(pair)
        return read_clinical_film(self.graded(pair, content), content, self.job)


def report_of(*films: GradedRadiograph, job: Job = JOB) -> Report:
    return Report(films, job.weights, job.version, job.set_level, site=job.site)


def without(*keywords: str) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword in keywords:
            if keyword in dataset:
                delattr(dataset, keyword)

    return change


def having(**values: object) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def all_of(*changes: Change) -> Change:
    def change(dataset: Dataset) -> None:
        for one in changes:
            one(dataset)

    return change


def named(character_set: str | list[str], name: str) -> Change:
    return having(SpecificCharacterSet=character_set, PatientName=name)


def requested(dataset: Dataset) -> None:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID, item.AccessionNumber = "RP1", "S1", "A1"
    item.RequestedProcedureDescription = "Knee both"
    dataset.RequestAttributesSequence = [item]
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "XKNEE2", "99HOSP", "Knee both"
    dataset.ProcedureCodeSequence = [procedure]


def other_ids(dataset: Dataset) -> None:
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID, item.TypeOfPatientID = "X-77", "OTHER", "TEXT"
    dataset.OtherPatientIDsSequence = [item]
    dataset.IssuerOfPatientID = "HOSP"


def bad_date(dataset: Dataset) -> None:
    dataset.add(pydicom.DataElement(0x00080020, "DA", "2024.03.27", validation_mode=0))


def private(dataset: Dataset) -> None:
    dataset.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "secret")


def each_knee(change: Callable[[GradedKnee], GradedKnee]) -> FilmChange:
    return lambda film: replace(film, knees=tuple(change(knee) for knee in film.knees))


def refused(knee: GradedKnee) -> GradedKnee:
    return replace(
        knee, reason=METAL, grades=None, coherence=None, joint_space=None, quality=Quality(0.0, (METAL,), METAL)
    )


def one_refused(film: GradedRadiograph) -> GradedRadiograph:
    return replace(film, knees=(film.knees[0], refused(film.knees[1])))


def no_knee(film: GradedRadiograph) -> GradedRadiograph:
    return replace(film, knees=(), reason=NO_KNEE)


def first_knee_refused(film: GradedRadiograph) -> GradedRadiograph:
    return replace(film, knees=(refused(film.knees[0]),))


def no_spacing(knee: GradedKnee) -> GradedKnee:
    return replace(knee, joint_space=None if knee.joint_space is None else replace(knee.joint_space, mm_per_px=None))


def bare(knee: GradedKnee) -> GradedKnee:
    grades = {name: replace(grade, prediction_set=None) for name, grade in (knee.grades or {}).items()}
    return replace(knee, grades=grades, quality=None, coherence=None, joint_space=None)


def on_site_scale(knee: GradedKnee) -> GradedKnee:
    grades = dict(knee.grades or {})
    grades["kl"] = GradeResult(1, (0.1, 0.6, 0.2, 0.1, 0.0), (0, 1, 2), study=grades["kl"])
    return replace(knee, grades=grades)


CR = "1.2.840.10008.5.1.4.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SITE_JOB = replace(JOB, site=SiteReader("Sankt Göran", 120, {"kl": "thresholds"}))
V = ClinicalVariant
VARIANTS = (
    V("plain", results=lambda film: film),
    V("monochrome2", having(PhotometricInterpretation="MONOCHROME2", PresentationLUTShape="IDENTITY")),
    V("no_patient", without("PatientID", "PatientName", "PatientBirthDate", "PatientSex")),
    V("no_study", without("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")),
    V("empty_type_2", having(
        PatientID="", PatientName="", PatientBirthDate="", PatientSex="", AccessionNumber="", StudyID="",
        StudyDate="", StudyTime="", ReferringPhysicianName="")),
    V("side_right", having(ImageLaterality="R"), lambda film: first_knee(film)),
    V("no_side", without("ImageLaterality", "AnatomicRegionSequence")),
    V("side_of_series", all_of(without("ImageLaterality"), having(Laterality="L"))),
    V("side_odd", having(ImageLaterality="BOTH")),
    V("no_orientation", without("PatientOrientation")),
    V("no_spacing", without("ImagerPixelSpacing"), each_knee(no_spacing)),
    V("pixel_spacing", all_of(without("ImagerPixelSpacing"), having(PixelSpacing=[0.46, 0.46]))),
    V("odd_sex", having(PatientSex="W")),
    V("offset_west", having(TimezoneOffsetFromUTC="-0500")),
    V("offset_east", having(TimezoneOffsetFromUTC="+1345")),
    V("latin1", named("ISO_IR 100", "Müller^Jörg")),
    V("greek", named("ISO_IR 126", "Διονυσιος")),
    V("cyrillic", named("ISO_IR 144", "Люкceмбypг")),
    V("utf8", named("ISO_IR 192", "山田^太郎")),
    V("gb18030", named("GB18030", "Wang^XiaoDong=王^小东")),
    V("japanese", named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう")),
    V("japanese_half", named(["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう")),
    V("korean", named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동")),
    V("no_charset", without("SpecificCharacterSet")),
    V("unknown_charset", named("LATIN-9", "Muller^Jorg")),
    V("one_component_name", having(PatientName="KNEE 7")),
    V("request", requested),
    V("no_instance_number", without("InstanceNumber")),
    V("instance_number_0", having(InstanceNumber=0)),
    V("no_modality", without("Modality")),
    V("private", private),
    V("no_window", without("WindowCenter", "WindowWidth")),
    V("windows", having(
        WindowCenter=[2048, 1000], WindowWidth=[4096, 2000], WindowCenterWidthExplanation=["A", "B"])),
    V("cr", having(SOPClassUID=CR, Modality="CR")),
    V("secondary_capture", having(SOPClassUID=SECONDARY_CAPTURE, Modality="OT")),
    V("burned_in", having(BurnedInAnnotation="YES")),
    V("age_and_weight", having(PatientAge="051Y", PatientSize=1.7, PatientWeight=80.5, EthnicGroup="x")),
    V("odd_time", having(StudyTime="0930", StudyDate="20240327")),
    V("bad_date", bad_date),
    V("lossy", having(
        LossyImageCompression="01", LossyImageCompressionRatio=10, LossyImageCompressionMethod="ISO_10918_1")),
    V("deidentified", having(PatientIdentityRemoved="YES", DeidentificationMethod="x", PatientName="ANON")),
    V("other_ids", other_ids),
    V("clinical_trial", having(
        ClinicalTrialSponsorName="OAI", ClinicalTrialProtocolID="P", ClinicalTrialProtocolName="",
        ClinicalTrialSiteID="", ClinicalTrialSiteName="", ClinicalTrialSubjectID="9000099")),
    V("single_left", having(ImageLaterality="L"), lambda film: replace(film, knees=film.knees[1:])),
    V("side_unknown", results=each_knee(lambda knee: replace(knee, side="unknown"))),
    V("knee_refused", results=one_refused),
    V("all_refused", results=each_knee(refused)),
    V("no_knee", results=no_knee),
    V("no_optional_results", results=each_knee(bare)),
    V("site_scale", results=each_knee(on_site_scale), job=SITE_JOB),
    V("stretched", having(PixelAspectRatio=[4, 3]), lambda film: replace(film, warnings=FILM_WARNINGS)),
    V("unknown_finding", results=lambda film: replace(film, warnings=(Finding("new_code", "Größer als 3 mm."),))),
)  # fmt: skip
LONG_NAME = V("long_name", having(PatientName="A" * 64 + "^" + "B" * 60))
