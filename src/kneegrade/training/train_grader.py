"""Training of the grading network, and `train_recipe`, which trains what a recipe file describes.

    kneegrade train recipes/shipped.yaml --output runs/grader [--set train.epochs=2] [--resume]

The run directory of a grader receives, beside log and checkpoint (`kneegrade.training.trainer`): the resolved
`recipe.yaml`, `cohort.json` with the number of knees, `soft_targets.npy` if the recipe has teachers, and at the end
`predictions-calibration.parquet`, `predictions-test.parquet`, `weights.safetensors` and its description `weights.json`.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.coherence import most_probable_grades
from kneegrade.errors import RecipeError
from kneegrade.evaluation import agreement
from kneegrade.files import locked_output, make_directory, remove_temporary, write_text
from kneegrade.network import GradeLogits, GradingNetwork
from kneegrade.progress import Progress
from kneegrade.schema import TARGETS
from kneegrade.training.augmentation import make_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.config import Recipe, Section
from kneegrade.training.dataset import load_datasets
from kneegrade.training.detector.detector_recipe import DetectorRecipe
from kneegrade.training.detector.train_detector import DetectorTraining
from kneegrade.training.distillation import distilled_targets, teacher_identities
from kneegrade.training.initialization import build_network
from kneegrade.training.losses import SemiSupervisedLoss
from kneegrade.training.predict import feature_mean, predicted_logits, predictions_of
from kneegrade.training.recipe_file import load_recipe
from kneegrade.training.splits import EndlessSampler, make_splits
from kneegrade.training.trainer import LoopSettings, Tensors, TrainingTask, processes, step_generator, train
from kneegrade.uncertainty import fit_calibration
from kneegrade.weights import packed, save_weights, unpacked

LOOP_KEYS = {field.name for field in fields(LoopSettings)} - {"steps_per_epoch", "cpu"}  # keys of a recipe's `train`


class GraderTask(TrainingTask):
    """The grading network, trained on labelled and unlabelled knees (paper, section 2).

    Args:
        recipe: of the run.
        directory: where `soft_targets.npy` is kept if the recipe has teachers.
        resume: use the soft targets in `directory` instead of computing them anew.

    Raises:
        RecipeError: too few knees for a batch or for calibration, batches that cannot be divided among the processes,
            initial weights that do not fit, or too few fully graded knees for coherence.
        WeightsError: a teacher's weights are missing or damaged.
    """

    name = "checkpoint"
    network: GradingNetwork

    def __init__(self, recipe: Recipe, directory: Path, resume: bool = False) -> None:
        self.recipe, self.processes = recipe, processes()
        self.identity = recipe.model_dump_json()
        self.dataset = load_datasets(recipe.data.datasets)
        self.splits = make_splits(self.dataset, recipe.data)
        self._check_batches()
        seed, device = recipe.train.seed, self.processes.device
        self.crops = CropBatches(self.dataset, recipe.model.roi_px, device)
        network = build_network(recipe.model, seed)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.targets = self._training_targets(directory / "soft_targets.npy", resume)
        self.loss = SemiSupervisedLoss(recipe.loss, self.targets[self.splits.labelled], seed).to(device)
        self.labelled = EndlessSampler(self.splits.labelled, [seed, 0])
        self.unlabelled = (
            EndlessSampler(self.splits.unlabelled, [seed, 1])
            if len(self.splits.unlabelled) and recipe.loss.coherence
            else None
        )
        steps = recipe.train.steps_per_epoch or len(self.splits.labelled) // recipe.train.batch_size
        self.settings = LoopSettings(steps_per_epoch=steps, **recipe.train.model_dump(include=LOOP_KEYS))

    def _check_batches(self) -> None:
        train, splits, number = self.recipe.train, self.splits, self.processes.num_processes
        if len(splits.labelled) < train.batch_size or not len(splits.calibration):
            raise RecipeError(
                f"The datasets have {len(splits.labelled)} labelled knees for training and {len(splits.calibration)} "
                f"for calibration; a batch needs {train.batch_size} and calibration at least one. Add knees, or lower "
                "train.batch_size."
            )
        if train.batch_size % number or train.unlabelled_batch_size % number:
            raise RecipeError(
                f"Batches of {train.batch_size} labelled and {train.unlabelled_batch_size} unlabelled knees cannot be "
                f"divided evenly among {number} processes; change train.batch_size, train.unlabelled_batch_size or the "
                "number of processes."
            )

    def _training_targets(self, path: Path, resume: bool) -> NDArray[np.float32]:
        """(N, 29) targets of all knees: readings, mixed with the teachers' predictions; NaN where no label is used."""
        targets, distillation = self.dataset.targets.copy(), self.recipe.distillation
        if distillation is not None:
            with self.processes.main_process_first():  # the first process computes them, the others read its file
                if self.processes.is_main_process and not resume:
                    path.unlink(missing_ok=True)
                device = str(self.processes.device)
                targets = distilled_targets(self.dataset, self.splits.labelled, distillation, path, device)
        targets[self.splits.unlabelled] = np.nan
        return targets

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trunk and heads, which have their own learning rate; the frozen stages of the trunk are left out."""
        train, network = self.recipe.train, self.network
        if train.frozen_stages:
            for module in network.trunk.first_stages(train.frozen_stages):
                module.requires_grad_(False)
        return [
            {"params": [p for p in network.trunk.parameters() if p.requires_grad]},
            {
                "params": [p for name, p in network.named_parameters() if not name.startswith("trunk.")],
                "lr": train.learning_rate * train.head_rate,
            },
        ]

    def modules(self) -> dict[str, nn.Module]:
        """The loss, whose mixture and class weights were fitted to the targets."""
        return {"loss": self.loss}

    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """This process's part of a batch: ((crops, landmarks, visibility), (targets,))."""
        rows = self.batch_rows(epoch * self.settings.steps_per_epoch + step, self._coherent(epoch))
        generator = step_generator(self.recipe.train.seed, epoch, step, self.processes.process_index)
        crops = self.crops.batch(rows, make_params(len(rows), self.recipe.augmentation, generator))
        return (crops.roi, crops.landmarks_px, crops.visible, crops.inside), (torch.from_numpy(self.targets[rows]),)

    def batch_rows(self, number: int, coherent: bool) -> NDArray[np.int64]:
        """This process's rows of batch `number`: labelled knees, then unlabelled ones if coherence is trained."""
        train, rank, world = self.recipe.train, self.processes.process_index, self.processes.num_processes
        rows = self.labelled.batch(number, train.batch_size)[rank::world]
        if self.unlabelled is None or not coherent:
            return rows
        return np.concatenate([rows, self.unlabelled.batch(number, train.unlabelled_batch_size)[rank::world]])

    def losses(self, output: GradeLogits, labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """Eq. 5 and its parts."""
        (targets,) = labels
        losses: dict[str, Tensor] = self.loss(output, targets, self._coherent(epoch))
        return losses

    def _coherent(self, epoch: int) -> bool:
        return self.recipe.loss.coherence and epoch >= self.recipe.loss.warmup_epochs

    def evaluate(self, network: GradingNetwork) -> dict[str, Any]:
        """Accuracy and quadratic kappa per source and grade on the calibration knees; labels are the most probable."""
        rows = self.splits.calibration
        logits, targets = self.logits(network, rows), self.dataset.targets[rows]
        sources, result = self.dataset.source[rows], {}
        for source in np.unique(sources):
            for target in TARGETS:
                labels = targets[:, target.one_hot]
                present = (sources == source) & ~np.isnan(labels).any(1)
                if present.any():
                    predicted = logits[target.name].argmax(1).numpy()[present]
                    result[f"{source}/{target.name}"] = agreement(labels[present].argmax(1), predicted, target.classes)
        return {"calibration": result}

    def logits(self, network: GradingNetwork, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Grade name → (len(rows), classes) float32 logits of a network for these knees, without augmentation."""
        return predicted_logits(network, self.crops, rows, self.recipe.train.bf16)


def train_recipe(
    path: Path,
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Train the grader or the landmark detector of a recipe; return False if a SIGTERM ended training early.

    Args:
        path: YAML file.
        directory: run directory. It gets the resolved recipe once all checks have passed, then log and checkpoints, and
            at the end `weights.safetensors` with its description `weights.json`.
        overrides: `section.key=value` strings that replace single values of the recipe.
        resume: continue the run in `directory`.
        progress: called after every step with (steps done, steps in total, loss or None).

    Raises:
        RecipeError: an invalid recipe, or a directory that contains a run while `resume` is off.
        UsageError: another process trains in the directory.
    """
    recipe = load_recipe(path, overrides)
    make_directory(directory)
    is_main = processes().is_main_process
    with locked_output(directory) if is_main else nullcontext():
        if is_main:
            _check_directory(directory, recipe_text(recipe), resume)
            remove_temporary(directory)
        return _trained(recipe, directory, resume=resume, progress=progress)


def _trained(recipe: Recipe | DetectorRecipe, directory: Path, *, resume: bool, progress: Progress | None) -> bool:
    """Whether training came to its end."""
    if isinstance(recipe, DetectorRecipe):
        detector = DetectorTraining(recipe)
        write_text(directory / "recipe.yaml", recipe_text(recipe))
        tensors = detector.run(directory, resume=resume, progress=progress)
        if tensors is not None:
            save_weights(directory / "weights.safetensors", tensors, _description("detector", recipe, {}))
        return tensors is not None
    task = GraderTask(recipe, directory, resume)
    if task.processes.is_main_process:
        write_text(directory / "recipe.yaml", recipe_text(recipe))
        write_text(directory / "cohort.json", json.dumps(_cohort(task), indent=1))
    if not train(task, directory, resume=resume, progress=progress):
        return False
    if task.processes.is_main_process:
        _write_grader(task, directory)
    task.processes.wait_for_everyone()
    return True


def _check_directory(directory: Path, text: str, resume: bool) -> None:
    resolved = directory / "recipe.yaml"
    if not resolved.exists():
        return
    if not resume:
        raise RecipeError(f"{directory} contains a run already; use --resume or choose another folder.")
    if resolved.read_text(encoding="utf-8") != text:
        raise RecipeError(f"{directory} contains a run with another recipe; resume with {resolved}.")


def recipe_text(recipe: Recipe | DetectorRecipe) -> str:
    """The YAML text of a resolved recipe, as `recipe.yaml` in the run directory."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _cohort(task: GraderTask) -> dict[str, Any]:
    """Number of knees of each split, and of each grade among all labelled knees."""
    splits = task.splits
    labelled = np.concatenate([splits.labelled, splits.calibration, splits.test])
    read = most_probable_grades(task.dataset.targets[labelled])
    grades = {
        t.name: np.bincount(read[read[:, index] >= 0, index], minlength=t.classes).tolist()
        for index, t in enumerate(TARGETS)
    }
    knees = {name: len(getattr(splits, name)) for name in ("labelled", "unlabelled", "calibration", "test")}
    init = task.recipe.model.init
    return {"knees": knees, "grades": grades, "init": None if init is None else init.parent.name + "/" + init.name}


def _write_grader(task: GraderTask, directory: Path) -> None:
    """Write predictions for the calibration and test knees (uncalibrated), then the weights.

    Predictions, calibration and the mean of the features are those of the network in the file, which is in bfloat16.
    """
    recipe, network, splits, dataset = task.recipe, task.network, task.splits, task.dataset
    network.load_state_dict(unpacked(packed(network.state_dict())))
    rows = np.random.default_rng(recipe.train.seed).permutation(splits.labelled)[:1000]
    mean = feature_mean(network, task.crops, np.sort(rows), recipe.train.bf16)  # moves the network to the device
    network.feature_mean.copy_(mean)
    logits = task.logits(network, splits.calibration)
    predictions_of(logits, dataset, splits.calibration).save(directory / "predictions-calibration.parquet")
    if len(splits.test):
        test_logits = task.logits(network, splits.test)
        predictions_of(test_logits, dataset, splits.test).save(directory / "predictions-test.parquet")
    calibration = fit_calibration(logits, torch.from_numpy(dataset.targets[splits.calibration]))
    parts = (("network", network), ("mixture", task.loss.mixture), ("calibration", calibration))
    tensors = {f"{part}.{key}": value for part, module in parts for key, value in module.state_dict().items()}
    save_weights(directory / "weights.safetensors", tensors, _description("grader", recipe, {
        "learnt_from": recipe.learnt_from,
        "teachers": teacher_identities(recipe.distillation),
        "model": asdict(network.config),
        "calibration_knees": len(splits.calibration),
        "training_knees": len(splits.labelled),
        "unlabelled_knees": 0 if task.unlabelled is None else len(splits.unlabelled),
    }))  # fmt: skip


def _description(kind: str, recipe: Section, details: dict[str, Any]) -> dict[str, Any]:
    values = _portable(recipe.model_dump())
    return {
        "name": values["name"],
        "kind": kind,
        "licence": values["licence"],
        "attribution": values["attribution"],
        **details,
        "recipe": values,
    }


def _portable(value: Any) -> Any:
    """A recipe as JSON values; paths are reduced to names, because weights are copied to other machines."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, dict):
        return {key: _portable(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_portable(part) for part in value]
    return value
