"""Training of the finder: scenes turned, scaled and shifted, and the loss on their centres, sizes and directions."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.finder import CENTRE, DOWN_X, DOWN_Y, FINDER_PX, FINDER_STRIDE, LOG_WIDTH, finder_network
from kneegrade.anatomy.roi import sample_affine, stretch_contrast
from kneegrade.learning.fitting import Batch, Output, Task
from kneegrade.learning.recipe import DetectorRecipe
from kneegrade.learning.scenes import POSE_LENGTH, Scenes


def finder_task(scenes: Scenes, recipe: DetectorRecipe) -> Task:
    """Joint centres by the penalty-reduced focal loss (Law and Deng, CornerNet, ECCV 2018); pose by L1 beside them."""

    def batch(step: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(scenes.images), (recipe.finder.batch_size,), generator=generator).numpy()
        images = torch.from_numpy(scenes.images[rows]).float().unsqueeze(1)
        return turn_scenes(images, torch.from_numpy(scenes.poses[rows]), generator)

    return Task("finder", finder_network(), batch, finder_loss, recipe.finder)


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


def finder_loss(output: Output, batch: Batch) -> Tensor:
    """Focal loss on the centre map plus L1 on log width and direction in the 3×3 cells about each centre."""
    maps, poses = output[0].float(), batch[1].reshape(len(batch[1]), -1, POSE_LENGTH)
    size = maps.shape[-1]
    y, x = torch.meshgrid(*2 * [torch.arange(size, device=maps.device)], indexing="ij")
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
