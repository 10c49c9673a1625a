"""Adaptation: a finished grader goes on learning from a site's films that nobody has labelled.

    L = λ_c Σ_grades KL(q_teacher ‖ q_student) + λ_gmm L_gmm(q_student)

The teacher is the student's moving average (mean teacher: Tarvainen and Valpola, NeurIPS 2017), both start as the
weights given; the teacher sees a region as it is cut, the student one that is changed; q are calibrated distributions,
L_gmm is the incoherence loss of the weights' own mixture (Zheng et al., Eq. 4). Batch statistics move to the site's.

Without labels nothing says that the network gets better, so a guard watches labelled knees that are never learnt from:
the teacher's calibrated negative log-likelihood on them. Adaptation stops once that is worse than at the start by more
than its standard error, by subject, and what is kept is the best that the guard has seen, the start included.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.coherence import GradeMixture, concatenate_probabilities, incoherence_loss
from kneegrade.errors import RecipeError
from kneegrade.files import replacing
from kneegrade.learning.adaptation import STRONG, Adaptation
from kneegrade.learning.augmentation import draw_changes, no_changes
from kneegrade.learning.average import Average
from kneegrade.learning.checkpoint import Position, load_checkpoint, save_checkpoint
from kneegrade.learning.folds import Stream
from kneegrade.learning.predicting import feature_mean, predicted_logits
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import Store
from kneegrade.network import GradingNetwork, load_network
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import Calibration
from kneegrade.uncertainty.claims import SETS
from kneegrade.weights import Weights, identity_of, load_part, packed, save_weights, unpacked

Progress = Callable[[int, int, float | None], None]
FEWEST_SUBJECTS = 10


@dataclass(frozen=True)
class Adapted:
    """How it ended.

    Attributes:
        steps: done.
        best_step: whose network is kept; 0 is the start, and then no weights are written.
        stopped: whether the guard ended it.
        guard: (step, negative log-likelihood of the labelled knees, mean over knees, sum over grades) of every look.
        change: of that from the start to the best step, and its standard error by subject.
    """

    steps: int
    best_step: int
    stopped: bool
    guard: tuple[tuple[int, float], ...]
    change: tuple[float, float]


class AdaptationRun:
    """One adaptation; `run` does it.

    Args:
        held: a grader's weights.
        films: knees without labels (labels that they have are not looked at).
        guard: labelled knees of other people.
        directory: for the log and the checkpoint.
        settings: how it goes.
        device: "cpu" or "cuda".

    Raises:
        RecipeError: too few knees, guard knees without a grade, or a person on both sides.
    """

    def __init__(
        self, held: Weights, films: Store, guard: Store, directory: Path, settings: Adaptation, device: str = "cpu"
    ) -> None:  # fmt: skip
        _check(films, guard, settings)
        self.held, self.settings, self.directory = held, settings, directory
        self.student = load_network(held).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = load_network(held).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher.requires_grad_(False)
        self.calibration = _frozen(Calibration(), held, "calibration", device)
        self.mixture = _frozen(GradeMixture(len(held.part("mixture")["log_alpha"])), held, "mixture", device)
        size = self.student.plan.roi_px
        self.films, self.guard_regions, self.guard_store = (
            Regions(films, size, device),
            Regions(guard, size, device),
            guard,
        )
        self.stream = Stream(np.arange(len(films)), [settings.seed, 7])
        self.optimiser = torch.optim.AdamW(self.student.parameters(), lr=settings.learning_rate)
        self.average = Average(self.student, settings.ema, warm_up=False)
        self.position = Position()
        self.best = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        self.looks: list[tuple[int, NDArray[np.float64]]] = []

    def run(self, progress: Progress | None = None) -> Adapted:
        """Go on from the checkpoint if there is one, to the last step or until the guard stops it."""
        checkpoint, settings = self.directory / "checkpoint.pt", self.settings
        if checkpoint.is_file():
            try:
                self.position = load_checkpoint(checkpoint, self._identity(), self._parts())
                self.teacher.load_state_dict(self.average.state, strict=False)
            except RecipeError as error:
                raise RecipeError(
                    f"{self.directory} holds an adaptation with other settings; only `steps` may be raised."
                ) from error
        if not self.looks:
            self._look()
        while self.position.step < settings.steps and not self.stopped:
            loss = self._step(self.position.step)
            self.position.step += 1
            if self.position.step % settings.guard_steps == 0 or self.position.step == settings.steps:
                self._look()
                save_checkpoint(checkpoint, self._identity(), self.position, self._parts())
            if progress:
                progress(self.position.step, settings.steps, loss)
        means = tuple((step, float(loss.mean())) for step, loss in self.looks)
        best = min(range(len(means)), key=lambda look: (not np.isfinite(means[look][1]), means[look][1]))
        return Adapted(self.position.step, means[best][0], self.stopped, means, self._change(self.looks[best][1]))

    @property
    def stopped(self) -> bool:
        """Whether the newest look at the guard is worse than the first by more than a standard error, or no number."""
        change, error = self._change(self.looks[-1][1]) if self.looks else (0.0, 0.0)
        return not change <= error

    def _change(self, losses: NDArray[np.float64]) -> tuple[float, float]:
        """(Mean change since the start of the guard's losses, its standard error by subject)."""
        change = losses - self.looks[0][1]
        people, place = np.unique(self.guard_store.subject, return_inverse=True)
        sums = np.bincount(place, change - change.mean(), len(people))
        return float(change.mean()), float(np.sqrt((sums**2).sum()) / len(change))

    def _step(self, number: int) -> float:
        settings, rows = self.settings, self.stream.batch(number, self.settings.batch_size)
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
        )
        plain = self.films.batch(rows, no_changes(len(rows)))
        changed = self.films.batch(rows, draw_changes(len(rows), STRONG, generator))
        with torch.no_grad():
            self.teacher.eval()
            wanted = self.calibration(self.teacher(plain.roi, plain.landmarks_px, plain.visible).logits)
        self.student.train()
        with torch.autocast(self.films.device.type, torch.bfloat16):
            output = self.student(changed.roi, changed.landmarks_px, changed.visible)
        said = self.calibration(output.logits)
        loss = settings.lambda_consistency * consistency_loss(wanted, said)
        g = self.mixture.log_probability(concatenate_probabilities(said))
        loss = loss + settings.lambda_gmm * incoherence_loss(g, settings.tau).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), settings.clip_norm)
        self.optimiser.step()
        self.average.update(self.student)
        self.teacher.load_state_dict(self.average.state, strict=False)
        return float(loss.detach())

    def _look(self) -> None:
        """Note the teacher's likelihood of every guard knee, and keep the network if it is the best so far."""
        losses = knee_losses(self.calibration, self.teacher, self.guard_regions, self.guard_store.targets)
        if not self.looks or losses.mean() < np.nanmin([loss.mean() for _, loss in self.looks]):
            self.best = {name: value.detach().clone() for name, value in self.teacher.state_dict().items()}
        self.looks.append((self.position.step, losses))
        with replacing(self.directory / "guard.json") as stream:
            lines = [{"step": step, "negative_log_likelihood": float(loss.mean())} for step, loss in self.looks]
            stream.write(json.dumps(lines, indent=1) + "\n")

    def write(self, result: Adapted, films: int) -> Path:
        """Write the best network as new weights whose description names where they come from.

        Prediction sets of the parent are left out: what they promise was fitted for another network.
        """
        network = self.teacher
        network.load_state_dict(unpacked(packed(self.best)))  # as the file holds it
        network.feature_mean.copy_(feature_mean(network, self.films, np.arange(len(self.films.frames))[:1000]))
        own = {f"network.{name}": value.cpu() for name, value in network.state_dict().items()}
        kept = {name: value for name, value in self.held.tensors.items() if not name.startswith(f"{SETS}.")}
        tensors = {name: own.get(name, value) for name, value in kept.items()}
        before = {key: value for key, value in self.held.description.items() if key != "calibrated"}
        parent = identity_of(before)
        lineage = {
            **parent, "knees": len(self.films.frames), "films": films, "steps": result.best_step,
            "guard_knees": len(self.guard_store), "settings": self.settings.model_dump(),
            "guard": [{"step": step, "negative_log_likelihood": round(loss, 6)} for step, loss in result.guard],
        }  # fmt: skip
        name = before["name"] if before["name"].endswith("-adapted") else f"{before['name']}-adapted"
        description = {**before, "name": name, "lineage": [*before.get("lineage", []), lineage]}
        path = self.directory / "weights.safetensors"
        save_weights(path, tensors, description)
        return path

    def state_dict(self) -> dict[str, Any]:
        """What the guard has seen, for the checkpoint."""
        return {"best": self.best, "looks": [(step, torch.from_numpy(loss)) for step, loss in self.looks]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.best, self.looks = saved["best"], [(step, loss.numpy()) for step, loss in saved["looks"]]

    def _parts(self) -> dict[str, Any]:
        return {"student": self.student, "optimiser": self.optimiser, "average": self.average, "guard": self}

    def _identity(self) -> str:
        knees = f"{len(self.films.frames)} {len(self.guard_store)}"
        return f"{self.held.sha256} {knees} {self.settings.model_dump_json(exclude={'steps'})}"


def consistency_loss(wanted: dict[str, Tensor], said: dict[str, Tensor]) -> Tensor:
    """Σ_grades mean over knees of KL(softmax(wanted) ‖ softmax(said)); float32 scalar.

    Args:
        wanted: grade name → (B, classes) logits of the teacher.
        said: the same of the student.
    """
    losses = [
        torch.nn.functional.kl_div(
            said[t.name].log_softmax(1), wanted[t.name].log_softmax(1), reduction="batchmean", log_target=True
        )
        for t in TARGETS
    ]
    return torch.stack(losses).sum()


def knee_losses(
    calibration: Calibration, network: GradingNetwork, regions: Regions, targets: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(N,) negative log-likelihood of each knee's labels, summed over the grades that it has."""
    logits = predicted_logits(network, regions, np.arange(len(targets)))
    with torch.no_grad():
        said = calibration({name: value.to(regions.device) for name, value in logits.items()})
    total = np.zeros(len(targets))
    for target in TARGETS:
        likelihood, wanted = said[target.name].log_softmax(1).double().cpu().numpy(), targets[:, target.one_hot]
        read = np.isfinite(wanted).all(axis=1)
        total[read] -= (wanted[read] * likelihood[read]).sum(1)
    return total


def _frozen(module: Any, held: Weights, part: str, device: str) -> Any:
    load_part(module, held, part)
    return module.requires_grad_(False).to(device)


def _check(films: Store, guard: Store, settings: Adaptation) -> None:
    if len(films) < settings.batch_size:
        raise RecipeError(f"{len(films)} knees without labels were found; a batch needs {settings.batch_size}.")
    if not np.isfinite(guard.targets).any(axis=1).all():
        raise RecipeError("A knee that is to guard adaptation has no grade.")
    people = len(np.unique(guard.subject))
    if people < FEWEST_SUBJECTS:
        raise RecipeError(
            f"The knees of {people} people are too few to guard adaptation; {FEWEST_SUBJECTS} are needed."
        )
    if np.isin(films.subject, guard.subject).any():
        raise RecipeError("A person's films are among those learnt from and among those that guard it.")
