"""A training run: recipe → trained network, in one plain loop.

    kneegrade train recipes/first.yaml --output runs/first [--set train.epochs=2] [--resume]

The run folder holds the resolved recipe, `log.jsonl` (a line every 20 steps and every epoch), `checkpoint.pt`
(atomic; every epoch and every few minutes) and at the end `weights.safetensors` with its sidecar. SIGTERM saves and
leaves; `--resume` continues from the checkpoint. Knees of the calibration subjects are never trained on.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.coherence import concatenate_probabilities, fit_mixture, incoherence_loss
from kneegrade.errors import RecipeError
from kneegrade.evaluation import agreement
from kneegrade.learning.augmentation import (
    Changes,
    cut_regions,
    draw_changes,
    move_landmarks,
    no_changes,
    region_matrices,
)
from kneegrade.learning.average import Average
from kneegrade.learning.checkpoint import Position, load_checkpoint, save_checkpoint
from kneegrade.learning.losses import class_weights, classification_loss
from kneegrade.learning.recipe import Recipe, Train
from kneegrade.learning.store import Store, load_stores
from kneegrade.network import KeypointPoolingNetwork, load_trunk
from kneegrade.schema import TARGETS, grade_tuple_counts


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of the store used for training and for calibration; no subject is in both."""

    train: NDArray[np.int64]
    calibration: NDArray[np.int64]


def split_by_subject(store: Store, share: float, seed: int) -> Fold:
    """`share` of the training subjects of each source go to calibration; other splits are left out entirely."""
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(store.split == "train")
    held = set()
    for source in np.unique(store.source[rows]):
        subjects = np.unique(store.subject[rows][store.source[rows] == source])
        held.update(generator.permutation(subjects)[: round(len(subjects) * share)].tolist())
    out = np.array([subject in held for subject in store.subject[rows]])
    return Fold(rows[~out], rows[out])


def build_network(recipe: Recipe) -> KeypointPoolingNetwork:
    """The recipe's network with its start loaded; random weights come from the recipe's seed."""
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        network = KeypointPoolingNetwork(recipe.model.trunk, recipe.model.reduce, recipe.model.roi_px)
    if recipe.model.init is not None:
        if not recipe.model.init.is_file():
            raise RecipeError(f"model.init: there is no file {recipe.model.init}.")
        load_trunk(network.trunk, load_file(recipe.model.init))
    return network


def rate_at(train: Train, progress: float) -> float:
    """Learning-rate factor; `progress` counts epochs (fractional)."""
    if train.schedule == "paper":
        return 0.5 ** ((progress >= 10) + (progress >= 30))
    share = progress / train.epochs
    return min(share / 0.03, 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))) + 1e-3


def epoch_batches(rows: NDArray[np.int64], recipe: Recipe, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of one epoch: a permutation that depends on (seed, epoch) alone; a short last batch is dropped."""
    order = np.random.default_rng([recipe.train.seed, epoch]).permutation(rows)
    size = recipe.train.batch_size
    return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]


class Run:
    """State of one training run; `fit` does it."""

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory = recipe, directory
        self.store = load_stores(recipe.data.stores)
        self.frames = self.store.frames(recipe.model.roi_px)
        self.fold = split_by_subject(self.store, recipe.data.calibration_share, recipe.train.seed)
        if len(self.fold.train) < recipe.train.batch_size or not len(self.fold.calibration):
            raise RecipeError(
                f"{len(self.fold.train)} knees to train on and {len(self.fold.calibration)} to calibrate with: a batch "
                f"needs {recipe.train.batch_size}, calibration at least one."
            )
        self.weights = class_weights(torch.from_numpy(self.store.targets[self.fold.train]), recipe.loss.prevalence_cap)
        self.mixture = fit_mixture(
            grade_tuple_counts(), components=recipe.loss.components, sigma=recipe.loss.sigma, seed=recipe.train.seed
        )
        self.accelerator = Accelerator(mixed_precision="bf16" if recipe.train.bf16 else "no")
        network = build_network(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.optimiser = self.accelerator.prepare(network, _optimiser(network, recipe.train))
        self.mixture.to(self.accelerator.device)
        self.average = Average(network, recipe.train.ema) if recipe.train.ema else None
        self.position = Position()
        self.stopped = False

    def fit(self, resume: bool = False, progress: Callable[[int, int, float], None] | None = None) -> bool:
        """Train to the end; False when a SIGTERM ended it early (the checkpoint is written)."""
        checkpoint = self.directory / "checkpoint.pt"
        if resume and checkpoint.is_file():
            self.position = load_checkpoint(checkpoint, self.recipe.model_dump_json(), self._parts())
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            while self.position.epoch < self.recipe.train.epochs and not self.stopped:
                self._epoch(checkpoint, progress)
        finally:
            signal.signal(signal.SIGTERM, previous)
        return not self.stopped

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimiser": self.optimiser, "average": self.average}

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopped = True

    def _epoch(self, checkpoint: Path, progress: Callable[[int, int, float], None] | None) -> None:
        train, position = self.recipe.train, self.position
        batches = epoch_batches(self.fold.train, self.recipe, position.epoch)
        saved = time.monotonic()
        for step in range(position.step, len(batches)):
            factor = rate_at(train, position.epoch + step / len(batches))
            losses = self._step(batches[step], step, factor)
            position.step = step + 1
            done = position.epoch * len(batches) + step + 1
            if step % 20 == 0:
                self._log({"epoch": position.epoch, "step": step, "rate": factor * train.learning_rate, **losses})
            if progress:
                progress(done, train.epochs * len(batches), losses["loss"])
            if self.stopped or time.monotonic() - saved > 60 * train.checkpoint_minutes:
                save_checkpoint(checkpoint, self.recipe.model_dump_json(), position, self._parts())
                saved = time.monotonic()
            if self.stopped:
                return
        self._log({"epoch": position.epoch, "calibration": self.evaluate()})
        position.epoch, position.step = position.epoch + 1, 0
        save_checkpoint(checkpoint, self.recipe.model_dump_json(), position, self._parts())

    def _step(self, rows: NDArray[np.int64], step: int, factor: float) -> dict[str, float]:
        loss_recipe, device = self.recipe.loss, self.accelerator.device
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        key = np.random.SeedSequence([self.recipe.train.seed, self.position.epoch, step]).generate_state(1)[0]
        changes = draw_changes(len(rows), self.recipe.augmentation, torch.Generator().manual_seed(int(key)))
        regions, points, seen = self._inputs(rows, changes)
        targets = torch.from_numpy(self.store.targets[rows]).to(device)
        self.network.train()
        with self.accelerator.autocast():
            output = self.network(
                regions.to(device, memory_format=torch.channels_last), points.to(device), seen.to(device)
            )
        cls = classification_loss(output.logits, targets, self.weights.to(device))
        g = self.mixture.log_probability(concatenate_probabilities(output.logits))
        gmm = incoherence_loss(g, loss_recipe.tau).mean()
        warm = self.position.epoch >= loss_recipe.warmup_epochs
        loss = loss_recipe.lambda_cls * cls + (loss_recipe.lambda_gmm * gmm if warm else 0.0)
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.recipe.train.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.train.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.accelerator.unwrap_model(self.network))
        return {"loss": loss.item(), "cls": cls.item(), "gmm": gmm.item(), "g": g.mean().item()}

    def _inputs(self, rows: NDArray[np.int64], changes: Changes) -> tuple[Tensor, Tensor, Tensor]:
        store, size = self.store, self.recipe.model.roi_px
        matrices = region_matrices(torch.from_numpy(self.frames[rows]), changes, size)
        regions = cut_regions(torch.from_numpy(store.images[rows]), matrices, changes, size)
        landmarks, visible = torch.from_numpy(store.landmarks_px[rows]), torch.from_numpy(store.visible[rows])
        return regions, *move_landmarks(landmarks, visible, matrices, changes, size)

    def final_network(self) -> KeypointPoolingNetwork:
        """The averaged network where an average is kept, else the trained one; on the CPU, in float32."""
        trained = self.accelerator.unwrap_model(self.network)
        network = KeypointPoolingNetwork(self.recipe.model.trunk, self.recipe.model.reduce, self.recipe.model.roi_px)
        network.load_state_dict(trained.state_dict())
        if self.average is not None:
            network.load_state_dict(self.average.state, strict=False)
        return network.eval()

    @torch.no_grad()
    def predict(
        self, network: KeypointPoolingNetwork, rows: NDArray[np.int64]
    ) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
        """(logits by grade, pooled features, visible) for `rows`, in batches of 64, without augmentation."""
        network = network.to(self.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            regions, points, seen = self._inputs(part, no_changes(len(part)))
            with self.accelerator.autocast():
                output = network(*(t.to(self.accelerator.device) for t in (regions, points, seen)))
            yield {k: v.cpu() for k, v in output.logits.items()}, output.pooled.float().cpu(), seen

    def calibration_logits(self, network: KeypointPoolingNetwork) -> tuple[dict[str, Tensor], Tensor]:
        """Logits by grade (M, classes) and targets (M, 29) of the calibration knees."""
        parts = [logits for logits, _, _ in self.predict(network, self.fold.calibration)]
        logits = {t.name: torch.cat([part[t.name] for part in parts]) for t in TARGETS}
        return logits, torch.from_numpy(self.store.targets[self.fold.calibration])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Accuracy and quadratic kappa per source and grade on the calibration knees, against the likeliest label."""
        logits, targets = self.calibration_logits(self.final_network())
        sources, result = self.store.source[self.fold.calibration], {}
        for source in np.unique(sources):
            own = torch.from_numpy(sources == source)
            for target in TARGETS:
                wanted = targets[own][:, target.one_hot]
                present = ~wanted.isnan().any(1)
                if not present.any():
                    continue
                truth, guess = wanted[present].argmax(1), logits[target.name][own][present].argmax(1)
                result[f"{source}/{target.name}"] = agreement(truth.numpy(), guess.numpy(), target.classes)
        return result

    def _log(self, line: dict[str, Any]) -> None:
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 1), **line}) + "\n")


def _optimiser(network: KeypointPoolingNetwork, train: Train) -> torch.optim.Optimizer:
    trunk = list(network.trunk.parameters())
    heads = [p for name, p in network.named_parameters() if not name.startswith("trunk.")]
    groups = [
        {"params": trunk, "initial_lr": train.learning_rate},
        {"params": heads, "initial_lr": train.learning_rate * train.head_rate},
    ]
    kind = torch.optim.Adam if train.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=train.learning_rate, weight_decay=train.weight_decay)
