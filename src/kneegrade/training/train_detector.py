"""Training of the two locators: knees of a store as the network will meet them, and the loss on their points.

Training of the landmark detector: its finder and its two locators, one after the other.

kneegrade train recipes/detector.yaml --output runs/detector [--resume]

Training of the finder: scenes turned, scaled and shifted, and the loss on their centres, sizes and directions.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.geometry import sample_affine, stretch_contrast
from kneegrade.anatomy.landmark_networks import (
    CENTRE,
    COARSE,
    DOWN_X,
    DOWN_Y,
    FINE,
    LANDMARK_STRIDE,
    LOCALIZER_PX,
    LOCALIZER_STRIDE,
    LOG_WIDTH,
    View,
    coarse_landmark_network,
    expected_cells,
    fine_landmark_network,
    knee_localizer_network,
)
from kneegrade.cohorts import load_manifest
from kneegrade.errors import RecipeError
from kneegrade.training.augmentation import augment_images, augment_landmarks, crop_matrices, make_params
from kneegrade.training.config import Augmentation, DetectorRecipe
from kneegrade.training.dataset import KneeDataset, load_datasets
from kneegrade.training.detector_trainer import Batch, Output, Progress, Task, fit_network
from kneegrade.training.scenes import (
    POSE_LENGTH,
    Scenes,
    composed_scenes,
    film_scenes,
    join_scenes,
    load_scenes,
    phantom_scenes,
    save_scenes,
)
from kneegrade.weights import load_part, load_weights

NETWORKS = {"coarse": coarse_landmark_network, "finder": knee_localizer_network, "fine": fine_landmark_network}


def train_detector(
    recipe: DetectorRecipe, directory: Path, progress: Progress | None = None
) -> dict[str, torch.Tensor] | None:
    """Tensors of the trained networks, `finder.…`, `coarse.…`, `fine.…`; None when a SIGTERM ended it early.

    A network of 0 steps is the start's, or left as it was drawn.

    Raises:
        RecipeError: no training knee in the stores.
        WeightsError: `start` is not a detector's weights.
    """
    store = load_datasets(recipe.stores)
    rows = np.flatnonzero(store.split == "train")
    if not len(rows):
        raise RecipeError("The stores hold no knee of split train.")
    start = load_weights(recipe.start, "detector") if recipe.start else None
    tensors: dict[str, torch.Tensor] = {}
    tasks: dict[str, Callable[[], Task]] = {
        "coarse": lambda: coarse_task(store, rows, recipe),
        "finder": lambda: localizer_task(_scenes(store, rows, recipe, directory), recipe),
        "fine": lambda: fine_task(store, rows, recipe),
    }
    for name, make in NETWORKS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            task = tasks[name]() if getattr(recipe, name).steps else None
            network = task.network if task else make()
        if start:
            load_part(network, start, name)
        if task and not fit_network(task, recipe, directory, progress):
            return None
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    return tensors


def _scenes(store: KneeDataset, rows: np.ndarray, recipe: DetectorRecipe, directory: Path) -> Scenes:
    """What the finder learns from; made once and kept in the run's folder."""
    held = directory / "scenes.npz"
    if not held.is_file():
        real = rows[store.source[rows] != "phantom"]
        tables = [load_manifest(path) for path in recipe.films]
        tables = [table[table["split"] == "train"] for table in tables]
        parts = [film_scenes(table, recipe.film_views) for table in tables if len(table)]
        if recipe.phantom_scenes:
            parts.append(phantom_scenes(recipe.phantom_scenes, recipe.seed))
        if len(real) and recipe.composed_scenes:
            parts.append(composed_scenes(store, real, recipe.composed_scenes, recipe.seed))
        if not parts:
            raise RecipeError("The finder has nothing to learn from: name films, or phantom or composed scenes.")
        save_scenes(held, join_scenes(parts))
    return load_scenes(held)


def localizer_task(scenes: Scenes, recipe: DetectorRecipe) -> Task:
    """Joint centres by the penalty-reduced focal loss (Law and Deng, CornerNet, ECCV 2018); pose by L1 beside them."""

    def batch(step: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(scenes.images), (recipe.finder.batch_size,), generator=generator).numpy()
        images = torch.from_numpy(scenes.images[rows]).float().unsqueeze(1)
        return turn_scenes(images, torch.from_numpy(scenes.poses[rows]), generator)

    return Task("finder", knee_localizer_network(), batch, localizer_loss, recipe.finder)


def turn_scenes(images: Tensor, poses: Tensor, generator: torch.Generator) -> Batch:
    """Scenes (B, 1, 256, 256) turned (±25°, some by quarter turns), scaled, shifted, with changed grey values.

    A fifth are shrunk to as little as half, as on a film of whole legs.
    """
    number = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    quarter = torch.randint(4, (number,), generator=generator) * (torch.rand(number, generator=generator) < 0.2)
    angle = uniform(number) * math.radians(25) + quarter * math.pi / 2
    far = torch.rand(number, generator=generator) * (torch.rand(number, generator=generator) < 0.2)
    scale = torch.exp(uniform(number) * 0.35 + far * 0.7)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    middle = (LOCALIZER_PX - 1) / 2
    offset = middle + uniform(number, 2) * 0.12 * LOCALIZER_PX - turn.sum(2) * middle
    pictures, _ = sample_affine(images, torch.cat([turn, offset.unsqueeze(2)], dim=2), LOCALIZER_PX)
    covered = pictures > 0.5
    pictures = stretch_contrast((pictures - 1).clamp(min=0) / 254, covered)
    gamma = torch.exp(uniform(number) * 0.5).view(-1, 1, 1, 1)
    grain = torch.randn(pictures.shape, generator=generator) * torch.rand(number, 1, 1, 1, generator=generator) * 0.06
    inverse = torch.linalg.inv(turn)
    centres = (poses[..., :2] - offset.unsqueeze(1)) @ inverse.transpose(1, 2)
    width = poses[..., 2:3] / scale.view(-1, 1, 1)
    down = functional.normalize(poses[..., 3:] @ inverse.transpose(1, 2), dim=-1)
    return (pictures**gamma + grain).clamp(0, 1), torch.cat([centres, width, down], dim=2)


def localizer_loss(output: Output, batch: Batch) -> Tensor:
    """Focal loss on the centre map plus L1 on log width and direction in the 3×3 cells about each centre."""
    maps, poses = output[0].float(), batch[1].reshape(len(batch[1]), -1, POSE_LENGTH)
    size = maps.shape[-1]
    y, x = torch.meshgrid(*2 * [torch.arange(size, device=maps.device)], indexing="ij")
    cells = poses[..., :2] / LOCALIZER_STRIDE  # (B, 2, 2)
    distance = ((x - cells[..., 0, None, None]) ** 2 + (y - cells[..., 1, None, None]) ** 2).nan_to_num(1e6)
    heat = torch.exp(-distance / 2).amax(1)  # (B, h, w), one cell standard deviation
    peak = (distance.amin(1) <= 0.5) & (heat > 0)
    score = torch.sigmoid(maps[:, CENTRE]).clamp(1e-5, 1 - 1e-5)
    hit = -((1 - score) ** 2) * score.log() * peak
    miss = -((1 - heat) ** 4) * score**2 * (1 - score).log() * ~peak
    focal = (hit.sum() + miss.sum()) / peak.sum().clamp(min=1)
    nearest = distance.argmin(1)  # which knee each cell belongs to
    near = distance.amin(1) <= 2.3
    wanted = torch.gather(poses.nan_to_num(1.0), 1, nearest.flatten(1).unsqueeze(-1).expand(-1, -1, POSE_LENGTH))
    wanted = wanted.reshape(-1, size, size, POSE_LENGTH)
    error = (maps[:, LOG_WIDTH] - (wanted[..., 2] / LOCALIZER_PX).log()).abs()
    error = error + (maps[:, DOWN_X] - wanted[..., 3]).abs() + (maps[:, DOWN_Y] - wanted[..., 4]).abs()
    return focal + (error * near).sum() / near.sum().clamp(min=1)


MIRRORED_COARSE, WRONG_FINE = 0.4, 0.15  # shares of a batch


def coarse_task(store: KneeDataset, rows: NDArray[np.int64], recipe: DetectorRecipe) -> Task:
    """The coarse locator: knees in either orientation, mirrored ones for the side alone."""
    draw = _Regions(store, rows, COARSE)

    def batch(step: int, generator: torch.Generator) -> Batch:
        pick = draw.pick(recipe.coarse.batch_size, generator)
        mirrored = torch.rand(len(pick), generator=generator) < MIRRORED_COARSE
        turns = _flips(mirrored, COARSE.size_px)
        return draw.batch(pick, (recipe.coarse_augmentation, turns, mirrored), generator)

    return Task("coarse", coarse_landmark_network(), batch, landmark_loss, recipe.coarse)


def fine_task(store: KneeDataset, rows: NDArray[np.int64], recipe: DetectorRecipe) -> Task:
    """The fine locator: level knees, and a few that are mirrored or out of place, for it to say so."""
    draw = _Regions(store, rows, FINE)

    def batch(step: int, generator: torch.Generator) -> Batch:
        pick = draw.pick(recipe.fine.batch_size, generator)
        wrong = torch.rand(len(pick), generator=generator) < WRONG_FINE
        turns = torch.where(wrong.view(-1, 1, 1), _misplaced(len(pick), FINE.size_px, generator), torch.eye(3))
        return draw.batch(pick, (recipe.fine_augmentation, turns, wrong), generator)

    return Task("fine", fine_landmark_network(), batch, landmark_loss, recipe.fine)


class _Regions:
    """Draws batches (regions, points, weight of each point, 1 where the knee is as it should be)."""

    def __init__(self, store: KneeDataset, rows: NDArray[np.int64], view: View) -> None:
        self.store, self.rows, self.view = store, rows, view
        self.frames = store.frames(view.size_px, view.widths)

    def pick(self, number: int, generator: torch.Generator) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = self.rows[torch.randint(len(self.rows), (number,), generator=generator).numpy()]
        return chosen

    def batch(
        self, pick: NDArray[np.int64], how: tuple[Augmentation, Tensor, Tensor], generator: torch.Generator
    ) -> Batch:
        """Knees `pick` changed by an augmentation and then by matrices (B, 3, 3); those of a mask are wrong."""
        augmentation, turns, wrong = how
        store, size = self.store, self.view.size_px
        changes = make_params(len(pick), augmentation, generator)
        matrices = crop_matrices(torch.from_numpy(self.frames[pick]), changes, size) @ turns
        images = hide_borders(torch.from_numpy(store.images[pick]), generator)
        points, seen = augment_landmarks(
            torch.from_numpy(store.landmarks_px[pick]), torch.from_numpy(store.visible[pick]), matrices, changes, size
        )
        weight = torch.from_numpy(store.landmark_weight[pick]).unsqueeze(1) * (seen & ~wrong.unsqueeze(1))
        return augment_images(images, matrices, changes, size), points, weight, (~wrong).float()


def _flips(mirrored: Tensor, size_px: int) -> Tensor:
    """(B, 3, 3) matrices that mirror the squares of a mask (B,) and leave the others."""
    flip = torch.tensor([[-1.0, 0.0, size_px - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return torch.where(mirrored.view(-1, 1, 1), flip, torch.eye(3))


def _misplaced(number: int, size_px: int, generator: torch.Generator) -> Tensor:
    """(B, 3, 3) matrices that mirror a square, turn it by quarters, or move it by a third of its side or more."""
    kind = torch.rand(number, generator=generator)
    turns = _flips(kind < 0.4, size_px)
    quarter = torch.randint(1, 4, (number,), generator=generator) * (math.pi / 2) * ((kind >= 0.4) & (kind < 0.6))
    cos, sin = torch.cos(quarter), torch.sin(quarter)
    direction = torch.rand(number, generator=generator) * 2 * math.pi
    far = size_px * (0.33 + 0.4 * torch.rand(number, generator=generator)) * (kind >= 0.6)
    middle, zero, one = (size_px - 1) / 2, torch.zeros(number), torch.ones(number)
    x = middle - cos * middle + sin * middle + far * torch.cos(direction)
    y = middle - sin * middle - cos * middle + far * torch.sin(direction)
    moves = torch.stack([cos, -sin, x, sin, cos, y, zero, zero, one], dim=1).reshape(-1, 3, 3)
    return turns @ moves


def hide_borders(images: Tensor, generator: torch.Generator) -> Tensor:
    """Stored pictures, a third of them shuttered by up to 12 % at each border, as a tight crop would be."""
    images = images.clone()
    shutters = (torch.rand(len(images), 4, generator=generator) * 0.12 * images.shape[-1]).long()
    for picture, (top, bottom, left, right) in zip(images, shutters.tolist(), strict=True):
        if torch.rand(1, generator=generator) < 1 / 3:
            picture[:top], picture[picture.shape[0] - bottom :] = 0, 0
            picture[:, :left], picture[:, picture.shape[1] - right :] = 0, 0
    return images


def landmark_loss(output: Output, batch: Batch) -> Tensor:
    """Weighted mean over points of the maps' cross entropy and the expectation's L1 in cells; + 0.3 of the logit's.

    A map is held against a Gaussian of one cell about its point, so that what it spreads beyond one cell is what the
    network does not know.
    """
    maps, score = output
    _, points, weight, right = batch
    cells = points / LANDMARK_STRIDE
    expectation, _ = expected_cells(maps)
    height, width = maps.shape[-2:]
    # The Gaussian is separable; where it runs over the border the part inside counts as all.
    x = functional.softmax(-((torch.arange(width, device=maps.device) - cells[..., :1]) ** 2) / 2, dim=-1)
    y = functional.softmax(-((torch.arange(height, device=maps.device) - cells[..., 1:]) ** 2) / 2, dim=-1)
    held = maps.float()
    entropy = held.flatten(2).logsumexp(-1) - torch.einsum("bnhw,bnh,bnw->bn", held, y, x)
    offset = functional.smooth_l1_loss(expectation, cells, reduction="none", beta=0.1).sum(-1)
    side = functional.binary_cross_entropy_with_logits(score.float(), right)
    return ((entropy + offset) * weight).sum() / weight.sum().clamp(min=1) + 0.3 * side
