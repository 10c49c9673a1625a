"""Training of the landmark detector's two networks, the finder and the locator.

    kneegrade train recipes/detector.yaml --output runs/detector [--resume]

Each network is trained by `fit_network`: a batch function of (step, generator) and a loss; all randomness is a
function of (seed, step), so a run resumes where it stood.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.anatomy.finder import CENTRE, DOWN_X, DOWN_Y, FINDER_PX, FINDER_STRIDE, LOG_WIDTH, finder_network
from kneegrade.anatomy.locator import (
    LOCATOR_PX,
    LOCATOR_STRIDE,
    LOCATOR_WIDTHS,
    expected_cells,
    locator_network,
)
from kneegrade.anatomy.roi import sample_affine, stretch_contrast
from kneegrade.learning.augmentation import cut_regions, draw_changes, move_landmarks, region_matrices
from kneegrade.learning.checkpoint import Position, load_checkpoint, save_checkpoint
from kneegrade.learning.recipe import DetectorRecipe, NetworkTraining
from kneegrade.learning.scenes import POSE_LENGTH, Scenes
from kneegrade.learning.store import Store

Batch = tuple[Tensor, ...]
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Task:
    """One network to be trained: its batches, its loss, its recipe."""

    name: str
    network: nn.Module
    batch: Callable[[int, torch.Generator], Batch]
    loss: Callable[[tuple[Tensor, Tensor], Batch], Tensor]
    training: NetworkTraining


def fit_network(task: Task, recipe: DetectorRecipe, directory: Path, progress: Progress | None = None) -> None:
    """Train `task.network` in place with AdamW, one cosine cycle, bf16 autocast; resumes from its checkpoint."""
    network = task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = task.training
    optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    parts, position = {"network": network, "optimiser": optimiser}, Position()
    checkpoint = directory / f"{task.name}.pt"
    if checkpoint.is_file():
        position = load_checkpoint(checkpoint, recipe.model_dump_json(), parts)
    network.train()
    for step in range(position.step, training.steps):
        share = step / training.steps
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * min(share / 0.03 + 1e-2, 0.5 * (1 + math.cos(math.pi * share)))
        key = np.random.SeedSequence([recipe.seed, step, len(task.name)]).generate_state(1)[0]
        batch = task.batch(step, torch.Generator().manual_seed(int(key)))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            output = network(batch[0].to(memory_format=torch.channels_last))
        loss = task.loss(output, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        if progress:
            progress(step + 1, training.steps, loss.item())
        if step % 50 == 0:
            line = {"time": round(time.time(), 1), "network": task.name, "step": step, "loss": loss.item()}
            with (directory / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if step % 500 == 499 or step + 1 == training.steps:
            save_checkpoint(checkpoint, recipe.model_dump_json(), Position(0, step + 1), parts)
    network.eval()


def finder_task(scenes: Scenes, recipe: DetectorRecipe) -> Task:
    """Joint centres by the penalty-reduced focal loss (Law and Deng, CornerNet, ECCV 2018); pose by L1 beside them."""

    def batch(step: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(scenes.images), (recipe.finder.batch_size,), generator=generator).numpy()
        images = torch.from_numpy(scenes.images[rows]).float().unsqueeze(1)
        return turn_scenes(images, torch.from_numpy(scenes.poses[rows]), generator)

    return Task("finder", finder_network(), batch, finder_loss, recipe.finder)


def turn_scenes(images: Tensor, poses: Tensor, generator: torch.Generator) -> Batch:
    """Scenes (B, 1, 256, 256) turned (±25°, some by quarter turns), scaled, shifted, with changed grey values."""
    number = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    quarter = torch.randint(4, (number,), generator=generator) * (torch.rand(number, generator=generator) < 0.2)
    angle = uniform(number) * math.radians(25) + quarter * math.pi / 2
    scale = torch.exp(uniform(number) * 0.35)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    middle = (FINDER_PX - 1) / 2
    offset = middle + uniform(number, 2) * 0.12 * FINDER_PX - turn.sum(2) * middle
    pictures, _ = sample_affine(images, torch.cat([turn, offset.unsqueeze(2)], dim=2), FINDER_PX)
    covered = pictures > 0.5
    pictures = stretch_contrast((pictures - 1).clamp(min=0) / 254, covered)
    gamma = torch.exp(uniform(number) * 0.5).view(-1, 1, 1, 1)
    grain = torch.randn(pictures.shape, generator=generator) * torch.rand(number, 1, 1, 1, generator=generator) * 0.06
    inverse = torch.linalg.inv(turn)
    centres = (poses[..., :2] - offset.unsqueeze(1)) @ inverse.transpose(1, 2)
    width = poses[..., 2:3] / scale.view(-1, 1, 1)
    down = functional.normalize(poses[..., 3:] @ inverse.transpose(1, 2), dim=-1)
    return (pictures**gamma + grain).clamp(0, 1), torch.cat([centres, width, down], dim=2)


def finder_loss(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Focal loss on the centre map plus L1 on log width and direction in the 3×3 cells about each centre."""
    maps, poses = output[0].float(), batch[1].reshape(len(batch[1]), -1, POSE_LENGTH)
    size = maps.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    cells = poses[..., :2] / FINDER_STRIDE  # (B, 2, 2)
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
    error = (maps[:, LOG_WIDTH] - (wanted[..., 2] / FINDER_PX).log()).abs()
    error = error + (maps[:, DOWN_X] - wanted[..., 3]).abs() + (maps[:, DOWN_Y] - wanted[..., 4]).abs()
    return focal + (error * near).sum() / near.sum().clamp(min=1)


def locator_task(store: Store, rows: np.ndarray, recipe: DetectorRecipe) -> Task:
    """Heat maps against Gaussians of one cell and their expectation against the points; a fifth of knees mirrored."""
    frames = store.frames(LOCATOR_PX, LOCATOR_WIDTHS)

    def batch(step: int, generator: torch.Generator) -> Batch:
        pick = rows[torch.randint(len(rows), (recipe.locator.batch_size,), generator=generator).numpy()]
        changes = draw_changes(len(pick), recipe.augmentation, generator)
        matrices = region_matrices(torch.from_numpy(frames[pick]), changes, LOCATOR_PX)
        mirrored = torch.rand(len(pick), generator=generator) < 0.2
        flip = torch.tensor([[-1.0, 0.0, LOCATOR_PX - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        matrices = torch.where(mirrored.view(-1, 1, 1), matrices @ flip, matrices)
        regions = cut_regions(
            hide_borders(torch.from_numpy(store.images[pick]), generator), matrices, changes, LOCATOR_PX
        )
        points, seen = move_landmarks(
            torch.from_numpy(store.landmarks_px[pick]),
            torch.from_numpy(store.visible[pick]),
            matrices,
            changes,
            LOCATOR_PX,
        )
        return regions, points, seen & ~mirrored.unsqueeze(1), (~mirrored).float()

    return Task("locator", locator_network(), batch, locator_loss, recipe.locator)


def hide_borders(images: Tensor, generator: torch.Generator) -> Tensor:
    """Stored pictures, a third of them shuttered by up to 12 % at each border, as a tight crop would be."""
    images = images.clone()
    shutters = (torch.rand(len(images), 4, generator=generator) * 0.12 * images.shape[-1]).long()
    for picture, (top, bottom, left, right) in zip(images, shutters.tolist(), strict=True):
        if torch.rand(1, generator=generator) < 1 / 3:
            picture[:top], picture[picture.shape[0] - bottom :] = 0, 0
            picture[:, :left], picture[:, picture.shape[1] - right :] = 0, 0
    return images


def locator_loss(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Cross entropy of the maps + expectation's L1 in cells, over seen points; + the side's cross entropy."""
    maps, scalars = output
    _, points, seen, lateral_left = batch
    cells = points / LOCATOR_STRIDE
    expectation, _ = expected_cells(maps)
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = (x - cells[..., 0, None, None]) ** 2 + (y - cells[..., 1, None, None]) ** 2
    target = functional.softmax(-distance.flatten(2) / 2, dim=-1)
    entropy = -(target * maps.float().flatten(2).log_softmax(-1)).sum(-1)
    offset = functional.smooth_l1_loss(expectation, cells, reduction="none", beta=0.5).sum(-1)
    count = seen.sum().clamp(min=1)
    side = functional.binary_cross_entropy_with_logits(scalars[:, 0].float(), lateral_left)
    return ((entropy + offset) * seen).sum() / count + 0.3 * side
