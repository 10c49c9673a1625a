"""`Grader`: the corridor from a file to a report, the only place where the stages of inference meet.

>>> from kneegrade import Grader                                # doctest: +SKIP
>>> report = Grader().grade("film.dcm")                         # doctest: +SKIP
>>> report.radiographs[0].knees[0].grades["kl"].grade           # doctest: +SKIP
2
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import Knee, LandmarkDetector, MarkedPoints
from kneegrade.coherence import GradeMixture, concatenate_probabilities, likeliest_grades
from kneegrade.errors import UsageError, WeightsError
from kneegrade.finding import FoundFilm, Said, Spacing, find_film, find_knees
from kneegrade.gathering import coherence_findings, evidence_of, grade_results, graded_knee, refused_knee
from kneegrade.imaging import Source, find_sources, read_radiograph
from kneegrade.network import GradeLogits, GradingNetwork, load_network, plan_of
from kneegrade.results import Coherence, Finding, GradedKnee, GradedRadiograph, Quality, Report, WeightsIdentity
from kneegrade.uncertainty import Claims, Signs, joined, load_gate, signs_of
from kneegrade.version import __version__
from kneegrade.weights import Weights, load_part, load_weights, shipped_path

if TYPE_CHECKING:
    import pydicom

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
        self.claims, self.gate = Claims.of(held), load_gate(held) if gated else None
        self.identity = WeightsIdentity(held.name, held.sha256, held.description.get("learnt_from"))
        for module in (self.network, self.mixture):
            module.eval().requires_grad_(False).to(self.device)
        self.network.quickened(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        place = None if detector is None else Path(detector)
        self.detector = LandmarkDetector(place, self.device, self.network.plan.roi_px)

    def grade(
        self,
        source: "str | Path | bytes | pydicom.Dataset | NDArray[Any]",
        *,
        side: Literal["R", "L"] | None = None,
        pixel_spacing_mm: tuple[float, float] | None = None,
        landmarks: MarkedPoints | None = None,
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
        said = Said(side, pixel_spacing_mm, landmarks)
        if isinstance(source, str | Path):
            return self.grade_sources(find_sources([source]), said)
        radiograph = read_radiograph(source, laterality=side, pixel_spacing_mm=pixel_spacing_mm)
        name = "array" if isinstance(source, np.ndarray) else "film"
        return self._report(self._finish([find_knees(name, radiograph, self.detector, landmarks)]))

    def grade_sources(
        self, sources: Iterable[Source], said: Said | None = None, progress: Progress | None = None
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
        pending: list[FoundFilm] = []
        for number, source in enumerate(listed, start=1):
            film = find_film(source, self.detector, said or Said())
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

    def _finish(self, prepared: Sequence[FoundFilm]) -> list[GradedRadiograph]:
        """Grade all accepted knees of several films in one batch."""
        accepted = [
            (knee, film.spacing_mm)
            for film in prepared
            for knee, refused in zip(film.knees, film.refusals, strict=True)
            if refused is None
        ]
        graded = iter(self._grade_knees(accepted))
        return [self._finished(film, graded) for film in prepared]

    def _finished(self, film: FoundFilm, graded: Iterator[GradedKnee]) -> GradedRadiograph:
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
    def signs(self, films: Iterable[FoundFilm]) -> Signs:
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

    def _signs(self, knees: Sequence[Knee]) -> Signs:
        output, visible = self._read(knees)
        return signs_of(knees, output.pooled.cpu(), visible)

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
        shift = np.abs(claim.grades - likeliest_grades(own.cpu().numpy())).sum(1).tolist()
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
        return [None] * len(knees) if self.gate is None else self.gate(signs_of(knees, pooled.cpu(), visible))


def _modules(held: Weights) -> tuple[GradingNetwork, GradeMixture]:
    plan = plan_of(held)
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
