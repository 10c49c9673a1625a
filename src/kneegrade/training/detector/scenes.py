"""Scenes, the training images of the knee localizer: whole films at 256 px.

A scene is a real film, a phantom film, or an empty film with one or two real knees. It is a 256 px square with value 0
outside the film and 1 … 255 on it, and has up to two poses (centre x, y, plateau width, downward direction x, y; in
pixels).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.geometry import pose_of, sample_affine, stretch_contrast
from kneegrade.anatomy.knee_localizer import LOCALIZER_PX, localizer_input
from kneegrade.cohorts import landmark_array
from kneegrade.files import replacing
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import FilmOptions, render_film
from kneegrade.progress import Progress
from kneegrade.training.dataset import DATASET_PX, KneeDataset, encode

POSE_LENGTH = 5


@dataclass(frozen=True, eq=False)
class Scenes:
    """M scenes.

    Attributes:
        images: (M, 256, 256) uint8.
        poses: (M, 2, 5) float32, NaN where there is no knee.
    """

    images: NDArray[np.uint8]
    poses: NDArray[np.float32]


def film_scenes(table: pd.DataFrame, views: int) -> Scenes:
    """Scenes of the whole films of a manifest, every film `views` times.

    Args:
        table: manifest with landmarks; it lists all knees of a film.
        views: number of scenes per film.
    """
    images, poses = [], []
    for path, knees in table.groupby("image_path", sort=True):
        pixels = torch.from_numpy(read_radiograph(Path(str(path))).pixels)
        picture, factor = localizer_input(pixels)
        inside = np.zeros((LOCALIZER_PX, LOCALIZER_PX), dtype=np.bool_)
        inside[: round(pixels.shape[0] / factor), : round(pixels.shape[1] / factor)] = True
        images.append(encode(picture[0, 0].numpy(), inside))
        film_poses = np.full((2, POSE_LENGTH), np.nan, dtype=np.float32)
        film_poses[: len(knees)] = [_pose_row((points + 0.5) / factor - 0.5) for points in landmark_array(knees)[:2]]
        poses.append(film_poses)
    return Scenes(np.repeat(np.stack(images), views, axis=0), np.repeat(np.stack(poses), views, axis=0))


def phantom_scenes(number: int, seed: int, progress: Progress | None = None) -> Scenes:
    """Scenes of phantom films of all layouts, rendered at low resolution."""
    images = np.zeros((number, LOCALIZER_PX, LOCALIZER_PX), dtype=np.uint8)
    poses = np.full((number, 2, POSE_LENGTH), np.nan, dtype=np.float32)
    for index in range(number):
        film = render_film(seed, index, FilmOptions(longest_px=LOCALIZER_PX))
        height, width = film.pixels.shape
        images[index, :height, :width] = encode(film.pixels, np.ones(film.pixels.shape, dtype=np.bool_))
        for slot, knee in enumerate(film.knees):
            poses[index, slot] = _pose_row(knee.landmarks_px)
        if progress:
            progress(index + 1, number)
    return Scenes(images, poses)


def composed_scenes(dataset: KneeDataset, rows: NDArray[np.int64], number: int, seed: int) -> Scenes:
    """Scenes with a single real knee at random position and size, or with a right and a left knee side by side.

    Args:
        dataset: knees.
        rows: knees to choose from.
        number: of scenes.
        seed: of all random choices.
    """
    images = np.zeros((number, LOCALIZER_PX, LOCALIZER_PX), dtype=np.uint8)
    poses = np.full((number, 2, POSE_LENGTH), np.nan, dtype=np.float32)
    for index in range(number):
        generator = np.random.default_rng([seed, index])
        pair = generator.random() < 0.5
        side_px = generator.uniform(70, 125) if pair else generator.uniform(90, 300)
        for slot in range(1 + pair):
            centre = np.array([LOCALIZER_PX * (0.27 + 0.46 * slot if pair else 0.5), LOCALIZER_PX * 0.5])
            centre = centre + generator.uniform(-0.06, 0.06, 2) * LOCALIZER_PX
            row = int(generator.choice(rows))
            mirrored = bool(slot) if pair else generator.random() < 0.5
            poses[index, slot] = _paste(images[index], dataset, row, centre=centre, side_px=side_px, mirrored=mirrored)
    return Scenes(images, poses)


def _paste(
    canvas: NDArray[np.uint8],
    dataset: KneeDataset,
    row: int,
    *,
    centre: NDArray[np.float64],
    side_px: float,
    mirrored: bool,
) -> NDArray[np.float32]:
    """Draw a knee into `canvas` and return its pose."""
    crop, points = dataset.images[row], dataset.landmarks_px[row].astype(np.float64)
    if mirrored:
        crop, points = crop[:, ::-1], points * [-1, 1] + [DATASET_PX - 1, 0]
    step = DATASET_PX / side_px
    corner = centre - (side_px - 1) / 2
    smooth = ndimage.gaussian_filter(crop.astype(np.float32), step / 3)
    matrix = np.array([step, step])
    offset = -corner[::-1] * step
    pasted = ndimage.affine_transform(smooth, matrix, offset, canvas.shape, order=1)
    covered = ndimage.affine_transform((crop > 0).astype(np.float32), matrix, offset, canvas.shape, order=1) > 0.5
    canvas[covered] = np.clip(pasted[covered], 1, 255).astype(np.uint8)
    return _pose_row(points / step + corner)


def _pose_row(landmarks_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """(5,) pose of a knee with these landmarks."""
    pose = pose_of(landmarks_px)
    return np.array([*pose.centre, pose.width, *pose.down], dtype=np.float32)


def join_scenes(parts: list[Scenes]) -> Scenes:
    """All scenes of several sets."""
    return Scenes(np.concatenate([p.images for p in parts]), np.concatenate([p.poses for p in parts]))


def save_scenes(path: Path, scenes: Scenes) -> None:
    """Write scenes to a `.npz` file, completely or not at all."""
    with replacing(path, "wb") as stream:
        np.savez(stream, images=scenes.images, poses=scenes.poses)


def load_scenes(path: Path) -> Scenes:
    """Scenes written by `save_scenes`."""
    arrays = np.load(path)
    return Scenes(arrays["images"], arrays["poses"])


def augment_scenes(images: Tensor, poses: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented scenes (B, 1, 256, 256) in [0, 1] and their poses (B, 2, 5).

    Scenes are rotated (±25°, some by quarter turns), scaled and shifted, and their grey values change. A fifth are
    shrunk to as little as half, as on a film of whole legs.

    Args:
        images: (B, 1, 256, 256) float32, 0 outside the film, 1 … 255 on it.
        poses: (B, 2, 5), NaN where there is no knee.
        generator: source of all random numbers.
    """
    number = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    quarter = torch.randint(4, (number,), generator=generator) * (torch.rand(number, generator=generator) < 0.2)
    angle = uniform(number) * math.radians(25) + quarter * math.pi / 2
    shrinkage = torch.rand(number, generator=generator) * (torch.rand(number, generator=generator) < 0.2)
    scale = torch.exp(uniform(number) * 0.35 + shrinkage * 0.7)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    linear = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)  # output pixels → input pixels
    middle = (LOCALIZER_PX - 1) / 2
    offset = middle + uniform(number, 2) * 0.12 * LOCALIZER_PX - linear.sum(2) * middle
    pictures, _ = sample_affine(images, torch.cat([linear, offset.unsqueeze(2)], dim=2), LOCALIZER_PX)
    covered = pictures > 0.5
    pictures = stretch_contrast((pictures - 1).clamp(min=0) / 254, covered)
    gamma = torch.exp(uniform(number) * 0.5).view(-1, 1, 1, 1)
    noise = torch.randn(pictures.shape, generator=generator) * torch.rand(number, 1, 1, 1, generator=generator) * 0.06
    inverse = torch.linalg.inv(linear)
    centres = (poses[..., :2] - offset.unsqueeze(1)) @ inverse.transpose(1, 2)
    width = poses[..., 2:3] / scale.view(-1, 1, 1)
    down = functional.normalize(poses[..., 3:] @ inverse.transpose(1, 2), dim=-1)
    return (pictures**gamma + noise).clamp(0, 1), torch.cat([centres, width, down], dim=2)
