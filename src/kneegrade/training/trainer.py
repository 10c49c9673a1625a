"""A training run: recipe → trained network, in one plain loop.

    kneegrade train recipes/first.yaml --output runs/first [--set train.epochs=2] [--resume]
    accelerate launch --multi_gpu --num_processes 8 -m kneegrade train RECIPE --output DIR

The run folder holds the resolved recipe, `log.jsonl` (a line every 20 steps and every epoch; the same as TensorBoard
events), `checkpoint.pt` (atomic; every epoch and every few minutes), what teachers said (`opinions.npy`), and at the
end `weights.safetensors` with its sidecar and the predictions. SIGTERM saves and leaves; `--resume` continues from the
checkpoint. Over several processes every one takes its share of each batch.
"""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.errors import RecipeError
from kneegrade.evaluation import agreement
from kneegrade.network import GradingNetwork
from kneegrade.schema import TARGETS
from kneegrade.training.augmentation import make_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.checkpoint import ExponentialMovingAverage, Position, RunLog, load_checkpoint, save_checkpoint
from kneegrade.training.config import Recipe, Train
from kneegrade.training.dataset import load_datasets
from kneegrade.training.distillation import taught
from kneegrade.training.initialization import build_network
from kneegrade.training.losses import SemiSupervisedLoss
from kneegrade.training.predict import predicted_logits
from kneegrade.training.splits import EndlessSampler, make_splits

LOG_STEPS = 20
Progress = Callable[[int, int, float | None], None]


def rate_at(train: Train, progress: float) -> float:
    """Learning-rate factor; `progress` counts epochs (fractional)."""
    if train.schedule == "paper":
        return float(0.5 ** ((6 * progress >= train.epochs) + (2 * progress >= train.epochs)))
    share = progress / train.epochs
    return min(share / 0.03, 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))) + 1e-3


class Run:
    """State of one training run; `fit` does it."""

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory = recipe, directory
        self.store = load_datasets(recipe.data.stores)
        self.folds = make_splits(self.store, recipe.data)
        train, seed = recipe.train, recipe.train.seed
        if len(self.folds.labelled) < train.batch_size or not len(self.folds.calibration):
            raise RecipeError(
                f"{len(self.folds.labelled)} labelled knees to train on and {len(self.folds.calibration)} to calibrate "
                f"with: a batch needs {train.batch_size}, calibration at least one."
            )
        self.accelerator = _accelerator(train)
        self.regions = CropBatches(self.store, recipe.model.roi_px, self.accelerator.device)
        self.targets = self._learnt_targets()
        self.objective = SemiSupervisedLoss(recipe.loss, self.targets[self.folds.labelled], seed).to(
            self.accelerator.device
        )
        network = build_network(recipe.model, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.optimiser = self.accelerator.prepare(network, _optimiser(network, train))
        self.average = ExponentialMovingAverage(network, train.ema) if train.ema else None
        self.labelled = EndlessSampler(self.folds.labelled, [seed, 0])
        self.unlabelled = (
            EndlessSampler(self.folds.unlabelled, [seed, 1])
            if len(self.folds.unlabelled) and recipe.loss.coherence
            else None
        )
        self.steps = train.steps_per_epoch or len(self.folds.labelled) // train.batch_size
        self.position = Position()
        self.stopped = False
        self._signalled = False

    def fit(self, resume: bool = False, progress: Progress | None = None) -> bool:
        """Train to the end; False when a SIGTERM ended it early (the checkpoint is written)."""
        checkpoint = self.directory / "checkpoint.pt"
        if resume and checkpoint.is_file():
            self.position = load_checkpoint(checkpoint, self.recipe.model_dump_json(), self._parts())
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            begun = self.position.epoch * self.steps + self.position.step
            with RunLog(self.directory, begun, self.accelerator.is_main_process) as log:
                while self.position.epoch < self.recipe.train.epochs and not self.stopped:
                    self._epoch(log, progress)
        finally:
            signal.signal(signal.SIGTERM, previous)
        return not self.stopped

    def _learnt_targets(self) -> NDArray[np.float32]:
        """(N, 29) of all knees of the store: as read, in part as teachers say; NaN where no label is to be seen."""
        targets, teaching = self.store.targets.copy(), self.recipe.teaching
        if teaching is not None:
            kept, device = self.directory / "opinions.npy", str(self.accelerator.device)
            with self.accelerator.main_process_first():  # which asks the teachers; the others read its file
                targets = taught(self.store, self.folds.labelled, teaching, kept, device)
        targets[self.folds.unlabelled] = np.nan
        return targets

    def _parts(self) -> dict[str, Any]:
        network = self.accelerator.unwrap_model(self.network)
        return {
            "network": network,
            "optimiser": self.optimiser,
            "average": self.average,
            "objective": self.objective,
        }

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _epoch(self, log: RunLog, progress: Progress | None) -> None:
        train, position = self.recipe.train, self.position
        saved = time.monotonic()
        for step in range(position.step, self.steps):
            factor = rate_at(train, position.epoch + step / self.steps)
            losses = self._step(step, factor)
            position.step = step + 1
            done = position.epoch * self.steps + step + 1
            if step % LOG_STEPS == 0 or step + 1 == self.steps:
                values = {name: value.item() for name, value in losses.items()}
                log.write(done, {"epoch": position.epoch, "rate": factor * train.learning_rate, **values})
                if progress:
                    progress(done, train.epochs * self.steps, values["loss"])
            elif progress:
                progress(done, train.epochs * self.steps, None)
            stopping = self._stopping(step)
            if stopping or time.monotonic() - saved > 60 * train.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
            if stopping:
                return
        self._stopping(0)
        position.epoch, position.step = position.epoch + 1, 0
        if position.epoch % train.evaluate_epochs == 0 or position.epoch == train.epochs:
            log.write(position.epoch * self.steps, {"epoch": position.epoch - 1, "calibration": self.evaluate()})
        self._save()

    def _stopping(self, step: int) -> bool:
        """Whether to leave after this step: several processes agree on it now and then, so that none waits in vain."""
        if self.accelerator.num_processes == 1:
            self.stopped = self.stopped or self._signalled
        elif step % LOG_STEPS == 0:
            told = self.accelerator.reduce(torch.tensor(float(self._signalled), device=self.accelerator.device))
            self.stopped = bool(told.item() > 0)
        return self.stopped

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.directory / "checkpoint.pt", self.recipe.model_dump_json(), self.position, self._parts()
            )

    def _step(self, step: int, factor: float) -> dict[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        coherent = self.recipe.loss.coherence and self.position.epoch >= self.recipe.loss.warmup_epochs
        rows = self._rows(self.position.epoch * self.steps + step, coherent)
        key = [self.recipe.train.seed, self.position.epoch, step, self.accelerator.process_index]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        batch = self.regions.batch(rows, make_params(len(rows), self.recipe.augmentation, generator))
        targets = torch.from_numpy(self.targets[rows]).to(self.accelerator.device)
        self.network.train()
        with self.accelerator.autocast():
            output = self.network(batch.roi, batch.landmarks_px, batch.visible)
        losses: dict[str, Tensor] = self.objective(output, targets, coherent)
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(losses["loss"])
        if self.recipe.train.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.train.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.accelerator.unwrap_model(self.network))
        return {name: value.detach() for name, value in losses.items()}

    def _rows(self, number: int, coherent: bool) -> NDArray[np.int64]:
        """This process's share of batch `number`: labelled knees, then those without labels once coherence counts."""
        train = self.recipe.train
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        rows = self.labelled.batch(number, train.batch_size)[rank::world]
        if self.unlabelled is None or not coherent:
            return rows
        return np.concatenate([rows, self.unlabelled.batch(number, train.unlabelled_batch_size)[rank::world]])

    def final_network(self) -> GradingNetwork:
        """The averaged network where an average is kept, else the trained one; a copy in float32, for predictions."""
        trained = self.accelerator.unwrap_model(self.network)
        network = GradingNetwork(trained.config)
        network.load_state_dict(trained.state_dict())
        if self.average is not None:
            network.load_state_dict(self.average.state, strict=False)
        return network.eval()

    def logits(self, network: GradingNetwork, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Grade name → (len(rows), classes) float32 logits of a network on the run's device, without augmentation."""
        return predicted_logits(network, self.regions, rows, self.recipe.train.bf16)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Accuracy and quadratic kappa per source and grade on the calibration knees, against the likeliest label."""
        rows = self.folds.calibration
        logits, targets = self.logits(self.final_network(), rows), self.store.targets[rows]
        sources, result = self.store.source[rows], {}
        for source in np.unique(sources):
            for target in TARGETS:
                wanted = targets[:, target.one_hot]
                present = (sources == source) & ~np.isnan(wanted).any(1)
                if present.any():
                    guess = logits[target.name].argmax(1).numpy()[present]
                    result[f"{source}/{target.name}"] = agreement(wanted[present].argmax(1), guess, target.classes)
        return result


def _accelerator(train: Train) -> Accelerator:
    try:
        accelerator = Accelerator(mixed_precision="bf16" if train.bf16 else "no")
    except ValueError as error:
        raise RecipeError(f"train.bf16: another run of this process was started otherwise ({error}).") from error
    if any(size % accelerator.num_processes for size in (train.batch_size, train.unlabelled_batch_size)):
        raise RecipeError(
            f"Batches of {train.batch_size} and {train.unlabelled_batch_size} cannot be shared out evenly over "
            f"{accelerator.num_processes} processes."
        )
    return accelerator


def _optimiser(network: GradingNetwork, train: Train) -> torch.optim.Optimizer:
    if train.frozen_stages:
        for name in ("conv1", "bn1", *(f"layer{n}" for n in range(1, train.frozen_stages + 1))):
            network.trunk.get_submodule(name).requires_grad_(False)
    trunk = [p for p in network.trunk.parameters() if p.requires_grad]
    heads = [p for name, p in network.named_parameters() if not name.startswith("trunk.")]
    groups = [
        {"params": trunk, "initial_lr": train.learning_rate},
        {"params": heads, "initial_lr": train.learning_rate * train.head_rate},
    ]
    kind = torch.optim.Adam if train.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=train.learning_rate, weight_decay=train.weight_decay)
