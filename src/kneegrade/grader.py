"""`Grader`: from radiograph files to a report. This file lists the stages in their order; no other file does.

    1 read         file → `Radiograph`                                   refused: unreadable, unsupported
    2 check        the film as a whole                                   refused: blank, too small, exposure, blur
    3 detect       `Radiograph` → `Knee`s with 74 landmarks and a crop   refused: no knee; view, cut off, exposure, blur
    4 measure      landmarks → `JointSpace`
    5 grade        crops and landmarks → `GradeLogits`                   (the network, paper section 2.1)
    6 control      features of the knee → `Quality`                      refused: implant (certain)
    7 postprocess  logits → `CalibratedGrades`                           (calibration, joint decoding, prediction sets)
    8 compare      grades → `Coherence`                                  (paper, Eq. 3, and the rules)

Stages 1 to 3 are `detect_film`; stages 4 to 8 run on all knees of a film (`Grader`). One film is the unit of every call
of the networks, so a film's results do not depend on the films beside it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import (
    NO_KNEE,
    DetectedRadiograph,
    Knee,
    LandmarkDetector,
    UserHints,
    UserLandmarks,
    check_markers,
    knees_from_landmarks,
    measure,
    refusal,
    with_plausible_spacing,
)
from kneegrade.coherence import GradeMixture, concatenate_probabilities, most_probable_grades
from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Radiograph, Source, check_film, find_sources, read_radiograph
from kneegrade.imaging.sources import sha256_of
from kneegrade.network import GradeLogits, evidence_of, load_report_network
from kneegrade.progress import Progress
from kneegrade.results import (
    Coherence,
    Evidence,
    Finding,
    GradedKnee,
    GradedRadiograph,
    Quality,
    Report,
    WeightsIdentity,
)
from kneegrade.uncertainty import (
    CalibratedGrades,
    OODFeatures,
    Postprocessor,
    load_quality_control,
    ood_features_of,
    withholds_joint_space,
)
from kneegrade.ungraded import GradingInterrupted, internal_error, interrupted_films
from kneegrade.version import __version__
from kneegrade.weights import check_process, load_part, load_weights, shipped_path
from kneegrade.weights.compute import Compute, Precision, Runtime, one_thread

if TYPE_CHECKING:
    import pydicom

Derive = Callable[[Source, GradedRadiograph, Radiograph | None], GradedRadiograph]  # see `Grader.grade_sources`


def detect_film(source: Source, detector: LandmarkDetector, hints: UserHints) -> DetectedRadiograph:
    """The knees of a file (stages 1 to 3). Nothing is raised: a problem becomes the film's reason."""
    sha256 = None
    try:
        content = source.open()
        sha256 = sha256_of(content)
        radiograph = read_radiograph(  # 1 read
            content, laterality=hints.side, pixel_spacing_mm=hints.pixel_spacing_mm
        )
        return replace(detect_knees(source.name, radiograph, detector, hints.landmarks), sha256=sha256)
    except KneeGradeError as error:
        reason = Finding(error.code, error.message)
    except Exception as error:  # one film must never end a run of many
        reason = internal_error(error)
    return DetectedRadiograph(source.name, failed=True, reason=reason, sha256=sha256)


@one_thread()
def detect_knees(
    name: str, radiograph: Radiograph, detector: LandmarkDetector, landmarks: UserLandmarks | None = None
) -> DetectedRadiograph:
    """The knees of a radiograph (stages 2 and 3), found by the detector or at the user's landmarks."""
    film = DetectedRadiograph(name, radiograph, radiograph.pixel_spacing_mm, warnings=radiograph.warnings)
    problems = check_film(radiograph)  # 2 check
    if problems:
        return replace(film, reason=problems[0])
    if landmarks is None:
        radiograph, knees, warnings = detector.detect(radiograph)  # 3 detect
    else:
        radiograph = detector.settle_polarity(radiograph)
        film = replace(film, radiograph=radiograph, warnings=radiograph.warnings)
        try:
            knees, warnings = knees_from_landmarks(radiograph, landmarks.of(name, radiograph), detector.roi_px)
        except KneeGradeError as error:  # the landmarks are unusable, the film is not
            return replace(film, reason=Finding(error.code, error.message))
    knees, by_markers = check_markers(knees, radiograph, detector.marker_reader)
    film = replace(film, radiograph=radiograph, warnings=(*radiograph.warnings, *warnings, *by_markers))
    if not knees:
        return replace(film, reason=NO_KNEE)
    return with_plausible_spacing(replace(film, knees=knees, refusals=tuple(refusal(knee) for knee in knees)))


class Grader:
    """Grades radiographs. The networks are loaded once and kept between calls.

    Args:
        device: "auto" (CUDA if available), "cpu" or "cuda".
        weights: safetensors file of a grader; default: the shipped weights.
        detector: safetensors file of a landmark detector; default: the shipped weights.
        quality_control: False skips stage 6: knees with metal are graded, and there are no findings, no wider sets and
            no withheld joint space.
        threads: CPU threads of the networks; one by default. In torch they do not change the results.
        runtime: "torch", or "openvino" (faster on most CPUs; needs the extra `openvino`).
        precision: "float32", or "bf16" (see `kneegrade info --speed`).

    Raises:
        WeightsError: weights are missing, damaged or of another kind.
        UsageError: the device or the runtime is not available, or a setting is unknown.
    """

    def __init__(
        self, device: str = "auto", weights: str | Path | None = None, detector: str | Path | None = None, *,
        quality_control: bool = True, threads: int | None = None, runtime: Runtime = "torch",
        precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.compute = Compute.choose(device, runtime, precision, threads)
        self.device = self.compute.device
        loaded = load_weights(Path(weights) if weights is not None else shipped_path("grader"), "grader")
        self.network = load_report_network(loaded)
        self.mixture = GradeMixture(len(loaded.part("mixture").get("log_alpha", ())))
        load_part(self.mixture, loaded, "mixture")
        self.postprocessor = Postprocessor.of(loaded)
        self.quality_control = load_quality_control(loaded) if quality_control else None
        self.identity = WeightsIdentity(loaded.name, loaded.sha256, loaded.description.get("learnt_from"))
        self.mixture.eval().requires_grad_(False).to(self.device)
        self.network.prepared(self.compute)
        if self.quality_control is not None:  # it computes on the CPU, in float32
            self.quality_control.implant_network.prepared(replace(self.compute, device="cpu", precision="float32"))
        path = None if detector is None else Path(detector)
        self.detector = LandmarkDetector(path, self.compute, self.network.config.roi_px)

    def grade(
        self,
        source: "str | Path | bytes | pydicom.Dataset | NDArray[Any]",
        *,
        side: Literal["R", "L"] | None = None,
        pixel_spacing_mm: tuple[float, float] | None = None,
        landmarks: UserLandmarks | None = None,
    ) -> Report:
        """The report on one input.

        Args:
            source: path of a file, folder or zip; bytes of a file; a `pydicom.Dataset`; or an array (H, W).
            side: side of a single knee, where the file does not state it.
            pixel_spacing_mm: (row, column), where the file does not state it.
            landmarks: the user's landmarks, used instead of the detector's.

        Raises:
            KneeGradeError: bytes, a dataset or an array cannot be read, or a path does not exist. A bad file behind a
                path does not raise: it becomes a row of the report with its reason.
        """
        hints = UserHints(side, pixel_spacing_mm, landmarks)
        if isinstance(source, str | Path):
            return self.grade_sources(find_sources([source]), hints)
        check_process(self.device)
        radiograph = read_radiograph(source, laterality=side, pixel_spacing_mm=pixel_spacing_mm)
        name = "array" if isinstance(source, np.ndarray) else "film"
        return self._report([self._grade_detected(detect_knees(name, radiograph, self.detector, landmarks))])

    def grade_sources(
        self, sources: Iterable[Source], hints: UserHints | None = None, progress: Progress | None = None,
        on_film: Callable[[GradedRadiograph], None] | None = None, derive: Derive | None = None,
    ) -> Report:  # fmt: skip
        """The report on many inputs, in their order. A bad file becomes a row with its reason.

        Args:
            sources: from `kneegrade.imaging.find_sources`.
            hints: information about all of them that the user provides.
            progress: called with (films done, number of films) after each film has been graded.
            on_film: called with each film as soon as it is graded.
            derive: called before that with each film, its source and its pixels (None if it could not be read), which
                are not kept; returns the film for the report, for example with a further warning. What it raises ends
                the run.

        Raises:
            GradingInterrupted: instead of KeyboardInterrupt; it has the report on the films graded until then.
        """
        check_process(self.device)
        listed = list(sources)
        hints = (hints or UserHints()).among(source.name for source in listed)
        graded: list[GradedRadiograph] = []
        try:
            for source in listed:
                graded.append(self.grade_film(source, hints, derive))
                if on_film:
                    on_film(graded[-1])
                if progress:
                    progress(len(graded), len(listed))
        except KeyboardInterrupt as interrupt:
            left = interrupted_films(listed[len(graded) :])
            raise GradingInterrupted(self._report([*graded, *left]), len(left)) from interrupt
        return self._report(graded)

    def grade_film(
        self, source: Source, hints: UserHints | None = None, derive: Derive | None = None
    ) -> GradedRadiograph:
        """The graded film of a file. A problem becomes the film's reason; only `derive` may raise."""
        film = detect_film(source, self.detector, hints or UserHints())
        try:
            graded = self._grade_detected(film)
        except Exception as error:  # one film must never end a run of many
            graded = GradedRadiograph(film.source, reason=internal_error(error), failed=True, sha256=film.sha256)
        return graded if derive is None else derive(source, graded, film.radiograph)

    def _grade_detected(self, film: DetectedRadiograph) -> GradedRadiograph:
        """The graded film: stages 4 to 8 on its accepted knees together."""
        graded = iter(self._grade_knees(film.accepted, film.spacing_mm))
        knees = tuple(
            next(graded) if reason is None else self._refused_at_detection(knee, reason)
            for knee, reason in zip(film.knees, film.refusals, strict=True)
        )
        film_reason = film.reason
        if film_reason is None and all(knee.status == "not_gradable" for knee in knees):
            film_reason = knees[0].reason
        return GradedRadiograph(film.source, knees, film_reason, film.warnings, film.failed, film.sha256)

    def _refused_at_detection(self, knee: Knee, reason: Finding) -> GradedKnee:
        """A knee refused at stage 3. Its quality is 0; None where the weights bring no quality control."""
        quality = None if self.quality_control is None else Quality(0.0, (reason,), reason)
        return _refused(knee, reason, quality)

    @one_thread()
    @torch.inference_mode()
    def _grade_knees(self, knees: Sequence[Knee], spacing_mm: tuple[float, float] | None) -> list[GradedKnee]:
        """Stages 4 to 8 on the accepted knees of a film, in their order."""
        if not knees:
            return []
        mm_per_px = None if spacing_mm is None else spacing_mm[1]
        spaces = [measure(knee.square_landmarks, mm_per_px) for knee in knees]  # 4 measure
        output, visible = self._predict(knees)  # 5 grade
        qualities = self._check_knees(knees, output.pooled, visible)  # 6 control
        unusual = np.array([quality is not None and bool(quality.findings) for quality in qualities])
        calibrated = self.postprocessor(output.logits, unusual)  # 7 postprocess
        coherences = self._compare(output, calibrated)  # 8 compare
        attribution = self.network.attribute(output.pooled)
        graded = []
        for i, (knee, quality) in enumerate(zip(knees, qualities, strict=True)):
            if quality is not None and quality.reason is not None:
                graded.append(_refused(knee, quality.reason, quality))
                continue
            graded.append(
                GradedKnee(
                    side=knee.side, grades=calibrated.results(i), coherence=coherences[i],
                    joint_space=None if withholds_joint_space(quality) else spaces[i],
                    evidence=evidence_of(knee, attribution, i), quality=quality, **knee.landmark_fields(),
                )
            )  # fmt: skip
        return graded

    def _predict(self, knees: Sequence[Knee]) -> tuple[GradeLogits, Tensor]:
        """Output of the network for N knees, and which landmarks it used (N, 74) bool."""
        crops = torch.from_numpy(np.stack([knee.roi for knee in knees])).unsqueeze(1)  # (N, 1, S, S)
        points = torch.from_numpy(np.stack([knee.roi_landmarks_px for knee in knees])).float()  # (N, 74, 2)
        visible = torch.from_numpy(np.stack([knee.visible for knee in knees]))
        inside = torch.from_numpy(np.stack([knee.inside for knee in knees])).unsqueeze(1)  # (N, 1, S, S)
        crops = crops.to(self.device, memory_format=torch.channels_last)
        return self.network(*(part.to(self.device) for part in (crops, points, visible, inside))), visible

    def _check_knees(self, knees: Sequence[Knee], pooled: Tensor, visible: Tensor) -> Sequence[Quality | None]:
        if self.quality_control is None:
            return [None] * len(knees)
        return self.quality_control(ood_features_of(knees, pooled.cpu(), visible))

    def _compare(self, output: GradeLogits, calibrated: CalibratedGrades) -> list[Coherence]:
        """Coherence of the network's own probabilities (g of Eq. 3), before calibration and decoding, and findings."""
        own = concatenate_probabilities(output.logits)  # (N, 29)
        log_probability = self.mixture.log_probability(own).tolist()
        study = calibrated.on_study_scale.grades  # the scale of the network's own probabilities
        shift = np.abs(study - most_probable_grades(own.cpu().numpy())).sum(1).tolist()
        return [Coherence(g, moved, calibrated.findings(i)) for i, (g, moved) in
                enumerate(zip(log_probability, shift, strict=True))]  # fmt: skip

    @one_thread()
    @torch.inference_mode()
    def ood_features(self, film: DetectedRadiograph) -> OODFeatures | None:
        """Features for quality control of the knees of a film that pass stage 3; None if there is no such knee."""
        if not film.accepted:
            return None
        output, visible = self._predict(film.accepted)
        return ood_features_of(film.accepted, output.pooled.cpu(), visible)

    @one_thread()
    @torch.inference_mode()
    def evidence(self, knees: Sequence[Knee]) -> list[Evidence]:
        """The evidence of the network on knees of a film at their landmarks, for example corrected ones."""
        if not knees:
            return []
        output, _ = self._predict(knees)
        attribution = self.network.attribute(output.pooled)
        return [evidence_of(knee, attribution, row) for row, knee in enumerate(knees)]

    def _report(self, radiographs: Sequence[GradedRadiograph]) -> Report:
        scale = self.postprocessor.site
        reader = None if scale is None else scale.reader
        return Report(tuple(radiographs), self.identity, __version__, self.postprocessor.set_level, site=reader)


def _refused(knee: Knee, reason: Finding, quality: Quality | None) -> GradedKnee:
    return GradedKnee(side=knee.side, reason=reason, quality=quality, **knee.landmark_fields())


_default: Grader | None = None


def grade(source: "str | Path | bytes | pydicom.Dataset | NDArray[Any]", **options: Any) -> Report:
    """The report on one input with the shipped weights. Options: see `Grader.grade`."""
    global _default
    if _default is None:
        _default = Grader()
    return _default.grade(source, **options)
