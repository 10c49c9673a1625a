"""Training of the two locators: knees of a store as the network will meet them, and the loss on their points."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.locator import COARSE, FINE, LOCATOR_STRIDE, View, coarse_network, expected_cells, fine_network
from kneegrade.learning.augmentation import cut_regions, draw_changes, move_landmarks, region_matrices
from kneegrade.learning.fitting import Batch, Output, Task
from kneegrade.learning.recipe import Augmentation, DetectorRecipe
from kneegrade.learning.store import Store

MIRRORED_COARSE, WRONG_FINE = 0.4, 0.15  # shares of a batch


def coarse_task(store: Store, rows: NDArray[np.int64], recipe: DetectorRecipe) -> Task:
    """The coarse locator: knees in either orientation, mirrored ones for the side alone."""
    draw = _Regions(store, rows, COARSE)

    def batch(step: int, generator: torch.Generator) -> Batch:
        pick = draw.pick(recipe.coarse.batch_size, generator)
        mirrored = torch.rand(len(pick), generator=generator) < MIRRORED_COARSE
        turns = _flips(mirrored, COARSE.size_px)
        return draw.batch(pick, (recipe.coarse_augmentation, turns, mirrored), generator)

    return Task("coarse", coarse_network(), batch, locator_loss, recipe.coarse)


def fine_task(store: Store, rows: NDArray[np.int64], recipe: DetectorRecipe) -> Task:
    """The fine locator: level knees, and a few that are mirrored or out of place, for it to say so."""
    draw = _Regions(store, rows, FINE)

    def batch(step: int, generator: torch.Generator) -> Batch:
        pick = draw.pick(recipe.fine.batch_size, generator)
        wrong = torch.rand(len(pick), generator=generator) < WRONG_FINE
        turns = torch.where(wrong.view(-1, 1, 1), _misplaced(len(pick), FINE.size_px, generator), torch.eye(3))
        return draw.batch(pick, (recipe.fine_augmentation, turns, wrong), generator)

    return Task("fine", fine_network(), batch, locator_loss, recipe.fine)


class _Regions:
    """Draws batches (regions, points, weight of each point, 1 where the knee is as it should be)."""

    def __init__(self, store: Store, rows: NDArray[np.int64], view: View) -> None:
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
        changes = draw_changes(len(pick), augmentation, generator)
        matrices = region_matrices(torch.from_numpy(self.frames[pick]), changes, size) @ turns
        images = hide_borders(torch.from_numpy(store.images[pick]), generator)
        points, seen = move_landmarks(
            torch.from_numpy(store.landmarks_px[pick]), torch.from_numpy(store.visible[pick]), matrices, changes, size
        )
        weight = torch.from_numpy(store.trust[pick]).unsqueeze(1) * (seen & ~wrong.unsqueeze(1))
        return cut_regions(images, matrices, changes, size), points, weight, (~wrong).float()


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


def locator_loss(output: Output, batch: Batch) -> Tensor:
    """Weighted mean over points of the maps' cross entropy and the expectation's L1 in cells; + 0.3 of the logit's.

    A map is held against a Gaussian of one cell about its point, so that what it spreads beyond one cell is what the
    network does not know.
    """
    maps, score = output
    _, points, weight, right = batch
    cells = points / LOCATOR_STRIDE
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
