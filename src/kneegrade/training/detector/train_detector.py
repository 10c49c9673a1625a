"""Training of the landmark detector: its coarse landmark network, its knee localizer and its fine landmark network.

    kneegrade train recipes/detector.yaml --output runs/detector [--resume]

The run directory holds, beside recipe and log, a checkpoint of each network (`coarse.pt`, `finder.pt`, `fine.pt`) and
`scenes.npz`, the training images of the knee localizer. "finder" is the knee localizer's name in files.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.anatomy.knee_localizer import knee_localizer_network
from kneegrade.anatomy.landmark_networks import COARSE, FINE, View, coarse_landmark_network, fine_landmark_network
from kneegrade.cohorts import load_manifest
from kneegrade.errors import RecipeError
from kneegrade.progress import Progress
from kneegrade.training.augmentation import augment_images, augment_landmarks, crop_matrices, make_params
from kneegrade.training.config import Augmentation
from kneegrade.training.dataset import KneeDataset, load_datasets
from kneegrade.training.detector.detector_losses import landmark_loss, localizer_loss
from kneegrade.training.detector.detector_recipe import DetectorRecipe, NetworkTraining
from kneegrade.training.detector.scenes import (
    Scenes,
    augment_scenes,
    composed_scenes,
    film_scenes,
    join_scenes,
    load_scenes,
    phantom_scenes,
    save_scenes,
)
from kneegrade.training.initialization import seeded
from kneegrade.training.trainer import LoopSettings, Tensors, TrainingTask, processes, step_generator, train
from kneegrade.weights import load_part, load_weights

MIRRORED_COARSE, MISPLACED_FINE = 0.4, 0.15  # shares of a batch


class DetectorTraining:
    """The training of the three networks, checked when it is made.

    Args:
        recipe: of the run.

    Raises:
        RecipeError: no training knee in the datasets, nothing to train the knee localizer on, or several processes.
        WeightsError: `start` is not the weights of a detector.
    """

    def __init__(self, recipe: DetectorRecipe) -> None:
        if processes().num_processes > 1:
            raise RecipeError(
                f"A detector is trained by one process, not {processes().num_processes}; run `kneegrade train` without "
                "`accelerate launch`."
            )
        self.recipe = recipe
        self.dataset = load_datasets(recipe.datasets)
        self.rows = np.flatnonzero(self.dataset.split == "train")
        if not len(self.rows):
            raise RecipeError('The datasets have no knee of split "train".')
        self.start = load_weights(recipe.start, "detector") if recipe.start else None
        self.real_rows = self.rows[self.dataset.source[self.rows] != "phantom"]
        self.films = []
        if recipe.knee_localizer.steps:
            tables = [load_manifest(path) for path in recipe.films]
            self.films = [own for own in (table[table["split"] == "train"] for table in tables) if len(own)]
            composed = recipe.composed_scenes and len(self.real_rows)
            if not (self.films or recipe.phantom_scenes or composed):
                raise RecipeError(
                    "There are no training images for the knee localizer: name films, or set phantom_scenes or, with "
                    "real knees in the datasets, composed_scenes."
                )

    def run(
        self, directory: Path, *, resume: bool = False, progress: Progress | None = None
    ) -> dict[str, Tensor] | None:
        """Tensors of the trained networks, `coarse.…`, `finder.…`, `fine.…`; None if a SIGTERM ended training early.

        A network of 0 steps keeps its initial weights.
        """
        recipe, dataset, rows = self.recipe, self.dataset, self.rows
        makers: tuple[tuple[str, NetworkTraining, Callable[[], DetectorTask]], ...] = (
            ("coarse", recipe.coarse, lambda: coarse_task(dataset, rows, recipe)),
            ("finder", recipe.knee_localizer, lambda: localizer_task(self._scenes(directory), recipe)),
            ("fine", recipe.fine, lambda: fine_task(dataset, rows, recipe)),
        )
        tensors: dict[str, Tensor] = {}
        for name, training, make_task in makers:
            task = make_task() if training.steps else None
            network = task.network if task else initial_network(name, recipe.seed)
            if self.start:
                load_part(network, self.start, name)
            if task and not train(task, directory, resume=resume, progress=progress):
                return None
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        return tensors

    def _scenes(self, directory: Path) -> Scenes:
        """Training images of the knee localizer; made once and kept in the run directory."""
        path, recipe = directory / "scenes.npz", self.recipe
        if not path.is_file():
            parts = [film_scenes(table, recipe.film_views) for table in self.films]
            if recipe.phantom_scenes:
                parts.append(phantom_scenes(recipe.phantom_scenes, recipe.seed))
            if recipe.composed_scenes and len(self.real_rows):
                parts.append(composed_scenes(self.dataset, self.real_rows, recipe.composed_scenes, recipe.seed))
            save_scenes(path, join_scenes(parts))
        return load_scenes(path)


NETWORKS = {"coarse": coarse_landmark_network, "finder": knee_localizer_network, "fine": fine_landmark_network}


def initial_network(name: str, seed: int) -> nn.Module:
    """One of `NETWORKS` with random initial weights, a function of the seed."""
    return seeded(NETWORKS[name], seed)


class DetectorTask(TrainingTask):
    """One network of the detector: AdamW, one cosine cycle, a moving average.

    Args:
        name: of the network, one of `NETWORKS`.
        training: settings of the network.
        recipe: of the run.
        sample: draws a batch, (images (B, 1, S, S), *labels), from a generator.
        loss: scalar loss of (output, *labels).
    """

    def __init__(
        self,
        name: str,
        training: NetworkTraining,
        recipe: DetectorRecipe,
        sample: Callable[[torch.Generator], Tensors],
        loss: Callable[..., Tensor],
    ) -> None:
        self.name = self.log_name = name
        self.sample, self.loss, self.seed = sample, loss, recipe.seed
        self.network = initial_network(name, recipe.seed)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.identity = recipe.model_dump_json()
        self.settings = LoopSettings(
            epochs=1,
            steps_per_epoch=training.steps,
            learning_rate=training.learning_rate,
            schedule="cosine_to_zero",
            weight_decay=training.weight_decay,
            clip_norm=5.0,
            ema=training.ema,
            bf16=recipe.bf16,
        )

    def batch(self, epoch: int, step: int) -> tuple[Tensors, Tensors]:
        """((images,), labels), a function of the step."""
        images, *labels = self.sample(step_generator(self.seed, step, *self.name.encode()))
        return (images.to(memory_format=torch.channels_last),), tuple(labels)

    def losses(self, output: tuple[Tensor, Tensor], labels: Tensors, epoch: int) -> dict[str, Tensor]:
        """The network's loss."""
        return {"loss": self.loss(output, *labels)}


def localizer_task(scenes: Scenes, recipe: DetectorRecipe) -> DetectorTask:
    """The knee localizer, trained on augmented scenes."""
    training = recipe.knee_localizer

    def sample(generator: torch.Generator) -> Tensors:
        rows = torch.randint(len(scenes.images), (training.batch_size,), generator=generator).numpy()
        images = torch.from_numpy(scenes.images[rows]).float().unsqueeze(1)
        return augment_scenes(images, torch.from_numpy(scenes.poses[rows]), generator)

    return DetectorTask("finder", training, recipe, sample, localizer_loss)


def coarse_task(dataset: KneeDataset, rows: NDArray[np.int64], recipe: DetectorRecipe) -> DetectorTask:
    """The coarse landmark network: knees of both orientations; mirrored ones train the orientation score alone."""
    crops, training = _CropSampler(dataset, rows, COARSE), recipe.coarse

    def sample(generator: torch.Generator) -> Tensors:
        chosen = crops.draw(training.batch_size, generator)
        mirrored = torch.rand(len(chosen), generator=generator) < MIRRORED_COARSE
        matrices = _mirror_matrices(mirrored, COARSE.size_px)
        return crops.batch(chosen, recipe.coarse_augmentation, matrices, mirrored, generator)

    return DetectorTask("coarse", training, recipe, sample, landmark_loss)


def fine_task(dataset: KneeDataset, rows: NDArray[np.int64], recipe: DetectorRecipe) -> DetectorTask:
    """The fine landmark network: level knees, and a few mirrored or misplaced ones, which train the score alone."""
    crops, training = _CropSampler(dataset, rows, FINE), recipe.fine

    def sample(generator: torch.Generator) -> Tensors:
        chosen = crops.draw(training.batch_size, generator)
        misplaced = torch.rand(len(chosen), generator=generator) < MISPLACED_FINE
        changes = _misplacement_matrices(len(chosen), FINE.size_px, generator)
        matrices = torch.where(misplaced.view(-1, 1, 1), changes, torch.eye(3))
        return crops.batch(chosen, recipe.fine_augmentation, matrices, misplaced, generator)

    return DetectorTask("fine", training, recipe, sample, landmark_loss)


class _CropSampler:
    """Draws training batches of a landmark network."""

    def __init__(self, dataset: KneeDataset, rows: NDArray[np.int64], view: View) -> None:
        self.dataset, self.rows, self.view = dataset, rows, view
        self.frames = dataset.frames(view.size_px, view.plateau_widths)

    def draw(self, number: int, generator: torch.Generator) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = self.rows[torch.randint(len(self.rows), (number,), generator=generator).numpy()]
        return chosen

    def batch(
        self,
        rows: NDArray[np.int64],
        augmentation: Augmentation,
        extra: Tensor,
        wrong: Tensor,
        generator: torch.Generator,
    ) -> Tensors:
        """Crops (B, 1, S, S), landmarks (B, 74, 2), their weights (B, 74), and 1 for a correct crop, else 0 (B,).

        Args:
            rows: knees.
            augmentation: drawn first.
            extra: (B, 3, 3) matrices that change the crops further.
            wrong: (B,) bool, crops that are mirrored or misplaced; their landmarks have weight 0.
            generator: source of all random numbers.
        """
        dataset, size = self.dataset, self.view.size_px
        params = make_params(len(rows), augmentation, generator)
        matrices = crop_matrices(torch.from_numpy(self.frames[rows]), params, size) @ extra
        images = hide_borders(torch.from_numpy(dataset.images[rows]), generator)
        landmarks, visible = torch.from_numpy(dataset.landmarks_px[rows]), torch.from_numpy(dataset.visible[rows])
        points, seen = augment_landmarks(landmarks, visible, matrices, params, size)
        weight = torch.from_numpy(dataset.landmark_weight[rows]).unsqueeze(1) * (seen & ~wrong.unsqueeze(1))
        return augment_images(images, matrices, params, size), points, weight, (~wrong).float()


def _mirror_matrices(mirrored: Tensor, size_px: int) -> Tensor:
    """(B, 3, 3) matrices that mirror the crops of a mask (B,) left to right, and the identity for the others."""
    mirror = torch.tensor([[-1.0, 0.0, size_px - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return torch.where(mirrored.view(-1, 1, 1), mirror, torch.eye(3))


def _misplacement_matrices(number: int, size_px: int, generator: torch.Generator) -> Tensor:
    """(B, 3, 3) matrices: 40 % mirror a crop, 20 % rotate it by quarter turns, 40 % shift it by a third or more."""
    kind = torch.rand(number, generator=generator)
    mirror = _mirror_matrices(kind < 0.4, size_px)
    quarter = torch.randint(1, 4, (number,), generator=generator) * (math.pi / 2) * ((kind >= 0.4) & (kind < 0.6))
    cos, sin = torch.cos(quarter), torch.sin(quarter)
    direction = torch.rand(number, generator=generator) * 2 * math.pi
    shift = size_px * (0.33 + 0.4 * torch.rand(number, generator=generator)) * (kind >= 0.6)
    middle, zero, one = (size_px - 1) / 2, torch.zeros(number), torch.ones(number)
    x = middle - cos * middle + sin * middle + shift * torch.cos(direction)
    y = middle - sin * middle - cos * middle + shift * torch.sin(direction)
    moves = torch.stack([cos, -sin, x, sin, cos, y, zero, zero, one], dim=1).reshape(-1, 3, 3)
    return mirror @ moves


def hide_borders(images: Tensor, generator: torch.Generator) -> Tensor:
    """Copies of dataset images; a third get borders of up to 12 % set to 0 (outside the film), as in a tight crop."""
    images = images.clone()
    borders = (torch.rand(len(images), 4, generator=generator) * 0.12 * images.shape[-1]).long()
    for image, (top, bottom, left, right) in zip(images, borders.tolist(), strict=True):
        if torch.rand(1, generator=generator) < 1 / 3:
            image[:top], image[image.shape[0] - bottom :] = 0, 0
            image[:, :left], image[:, image.shape[1] - right :] = 0, 0
    return images
