"""`Grader`: from radiograph files to a report. This file lists the stages in their order; no other file does.

    1 read         file → `Radiograph`                                   refused: unreadable, unsupported
    2 check        the film as a whole                                   refused: blank, too small, exposure, blur
    3 detect       `Radiograph` → `Knee`s with 74 landmarks and a crop   refused: no knee; view, cut off, exposure, blur
    4 measure      landmarks → `JointSpace`
    5 grade        crops and landmarks → `GradeLogits`                   (the network, paper section 2.1)
    6 control      features of the knee → `Quality`                      refused: implant (certain)
    7 postprocess  logits → `CalibratedGrades`                           (calibration, joint decoding, prediction sets)
    8 compare      grades → `Coherence`                                  (paper, Eq. 3, and the rules)

Stages 1 to 3 run film by film (`detect_film`), stages 4 to 8 on the knees of a batch of films (`Grader`).

>>> from kneegrade import Grader                                # doctest: +SKIP
>>> report = Grader().grade("film.dcm")                         # doctest: +SKIP
>>> report.radiographs[0].knees[0].grades["kl"].grade           # doctest: +SKIP
2
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import (
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
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.coherence import GradeMixture, concatenate_probabilities, most_probable_grades
from kneegrade.errors import KneeGradeError, UsageError, WeightsError
from kneegrade.imaging import Radiograph, Source, check_film, find_sources, read_radiograph
from kneegrade.imaging.sources import sha256_of
from kneegrade.network import Attribution, Ensemble, GradeLogits, GradingNetwork, load_network, model_config_of
from kneegrade.progress import Progress
from kneegrade.results import (
    Coherence,
    Evidence,
    Finding,
    GradedKnee,
    GradedRadiograph,
    Quality,
    Report,
    SiteReader,
    WeightsIdentity,
)
from kneegrade.uncertainty import (
    CalibratedGrades,
    OODFeatures,
    Postprocessor,
    concatenate_features,
    load_quality_control,
    ood_features_of,
    withholds_joint_space,
)
from kneegrade.version import __version__
from kneegrade.weights import Weights, load_part, load_weights, shipped_path
from kneegrade.weights.inference import choose_device

if TYPE_CHECKING:
    import pydicom

_INTERRUPTED: Final = Finding(
    "interrupted", "The run was stopped before this film was graded. Grade this film in another run."
)
Spacing = tuple[float, float] | None


class GradingInterrupted(KeyboardInterrupt):
    """A run was stopped before all films were graded.

    Attributes:
        report: on all films; a film that was not reached has the reason `interrupted`.
        left: number of these films.
    """

    def __init__(self, report: Report, left: int) -> None:
        super().__init__()
        self.report = report
        self.left = left


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
        reason = Finding(
            "internal", f"An error in kneegrade ({type(error).__name__}) prevented the grading of this film. Report it."
        )
    return DetectedRadiograph(source.name, failed=True, reason=reason, sha256=sha256)


def detect_knees(
    name: str, radiograph: Radiograph, detector: LandmarkDetector, landmarks: UserLandmarks | None = None
) -> DetectedRadiograph:
    """The knees of a radiograph (stages 2 and 3), found by the detector or at the user's landmarks."""
    film = DetectedRadiograph(name, radiograph, radiograph.pixel_spacing_mm, warnings=radiograph.warnings)
    problems = check_film(radiograph)  # 2 check
    if problems:
        return replace(film, reason=problems[0])
    if landmarks is None:
        knees, warnings = detector.find(radiograph)  # 3 detect
    else:
        try:
            knees, warnings = knees_from_landmarks(radiograph, landmarks.of(name, radiograph), detector.roi_px)
        except KneeGradeError as error:  # the landmarks are unusable, the film is not
            return replace(film, reason=Finding(error.code, error.message))
    knees, by_markers = check_markers(knees, radiograph, detector.marker_reader)
    film = replace(film, warnings=(*film.warnings, *warnings, *by_markers))
    if not knees:
        return replace(
            film,
            reason=Finding(
                "no_knee", "No knee in a frontal view was detected on this film. Check the view, or grade by eye."
            ),
        )
    return with_plausible_spacing(replace(film, knees=knees, refusals=tuple(refusal(knee) for knee in knees)))


class Grader:
    """Grades radiographs. The networks are loaded once and kept between calls.

    Args:
        device: "auto" (CUDA if available), "cpu" or "cuda".
        weights: safetensors file of a grader; default: the shipped weights.
        batch_size: number of films whose knees are graded together.
        detector: safetensors file of a landmark detector; default: the shipped weights.
        quality_control: False skips stage 6: knees with metal are graded, and there are no findings, no wider sets and
            no withheld joint space.

    Raises:
        WeightsError: weights are missing, damaged or of another kind.
        UsageError: the device is not available.
    """

    def __init__(
        self, device: str = "auto", weights: str | Path | None = None, batch_size: int = 16,
        detector: str | Path | None = None, *, quality_control: bool = True,
    ) -> None:  # fmt: skip
        self.device = choose_device(device)
        self.batch_size = batch_size
        loaded = load_weights(Path(weights) if weights is not None else shipped_path("grader"), "grader")
        self.network, self.mixture = _load_modules(loaded)
        self.postprocessor = Postprocessor.of(loaded)
        self.quality_control = load_quality_control(loaded) if quality_control else None
        self.identity = WeightsIdentity(loaded.name, loaded.sha256, loaded.description.get("learnt_from"))
        for module in (self.network, self.mixture):
            module.eval().requires_grad_(False).to(self.device)
        self.network.optimized_for_inference(self.device).to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        path = None if detector is None else Path(detector)
        self.detector = LandmarkDetector(path, self.device, self.network.config.roi_px)

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
        radiograph = read_radiograph(source, laterality=side, pixel_spacing_mm=pixel_spacing_mm)
        name = "array" if isinstance(source, np.ndarray) else "film"
        return self._report(self._grade_films([detect_knees(name, radiograph, self.detector, landmarks)]))

    def grade_sources(
        self, sources: Iterable[Source], hints: UserHints | None = None, progress: Progress | None = None
    ) -> Report:
        """The report on many inputs, in their order. A bad file becomes a row with its reason.

        Args:
            sources: from `kneegrade.imaging.find_sources`.
            hints: information about all of them that the user provides.
            progress: called with (films done, number of films) after each film has been read and its knees detected.
                The knees are graded batch by batch; the last batch is graded after the last call.

        Raises:
            GradingInterrupted: instead of KeyboardInterrupt; it has the report on the films read until then.
        """
        listed = list(sources)
        graded: list[GradedRadiograph] = []
        first, batch = 0, list[DetectedRadiograph]()  # number of films before the batch, and the batch
        try:
            for number, source in enumerate(listed, start=1):
                film = detect_film(source, self.detector, hints or UserHints())
                batch.append(replace(film, radiograph=None))  # whole films are large
                if len(batch) >= self.batch_size:
                    graded.extend(self._grade_films(batch))
                    first, batch = number, []
                if progress:
                    progress(number, len(listed))
            graded.extend(self._grade_films(batch))
        except KeyboardInterrupt as interrupt:
            if len(graded) < len(listed):
                graded.extend(self._grade_films(batch[len(graded) - first :]))
            left = [GradedRadiograph(source.name, reason=_INTERRUPTED, failed=True) for source in listed[len(graded) :]]
            raise GradingInterrupted(self._report(graded + left), len(left)) from interrupt
        return self._report(graded)

    def _grade_films(self, films: Sequence[DetectedRadiograph]) -> list[GradedRadiograph]:
        """The graded films: stages 4 to 8 on all their accepted knees together."""
        accepted = [(knee, film.spacing_mm) for film in films for knee in _accepted(film)]
        graded = iter(self._grade_knees([knee for knee, _ in accepted], [spacing for _, spacing in accepted]))
        return [self._graded_film(film, graded) for film in films]

    def _graded_film(self, film: DetectedRadiograph, graded: Iterator[GradedKnee]) -> GradedRadiograph:
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
        return GradedKnee(side=knee.side, reason=reason, quality=quality, **_landmark_fields(knee))

    @torch.inference_mode()
    def _grade_knees(self, knees: Sequence[Knee], spacings_mm: Sequence[Spacing]) -> list[GradedKnee]:
        """Stages 4 to 8 on accepted knees, in their order."""
        if not knees:
            return []
        spaces = [  # 4 measure
            measure(k.square_landmarks, None if mm is None else mm[1]) for k, mm in zip(knees, spacings_mm, strict=True)
        ]
        output, visible = self._predict(knees)  # 5 grade
        qualities = self._check_knees(knees, output.pooled, visible)  # 6 control
        unusual = np.array([quality is not None and bool(quality.findings) for quality in qualities])
        calibrated = self.postprocessor(output.logits, unusual)  # 7 postprocess
        coherences = self._compare(output, calibrated)  # 8 compare
        attribution = self.network.attribute(output.pooled)
        graded = []
        for i, (knee, quality) in enumerate(zip(knees, qualities, strict=True)):
            reason = None if quality is None else quality.reason
            if reason is not None:
                graded.append(GradedKnee(side=knee.side, reason=reason, quality=quality, **_landmark_fields(knee)))
                continue
            graded.append(
                GradedKnee(
                    side=knee.side, grades=calibrated.results(i), coherence=coherences[i],
                    joint_space=None if withholds_joint_space(quality) else spaces[i],
                    evidence=evidence_of(knee, attribution, i), quality=quality, **_landmark_fields(knee),
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

    @torch.inference_mode()
    def ood_features(self, films: Iterable[DetectedRadiograph]) -> OODFeatures:
        """Features for quality control of all knees that pass stage 3.

        Raises:
            UsageError: there is no such knee.
        """
        parts, batch = [], list[Knee]()
        for film in films:
            batch += _accepted(film)
            if len(batch) >= self.batch_size:
                parts.append(self._ood_features(batch))
                batch = []
        if batch:
            parts.append(self._ood_features(batch))
        if not parts:
            raise UsageError("No gradable knee was detected on any of the films.")
        return concatenate_features(parts)

    def _ood_features(self, knees: Sequence[Knee]) -> OODFeatures:
        output, visible = self._predict(knees)
        return ood_features_of(knees, output.pooled.cpu(), visible)

    def _report(self, radiographs: Sequence[GradedRadiograph]) -> Report:
        sets = self.postprocessor.sets
        level = None if sets is None else round(float(sets.level), 6)
        site = self.postprocessor.site
        if site is None:
            return Report(tuple(radiographs), self.identity, __version__, level)
        reader = SiteReader(site.name, site.knees, {name: one.family for name, one in site.maps.items()})
        site_level = round(float(site.sets.level), 6)
        return Report(tuple(radiographs), self.identity, __version__, site_level, site=reader)


def _accepted(film: DetectedRadiograph) -> list[Knee]:
    return [knee for knee, reason in zip(film.knees, film.refusals, strict=True) if reason is None]


def _landmark_fields(knee: Knee) -> dict[str, Any]:
    """The fields of a `GradedKnee` that describe its landmarks."""
    return {
        "landmarks_px": knee.landmarks_px,
        "landmark_confidence": knee.landmark_confidence,
        "point_confidence": knee.square_landmarks.point_confidence,
        "landmarks_outside": tuple(np.flatnonzero(~knee.landmarks.seen).tolist()),
        "side_confidence": knee.side_confidence,
    }


def evidence_of(knee: Knee, attribution: Attribution, row: int) -> Evidence:
    """The evidence on one knee of a graded batch.

    Args:
        knee: the knee.
        attribution: of a network that reads the 74 landmarks; read points after them count to the region term.
        row: of the knee in the batch.
    """
    share = {name: s[row].double().cpu().numpy() for name, s in attribution.contributions.items()}
    return Evidence(
        roi=np.rint(knee.roi * 255).astype(np.uint8),
        landmarks_roi_px=knee.roi_landmarks_px,
        landmark_visible=knee.visible,
        contributions={name: s[:NUM_LANDMARKS] for name, s in share.items()},
        region_term={name: s[NUM_LANDMARKS:].sum(0) for name, s in share.items()},
        constant={name: c.double().cpu().numpy() for name, c in attribution.constant.items()},
    )


def _load_modules(loaded: Weights) -> tuple[GradingNetwork | Ensemble, GradeMixture]:
    config = model_config_of(loaded)
    if not config.pooling.startswith("keypoints") or config.heads != "softmax":
        raise WeightsError(
            f"The weights {loaded.name} have {config.pooling} pooling and {config.heads} heads. A report needs "
            "keypoint pooling and softmax heads, because its evidence is a sum over landmarks. `kneegrade evaluate` "
            "accepts these weights with a manifest that has landmarks."
        )
    components = loaded.part("mixture").get("log_alpha", ())
    network, mixture = load_network(loaded), GradeMixture(len(components))
    load_part(mixture, loaded, "mixture")
    return network, mixture


_default: Grader | None = None


def grade(source: "str | Path | bytes | pydicom.Dataset | NDArray[Any]", **options: Any) -> Report:
    """The report on one input with the shipped weights. Options: see `Grader.grade`."""
    global _default
    if _default is None:
        _default = Grader()
    return _default.grade(source, **options)
