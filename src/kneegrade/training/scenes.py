"""Small whole films for the knee finder: real films, phantoms, and real crops alone or in pairs on an empty film.

A scene is a 256 px square, value 0 outside the film, with up to two poses (centre x, y, plateau width in pixels,
down x, y).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.landmark_networks import LOCALIZER_PX, localizer_input
from kneegrade.cohorts import landmark_array
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import FilmOptions, render_film
from kneegrade.training.dataset import DATASET_PX, KneeDataset, encode

POSE_LENGTH = 5


@dataclass(frozen=True, eq=False)
class Scenes:
    """images (M, 256, 256) uint8; poses (M, 2, 5) float32, NaN rows where there is no knee."""

    images: NDArray[np.uint8]
    poses: NDArray[np.float32]


def phantom_scenes(number: int, seed: int, progress: Callable[[int, int], None] | None = None) -> Scenes:
    """Coarse phantom films of every layout, shrunk to fit the finder."""
    images = np.zeros((number, LOCALIZER_PX, LOCALIZER_PX), dtype=np.uint8)
    poses = np.full((number, 2, POSE_LENGTH), np.nan, dtype=np.float32)
    for index in range(number):
        film = render_film(seed, index, FilmOptions(longest_px=LOCALIZER_PX))
        height, width = film.pixels.shape
        images[index, :height, :width] = encode(film.pixels, np.ones(film.pixels.shape, dtype=np.bool_))
        for slot, knee in enumerate(film.knees):
            poses[index, slot] = _row(knee.landmarks_px)
        if progress:
            progress(index + 1, number)
    return Scenes(images, poses)


def composed_scenes(store: KneeDataset, rows: NDArray[np.int64], number: int, seed: int) -> Scenes:
    """Real crops of `rows` alone (any place, any size) or as a right and a left knee side by side."""
    images = np.zeros((number, LOCALIZER_PX, LOCALIZER_PX), dtype=np.uint8)
    poses = np.full((number, 2, POSE_LENGTH), np.nan, dtype=np.float32)
    for index in range(number):
        generator = np.random.default_rng([seed, index])
        pair = generator.random() < 0.5
        side = generator.uniform(70, 125) if pair else generator.uniform(90, 300)
        for slot in range(1 + pair):
            centre = np.array([LOCALIZER_PX * (0.27 + 0.46 * slot if pair else 0.5), LOCALIZER_PX * 0.5])
            centre = centre + generator.uniform(-0.06, 0.06, 2) * LOCALIZER_PX
            row = generator.choice(rows)
            mirrored = bool(slot) if pair else generator.random() < 0.5
            poses[index, slot] = _paste(images[index], store, int(row), (centre, side, mirrored))
    return Scenes(images, poses)


def _paste(
    canvas: NDArray[np.uint8], store: KneeDataset, row: int, place: tuple[NDArray[np.float64], float, bool]
) -> NDArray[np.float32]:
    centre, side, mirrored = place
    crop, points = store.images[row], store.landmarks_px[row].astype(np.float64)
    if mirrored:
        crop, points = crop[:, ::-1], points * [-1, 1] + [DATASET_PX - 1, 0]
    step = DATASET_PX / side
    corner = centre - (side - 1) / 2
    smooth = ndimage.gaussian_filter(crop.astype(np.float32), step / 3)
    matrix = np.array([step, step])
    offset = -corner[::-1] * step
    pasted = ndimage.affine_transform(smooth, matrix, offset, canvas.shape, order=1)
    covered = ndimage.affine_transform((crop > 0).astype(np.float32), matrix, offset, canvas.shape, order=1) > 0.5
    canvas[covered] = np.clip(pasted[covered], 1, 255).astype(np.uint8)
    return _row(points / step + corner)


def _row(landmarks_px: NDArray[np.float64]) -> NDArray[np.float32]:
    pose = pose_of(landmarks_px)
    return np.array([*pose.centre, pose.width, *pose.down], dtype=np.float32)


def film_scenes(table: pd.DataFrame, views: int) -> Scenes:
    """Every whole film of a manifest `views` times over; its rows are the knees of films, all of those in a film."""
    images, poses = [], []
    for path, knees in table.groupby("image_path", sort=True):
        pixels = torch.from_numpy(read_radiograph(Path(str(path))).pixels)
        picture, factor = localizer_input(pixels)
        inside = np.zeros((LOCALIZER_PX, LOCALIZER_PX), dtype=np.bool_)
        inside[: round(pixels.shape[0] / factor), : round(pixels.shape[1] / factor)] = True
        images.append(encode(picture[0, 0].numpy(), inside))
        held = np.full((2, POSE_LENGTH), np.nan, dtype=np.float32)
        held[: len(knees)] = [_row((points + 0.5) / factor - 0.5) for points in landmark_array(knees)[:2]]
        poses.append(held)
    return Scenes(np.repeat(np.stack(images), views, axis=0), np.repeat(np.stack(poses), views, axis=0))


def join_scenes(parts: list[Scenes]) -> Scenes:
    """All scenes of several sets."""
    return Scenes(np.concatenate([p.images for p in parts]), np.concatenate([p.poses for p in parts]))


def save_scenes(path: Path, scenes: Scenes) -> None:
    """Write scenes to one `.npz` (temporary file, then rename)."""
    partial = path.with_name(path.name + ".tmp.npz")
    np.savez(partial, images=scenes.images, poses=scenes.poses)
    partial.replace(path)


def load_scenes(path: Path) -> Scenes:
    """Scenes written by `save_scenes`."""
    held = np.load(path)
    return Scenes(held["images"], held["poses"])
