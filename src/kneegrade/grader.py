"""`Grader`: the corridor from a file to a report, the only place where the stages of inference meet.

>>> from kneegrade import Grader                                # doctest: +SKIP
>>> report = Grader().grade("film.dcm")                         # doctest: +SKIP
>>> report.radiographs[0].knees[0].grades["kl"].grade           # doctest: +SKIP
2

`detect_film`: the first half of the corridor, from a file to its knees, or to the reason why there are none.

What was found of a knee → a `GradedKnee`: grades, coherence, joint space, landmarks, evidence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import Knee, LandmarkDetector, UserLandmarks, knees_from_landmarks, measure, refusal
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.coherence import GradeMixture, concatenate_probabilities, most_probable_grades, rule_findings
from kneegrade.errors import KneeGradeError, UsageError, WeightsError
from kneegrade.imaging import Radiograph, Source, check_film, find_sources, read_radiograph
from kneegrade.network import Attribution, GradeLogits, GradingNetwork, load_network, model_config_of
from kneegrade.results import (
    Coherence,
    Evidence,
    Finding,
    GradedKnee,
    GradedRadiograph,
    GradeResult,
    Quality,
    Report,
    WeightsIdentity,
)
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import (
    CalibratedGrades,
    OODFeatures,
    Postprocessor,
    joined,
    load_quality_control,
    ood_features_of,
)
from kneegrade.version import __version__
from kneegrade.weights import Weights, load_part, load_weights, shipped_path

if TYPE_CHECKING:
    import pydicom

Spacing = tuple[float, float] | None


@dataclass(frozen=True)
class UserHints:
    """What the user says of films: side of a single knee and (row, column) spacing where the file does not say, and
    landmarks to take instead of the detector's.
    """  # noqa: D205

    side: Literal["R", "L"] | None = None
    pixel_spacing_mm: Spacing = None
    landmarks: UserLandmarks | None = None


@dataclass(frozen=True, eq=False)
class DetectedRadiograph:
    """One film on its way: its knees, and refusals by their place among them.

    Attributes:
        source: as a report shows it.
        radiograph: the film, or None where it could not be read or is needed no more.
        spacing_mm: (row, column) where it is trusted, else None.
        knees: at most two, as an upright viewer sees them from left to right.
        refusals: for each knee why it cannot be graded, or None.
        warnings: of the film and its sides.
        reason: why there are no knees, or None.
        failed: the file could not be read.
    """

    source: str
    radiograph: Radiograph | None = None
    spacing_mm: Spacing = None
    knees: tuple[Knee, ...] = ()
    refusals: tuple[Finding | None, ...] = ()
    warnings: tuple[Finding, ...] = ()
    reason: Finding | None = None
    failed: bool = False


def detect_film(source: Source, detector: LandmarkDetector, said: UserHints) -> DetectedRadiograph:
    """The knees of a source; whatever is wrong with it becomes its reason, nothing is raised."""
    try:
        radiograph = read_radiograph(source.open(), laterality=said.side, pixel_spacing_mm=said.pixel_spacing_mm)
        return detect_knees(source.name, radiograph, detector, said.landmarks)
    except KneeGradeError as error:
        return DetectedRadiograph(source.name, failed=True, reason=Finding(error.code, error.message))
    except Exception as error:  # one film must never end a run of many
        reason = Finding("internal", f"kneegrade itself failed on this film ({type(error).__name__}).")
        return DetectedRadiograph(source.name, failed=True, reason=reason)


def detect_knees(
    name: str, radiograph: Radiograph, detector: LandmarkDetector, landmarks: UserLandmarks | None = None
) -> DetectedRadiograph:
    """The knees of a radiograph, found by the detector or at the user's own landmarks."""
    film = DetectedRadiograph(name, radiograph, radiograph.pixel_spacing_mm, warnings=radiograph.warnings)
    poor = check_film(radiograph)
    if poor:
        return replace(film, reason=poor[0])
    if landmarks is None:
        knees, warnings = detector.find(radiograph)
    else:
        try:
            knees, warnings = knees_from_landmarks(radiograph, landmarks.of(name, radiograph), detector.roi_px)
        except KneeGradeError as error:  # the film is sound, the landmarks are not
            return replace(film, reason=Finding(error.code, error.message))
    film = replace(film, warnings=(*film.warnings, *warnings))
    if not knees:
        return replace(film, reason=Finding("no_knee", "No knee in a frontal view was found in this picture."))
    return replace(film, knees=knees, refusals=tuple(refusal(knee) for knee in knees))


def graded_knee(
    knee: Knee, spacing_mm: Spacing, grades: Mapping[str, GradeResult], coherence: Coherence, evidence: Evidence,
    quality: Quality | None = None,
) -> GradedKnee:  # fmt: skip
    """The graded knee: grades, coherence, joint space where the spacing is trusted.

    Args:
        knee: what was found.
        spacing_mm: (row, column) of the film, or None.
        grades: by name.
        coherence: of the seven grades.
        evidence: what the logits are made of.
        quality: from the weights' gate, if they bring one.
    """
    return GradedKnee(
        side=knee.side,
        grades=grades,
        coherence=coherence,
        joint_space=measure(knee.outline, None if spacing_mm is None else spacing_mm[1]),
        evidence=evidence,
        quality=quality,
        **_landmarks(knee),
    )


def evidence_of(knee: Knee, attribution: Attribution, row: int) -> Evidence:
    """The evidence on the knee in row `row` of a graded batch.

    Args:
        knee: what was found.
        attribution: of a network that pools at the 74 landmarks; places after them count to the region term.
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


def refused_knee(knee: Knee, reason: Finding, quality: Quality | None = None) -> GradedKnee:
    """The knee with its reason instead of grades.

    Args:
        knee: what was found.
        reason: why it is not graded.
        quality: None where the weights bring no gate.
    """
    return GradedKnee(side=knee.side, reason=reason, quality=quality, **_landmarks(knee))


def _landmarks(knee: Knee) -> dict[str, Any]:
    """What a graded or refused knee says of its landmarks."""
    return {
        "landmarks_px": knee.landmarks_px,
        "landmark_confidence": knee.landmark_confidence,
        "point_confidence": knee.outline.point_confidence,
        "landmarks_outside": tuple(np.flatnonzero(~knee.outline.seen).tolist()),
        "side_confidence": knee.side_confidence,
    }


def grade_results(claim: CalibratedGrades, row: int) -> dict[str, GradeResult]:
    """The seven grades that are claimed of the knee in row `row`, by name."""
    found = {}
    for index, target in enumerate(TARGETS):
        shares = claim.probabilities[row, target.one_hot]
        held = None if claim.sets is None else tuple(np.flatnonzero(claim.sets[row, target.one_hot]).tolist())
        probabilities = tuple((shares / shares.sum()).tolist())
        found[target.name] = GradeResult(int(claim.grades[row, index]), probabilities, held)
    return found


def coherence_findings(claim: CalibratedGrades, row: int) -> tuple[Finding, ...]:
    """Rules that the grades of one row break, and a finding for every grade that is not its likeliest."""
    given = {target.name: int(claim.grades[row, index]) for index, target in enumerate(TARGETS)}
    likeliest, findings = most_probable_grades(claim.probabilities[row : row + 1])[0], list(rule_findings(given))
    for index, target in enumerate(TARGETS):
        grade, alone, top = claim.grades[row, index], claim.alone[row, index], likeliest[index]
        told = f"{target.label} {grade} is given although {top} alone is likelier: "
        if grade != alone:
            findings.append(Finding("grade_moved", told + "with the other grades that would break a rule."))
        elif grade != top:
            findings.append(Finding("grade_between", told + "it is less far from what else remains possible."))
    return tuple(findings)


Progress = Callable[[int, int], None]


class Grader:
    """Grades radiographs; keeps its networks between calls.

    Args:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        weights: a grader's safetensors file; the shipped one by default.
        batch_size: films that are taken through the corridor together.
        detector: a landmark detector's safetensors file; the shipped one by default.
        gated: False leaves out the weights' quality gate: what they would have refused is graded.

    Raises:
        WeightsError: weights missing, damaged or of another kind.
        UsageError: a device that is not there.
    """

    def __init__(
        self, device: str = "auto", weights: str | Path | None = None, batch_size: int = 16,
        detector: str | Path | None = None, *, gated: bool = True,
    ) -> None:  # fmt: skip
        self.device = choose_device(device)
        self.batch_size = batch_size
        held = load_weights(Path(weights) if weights is not None else shipped_path("grader"), "grader")
        self.network, self.mixture = _modules(held)
        self.claims, self.gate = Postprocessor.of(held), load_quality_control(held) if gated else None
        self.identity = WeightsIdentity(held.name, held.sha256, held.description.get("learnt_from"))
        for module in (self.network, self.mixture):
            module.eval().requires_grad_(False).to(self.device)
        self.network.optimized_for_inference(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        place = None if detector is None else Path(detector)
        self.detector = LandmarkDetector(place, self.device, self.network.config.roi_px)

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
            side: side of a single knee where the file does not say.
            pixel_spacing_mm: (row, column) where the file does not say.
            landmarks: the user's own, to grade at instead of those that the detector finds.

        Raises:
            KneeGradeError: bytes, a dataset or an array that cannot be read, or a path that does not exist. A bad file
            behind a path never raises: it is a row of the report with its reason.
        """
        said = UserHints(side, pixel_spacing_mm, landmarks)
        if isinstance(source, str | Path):
            return self.grade_sources(find_sources([source]), said)
        radiograph = read_radiograph(source, laterality=side, pixel_spacing_mm=pixel_spacing_mm)
        name = "array" if isinstance(source, np.ndarray) else "film"
        return self._report(self._finish([detect_knees(name, radiograph, self.detector, landmarks)]))

    def grade_sources(
        self, sources: Iterable[Source], said: UserHints | None = None, progress: Progress | None = None
    ) -> Report:
        """The report on many inputs; a bad file is a row with its reason, never the end of the run.

        Args:
            sources: from `kneegrade.imaging.find_sources`.
            said: what the user says of all of them.
            progress: called with (films done, films in all) after each film has been read and its knees found. Grading
                them happens batch by batch, for the last batch after the last call.
        """
        listed = list(sources)
        graded: list[GradedRadiograph] = []
        pending: list[DetectedRadiograph] = []
        for number, source in enumerate(listed, start=1):
            film = detect_film(source, self.detector, said or UserHints())
            pending.append(replace(film, radiograph=None))  # whole films are large
            if len(pending) >= self.batch_size:
                graded += self._finish(pending)
                pending = []
            if progress:
                progress(number, len(listed))
        return self._report(graded + self._finish(pending))

    def _report(self, radiographs: Sequence[GradedRadiograph]) -> Report:
        sets = self.claims.sets
        level = None if sets is None else round(float(sets.level), 6)
        return Report(tuple(radiographs), self.identity, __version__, level)

    def _finish(self, prepared: Sequence[DetectedRadiograph]) -> list[GradedRadiograph]:
        """Grade all accepted knees of several films in one batch."""
        accepted = [
            (knee, film.spacing_mm)
            for film in prepared
            for knee, refused in zip(film.knees, film.refusals, strict=True)
            if refused is None
        ]
        graded = iter(self._grade_knees(accepted))
        return [self._finished(film, graded) for film in prepared]

    def _finished(self, film: DetectedRadiograph, graded: Iterator[GradedKnee]) -> GradedRadiograph:
        knees = tuple(
            next(graded) if refused is None else self._refused_before_gate(knee, refused)
            for knee, refused in zip(film.knees, film.refusals, strict=True)
        )
        reason = film.reason
        if reason is None and all(knee.status == "not_gradable" for knee in knees):
            reason = knees[0].reason
        return GradedRadiograph(film.source, knees, reason, film.warnings, failed=film.failed)

    def _refused_before_gate(self, knee: Knee, reason: Finding) -> GradedKnee:
        """A knee that the gate never saw: where there is a gate, its score is 0 and the reason is its finding."""
        return refused_knee(knee, reason, None if self.gate is None else Quality(0.0, (reason,), reason))

    @torch.inference_mode()
    def signs(self, films: Iterable[DetectedRadiograph]) -> OODFeatures:
        """What a quality gate looks at, of all knees of some films that are not refused at sight.

        Raises:
            UsageError: there is none.
        """
        parts, pending = [], list[Knee]()
        for film in films:
            pending += [knee for knee, refused in zip(film.knees, film.refusals, strict=True) if refused is None]
            if len(pending) >= self.batch_size:
                parts.append(self._signs(pending))
                pending = []
        if pending:
            parts.append(self._signs(pending))
        if not parts:
            raise UsageError("No knee that could be graded was found on any of these films.")
        return joined(parts)

    def _signs(self, knees: Sequence[Knee]) -> OODFeatures:
        output, visible = self._read(knees)
        return ood_features_of(knees, output.pooled.cpu(), visible)

    def _read(self, knees: Sequence[Knee]) -> tuple[GradeLogits, Tensor]:
        """What the network says of knees, and which landmarks it saw (N, 74)."""
        roi = torch.from_numpy(np.stack([knee.roi for knee in knees])).unsqueeze(1)
        points = torch.from_numpy(np.stack([knee.roi_landmarks_px for knee in knees])).float()
        visible = torch.from_numpy(np.stack([knee.visible for knee in knees]))
        roi = roi.to(self.device, memory_format=torch.channels_last)
        return self.network(roi, points.to(self.device), visible.to(self.device)), visible

    @torch.inference_mode()
    def _grade_knees(self, accepted: Sequence[tuple[Knee, Spacing]]) -> list[GradedKnee]:
        if not accepted:
            return []
        knees = [knee for knee, _ in accepted]
        output, visible = self._read(knees)
        claim, qualities = self.claims(output.logits), self._qualities(knees, output.pooled, visible)
        own = concatenate_probabilities(output.logits)  # before calibration and decoding, as in the paper
        log_probability = self.mixture.log_probability(own).tolist()
        shift = np.abs(claim.grades - most_probable_grades(own.cpu().numpy())).sum(1).tolist()
        attribution = self.network.attribute(output.pooled)
        finished = []
        for i, ((knee, spacing), quality) in enumerate(zip(accepted, qualities, strict=True)):
            if quality is not None and quality.reason is not None:
                finished.append(refused_knee(knee, quality.reason, quality))
                continue
            grades, evidence = grade_results(claim, i), evidence_of(knee, attribution, i)
            coherence = Coherence(log_probability[i], shift[i], coherence_findings(claim, i))
            finished.append(graded_knee(knee, spacing, grades, coherence, evidence, quality))
        return finished

    def _qualities(self, knees: Sequence[Knee], pooled: Tensor, visible: Tensor) -> Sequence[Quality | None]:
        return [None] * len(knees) if self.gate is None else self.gate(ood_features_of(knees, pooled.cpu(), visible))


def _modules(held: Weights) -> tuple[GradingNetwork, GradeMixture]:
    plan = model_config_of(held)
    if not plan.pooling.startswith("keypoints") or plan.heads != "softmax":
        raise WeightsError(
            f"The weights {held.name} ({plan.pooling} pooling, {plan.heads} heads) cannot give a report's evidence, a "
            "logit as a sum over landmarks; `kneegrade evaluate` takes them with a manifest that has landmarks."
        )
    components = held.part("mixture").get("log_alpha", ())
    network, mixture = load_network(held), GradeMixture(len(components))
    load_part(mixture, held, "mixture")
    return network, mixture


def choose_device(device: str) -> str:
    """The torch device, "cuda" or "cpu", for one of the words "auto", "cpu" and "cuda".

    Raises:
        UsageError: another word, or CUDA where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Device {device!r} is not known; use auto, cpu or cuda.")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("No CUDA device is available; use --device cpu.")
    return "cuda" if available and device != "cpu" else "cpu"


_default: Grader | None = None


def grade(source: "str | Path | bytes | pydicom.Dataset | NDArray[Any]", **options: Any) -> Report:
    """The report on one input with the shipped weights; see `Grader.grade` for the options."""
    global _default
    if _default is None:
        _default = Grader()
    return _default.grade(source, **options)
